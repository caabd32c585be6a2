"""Airflow's triggerer: waits for deferred tasks."""

from provision.operations import Context
from provision.roles.airflow import service

SERVICE = service.Service("airflow-triggerer", "triggerer", "airflow triggerer", needs_database=True)


def install() -> None:
    """Airflow's environment contains it."""


def configure(context: Context) -> None:
    service.run(context, SERVICE, rolls="triggerer")
