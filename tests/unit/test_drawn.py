"""Which drills `make test` runs."""

from __future__ import annotations

from tests.support.drawn import not_drawn

DRILLS = [f"tests/test_drills.py::test_drill[{number}]" for number in range(26)]


def test_a_third_of_the_drills_is_drawn_and_the_same_commit_draws_the_same() -> None:
    assert len(DRILLS) - len(not_drawn(DRILLS, "a")) == 9
    assert not_drawn(DRILLS, "a") == not_drawn(DRILLS, "a")


def test_each_drill_is_drawn_sooner_or_later() -> None:
    assert not set.intersection(*(not_drawn(DRILLS, str(commit)) for commit in range(50)))
