"""Every drill, as `lab drill` runs it: nothing is lost or done twice, and the lab is whole again.

Each is run on one broker, in turns, and those that strike the broker itself on both; `make drills` runs each on both.
"""

from __future__ import annotations

import pytest

from lab import report
from lab.drills import DRILLS, run
from lab.machines import Machines
from lab.topology import ROOT
from tests.support.lab import BROKERS

# No task that has begun is begun again; and without the broker's service alone, none costs a try.
UNNOTICED = ("queue-restart", "queue-kill", "broker-halt", "broker-freeze")
CASES = [  # one broker after the other: a move takes longer than most drills
    pytest.param(broker, name, id=f"{name}-{broker}")
    for place, broker in reversed(list(enumerate(BROKERS)))
    for turn, name in enumerate(DRILLS)
    if name in UNNOTICED or turn % 2 == place
]


@pytest.mark.destructive
@pytest.mark.parametrize(("broker", "drill"), CASES, indirect=["broker"])
def test_drill(broker: str, drill: str, machines: Machines) -> None:
    record = run(drill, machines, print)
    page = report.write(record, ROOT / ".lab" / "reports")
    assert record.passed, (page, record.judgement, record.problems)
    if drill in UNNOTICED:
        assert len(record.tries) == len({one.task for one in record.tries})
    if drill in ("queue-restart", "queue-kill", "broker-freeze"):
        assert {one.number for one in record.tries} == {1}
