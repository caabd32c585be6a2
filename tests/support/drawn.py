"""What `make test` leaves out, drawn by the commit; `make test-all` runs all tests.

It runs a third of the drills, and builds the box once. A test marked `one_broker` makes no claim about a broker: it
runs on one of them. A test that is named, by its path or with -k, always runs.
"""

from __future__ import annotations

import random
import subprocess
from collections import defaultdict
from collections.abc import Mapping

import pytest

from tests.support import ROOT

SHARE = 3  # one of so many drills


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="all drills on all brokers, and the tests marked `thorough`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    by_name = config.option.keyword or config.option.markexpr
    if config.option.all or by_name or config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return
    seed = commit()
    left_out = not_drawn([item.nodeid for item in items if item.nodeid.startswith("tests/test_drills.py::")], seed)
    left_out |= on_other_brokers(
        {one.nodeid: test_of(one) for one in items if one.get_closest_marker("one_broker")}, seed
    )
    kept = [item for item in items if item.nodeid not in left_out and not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def not_drawn(drills: list[str], seed: str) -> set[str]:
    """Return the drills that a commit leaves out. Consecutive commits draw independently."""
    drawn = random.Random(seed).sample(drills, -(-len(drills) // SHARE))  # noqa: S311
    return set(drills) - set(drawn)


def on_other_brokers(tests: Mapping[str, str], seed: str) -> set[str]:
    """Return the ids that a commit leaves out, given the test of each id: one id of each test is kept."""
    ids: dict[str, list[str]] = defaultdict(list)
    for own, test in tests.items():
        ids[test].append(own)
    dice = random.Random(seed)  # noqa: S311
    return set(tests) - {dice.choice(same) for same in ids.values()}


def test_of(item: pytest.Item) -> str:
    """Return the name of a test with all its parameters but the broker."""
    assert isinstance(item, pytest.Function)
    parameters = {name: value for name, value in item.callspec.params.items() if name != "broker"}
    return f"{item.path}::{item.originalname} {parameters}"


def commit() -> str:
    """Return the commit of the checkout; without git, an empty text, with which the draw is always the same."""
    show = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
