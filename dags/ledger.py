"""Tasks that enter themselves in a ledger when they begin and when they end: was anything lost, or done twice?"""

import socket
import time

import tenacity
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Param, dag, task

TABLE = """
    CREATE TABLE IF NOT EXISTS ledger (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run_id text NOT NULL, task int NOT NULL, try int NOT NULL, host text NOT NULL,
        started timestamptz NOT NULL DEFAULT clock_timestamp(), ended timestamptz
    )
"""
BEGIN = "INSERT INTO ledger (run_id, task, try, host) VALUES (%s, %s, %s, %s) RETURNING id"
END = "UPDATE ledger SET ended = clock_timestamp() WHERE id = %s"


@tenacity.retry(stop=tenacity.stop_after_delay(120), wait=tenacity.wait_fixed(1))
def write(sql: str, *values: object) -> int | None:
    """Write to the ledger, also if the database is away for a while, and return what the statement returns."""
    fetch = (lambda cursor: cursor.fetchone()[0]) if "RETURNING" in sql else None
    return PostgresHook("lab_database").run(sql, parameters=values, autocommit=True, handler=fetch)


def number(default: int, description: str) -> Param:
    return Param(default, type="integer", minimum=0, description=description)


@dag(
    tags=["lab"],
    max_active_tasks=128,
    params={
        "tasks": number(60, "How many short tasks"),
        "seconds": number(3, "How long each of them takes"),
        "long": number(0, "How long one more task takes; 0 for none"),
    },
)
def ledger():
    @task
    def plan(params: dict | None = None) -> list[int]:
        """Create the table and return how many seconds each task takes, the long one first."""
        assert params is not None
        PostgresHook("lab_database").run(["SELECT pg_advisory_xact_lock(4)", TABLE])
        return [params["long"]] * bool(params["long"]) + [params["seconds"]] * params["tasks"]

    @task
    def work(seconds: int, run_id: str | None = None, ti=None) -> None:
        entry = write(BEGIN, run_id, ti.map_index, ti.try_number, socket.gethostname())
        time.sleep(seconds)
        write(END, entry)

    work.expand(seconds=plan())


ledger()
