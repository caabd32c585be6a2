"""Every drill, as `lab drill` runs it: nothing is lost or done twice, and the lab is whole again.

Each is run on one broker, in turns, and those that strike the broker's own machine on both; `--drills-on-both-brokers`
runs each on both.
"""

from __future__ import annotations

from typing import Any

import pytest

from lab import report
from lab.drills import DRILLS, run
from lab.machines import Machines
from lab.topology import ROOT
from tests.conftest import BROKERS

UNNOTICED = ("queue-restart", "queue-kill", "broker-halt")  # no task that has begun is begun again


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    everywhere = metafunc.config.getoption("drills_on_both_brokers")
    if "drill" in metafunc.fixturenames:
        cases: list[Any] = [
            pytest.param(broker, name, id=f"{name}-{broker}")
            for turn, name in enumerate(DRILLS)
            for broker in (BROKERS if everywhere or name in UNNOTICED else BROKERS[turn % 2 :][:1])
        ]
        metafunc.parametrize(("broker", "drill"), cases, indirect=["broker"])


def test_drill(broker: str, drill: str, machines: Machines) -> None:
    record = run(drill, machines, print)
    page = report.write(record, ROOT / ".lab" / "reports")
    assert record.passed, (page, record.judgement, record.problems)
    if drill in UNNOTICED:
        assert len(record.tries) == len({one.task for one in record.tries})
