"""A connection is read again while the database does not answer, and an error of another kind is not hidden."""

from __future__ import annotations

import metastore_retry
import pytest
import tenacity
from airflow.secrets.metastore import MetastoreBackend
from sqlalchemy.exc import OperationalError

BROKEN = OperationalError("SELECT", {}, Exception("no primary"))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what the database answers, one after the other."""
    found: list[object] = []

    def get(self: MetastoreBackend, conn_id: str) -> object:
        answer = found.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(MetastoreBackend, "get_connection", get)
    monkeypatch.setattr(MetastoreBackend, "get_variable", get)
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda _: None)
    return found


def test_connection_is_found_when_the_database_answers_again(answers: list[object]) -> None:
    metastore_retry.apply()
    answers += [BROKEN, BROKEN, "found"]
    assert MetastoreBackend().get_connection("a") == "found"


def test_what_is_not_there_is_not_looked_for_again(answers: list[object]) -> None:
    metastore_retry.apply()
    answers += [None, "found"]
    assert MetastoreBackend().get_variable("a") is None


def test_error_is_raised_in_the_end(answers: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metastore_retry, "SECONDS", 0)
    metastore_retry.apply()
    answers += [BROKEN] * 3
    with pytest.raises(OperationalError):
        MetastoreBackend().get_connection("a")
