"""What the tasks of the DAG `ledger` have recorded in the database, and the judgement of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
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

    @property
    def last(self) -> datetime:
        """The last moment at which it was known to run; to a second."""
        return self.ended or self.seen


@dataclass
class Judgement:
    """What happened to the tasks of a run.

    `lost`: their effect is not committed. `duplicated`: their effect is committed more than once. `executed_twice`:
    they ran to their end more than once. `overlaps`: by task, the seconds in which two attempts ran at the same time.
    `failed`: Airflow does not report them as successful.
    """

    lost: list[int] = field(default_factory=list)
    duplicated: list[int] = field(default_factory=list)
    executed_twice: list[int] = field(default_factory=list)
    overlaps: dict[int, float] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)

    def good(self, *, overlap: bool = False) -> bool:
        """Return whether each effect is committed exactly once; with `overlap`, a task may have run twice for it."""
        return not (self.lost or self.duplicated or self.failed) and (
            overlap or not (self.executed_twice or self.overlaps)
        )


def read(database: psycopg.Connection[Any], run_id: str) -> list[Attempt]:
    """Return the attempts of a run, in the order of their starts."""
    return [Attempt(*row) for row in database.execute(QUERY, [run_id])]


def judge(attempts: Iterable[Attempt], states: dict[int, str]) -> Judgement:
    """Judge the attempts of a run, given the state that Airflow has for each of its tasks, by map index."""
    by_task: dict[int, list[Attempt]] = defaultdict(list)
    for one in attempts:
        by_task[one.task].append(one)
    judgement = Judgement(failed=[task for task, state in states.items() if state != "success"])
    for task in states:
        committed = sum(one.committed for one in by_task[task])
        if committed == 0:
            judgement.lost.append(task)
        if committed > 1:
            judgement.duplicated.append(task)
        if sum(one.ended is not None for one in by_task[task]) > 1:
            judgement.executed_twice.append(task)
        seconds = sum(_overlap(one, other) for one, other in combinations(by_task[task], 2))
        if seconds > 0:
            judgement.overlaps[task] = seconds
    return judgement


def _overlap(one: Attempt, other: Attempt) -> float:
    """Return for how many seconds two attempts ran at the same time."""
    return max(0.0, (min(one.last, other.last) - max(one.started, other.started)).total_seconds())
