"""What the tasks of the lab's DAGs have recorded in the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

QUERY = "SELECT task, attempt, host, started, seen, ended, committed FROM attempts WHERE run_id = %s ORDER BY started"


@dataclass(frozen=True)
class Attempt:
    """An attempt of a task: where it ran; when it started, was last seen and ended; whether it is committed."""

    task: int
    number: int
    host: str
    started: datetime
    seen: datetime
    ended: datetime | None = None
    committed: bool = False


def read(database: psycopg.Connection[Any], run_id: str) -> list[Attempt]:
    """Return the attempts of a run, in the order of their starts."""
    return [Attempt(*row) for row in database.execute(QUERY, [run_id])]
