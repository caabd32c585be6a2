"""How long a soak goes on, and how a failing schedule is made smaller."""

from __future__ import annotations

import pytest

from lab import schedule
from lab.schedule import Event, Schedule, Work
from lab.soak import bound, shrink, smaller_than
from tests.support.shipped import SHIPPED

LARGE = Schedule(
    "large",
    "",
    "redis",
    (Work("ledger", {"tasks": 64, "seconds": 6}), Work("ledger_chain", {"seconds": 1}, at=5)),
    (Event("kill", ("master1",), "scheduler", delay=3), Event("crash", ("worker1",), moment="event", delay=4, hold=40)),
)


@pytest.mark.parametrize(
    ("text", "expected"), [("2h", (7200, None)), ("30m", (1800, None)), ("90s", (90, None)), ("200", (None, 200))]
)
def test_soak_is_bounded_by_time_or_number(text: str, expected: tuple[float | None, int | None]) -> None:
    assert bound(text) == expected


@pytest.mark.parametrize("text", ["", "2 h", "2d", "-1", "long"])
def test_other_bounds_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: 2h, 30m, 90s, 200"):
        bound(text)


def test_schedule_shrinks_to_what_is_needed_to_fail() -> None:
    """It fails with 8 tasks and a crash of 5 s or more; a third of the runs."""

    def rate(one: Schedule) -> float:
        schedule.check(one, SHIPPED)
        tasks = sum(work.conf.get("tasks", 0) for work in one.works)
        return (
            1 / 3 if tasks >= 8 and any(event.what == "crash" and (event.hold or 0) >= 5 for event in one.events) else 0
        )

    smallest, share = shrink(LARGE, rate, lambda _: None)
    assert share == 1 / 3
    assert smallest.works == (Work("ledger", {"tasks": 8, "seconds": 1}),)
    assert smallest.events == (Event("crash", ("worker1",), delay=7, hold=5),)


def test_schedule_that_does_not_fail_is_not_shrunk() -> None:
    assert shrink(LARGE, lambda _: 0, lambda _: None) == (LARGE, 0)


def test_every_step_makes_a_schedule_smaller() -> None:
    steps = list(smaller_than(LARGE))
    assert LARGE not in steps
    assert len(steps) == len({str(step) for step in steps})
