"""The systemd units of Airflow's services."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.operations import Context, copy, service, template
from provision.roles.airflow import deploy as airflow

HERE = Path(__file__).parent
ETC = "/etc/systemd/system"
WAIT = "airflow-database.service"


@dataclass(frozen=True)
class Service:
    """A service of Airflow: one systemd unit with one command.

    `needs_database`: it starts after the database has Airflow's tables. `registers`: its name in the register of the
    clients of a broker. `stop_timeout`: how many seconds it may take to stop.
    """

    unit: str
    title: str
    command: str
    config: str = airflow.COMMON
    needs_database: bool = False
    registers: str = ""
    environment_file: str = ""
    runtime_directory: bool = False
    stop_timeout: int = 20
    alias: str = ""

    @property
    def uses_broker(self) -> bool:
        return self.config != airflow.COMMON


def write_unit(context: Context, service: Service, path: str = "") -> list[str]:
    """Write the unit of a service, to `path` if it is given, and return all files that the service reads."""
    written = template(
        HERE / "airflow-service.service.j2",
        path or f"{ETC}/{service.unit}.service",
        service=service,
        lab=context.lab,
        venv=airflow.ENVIRONMENT,
    )
    # airflow.cfg changes with the broker. A service that does not use the broker would restart without need, so this
    # returns the file of one broker instead: every other change is in that file too.
    config = service.config if service.uses_broker else airflow.config_of("redis")
    return [written, config, *airflow.READS]


def run(context: Context, airflow_service: Service, rolls: str = "") -> None:
    """Start a service, or restart it if its files are newer. With `rolls`, a role, restart one machine at a time."""
    if airflow_service.needs_database:
        wait_for_database()
    service(f"{airflow_service.unit}.service", reads=write_unit(context, airflow_service), wait=False, rolls=rolls)


def wait_for_database() -> None:
    """Add a unit that other services wait for: it completes when the database has Airflow's tables."""
    script = copy(HERE / "wait_for_database.py", f"{airflow.HOME}/wait_for_database.py", mode="755")
    unit = template(HERE / "airflow-database.service.j2", f"{ETC}/{WAIT}", script=script)
    reads: Sequence[str] = [unit, script, airflow.SECRETS]
    service(WAIT, reads=reads, wait=False)
