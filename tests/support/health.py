"""Checks the health of the lab before and after every destructive test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.status import problems
from tests.support.lab import LAB


def check_healthy() -> None:
    """Asserts that every part of the lab reports, and that no work is left."""
    found = problems(LAB)
    assert not found, found


CHECKED = pytest.StashKey[str]()  # the broker of the lab when it was last found healthy


@pytest.fixture(autouse=True)
def healthy_lab(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checks before and after a destructive test that the lab is healthy; before, if nothing has checked it yet."""
    if "destructive" not in request.keywords:
        yield
        return
    stash = request.config.stash
    if stash.get(CHECKED, "") != LAB.topology.broker:
        LAB.eventually(check_healthy, within=60)
    stash[CHECKED] = ""
    yield
    LAB.eventually(check_healthy, within=120)
    stash[CHECKED] = LAB.topology.broker
