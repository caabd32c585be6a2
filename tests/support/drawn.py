"""`make test` runs a third of the drills, drawn by the commit, and builds the box once; `make test-all` runs all tests.

A test that is named, by its path or with -k, always runs.
"""

from __future__ import annotations

import random
import subprocess

import pytest

from tests.support import ROOT

SHARE = 3  # one of so many drills


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="all drills, and the tests marked `thorough`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    by_name = config.option.keyword or config.option.markexpr
    if config.option.all or by_name or config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return
    left_out = not_drawn([item.nodeid for item in items if item.nodeid.startswith("tests/test_drills.py::")], commit())
    kept = [item for item in items if item.nodeid not in left_out and not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def not_drawn(drills: list[str], seed: str) -> set[str]:
    """Return the drills that a commit leaves out. Consecutive commits draw independently."""
    drawn = random.Random(seed).sample(drills, -(-len(drills) // SHARE))  # noqa: S311
    return set(drills) - set(drawn)


def commit() -> str:
    """Return the commit of the checkout; without git, an empty text, with which the draw is always the same."""
    show = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
