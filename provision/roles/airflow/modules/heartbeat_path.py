"""Checks, in the scheduler, the path that a heartbeat takes from a task to the database."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

NEVER = datetime.min.replace(tzinfo=UTC)


class HeartbeatPath(threading.Thread):
    """Probes the path of a heartbeat every second, and records when no heartbeat could have arrived.

    The scheduler declares a task lost when it gets no heartbeats from it for a while. This is correct only while the
    load balancer, an api-server, the database and the scheduler itself work. `silence` does not count the time in which
    `probe` failed. `probe` raises an exception if the path is down. A probe that hangs, or a scheduler that was frozen,
    causes a gap between two successes.
    """

    def __init__(self, probe: Callable[[], object], *, longest: float, settle: float) -> None:
        """Treat the path as up between two successes that are at most `longest` seconds apart.

        After a gap, tasks have `settle` more seconds: they may wait this long before their next attempt to send.
        """
        super().__init__(name="heartbeat-path", daemon=True)
        self.probe = probe
        self.longest = timedelta(seconds=longest)
        self.settle = timedelta(seconds=settle)
        self.last_success = NEVER
        self.gaps: deque[tuple[datetime, datetime]] = deque(maxlen=100)

    def run(self) -> None:
        while True:
            with suppress(Exception):  # after any exception: a heartbeat would not have arrived either
                self.probe()
                self.succeeded(datetime.now(UTC))
            time.sleep(1)

    def succeeded(self, now: datetime) -> None:
        """Record that the path was up at `now`."""
        if now - self.last_success > self.longest:
            self.gaps.append((self.last_success, now + self.settle))
        self.last_success = now

    def silence(self, since: datetime, now: datetime) -> timedelta:
        """Return for how long, from `since` to `now`, a heartbeat could have arrived."""
        gaps = list(self.gaps)
        if now - self.last_success > self.longest:
            gaps.append((self.last_success, now))
        return now - since - sum((overlap(gap, since, now) for gap in gaps), timedelta())


def overlap(gap: tuple[datetime, datetime], since: datetime, now: datetime) -> timedelta:
    return max(min(gap[1], now) - max(gap[0], since), timedelta())
