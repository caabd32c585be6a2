"""The silence of a task counts only while its heartbeats could have arrived."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from heartbeat_path import HeartbeatPath

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("successes", "since", "now", "silence"),
    [
        pytest.param(range(0, 31), 9, 30, 21, id="the path is up, and the task is silent"),
        pytest.param([*range(0, 11), *range(50, 53)], 9, 52, 1, id="down for 40 s, then up for 2 s"),
        pytest.param([*range(0, 11), *range(50, 71)], 9, 70, 16, id="down for 40 s, then up for 20 s"),
        pytest.param(range(0, 11), 9, 60, 1, id="still down"),
        pytest.param([0, 5, 10, 15, 20], 9, 20, 11, id="slow, but up"),
        pytest.param([100], 60, 100, 0, id="a scheduler that has just started does not count the time before"),
    ],
)
def test_silence_excludes_gaps_of_the_path(successes: list[int], since: float, now: float, silence: float) -> None:
    path = HeartbeatPath(lambda: None, longest=6, settle=5)
    for second in successes:
        path.succeeded(at(second))
    assert path.silence(at(since), at(now)).total_seconds() == pytest.approx(silence)
