"""Airflow's DAG processor: parses the DAG files. If there are several, each parses all files."""

from provision.operations import Context
from provision.roles.airflow import service

SERVICE = service.Service("airflow-dag-processor", "DAG processor", "airflow dag-processor", needs_database=True)


def install() -> None:
    """Airflow's environment contains it."""


def configure(context: Context) -> None:
    service.run(context, SERVICE, rolls="dag_processor")
