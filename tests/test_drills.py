"""Every drill, as `lab drill` runs it: nothing is lost or executed twice, and the lab is healthy again.

Each runs on one broker, in turns; those whose fault affects the broker run on both. In the layout `ha`, those run that
need it. `make drills` runs each that the layout can run, on both brokers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import draw, history, own, report
from lab.drills import DRILLS
from lab.execution import run
from lab.judge import FAILED, Verdict, judge
from lab.topology import BROKERS
from tests.support import ROOT
from tests.support.drawn import commit
from tests.support.lab import LAB, NOW

SCHEDULES = 3  # random ones, in a run of the suite
# No task that has started is started again. If only the broker's service is down, no attempt is used up.
UNNOTICED = ("queue-restart", "queue-kill", "broker-halt", "broker-freeze")
CASES = [  # one broker after the other: a move takes longer than most drills
    pytest.param(broker, name, id=f"{name}-{broker}")
    for index, broker in reversed(list(enumerate(BROKERS)))
    for turn, name in enumerate(name for name in DRILLS if (DRILLS[name].layout or "single") == NOW.layout)
    if name in UNNOTICED or turn % 2 == index
]


@pytest.mark.destructive
@pytest.mark.drawn
@pytest.mark.parametrize(("broker", "drill"), CASES, indirect=["broker"])
def test_drill(broker: str, drill: str) -> None:
    folder = run(DRILLS[drill].schedule(drill, LAB.topology), LAB, print)
    verdict = check(folder)
    if drill in UNNOTICED:
        attempts = history.of_kind(history.read(folder), "attempt")
        assert len(attempts) == len({one["task"] for one in attempts})
    if drill in ("queue-restart", "queue-kill", "broker-freeze"):
        assert verdict.attempts == verdict.tasks


@pytest.mark.destructive
@pytest.mark.parametrize("seed", draw.seeds(commit(), SCHEDULES))
def test_random_schedule(seed: int) -> None:
    """Half of them have two faults; they run on the broker that the lab is on, and return to it if they move it."""
    before = LAB.topology.broker
    drawn = draw.draw(seed, LAB.topology, 1 + seed % 2, before)
    print(f"lab drill --seed {seed} --faults {len(drawn.events)} --broker {before}: {drawn.title}")
    try:
        check(run(drawn, LAB, print))
    finally:
        if LAB.topology.broker != before:
            LAB.machines.provision(BROKER=before)


@pytest.mark.destructive
@pytest.mark.drawn("orders")
@pytest.mark.one_broker
@pytest.mark.parametrize(("name", "rules"), [("append-orders", {"did harm"}), ("merge-orders", set())])
def test_drill_on_a_users_dag_tells_whether_a_crash_does_harm(broker: str, name: str, rules: set[str]) -> None:
    mine = own.drills_in(ROOT / "dags")[name]
    own.wait_for_dag(LAB.airflow, mine.dag, LAB.seconds(own.FOUND))
    folder = run(own.schedule_of(mine, name, LAB.topology), LAB, print, own=own.UnderFire(mine))
    verdict = own.judge(history.read(folder))
    page = report.write(folder, verdict)
    assert {one.rule for one in verdict.findings} == rules, (page, verdict.findings)
    assert [row for row in verdict.tasks_table if row["interrupted"]], page
    assert verdict.delay
    assert any("did harm" in text for text in verdict.advice) == bool(rules), verdict.advice


def check(folder: Path) -> Verdict:
    """Write the page of a drill, and assert that nothing failed; a fault that caught nothing proves nothing."""
    verdict = judge(history.read(folder))
    page = report.write(folder, verdict)
    assert verdict.outcome != FAILED, (page, [str(finding) for finding in verdict.findings])
    return verdict
