"""A history, indexed: the events, the tasks with their attempts and messages, and in which phase a task was when."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from lab.history import Line, of_kind
from lab.roles import canonical
from lab.topology import ALL, OTHERS

PHASES = ("scheduled", "queued", "sent", "received", "running", "deferred", "finishing")
# The phases in which a task needs a service.
NEEDS = {
    "scheduler": ("scheduled", "queued"),
    "queue": ("queued", "sent", "received"),
    "worker": ("received", "running", "finishing"),
    "api_server": ("received", "running", "finishing"),
    "load_balancer": ("received", "running", "finishing"),
    "triggerer": ("deferred",),
    "database": PHASES,
}
# What a message means for its task. A message that is delivered twice is ignored, which means nothing.
MEANS = {"sent": "sent", "received": "received", "done": "over"}
SETTLES = 10  # seconds after a fault has ended until what it affected works again, times the lab's factor


@dataclass
class Event:
    """A fault or a change as it happened: from the attempt to inject it until it was undone."""

    number: int
    what: str
    machines: Sequence[str]
    target: str
    begin: float
    begun: float
    end: float

    def services(self, roles: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
        """Return, by machine, the roles that it struck there."""
        if self.what == "join":  # it is not in the lab when the drill begins
            return {name: {"worker"} for name in self.machines}
        if self.what == "switchover":
            return {name: {self.target} for name, own in roles.items() if self.target in own}
        if self.what in ("kill", "restart"):
            return {name: {canonical(self.target)} for name in self.machines}
        return {name: set(roles.get(name, ())) for name in self.machines}

    def cuts(self, roles: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
        """Return, by machine, the roles that it does not reach, if it is a partition: both machines are cut off."""
        found: dict[str, set[str]] = defaultdict(set)
        if self.what != "partition":
            return {}
        others = [name for name in roles if name not in self.machines]
        peers = others if self.target == OTHERS else self.target.split(",")
        for name, peer in product(self.machines, peers):
            found[name] |= set(roles[peer]) if peer in roles else {canonical(peer)}
            if peer in roles:
                found[peer] |= set(roles[name])
        return found


class Case:
    """A history, indexed."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.begin = lines[0]
        self.factor = self.begin.get("factor", 1)
        self.roles: dict[str, list[str]] = self.begin["machines"]
        # What no task calls: where each machine has a local proxy, the load balancer.
        self.uncalled = {"load_balancer"} if any("local_proxy" in own for own in self.roles.values()) else set()
        self.last = max(line["at"] for line in lines)
        self.events = list(self._events())
        self.tries: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for line in sorted(of_kind(lines, "try"), key=lambda line: line["number"]):
            self.tries[line["run"], line["task"]].append(line)
        self.attempts: dict[tuple[str, str], list[Line]] = defaultdict(list)
        names = {(run, number_of(task)): task for run, task in self.tries}
        for line in of_kind(lines, "attempt"):
            task = names.get((line["run"], line["task"]), f"work[{line['task']}]")
            self.attempts[line["run"], task].append(line)
        self.messages: dict[str, list[Line]] = defaultdict(list)  # by Celery id, in the order of time
        self.ids: dict[tuple[str, str, int], list[str]] = defaultdict(list)
        for line in of_kind(lines, "message"):
            self.messages[line["celery"]].append(line)
            if line["phase"] == "sent":
                self.ids[line["run"], line["task"], line["number"]].append(line["celery"])
        self.runs = {line["run"]: line for line in of_kind(lines, "run")}

    def seconds(self, count: float) -> float:
        return count * self.factor

    def hosts(self, key: tuple[str, str], number: int) -> set[str]:
        """Return the workers on which an attempt was: several, if it was deferred or its message delivered twice."""
        own = {one["host"] for one in self.attempts[key] if one["number"] == number}
        for one in self.tries[key]:
            if one["number"] == number:
                own |= {one["host"]} | {line["machine"] for line in self.said(key, one) if line["phase"] == "received"}
        return own - {None, ""}

    def said(self, key: tuple[str, str], one: Line) -> list[Line]:
        """Return what happened to the messages of an attempt."""
        ids = {*self.ids[(*key, one["number"])], one["celery"]} & self.messages.keys()
        return sorted((line for celery in ids for line in self.messages[celery]), key=lambda line: line["at"])

    def _events(self) -> Iterator[Event]:
        by_number: dict[int, dict[str, Line]] = defaultdict(dict)
        for line in of_kind(self.lines, "event"):
            by_number[line["event"]].setdefault(line["phase"], line)
        for number, phases in sorted(by_number.items()):
            begun = phases.get("begun")
            if not begun:
                continue
            end = phases["end"]["at"] if "end" in phases else self.last
            machines = [*self.roles] if ALL in begun["machines"] else begun["machines"]
            yield Event(
                number,
                begun["what"],
                machines,
                begun.get("target", ""),
                phases["begin"]["at"],
                begun["at"],
                end,
            )

    def lasted(self, event: Event) -> tuple[float, float]:
        """Return from when to when an event could affect tasks: until what it struck works again."""
        return event.begin, event.end + self.seconds(SETTLES)


