"""The way of a heartbeat from a task to the database, as the scheduler sees it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

NEVER = datetime.min.replace(tzinfo=UTC)


class HeartbeatPath(threading.Thread):
    """Tries the way of a heartbeat every second, and records when no heartbeat could have arrived.

    The scheduler calls a task lost when it has not heard from it for a while. That is sound only while the load
    balancer, an api-server, the database and the scheduler itself work: `silence` does not count the time in which
    `probe`, which raises an exception if the way is closed, did not succeed. A probe that hangs, or a scheduler that
    was frozen, shows as a gap between two successes.
    """

    def __init__(self, probe: Callable[[], object], *, longest: float, settle: float) -> None:
        """Regard successes up to `longest` seconds apart as an open way.

        After a gap, tasks have `settle` more seconds: that long they may wait until they try again.
        """
        super().__init__(name="heartbeat-path", daemon=True)
        self.probe = probe
        self.longest = timedelta(seconds=longest)
        self.settle = timedelta(seconds=settle)
        self.last_success = NEVER
        self.gaps: deque[tuple[datetime, datetime]] = deque(maxlen=100)

    def run(self) -> None:
        while True:
            with suppress(Exception):  # whatever it is, a heartbeat would not have arrived either
                self.probe()
                self.succeeded(datetime.now(UTC))
            time.sleep(1)

    def succeeded(self, now: datetime) -> None:
        """Record that the way was open at `now`."""
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
