"""A load of orders that is not idempotent: a second attempt inserts the rows of the first one again.

This is the classic mistake. Airflow executes a task at least once: if a worker crashes in the middle of the load, the
committed rows stay, another worker executes the task again, and the run succeeds with duplicate rows. merge_orders.py
is the same load, written idempotently.
"""

import time
from collections.abc import Iterator

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task

TABLE = """
    CREATE TABLE IF NOT EXISTS append_orders (
        run_id text, region text, number int, amount numeric NOT NULL, written timestamptz NOT NULL DEFAULT now()
    )
"""
REGIONS = ["north", "east", "south", "west", "central", "overseas"]


def orders(run_id: str, region: str) -> Iterator[tuple[str, str, int, float]]:
    """Yield the orders of a region as a slow source does: 40 orders in 10 seconds."""
    for number in range(40):
        time.sleep(0.25)
        yield run_id, region, number, 9.5 + number


@dag(tags=["lab", "example"])
def append_orders():
    @task
    def create_table() -> None:
        PostgresHook("lab_database").run(["SELECT pg_advisory_xact_lock(5)", TABLE])

    @task
    def load(region: str, run_id: str | None = None) -> None:
        """Insert the orders of a region. Each row is committed at once."""
        assert run_id is not None
        PostgresHook("lab_database").insert_rows(
            "append_orders",
            orders(run_id, region),
            target_fields=["run_id", "region", "number", "amount"],
            commit_every=1,
        )

    create_table() >> load.expand(region=REGIONS)


append_orders()
