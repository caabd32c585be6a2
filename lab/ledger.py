"""What the tasks of the DAG `ledger` have entered in the database, and what that says of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import Any

import psycopg

QUERY = "SELECT task, try, host, started, seen, ended, stands FROM tries WHERE run_id = %s ORDER BY started"


@dataclass(frozen=True)
class Try:
    """A try of a task: where it ran; when it began, was last seen and, if at all, ended; whether its effect stands."""

    task: int
    number: int
    host: str
    started: datetime
    seen: datetime
    ended: datetime | None = None
    stands: bool = False

    @property
    def last(self) -> datetime:
        """The last moment at which it was alive, to a second."""
        return self.ended or self.seen


@dataclass
class Judgement:
    """What became of the tasks of a run.

    The effect of those `lost` does not stand, that of those `double` stands more than once; those `repeated` were
    done to their end more than once. `overlaps` gives, by task, the seconds for which two tries of it were alive at
    the same time; `failed` are those that Airflow calls anything but successful.
    """

    lost: list[int] = field(default_factory=list)
    double: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    overlaps: dict[int, float] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)

    def good(self, *, overlap: bool = False) -> bool:
        """Return whether each effect stands exactly once; with `overlap`, a task may have been at work twice for it."""
        return not (self.lost or self.double or self.failed) and (overlap or not (self.repeated or self.overlaps))


def read(database: psycopg.Connection[Any], run_id: str) -> list[Try]:
    """Return the tries of a run, in the order in which they began."""
    return [Try(*row) for row in database.execute(QUERY, [run_id])]


def judge(tries: Iterable[Try], states: dict[int, str]) -> Judgement:
    """Judge the tries of a run, given the state that Airflow has for each of its tasks, by map index."""
    by_task: dict[int, list[Try]] = defaultdict(list)
    for one in tries:
        by_task[one.task].append(one)
    judgement = Judgement(failed=[task for task, state in states.items() if state != "success"])
    for task in states:
        standing = sum(one.stands for one in by_task[task])
        if standing == 0:
            judgement.lost.append(task)
        if standing > 1:
            judgement.double.append(task)
        if sum(one.ended is not None for one in by_task[task]) > 1:
            judgement.repeated.append(task)
        seconds = sum(_overlap(one, other) for one, other in combinations(by_task[task], 2))
        if seconds > 0:
            judgement.overlaps[task] = seconds
    return judgement


def _overlap(one: Try, other: Try) -> float:
    """Return for how many seconds two tries were alive at the same time."""
    return max(0.0, (min(one.last, other.last) - max(one.started, other.started)).total_seconds())
