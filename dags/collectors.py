"""Parallel collectors that write to one table; the first task creates it, unless it exists."""

import os
import socket
from datetime import timedelta

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task

TABLE = """
    CREATE TABLE IF NOT EXISTS collected (
        run_id text, collector text, host text NOT NULL, load numeric NOT NULL, PRIMARY KEY (run_id, collector)
    )
"""


@dag(tags=["lab"], default_args={"retries": 3, "retry_delay": timedelta(seconds=5)})
def collectors():
    @task
    def create_table() -> None:
        # CREATE ... IF NOT EXISTS is not atomic: two runs at the same time could both try to create the table.
        PostgresHook("lab_database").run(["SELECT pg_advisory_xact_lock(2)", TABLE])

    @task
    def collect(collector: str, run_id: str | None = None) -> None:
        """Write a measurement of this machine; a second attempt replaces the row of the first."""
        PostgresHook("lab_database").insert_rows(
            "collected",
            [(run_id, collector, socket.gethostname(), os.getloadavg()[0])],
            target_fields=["run_id", "collector", "host", "load"],
            replace=True,
            replace_index=["run_id", "collector"],
        )

    create_table() >> collect.expand(collector=["north", "east", "south", "west"])


collectors()
