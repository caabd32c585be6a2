"""Airflow's DAG processor: parses the DAG files. Each of several parses all of them."""

from provision.operations import Context
from provision.roles.airflow import service

SERVICE = service.Service("airflow-dag-processor", "DAG processor", "airflow dag-processor", needs_database=True)


def install() -> None:
    """Airflow's environment has it."""


def configure(context: Context) -> None:
    service.run(context, SERVICE, rolls="dag_processor")
