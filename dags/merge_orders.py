"""A load of orders that is idempotent: a second attempt updates the rows of the first one.

Each order has a key, and the load is INSERT ... ON CONFLICT (run_id, region, number) DO UPDATE. append_orders.py is the
same load without the key.

Two attempts of a task can run at the same time: a worker that is cut off from the api-servers continues its task while
another worker executes it again. With ON CONFLICT, both can write the same rows in any order. DELETE and INSERT in one
transaction is the alternative: it also removes orders that the source has withdrawn, but no row is visible before the
load ends, and an attempt that runs at the same time waits for the other one and then fails. DO UPDATE, and not
DO NOTHING, writes what the source has corrected between two attempts.
"""

import time
from collections.abc import Iterator

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task

TABLE = """
    CREATE TABLE IF NOT EXISTS merge_orders (
        run_id text, region text, number int, amount numeric NOT NULL, written timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (run_id, region, number)
    )
"""
REGIONS = ["north", "east", "south", "west", "central", "overseas"]


def orders(run_id: str, region: str) -> Iterator[tuple[str, str, int, float]]:
    """Yield the orders of a region as a slow source does: 40 orders in 10 seconds."""
    for number in range(40):
        time.sleep(0.25)
        yield run_id, region, number, 9.5 + number


@dag(tags=["lab", "example"])
def merge_orders():
    @task
    def create_table() -> None:
        PostgresHook("lab_database").run(["SELECT pg_advisory_xact_lock(6)", TABLE])

    @task
    def load(region: str, run_id: str | None = None) -> None:
        """Insert or update the orders of a region. Each row is committed at once."""
        assert run_id is not None
        PostgresHook("lab_database").insert_rows(
            "merge_orders",
            orders(run_id, region),
            target_fields=["run_id", "region", "number", "amount"],
            commit_every=1,
            replace=True,
            replace_index=["run_id", "region", "number"],
        )

    create_table() >> load.expand(region=REGIONS)


merge_orders()
