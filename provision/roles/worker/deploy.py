"""A Celery worker, which runs tasks; the server of its task logs; and a watch for a stalled consumer.

A worker is replaced, not restarted (`switch.py`). The old and the new worker are units with different numbers.
"""

from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import server

from provision import operations
from provision.operations import Context, copy, template
from provision.roles.airflow import deploy as airflow
from provision.roles.airflow import service

HERE = Path(__file__).parent
TEMPLATE = "/etc/airflow-lab/airflow-worker.service"  # switch.py makes the units from it
WATCH = "airflow-worker-watch"
# A separate service: several workers may run on one machine.
LOG_SERVER = service.Service("airflow-log-server", "log server", "python -m airflow.utils.serve_logs.core")


def install() -> None:
    """Airflow's environment contains it."""


def configure(context: Context) -> None:
    copy(HERE / f"{WATCH}.service", f"{service.ETC}/{WATCH}.service")
    timer = template(HERE / f"{WATCH}.timer.j2", f"{service.ETC}/{WATCH}.timer", seconds=context.lab.seconds(30))
    operations.service(f"{WATCH}.timer", reads=[f"{service.ETC}/{WATCH}.service", timer])
    replace_worker(context)
    service.run(context, LOG_SERVER)


def replace_worker(context: Context) -> None:
    """Start a worker with the current files, unless one runs already. The old worker is not interrupted."""
    copy(HERE / "airflow-worker-retire@.service", f"{service.ETC}/airflow-worker-retire@.service")
    lab, machine = context.lab, context.machine
    worker = service.Service(
        "airflow-worker-@NUMBER@",
        f"Celery worker @NUMBER@, on {lab.broker}",
        # Workers do not need information about each other.
        f"airflow celery worker --queues {','.join(machine.queues)} --without-mingle --without-gossip --skip-serve-logs"
        f" --celery-hostname {machine.name}-@NUMBER@ --pid /run/airflow-worker-@NUMBER@/pid",
        config=airflow.config_of(lab.broker),
        registers="worker",
        runtime_directory=True,
        stop_timeout=50,
        alias="airflow-worker.service",
    )
    switch = f"PYTHONPATH=/vagrant {airflow.VENV}/bin/python -m provision.roles.worker.switch"
    words = f"{lab.broker} {' '.join(service.write_unit(context, worker, TEMPLATE))}"
    server.shell(
        name="Start a worker with the current settings",
        commands=[f"{switch} replace {words}"],
        _if=lambda: host.get_fact(Command, f"{switch} is-current {words} && echo current || true") != "current",
    )
