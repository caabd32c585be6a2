"""Tasks that record their start, every second, and their end in a table. It shows tasks lost or executed twice.

There are three DAGs: the tasks of `ledger` run in parallel, those of `ledger_chain` one after the other, and those of
`ledger_deferrable` wait in the triggerer.
"""

import socket
import time
import uuid
from datetime import timedelta

import tenacity
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseHook, BaseOperator, Context, Param, chain, dag, task

TABLE = """
    CREATE TABLE IF NOT EXISTS attempts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        token uuid UNIQUE, run_id text NOT NULL, task int NOT NULL, attempt int NOT NULL, host text NOT NULL,
        started timestamptz NOT NULL DEFAULT clock_timestamp(),
        seen timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended timestamptz,
        committed boolean NOT NULL DEFAULT false
    )
"""
# The effect of a task is committed once, by the first of its attempts that ends: Airflow and Celery only promise that a
# task is executed at least once, and a machine that is cut off continues its tasks.
ONCE = "CREATE UNIQUE INDEX IF NOT EXISTS committed_once ON attempts (run_id, task) WHERE committed"
SCHEMA = (TABLE, ONCE)
# The task makes the token: it sends a write again if the answer was lost, and the write must not count twice.
BEGIN = """
    INSERT INTO attempts (token, run_id, task, attempt, host) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (token) DO UPDATE SET token = excluded.token RETURNING id
"""
SEEN = "UPDATE attempts SET seen = clock_timestamp() WHERE id = %s RETURNING id"
END = """
    UPDATE attempts SET
        seen = coalesce(ended, clock_timestamp()), ended = coalesce(ended, clock_timestamp()),
        committed = committed OR NOT EXISTS (
            SELECT FROM attempts other
            WHERE other.run_id = attempts.run_id AND other.task = attempts.task AND other.committed
        )
    WHERE id = %s RETURNING id
"""


class Ledger:
    """The table, over one connection, which is replaced when it breaks."""

    def __init__(self) -> None:
        self.hook = PostgresHook("lab_database", connection=BaseHook.get_connection("lab_database"))
        self.connection = None

    def begin(self, *values: object) -> int:
        """Record the start of an attempt, given its run, task and number, and return the id of its row."""
        return self.write(BEGIN, str(uuid.uuid4()), *values, socket.gethostname())

    @tenacity.retry(stop=tenacity.stop_after_delay(120), wait=tenacity.wait_fixed(1))
    def write(self, sql: str, *values: object) -> int:
        """Execute an idempotent statement and return the id of the row. Retries while the database is unavailable."""
        try:
            self.connection = self.connection or self.hook.get_conn()
            self.connection.autocommit = True
            with self.connection.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchone()[0]
        except Exception:
            self.connection = None
            raise


class Defer(BaseOperator):
    """Records its start, waits for some seconds in the triggerer, and records its end when a worker resumes it.

    Each execution from the start makes a row. Airflow keeps the id of the row with the deferred task, so resuming ends
    the row of the execution that was deferred; resuming it again changes nothing.
    """

    def __init__(self, *, seconds: int, **options: object) -> None:
        super().__init__(**options)
        self.seconds = seconds

    def execute(self, context: Context) -> None:
        ti = context["ti"]
        entry = Ledger().begin(context["run_id"], ti.map_index, ti.try_number)
        # The trigger keeps the time at which it ends: a triggerer that takes it over does not wait from the start.
        trigger = TimeDeltaTrigger(timedelta(seconds=self.seconds))
        self.defer(trigger=trigger, method_name="resume", kwargs={"entry": entry})

    def resume(self, context: Context, entry: int, event: object) -> None:
        Ledger().write(END, entry)


def create_table() -> None:
    PostgresHook("lab_database").run(["SELECT pg_advisory_xact_lock(4)", *SCHEMA])


def record(seconds: int, *values: object) -> None:
    """Record the start of an attempt, each of its seconds and its end, given the values of `Ledger.begin`."""
    entries = Ledger()
    entry = entries.begin(*values)
    for _ in range(seconds):
        time.sleep(1)
        entries.write(SEEN, entry)
    entries.write(END, entry)


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
        """Create the table and return the seconds of each task, the long one first."""
        assert params is not None
        create_table()
        return [params["long"]] * bool(params["long"]) + [params["seconds"]] * params["tasks"]

    @task
    def work(seconds: int, run_id: str | None = None, ti=None) -> None:
        record(seconds, run_id, ti.map_index, ti.try_number)

    work.expand(seconds=plan())


@dag(tags=["lab"], params={"seconds": number(1, "How long each task takes")})
def ledger_chain():
    """Runs twenty tasks, `work_0` to `work_19`, one after the other."""

    @task
    def work(index: int, params: dict | None = None, run_id: str | None = None, ti=None) -> None:
        assert params is not None
        record(params["seconds"], run_id, index, ti.try_number)

    chain(task(create_table)(), *(work.override(task_id=f"work_{index}")(index) for index in range(20)))


@dag(
    tags=["lab"],
    max_active_tasks=128,
    params={"tasks": number(20, "How many tasks"), "seconds": number(10, "How long each of them is deferred")},
)
def ledger_deferrable():
    """Runs tasks that defer themselves: while they wait, the triggerer has them, and they use no slot of a worker."""

    @task
    def plan(params: dict | None = None) -> list[int]:
        """Create the table and return the seconds of each task."""
        assert params is not None
        create_table()
        return [params["seconds"]] * params["tasks"]

    Defer.partial(task_id="work").expand(seconds=plan())


ledger()
ledger_chain()
ledger_deferrable()
