"""Schedules: the work of a drill and what happens to the lab meanwhile, as data that can be saved and replayed.

A schedule fixes what is done and when. It does not fix how the machines' processes interleave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.changes import CHANGES
from lab.faults import FAULTS, UnknownError, endpoints
from lab.roles import ROLES, canonical
from lab.topology import ALL, BROKERS, OTHERS, Topology

BUSIEST = "busiest"  # in place of a machine: the worker that runs most tasks of the drill at that moment
# In place of a machine: the one that is it at that moment, of those with a role.
HOLDERS = {"primary": "database", "leader": "consensus", "master": "queue", "holder": "load_balancer"}
ACTIONS = FAULTS | CHANGES
MOMENTS = ("start", "queued", "running", "event")


class ScheduleError(Exception):
    """A schedule that cannot be run: names the value, its place and what is allowed."""


@dataclass(frozen=True)
class Work:
    """A run of a DAG with `conf`, triggered `at` seconds after the start of the drill."""

    dag: str
    conf: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0


@dataclass(frozen=True)
class Event:
    """A fault or a change of the lab, `what`, with its argument `target`, on each of `machines`.

    It begins `delay` seconds after a moment: the `start` of the work; more than `count` tasks are `queued`; at least
    `count` tasks are `running`, on each machine that is struck if it is a worker; or the event before it has begun
    (`event`). It is undone after `hold` seconds; None: when the work has ended.
    """

    what: str
    machines: tuple[str, ...] = ()
    target: str = ""
    moment: str = "start"
    count: int = 1
    delay: float = 0
    hold: float | None = 0

    def __str__(self) -> str:
        return " ".join([self.what, ",".join(self.machines), self.target]).strip()


@dataclass(frozen=True)
class Schedule:
    """Work and events of a drill, on a broker. `seed` is the one it was drawn from, if it was drawn."""

    name: str
    title: str
    broker: str
    works: tuple[Work, ...]
    events: tuple[Event, ...]
    seed: int | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.document(), indent=2) + "\n")


def load(path: Path) -> Schedule:
    """Read a schedule; ScheduleError if the file does not exist or is not one."""
    try:
        return from_document(json.loads(path.read_text()))
    except OSError as error:
        raise ScheduleError(f"{path}: {error.strerror}. A drill leaves its schedule in .lab/reports/*/") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ScheduleError(f"{path} is not a schedule: {error}") from error


def from_document(document: Mapping[str, Any]) -> Schedule:
    """Return the schedule that `Schedule.document` has made a document of; TypeError for unknown or missing keys."""
    works = tuple(Work(**work) for work in document["works"])
    events = tuple(Event(**{**event, "machines": tuple(event["machines"])}) for event in document["events"])
    return Schedule(**{**document, "works": works, "events": events})


def check(schedule: Schedule, topology: Topology) -> None:
    """Raise ScheduleError if the lab cannot run a schedule."""
    if schedule.broker not in BROKERS:
        raise ScheduleError(f"broker: {schedule.broker!r} is not allowed; allowed: {', '.join(BROKERS)}")
    if not schedule.works:
        raise ScheduleError("works: there is none; a drill needs work to judge")
    for number, event in enumerate(schedule.events):
        if problem := _problem(event, number, topology):
            raise ScheduleError(f"events[{number}]: {problem}")


def destructible(topology: Topology, name: str) -> bool:
    """Return whether other machines have what is lost with the disk of a machine, given by its name or what it is."""
    roles = [HOLDERS[name]] if name in HOLDERS else topology[name].roles if name in topology.hosts else list(ROLES)
    return all(topology.several(role) for role in roles if ROLES[role].machines == "majority")


def _problem(event: Event, number: int, topology: Topology) -> str:
    """Return what is wrong with an event; empty if nothing is."""
    if event.what not in ACTIONS:
        return f"what: {event.what!r} is not allowed; allowed: {', '.join(ACTIONS)}"
    action = ACTIONS[event.what]
    if topology.provider == "docker" and action.not_on_docker:
        return f"{event.what}: not on docker: {action.not_on_docker}"
    if bool(action.takes) != bool(event.target):
        return f"target: {event.what} takes {action.takes or 'none'}, not {event.target!r}"
    if event.moment not in MOMENTS or (event.moment == "event" and number == 0):
        return f"moment: {event.moment!r} is not allowed; allowed: {', '.join(MOMENTS)}, and event from the second on"
    if event.delay < 0 or (event.hold or 0) < 0:
        return "delay and hold: a negative number is not allowed"
    known = {*topology.hosts, BUSIEST, ALL, *HOLDERS}
    if unknown := [name for name in event.machines if name not in known]:
        return f"machines: {', '.join(unknown)} not allowed; allowed: {', '.join(sorted(known))}"
    if bool(event.machines) != action.machine:
        wanted = "at least one" if action.machine else "none: it is about the whole lab"
        return f"machines: {event.what} takes {wanted}"
    if event.what == "partition":
        try:
            for peer in () if event.target == OTHERS else event.target.split(","):
                endpoints(topology, peer)
        except UnknownError as error:
            return f"target: {error}"
    if event.what == "switchover" and not topology.several(event.target):
        return f"target: {event.target!r} not allowed; allowed: a role of several machines, database or queue"
    if event.what == "destroy" and (lost := [name for name in event.machines if not destructible(topology, name)]):
        return f"machines: {', '.join(lost)} not allowed: destroy would lose the only database or the only queue"
    there = {machine.name for machine in topology.machines}
    if event.what == "join" and there & {*event.machines}:
        return f"machines: {', '.join(event.machines)} not allowed: join adds a worker, and removes it again"
    if event.what in ("kill", "restart"):
        for name in there & {*event.machines}:
            if canonical(event.target) not in topology.services(name):
                return f"target: {name} does not have the service {event.target!r}"
    return ""
