"""Airflow's own services, one systemd unit each, from one template: they differ in a line of data."""

from dataclasses import dataclass
from pathlib import Path

from lab.topology import Machine
from provision.operations import Context, service, template
from provision.roles import airflow

HERE = Path(__file__).parent
PACKAGES = ()
WAIT = "airflow-database.service"


@dataclass(frozen=True)
class Component:
    """A service: what it is called, the airflow command it runs, whether it needs the database to start, and
    how many seconds it may take to stop.
    """

    title: str
    command: str
    needs_database: bool = True
    stop_timeout: int = 20


COMPONENTS = {
    "api_server": Component("API server", "api-server --proxy-headers"),
    "scheduler": Component("scheduler", "scheduler"),
    "dag_processor": Component("DAG processor", "dag-processor"),
    "triggerer": Component("triggerer", "triggerer"),
    # Stopping takes no new tasks and waits for those that run. Workers need no news of each other.
    "worker": Component(
        "Celery worker",
        "celery worker --queues {queues} --without-mingle --without-gossip",
        needs_database=False,
        stop_timeout=50,
    ),
    # On loopback: nginx stands in front of it.
    "flower": Component("Flower", "celery flower --hostname 127.0.0.1 --port {flower_port}", needs_database=False),
}


def unit_name(role: str) -> str:
    """Return the systemd unit of an Airflow role."""
    return f"airflow-{role.replace('_', '-')}.service"


def units(machine: Machine) -> list[str]:
    """Return the systemd units of Airflow's own services on a machine."""
    return [unit_name(role) for role in machine.roles if role in COMPONENTS]


def configure(context: Context) -> None:
    roles = [role for role in context.machine.roles if role in COMPONENTS]
    if any(COMPONENTS[role].needs_database for role in roles):
        script = template(HERE / "wait_for_database.py.j2", f"{airflow.HOME}/wait_for_database.py", mode="755")
        path = template(HERE / "airflow-database.service.j2", f"/etc/systemd/system/{WAIT}", script=script)
        service(WAIT, reads=[path, script, f"{airflow.SECRETS}/sql_alchemy_conn"], wait=False)
    for role in roles:
        component = COMPONENTS[role]
        command = component.command.format(
            queues=",".join(context.machine.queues), flower_port=context.lab.ports["flower_local"]
        )
        unit = unit_name(role)
        path = template(
            HERE / "airflow-component.service.j2", f"/etc/systemd/system/{unit}", component=component, command=command
        )
        service(unit, reads=[path, *airflow.READS], wait=False)
