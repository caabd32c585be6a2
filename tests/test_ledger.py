"""The ledger's writes, each sent twice: the first answer is lost, as if the connection broke."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from lab.ledger import read

RUN = "run"
dag: Any = importlib.import_module("dags.ledger")


@pytest.fixture
def table(lab_database: psycopg.Connection[Any]) -> Iterator[Any]:
    """A separate schema in the lab's database, with the table `attempts`."""
    schema = f"test_{uuid.uuid4().hex}"
    lab_database.execute(f"CREATE SCHEMA {schema}")
    lab_database.execute(f"SET search_path TO {schema}")
    try:
        for _ in range(2):  # each run of the DAG creates what does not exist
            for statement in dag.SCHEMA:
                lab_database.execute(statement)
        yield lab_database
    finally:
        lab_database.execute(f"DROP SCHEMA {schema} CASCADE")


class Forgetful:
    """A connection and its cursor. It executes each statement, but loses the first answer to it."""

    autocommit = True

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        self.database = database
        self.seen: set[Any] = set()

    def cursor(self) -> Forgetful:
        return self

    def __enter__(self) -> Forgetful:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, sql: str, values: tuple[object, ...]) -> None:
        self.row = self.database.execute(sql, values).fetchone()
        self.first = (sql, values) not in self.seen
        self.seen.add((sql, values))

    def fetchone(self) -> Any:
        if self.first:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return self.row


@pytest.fixture
def entries(table: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The ledger of a task. The first answer to each of its statements is lost."""
    ledger = dag.Ledger.__new__(dag.Ledger)
    connection = Forgetful(table)
    ledger.hook = type("Hook", (), {"get_conn": lambda _: connection})()
    ledger.connection = None
    monkeypatch.setattr(dag.Ledger.write.retry, "sleep", lambda _: None)
    return ledger


def test_entry_is_made_once_if_the_answer_is_lost(table: Any, entries: Any) -> None:
    entry = entries.begin(RUN, 0, 1)
    other = entries.begin(RUN, 0, 1)  # Celery delivered the same attempt to two workers
    assert entry != other
    assert len(read(table, RUN)) == 2


def test_effect_of_a_task_is_committed_if_the_answer_is_lost(table: Any, entries: Any) -> None:
    entry = entries.begin(RUN, 0, 1)
    entries.write(dag.SEEN, entry)
    entries.write(dag.END, entry)
    attempts = read(table, RUN)
    assert [(one.number, one.committed, bool(one.ended)) for one in attempts] == [(1, True, True)]


def test_end_is_recorded_only_once(table: Any, entries: Any) -> None:
    entry = entries.begin(RUN, 0, 1)
    entries.write(dag.END, entry)
    before = read(table, RUN)
    entries.write(dag.END, entry)
    assert read(table, RUN) == before


def test_effect_is_committed_once_if_two_attempts_end(table: Any, entries: Any) -> None:
    first, second = entries.begin(RUN, 0, 1), entries.begin(RUN, 0, 2)
    entries.write(dag.END, second)
    entries.write(dag.END, first)
    attempts = read(table, RUN)
    assert {one.number: one.committed for one in attempts} == {1: False, 2: True}
    assert all(one.ended for one in attempts)  # the judge sees that it was executed twice
