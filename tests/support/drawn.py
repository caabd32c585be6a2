"""What `make test` leaves out, drawn by the commit; `make test-all` runs all tests.

Of the tests marked `drawn`, it runs a third. A test marked `one_broker` says nothing about a broker, and runs on one of
them. A test that is named, by its path or with -k, always runs.
"""

from __future__ import annotations

import random
import subprocess
from collections import defaultdict
from collections.abc import Mapping

import pytest

from tests.support import ROOT

SHARE = 3  # one of so many


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="leave no test out: CONTRIBUTING.md, The tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    by_name = config.option.keyword or config.option.markexpr
    if config.option.all or by_name or config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return
    seed = commit()
    either = {item.nodeid: test_of(item) for item in items if item.get_closest_marker("one_broker")}
    left_out = on_other_brokers(either, seed)
    left = [item for item in items if item.nodeid not in left_out]
    left_out |= not_drawn({item.nodeid: group_of(item) for item in left if item.get_closest_marker("drawn")}, seed)
    kept = [item for item in items if item.nodeid not in left_out and not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def not_drawn(groups: Mapping[str, str], seed: str) -> set[str]:
    """Return the ids that a commit leaves out, given the group of each.

    Every third group is drawn, in the order of their names: of three long tests that follow each other, one runs.
    """
    first = random.Random(seed).randrange(SHARE)  # noqa: S311
    drawn = sorted(set(groups.values()))[first::SHARE]
    return {own for own, group in groups.items() if group not in drawn}


def on_other_brokers(tests: Mapping[str, str], seed: str) -> set[str]:
    """Return the ids that a commit leaves out, given the test of each id: one id of each test is kept."""
    ids: dict[str, list[str]] = defaultdict(list)
    for own, test in tests.items():
        ids[test].append(own)
    dice = random.Random(seed)  # noqa: S311
    return set(tests) - {dice.choice(same) for same in ids.values()}


def test_of(item: pytest.Item) -> str:
    """Return the name of a test with all its parameters but the broker."""
    parameters = {name: value for name, value in parameters_of(item).items() if name != "broker"}
    return f"{item.nodeid.partition('[')[0]} {parameters}"


def group_of(item: pytest.Item) -> str:
    """Return what is drawn together with a test: those of its file with the same name in the mark and the same broker.

    Without a name in the mark it is drawn alone.
    """
    mark = item.get_closest_marker("drawn")
    assert mark
    file, _, name = item.nodeid.partition("::")
    return f"{file}::{mark.args[0]} {parameters_of(item).get('broker', '')}" if mark.args else f"{file}::{name}"


def parameters_of(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def commit() -> str:
    """Return the commit of the checkout; without git, an empty text, with which the draw is always the same."""
    show = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
