"""What `make test` leaves out."""

from __future__ import annotations

from tests.support.drawn import not_drawn, on_other_brokers

DRILLS = {f"tests/test_drills.py::test_drill[{number}]": str(number) for number in range(26)}
TESTS = {f"{test}[{broker}]": test for test in ("a", "b", "c") for broker in ("redis", "rabbitmq")}


def test_a_third_is_drawn_and_the_same_commit_draws_the_same() -> None:
    assert len(DRILLS) - len(not_drawn(DRILLS, "a")) in (8, 9)
    assert not_drawn(DRILLS, "a") == not_drawn(DRILLS, "a")


def test_all_are_drawn_by_some_commit() -> None:
    assert not set.intersection(*(not_drawn(DRILLS, str(commit)) for commit in range(50)))


def test_one_of_three_neighbours_is_drawn() -> None:
    names = sorted(DRILLS, key=DRILLS.__getitem__)
    for seed in range(20):
        left = set(DRILLS) - not_drawn(DRILLS, str(seed))
        assert all(len(left & set(names[start : start + 3])) == 1 for start in range(24))


def test_a_group_is_drawn_together() -> None:
    for seed in range(20):
        left = set(TESTS) - not_drawn(TESTS, str(seed))  # three groups
        assert len(left) == 2
        assert len({TESTS[own] for own in left}) == 1


def test_each_test_runs_on_one_broker_and_on_the_other_with_another_commit() -> None:
    left_out = [on_other_brokers(TESTS, str(seed)) for seed in range(10)]
    for found in left_out:
        assert sorted(TESTS[own] for own in found) == ["a", "b", "c"]
    assert len({frozenset(found) for found in left_out}) > 3
