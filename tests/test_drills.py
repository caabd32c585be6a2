"""Every drill, as `lab drill` runs it: nothing is lost or executed twice, and the lab is healthy again.

Each runs on one broker, in turns; those whose fault affects the broker run on both. `make drills` runs each on both.
"""

from __future__ import annotations

import pytest

from lab import report
from lab.drills import DRILLS, run
from lab.topology import BROKERS
from tests.support.lab import LAB

# No task that has started is started again. If only the broker's service is down, no attempt is used up.
UNNOTICED = ("queue-restart", "queue-kill", "broker-halt", "broker-freeze")
CASES = [  # one broker after the other: a move takes longer than most drills
    pytest.param(broker, name, id=f"{name}-{broker}")
    for index, broker in reversed(list(enumerate(BROKERS)))
    for turn, name in enumerate(DRILLS)
    if name in UNNOTICED or turn % 2 == index
]


@pytest.mark.destructive
@pytest.mark.drawn
@pytest.mark.parametrize(("broker", "drill"), CASES, indirect=["broker"])
def test_drill(broker: str, drill: str) -> None:
    record = run(drill, LAB, print)
    page = report.write(record, LAB.state("reports"))
    assert record.passed, (page, record.judgement, record.problems)
    if drill in UNNOTICED:
        assert len(record.attempts) == len({one.task for one in record.attempts})
    if drill in ("queue-restart", "queue-kill", "broker-freeze"):
        assert {one.number for one in record.attempts} == {1}
