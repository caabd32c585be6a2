"""Reads a connection or a variable again while the database does not answer.

Airflow takes an error of the database for a connection that does not exist, and answers 404: a task that asks at that
moment fails (apache/airflow#71307, open). It asks again if no answer comes.
"""

from __future__ import annotations

import os

import tenacity
from airflow.secrets.metastore import MetastoreBackend
from sqlalchemy.exc import SQLAlchemyError

# Longer than a task waits for an answer (execution_api_timeout in airflow.cfg.j2), and not much: each waiting request
# occupies one of the 40 threads of the api-server.
SECONDS = 6 * int(os.environ.get("LAB_TIME_FACTOR", "1"))


def apply() -> None:
    """Let every process that reads the database's connections and variables do so again."""
    again = tenacity.retry(
        retry=tenacity.retry_if_exception_type(SQLAlchemyError),
        wait=tenacity.wait_fixed(0.5),
        stop=tenacity.stop_after_delay(SECONDS),
        reraise=True,
    )
    for name in ("get_connection", "get_variable"):
        setattr(MetastoreBackend, name, again(getattr(MetastoreBackend, name)))
