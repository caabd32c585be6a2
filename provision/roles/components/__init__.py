"""Airflow's own services, one systemd unit each, from one template: they differ in a line of data."""

from dataclasses import dataclass
from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import server

from lab.topology import Machine, Topology
from provision.operations import Context, rolling_restart, service, template
from provision.roles import airflow

HERE = Path(__file__).parent
PACKAGES = ()
ETC = "/etc/systemd/system"
WAIT = "airflow-database.service"
TEMPLATE = "/etc/airflow-lab/airflow-worker.service"
ROLLING = ("api_server", "scheduler", "dag_processor", "triggerer")  # roles that another machine has too


@dataclass(frozen=True)
class Component:
    """A service: its systemd unit, what it is called, the role that has it and the command it runs.

    Its configuration is `config`, that of a broker if it works with one. It may need the database to start, registers
    there under `registers` as one that works with the broker, and may take `stop_timeout` seconds to stop.
    """

    unit: str
    title: str
    role: str
    command: str
    config: str = airflow.COMMON
    needs_database: bool = True
    registers: str = ""
    stop_timeout: int = 20
    alias: str = ""


def components(lab: Topology, machine: Machine) -> list[Component]:
    """Return the services that the roles of a machine consist of."""
    queues, flower_port = ",".join(machine.queues), lab.ports["flower_local"]
    everything = [
        Component("airflow-api-server", "API server", "api_server", "airflow api-server --proxy-headers"),
        Component(
            "airflow-scheduler",
            "scheduler",
            "scheduler",
            "airflow scheduler",
            config=airflow.config_of(lab.broker),
            registers="scheduler",
        ),
        Component("airflow-dag-processor", "DAG processor", "dag_processor", "airflow dag-processor"),
        Component("airflow-triggerer", "triggerer", "triggerer", "airflow triggerer"),
        # Several may run: each is a unit with a number of its own (`provision/worker_switch.py`). Workers need no news
        # of each other.
        Component(
            "airflow-worker-@NUMBER@",
            f"Celery worker @NUMBER@, on {lab.broker}",
            "worker",
            f"airflow celery worker --queues {queues} --without-mingle --without-gossip --skip-serve-logs"
            f" --celery-hostname {machine.name}-@NUMBER@ --pid /run/airflow-worker-@NUMBER@/pid",
            config=airflow.config_of(lab.broker),
            needs_database=False,
            registers="worker",
            stop_timeout=50,
            alias="airflow-worker.service",
        ),
        # Apart from the workers, of which there may be two.
        Component(
            "airflow-log-server",
            "log server",
            "worker",
            "python -m airflow.utils.serve_logs.core",
            needs_database=False,
        ),
        # On loopback: nginx stands in front of it.
        Component(
            "airflow-flower",
            "Flower",
            "flower",
            f"airflow celery flower --hostname 127.0.0.1 --port {flower_port}",
            config=airflow.config_of(lab.broker),
            needs_database=False,
        ),
    ]
    return [component for component in everything if component.role in machine.roles]


def units(lab: Topology, machine: Machine) -> list[str]:
    """Return the systemd units of Airflow's own services on a machine, by the names that do not change."""
    return [component.alias or f"{component.unit}.service" for component in components(lab, machine)]


def configure(context: Context) -> None:
    lab, machine = context.lab, context.machine
    if any(component.needs_database for component in components(lab, machine)):
        script = template(HERE / "wait_for_database.py.j2", f"{airflow.HOME}/wait_for_database.py", mode="755")
        path = template(HERE / "airflow-database.service.j2", f"{ETC}/{WAIT}", script=script)
        service(WAIT, reads=[path, script, airflow.SECRETS], wait=False)
    if "worker" in machine.roles:
        watch(context)
    for component in components(lab, machine):
        unit = TEMPLATE if component.role == "worker" and component.alias else f"{ETC}/{component.unit}.service"
        path = template(
            HERE / "airflow-component.service.j2",
            unit,
            component=component,
            broker=lab.broker,
            venv=airflow.ENVIRONMENT,
        )
        # airflow.cfg itself changes with the broker, which is nothing to what does not work with one: it would be
        # restarted for nothing. Any other change is one of each broker's file too.
        config = component.config.replace(airflow.COMMON, airflow.config_of("redis"))
        reads = [path, config, *airflow.READS]
        if component.alias:
            replace_worker(lab.broker, reads)
        else:
            rolls = component.role if component.role in ROLLING else ""
            service(f"{component.unit}.service", reads=reads, wait=False, rolls=rolls)
    rolling_restart()


def watch(context: Context) -> None:
    """Have a worker that is connected but takes no tasks restarted."""
    name = "airflow-worker-watch"
    every = 30 * context.lab.time_factor
    paths = [
        template(HERE / f"{name}.{kind}.j2", f"{ETC}/{name}.{kind}", seconds=every) for kind in ("service", "timer")
    ]
    service(f"{name}.timer", reads=paths)


def replace_worker(broker: str, reads: list[str]) -> None:
    """Have a worker run that has read what is there now, without interrupting the one before."""
    template(HERE / "airflow-worker-retire@.service.j2", f"{ETC}/airflow-worker-retire@.service")
    switch = f"PYTHONPATH=/vagrant {airflow.VENV}/bin/python -m provision.worker_switch"
    words = f"{broker} {' '.join(reads)}"
    server.shell(
        name="Start the worker, or one with the new settings beside it",
        commands=[f"{switch} replace {words}"],
        _if=lambda: host.get_fact(Command, f"{switch} is-current {words} && echo current || true") != "current",
    )
