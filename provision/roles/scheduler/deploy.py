"""Airflow's scheduler: decides which tasks run, and sends them to the broker. All schedulers are active."""

from provision.operations import Context
from provision.roles.airflow import deploy as airflow
from provision.roles.airflow import service


def install() -> None:
    """Airflow's environment contains it."""


def configure(context: Context) -> None:
    scheduler = service.Service(
        "airflow-scheduler",
        "scheduler",
        "airflow scheduler",
        config=airflow.config_of(context.lab.broker),
        needs_database=True,
        registers="scheduler",
    )
    service.run(context, scheduler, rolls="scheduler")
