"""The health of the lab, which every destructive test needs before it begins and restores at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.client import eventually
from lab.machines import Machines
from lab.status import problems


def check_healthy(machines: Machines) -> None:
    """Asserts that every part of the lab reports, and that no work is left."""
    found = problems(machines)
    assert not found, found


@pytest.fixture(autouse=True)
def healthy_lab(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checks before and after a destructive test that the lab is healthy."""
    if "destructive" not in request.keywords:
        yield
        return
    machines = request.getfixturevalue("machines")
    eventually(lambda: check_healthy(machines), within=60)
    yield
    eventually(lambda: check_healthy(machines), within=120)
