"""Made-up entries of the ledger and records of drills."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lab.drills import Record, Request
from lab.ledger import Attempt

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def entry(
    task: int,
    number: int,
    start: float,
    seen: float,
    *,
    ended: bool = True,
    committed: bool = True,
    host: str = "worker1",
) -> Attempt:
    return Attempt(task, number, host, at(start), at(seen), at(seen) if ended else None, ended and committed)


def record(*attempts: Attempt) -> Record:
    found = Record("a", "A", "redis", False, ["worker1"], "run", START, fault_at=at(10), attempts=list(attempts))
    found.requests = [Request(at(1), 0.1), Request(at(11), 5, "ReadTimeout")]
    return found