def number_of(task: str) -> int | None:
    """Return the number of a task of the lab's DAGs, as it records it; None for other tasks."""
    found = re.fullmatch(r"work(?:\[(\d+)\]|_(\d+))", task)
    return int(found[1] or found[2]) if found else None


def last(attempt: Line) -> float:
    """Return the last moment at which an attempt is known to have run."""
    return attempt["ended"] if attempt["ended"] is not None else attempt["seen"]


def overlaps(event: tuple[float, float], start: float, end: float) -> bool:
    return event[0] <= end and start <= event[1]


def describe(event: Event) -> str:
    words = " ".join([event.what, ", ".join(event.machines), event.target]).strip()
    return f"{words}, {event.begin:.1f} to {event.end:.1f} s"


def phases(case: Case, key: tuple[str, str], one: Line) -> Iterator[tuple[str, float, float, str]]:
    """Return the phases of an attempt, as far as the history shows them: name, begin, end, and the worker.

    Between two messages of an attempt that was executed in part, it was deferred.
    """
    host = one["host"] or ""
    own = [entry for entry in case.attempts[key] if entry["number"] == one["number"]]
    marks = [(one[name], name, "") for name in ("scheduled", "queued")]
    marks += [
        (line["at"], MEANS[line["phase"]], line["machine"]) for line in case.said(key, one) if line["phase"] in MEANS
    ]
    marks += [(entry["started"], "running", entry["host"]) for entry in own] or [(one["started"], "running", host)]
    marks += [(entry["ended"], "finishing", entry["host"]) for entry in own]
    known = sorted((mark for mark in marks if mark[0] is not None), key=lambda mark: mark[0])
    if not known:
        return
    over = known[-1][1] == "over"
    end = known[-1][0] if over else max(known[-1][0], one["ended"] if one["ended"] is not None else case.last)
    for (at, name, where), (following, *_) in zip(known, [*known[1:], (end,)], strict=True):
        if name != "over":
            yield name, at, following, where or host
        elif following > at:
            yield "deferred", at, following, ""


def hits(case: Case, event: Event, begin: float, end: float, runs: Sequence[str] = ()) -> Counter[str]:
    """Return how many tasks were in which phase, and needed what an event struck, at some moment from begin to end.

    With `runs`, only tasks of these runs count.
    """
    struck = event.services(case.roles)
    for name, cut in event.cuts(case.roles).items():
        struck[name] = struck.get(name, set(case.roles[name])) | cut
    found: Counter[str] = Counter()
    for key, tries in case.tries.items():
        seen = set()
        if runs and key[0] not in runs:
            continue
        for one in tries:
            for phase, start, until, host in phases(case, key, one):
                if overlaps((begin, end), start, until) and (not struck or needs(case, struck, phase, host)):
                    seen.add(phase)
        found.update(seen)
    return found


def needs(case: Case, struck: Mapping[str, set[str]], phase: str, host: str) -> bool:
    """Return whether a task in a phase, on a worker, needs one of the services that were struck."""
    for name, roles in struck.items():
        for role in (roles & NEEDS.keys()) - case.uncalled:
            if phase in NEEDS[role] and (role != "worker" or name == host):
                return True
    return False
