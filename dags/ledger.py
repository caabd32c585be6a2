"""Tasks that enter themselves in a ledger, begin, every second, and end: what was lost, or done twice?"""

import socket
import time
import uuid

import tenacity
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import BaseHook, Param, dag, task

TABLE = """
    CREATE TABLE IF NOT EXISTS tries (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run_id text NOT NULL, task int NOT NULL, try int NOT NULL, host text NOT NULL,
        started timestamptz NOT NULL DEFAULT clock_timestamp(),
        seen timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended timestamptz,
        stands boolean NOT NULL DEFAULT false
    )
"""
# The effect of a task stands once, whichever of its tries is the first at its end: Airflow and Celery promise no more
# than that a task is done at least once, and a machine that is cut off goes on with what it has.
ONCE = "CREATE UNIQUE INDEX IF NOT EXISTS stands_once ON tries (run_id, task) WHERE stands"
# An entry has a key of its task's making: a write whose answer was lost is sent again, and must change nothing more.
KEY = "ALTER TABLE tries ADD COLUMN IF NOT EXISTS token uuid"
ONE_ENTRY = "CREATE UNIQUE INDEX IF NOT EXISTS one_entry ON tries (token)"
SCHEMA = (TABLE, KEY, ONE_ENTRY, ONCE)
BEGIN = """
    INSERT INTO tries (token, run_id, task, try, host) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (token) DO UPDATE SET token = excluded.token RETURNING id
"""
SEEN = "UPDATE tries SET seen = clock_timestamp() WHERE id = %s RETURNING id"
END = """
    UPDATE tries SET
        seen = coalesce(ended, clock_timestamp()), ended = coalesce(ended, clock_timestamp()),
        stands = stands OR NOT EXISTS (
            SELECT FROM tries other WHERE other.run_id = tries.run_id AND other.task = tries.task AND other.stands
        )
    WHERE id = %s RETURNING id
"""


class Ledger:
    """The ledger, over one connection, which is made anew when it breaks."""

    def __init__(self) -> None:
        self.hook = PostgresHook("lab_database", connection=BaseHook.get_connection("lab_database"))
        self.connection = None

    def begin(self, *values: object) -> int:
        """Make an entry for a try of a task, given its run, map index and number, and return the entry's id."""
        return self.write(BEGIN, str(uuid.uuid4()), *values, socket.gethostname())

    @tenacity.retry(stop=tenacity.stop_after_delay(120), wait=tenacity.wait_fixed(1))
    def write(self, sql: str, *values: object) -> int:
        """Execute an idempotent statement and return the entry's id; also if the database is away for a while."""
        try:
            self.connection = self.connection or self.hook.get_conn()
            self.connection.autocommit = True
            with self.connection.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchone()[0]
        except Exception:
            self.connection = None
            raise


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
        PostgresHook("lab_database").run(["SELECT pg_advisory_xact_lock(4)", *SCHEMA])
        return [params["long"]] * bool(params["long"]) + [params["seconds"]] * params["tasks"]

    @task
    def work(seconds: int, run_id: str | None = None, ti=None) -> None:
        entries = Ledger()
        entry = entries.begin(run_id, ti.map_index, ti.try_number)
        for _ in range(seconds):
            time.sleep(1)
            entries.write(SEEN, entry)
        entries.write(END, entry)

    work.expand(seconds=plan())


ledger()
