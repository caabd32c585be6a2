"""Airflow's api-server: the UI, the REST API, and the Execution API that tasks call. nginx is in front of it."""

from provision.operations import Context
from provision.roles.airflow import service

SERVICE = service.Service("airflow-api-server", "API server", "airflow api-server --proxy-headers", needs_database=True)


def install() -> None:
    """Airflow's environment contains it."""


def configure(context: Context) -> None:
    service.run(context, SERVICE, rolls="api_server")
