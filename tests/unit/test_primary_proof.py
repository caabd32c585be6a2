"""Sessions of Airflow's database begin on a database that accepts commits, with SQLite as a stand-in for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import primary_proof
import pytest
from sqlalchemy import Engine, QueuePool, create_engine, event, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.pool import Pool

Database = Callable[[bool], Engine]  # whether it accepts commits


PORT = 6432


class Connection(sqlite3.Connection):
    """As psycopg2 and psycopg, it knows where it leads to."""

    info = SimpleNamespace(port=PORT)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the commits by which this process has checked the database so far."""
    monkeypatch.setattr(primary_proof.Proof, "at", float("-inf"))
    primary_proof.require(PORT)
    yield []
    event.remove(Pool, "checkout", primary_proof.check_primary)


@pytest.fixture
def database(commits: list[str]) -> Database:
    def connect(primary: bool) -> Engine:
        def emit(_: int, prefix: str, __: str) -> None:
            commits.append(prefix)
            if not primary:
                raise ValueError

        def creator() -> sqlite3.Connection:
            connection = sqlite3.connect(":memory:", factory=Connection)
            connection.create_function("pg_logical_emit_message", 3, emit)
            return connection

        return create_engine("sqlite://", creator=creator, poolclass=QueuePool)

    return connect


def read(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_first_session_of_a_second_commits(database: Database, commits: list[str]) -> None:
    engine = database(True)
    read(engine)
    read(engine)
    assert commits == ["airflow-lab"]
    primary_proof.Proof.at -= primary_proof.VALID
    read(engine)
    assert commits == ["airflow-lab"] * 2


def test_former_primary_serves_no_session(database: Database) -> None:
    read(database(True))
    primary_proof.Proof.at -= primary_proof.VALID  # the machine was frozen
    with pytest.raises(InvalidRequestError):
        read(database(False))


def test_other_databases_of_a_task_are_left_alone(commits: list[str]) -> None:
    read(create_engine("sqlite://"))
    assert commits == []
