"""Which drills `make test` runs, and on which broker it runs a test that is about neither."""

from __future__ import annotations

from tests.support.drawn import not_drawn, on_other_brokers

DRILLS = [f"tests/test_drills.py::test_drill[{number}]" for number in range(26)]


def test_a_third_of_the_drills_is_drawn_and_the_same_commit_draws_the_same() -> None:
    assert len(DRILLS) - len(not_drawn(DRILLS, "a")) == 9
    assert not_drawn(DRILLS, "a") == not_drawn(DRILLS, "a")


def test_each_drill_is_drawn_sooner_or_later() -> None:
    assert not set.intersection(*(not_drawn(DRILLS, str(commit)) for commit in range(50)))


def test_each_test_runs_on_one_broker_and_on_the_other_with_another_commit() -> None:
    tests = {f"{test}[{broker}]": test for test in ("a", "b", "c") for broker in ("redis", "rabbitmq")}
    left_out = {seed: on_other_brokers(tests, seed) for seed in "0123456789"}
    for found in left_out.values():
        assert sorted(tests[own] for own in found) == ["a", "b", "c"]
    assert len({frozenset(found) for found in left_out.values()}) > 3
