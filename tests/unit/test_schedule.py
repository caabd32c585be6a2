"""Schedules: drawn from seeds, saved, loaded, refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lab import draw, schedule
from lab.case import PHASES
from lab.changes import CHANGES
from lab.coverage import rows, tried, untried
from lab.drills import DRILLS
from lab.schedule import Event, Schedule, ScheduleError, Work
from lab.topology import Topology
from tests.support.shipped import HA, SHIPPED

SEEDS = range(300)
GOOD = Schedule("a", "A", "redis", (Work("ledger", {"tasks": 4}),), (Event("crash", ("worker1",), hold=5),))


def test_same_seed_draws_the_same_schedule() -> None:
    assert [draw.draw(seed, SHIPPED, 2) for seed in SEEDS] == [draw.draw(seed, SHIPPED, 2) for seed in SEEDS]


def test_other_seeds_draw_other_schedules() -> None:
    assert len({draw.draw(seed, SHIPPED).title for seed in SEEDS}) > 100


@pytest.mark.parametrize("faults", [1, 2, 3])
def test_every_drawn_schedule_can_be_run_saved_and_loaded(faults: int, tmp_path: Path) -> None:
    for seed in SEEDS:
        drawn = draw.draw(seed, SHIPPED, faults)
        assert len(drawn.events) == faults
        schedule.check(drawn, SHIPPED)
        drawn.save(tmp_path / "schedule.json")
        assert schedule.load(tmp_path / "schedule.json") == drawn


@pytest.mark.parametrize("lab", [SHIPPED, HA], ids=lambda lab: lab.layout)
def test_all_work_all_events_all_machines_and_both_brokers_are_drawn(lab: Topology) -> None:
    drawn = [draw.draw(seed, lab) for seed in SEEDS]
    events = [event for one in drawn for event in one.events]
    assert {one.broker for one in drawn} == {"redis", "rabbitmq"}
    assert {event.what for event in events} == set(draw.strikes(lab))
    assert set(draw.strikes(HA)) >= set(CHANGES)
    assert {machine.name for machine in lab.machines} <= {name for event in events for name in event.machines}
    assert {one.title.partition(";")[0] for one in drawn} == set(draw.WORKS)


def test_two_events_overlap_or_strike_the_recovery_of_the_first() -> None:
    overlapping = Counter[bool]()
    for seed in SEEDS:
        first, second = draw.draw(seed, SHIPPED, 2).events
        assert second.moment == "event"
        assert second.delay <= (first.hold or 0) + draw.RECOVERY
        assert not {*first.machines} & {*second.machines}
        overlapping[second.delay < (first.hold or 0)] += 1
    assert min(overlapping.values()) > 50


def test_draw_prefers_what_was_not_tried() -> None:
    dice = draw.Dice(1)
    crash = {("redis", f"crash {kind}", phase): 5 for kind in ("worker", "master", "broker") for phase in PHASES}
    drawn = [draw.rarest(dice, SHIPPED, crash, 1, "redis").events[0].what for _ in range(40)]
    assert "crash" not in drawn


@pytest.mark.parametrize("lab", [SHIPPED, HA], ids=lambda lab: lab.layout)
@pytest.mark.parametrize("name", DRILLS)
def test_every_named_drill_is_a_schedule_that_can_be_run(name: str, lab: Topology) -> None:
    for _ in range(10):  # some draw a machine
        if DRILLS[name].fits(lab):
            schedule.check(DRILLS[name].schedule(name, lab), lab)
            schedule.check(DRILLS[name].on(Work("mine"), name, lab), lab)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event("explode", ("worker1",)), "what: 'explode' is not allowed; allowed: freeze, "),
        (Event("crash", ("worker9",)), "machines: worker9 not allowed; allowed: all, broker, "),
        (Event("crash"), "machines: crash takes at least one"),
        (Event("move", ("worker1",)), "machines: move takes none"),
        (Event("kill", ("worker1",)), "target: kill takes service, not ''"),
        (Event("kill", ("worker1",), "scheduler"), "worker1 does not have the service 'scheduler'"),
        (Event("partition", ("worker1",), "nowhere"), "'nowhere' is not a machine or a role"),
        (Event("crash", ("worker1",), moment="noon"), "moment: 'noon' is not allowed; allowed: start, "),
        (Event("crash", ("worker1",), moment="event"), "moment: 'event' is not allowed"),
        (Event("crash", ("worker1",), hold=-1), "a negative number is not allowed"),
        (Event("join", ("worker2",)), "worker2 not allowed: join adds a worker, and removes it again"),
        (Event("fill", ("worker1",)), "fill: not on docker: "),
        (Event("destroy", ("broker",)), "broker not allowed: destroy would lose the only database or the only queue"),
        (Event("switchover", target="database"), "'database' not allowed; allowed: a role of several machines"),
    ],
)
def test_schedule_that_cannot_be_run_is_refused(event: Event, message: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        schedule.check(replace(GOOD, events=(event,)), SHIPPED)
    assert str(refused.value).startswith("events[0]: ")
    assert message in str(refused.value)


def test_schedule_without_work_or_with_another_broker_is_refused() -> None:
    with pytest.raises(ScheduleError, match="works: there is none"):
        schedule.check(replace(GOOD, works=()), SHIPPED)
    with pytest.raises(ScheduleError, match="broker: 'kafka' is not allowed; allowed: redis, rabbitmq"):
        schedule.check(replace(GOOD, broker="kafka"), SHIPPED)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a"}', json.dumps(GOOD.document() | {"colour": "red"})])
def test_file_that_is_not_a_schedule_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    with pytest.raises(ScheduleError, match="No such file"):
        schedule.load(path)
    path.write_text(text)
    with pytest.raises(ScheduleError, match=r"schedule\.json is not a schedule"):
        schedule.load(path)


def report(folder: Path, broker: str, hits: dict[str, int]) -> None:
    folder.mkdir()
    event = {"what": "crash", "machines": ["worker2"], "target": "", "hits": hits}
    (folder / "verdict.json").write_text(json.dumps({"broker": broker, "events": [event]}))


def test_coverage_counts_caught_tasks_by_fault_broker_and_phase(tmp_path: Path) -> None:
    report(tmp_path / "1", "redis", {"running": 8, "received": 3})
    report(tmp_path / "2", "redis", {"running": 2})
    report(tmp_path / "3", "rabbitmq", {})
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "verdict.json").write_text("{")
    cells = tried(tmp_path)
    assert cells["redis", "crash worker", "running"] == 10
    assert cells["rabbitmq", "crash worker", "running"] == 0
    table = {(fault, broker): counts for fault, broker, counts in rows(cells)}
    assert table["crash worker", "redis"] == [
        10 if phase == "running" else 3 * (phase == "received") for phase in PHASES
    ]
    assert ("redis", "running") not in untried(cells)
    assert ("rabbitmq", "running") in untried(cells)


def test_triggerer_is_struck_only_while_tasks_are_deferred() -> None:
    drawn = [draw.draw(seed, SHIPPED, 2) for seed in SEEDS]
    struck = [one for one in drawn if any(event.target == "triggerer" for event in one.events)]
    assert struck
    assert {work.dag for one in struck for work in one.works} == {"ledger_deferrable"}
