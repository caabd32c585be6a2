"""The judge of drills: a pure function from a history to a verdict. It reads nothing but the history.

A task of the lab's own DAGs is judged by what it has recorded itself, and by Airflow's records. `lab.own` judges the
DAGs of users, which record nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations, pairwise
from typing import Any

from lab.case import SETTLES, Case, Event, describe, hits, last, number_of, overlaps
from lab.history import Line, of_kind
from lab.roles import ROLES

PASSED, FAILED, INCONCLUSIVE = "passed", "failed", "inconclusive"
PATH = ("load_balancer", "api_server", "database")  # from a user to what is kept
# What ends all that runs on a machine, or the service that it is about.
STOPS = ("crash", "halt", "reload", "kill", "restart", "join", "destroy", "switchover")
SILENCES = ("freeze", "partition")  # nobody can tell whether what runs there goes on

# Seconds, times the lab's factor.
REPORTED = 2  # from the last entry of a task until Airflow knows its end; a crash in between executes it again
PATIENCE = 35  # that a call of a task waits for the path to the database: config/airflow.cfg.j2, [workers]
LATE = 45  # that a task may wait for a free slot after the last fault: 15 s without heartbeats, twice, and the delays


@dataclass(frozen=True)
class Finding:
    """A rule that was broken, by which task of which run, and how."""

    rule: str
    what: str
    run: str = ""
    task: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: {' '.join(filter(None, [self.task, self.what]))}"


@dataclass
class Verdict:
    """What a history shows.

    `findings` are broken promises. `unavoidable` are attempts that were repeated and that no system could have spared.
    `unknown` is what the history does not show. `hits` has, for each event, how many tasks were in which phase when it
    began; `caught` how many needed what it struck, at any moment while it lasted. `write_gap` is the longest time, in
    seconds, without a commit that was acknowledged; `page_gap` without a page that an api-server answered.
    """

    outcome: str = PASSED
    findings: list[Finding] = field(default_factory=list)
    unavoidable: list[Finding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    hits: list[dict[str, int]] = field(default_factory=list)
    caught: list[int] = field(default_factory=list)
    tasks: int = 0
    attempts: int = 0
    recovery: float | None = None
    requests: int = 0
    failed_requests: int = 0
    commits: int = 0
    write_gap: float | None = None
    page_gap: float | None = None

    @property
    def passed(self) -> bool:
        return self.outcome == PASSED

    def count(self, rule: str) -> int:
        return sum(one.rule == rule for one in self.findings)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def judge(lines: Sequence[Line]) -> Verdict:
    """Return what a history shows of the promises of the lab."""
    case, verdict = Case(lines), Verdict()
    requests = of_kind(lines, "request")
    verdict.requests, verdict.failed_requests = len(requests), sum(line["phase"] == "fail" for line in requests)
    verdict.unknown = [f"{line['what']}: {line['error']}" for line in of_kind(lines, "unreadable")]
    for event in case.events:
        verdict.hits.append(dict(hits(case, event, event.begin, event.begun)))
        caught = sum(hits(case, event, event.begin, max(event.end, event.begun)).values())
        verdict.caught.append(caught or asked(case, event, requests))
    for run in acknowledged(case):
        judge_run(case, run, verdict)
    verdict.findings += lost_commits(lines)
    verdict.commits, verdict.write_gap = answers(lines, "commit")
    _, verdict.page_gap = answers(lines, "page")
    verdict.findings += late(case)
    verdict.findings += outage(case, requests)
    verdict.findings += [Finding("unhealthy", line["text"]) for line in of_kind(lines, "problem")]
    verdict.recovery = recovery(case)
    blind = any(what.startswith(("Airflow's records", "the records", "the numbers")) for what in verdict.unknown)
    if verdict.findings and not (blind and not of_kind(lines, "problem")):
        verdict.outcome = FAILED
    elif blind or not of_kind(lines, "end") or (case.events and not any(verdict.caught)) or not case.events:
        verdict.outcome = INCONCLUSIVE
        verdict.unknown += [] if blind else [why_inconclusive(case, lines)]
    return verdict


def asked(case: Case, event: Event, requests: Sequence[Line]) -> int:
    """Return how many requests of users there were while an event lasted that struck only what no task calls."""
    struck = set().union(*event.services(case.roles).values())
    begin, end = case.lasted(event)
    return sum(begin <= line["at"] <= end for line in requests) if struck and struck == case.uncalled else 0


def path(case: Case) -> tuple[str, ...]:
    """Return the roles on the way from a task to where its state is kept."""
    return tuple(role for role in PATH if role not in case.uncalled)


def why_inconclusive(case: Case, lines: Sequence[Line]) -> str:
    if not of_kind(lines, "end"):
        return "the drill was interrupted"
    return "no fault caught a task" if case.events else "nothing happened to the lab"


def acknowledged(case: Case) -> list[str]:
    """Return the runs whose tasks are judged: those that Airflow accepted, and those of which no answer came.

    A trigger without an answer may or may not have made a run. If it did, the run is judged like the others.
    """
    runs = []
    for line in of_kind(case.lines, "client"):
        if line.get("baseline"):
            continue
        if line["phase"] == "ok" or (line["phase"] == "unknown" and line["run"] in case.runs):
            runs.append(line["run"])
    return runs


def judge_run(case: Case, run: str, verdict: Verdict) -> None:
    if run not in case.runs:
        verdict.findings.append(Finding("lost", "Airflow accepted the run, and does not know it", run))
        return
    state = case.runs[run]["state"]
    if state not in ("success", "failed"):
        verdict.findings.append(Finding("stuck", f"the run has not ended: it is {state}", run))
    for key, tries in case.tries.items():
        if key[0] == run:
            judge_task(case, key, tries, verdict)
    if not any(key[0] == run for key in case.tries) or (state == "failed" and not of_run(verdict.findings, run)):
        verdict.findings.append(Finding("failed", f"the run is {state}", run))


def of_run(findings: Sequence[Finding], run: str) -> list[Finding]:
    return [one for one in findings if one.run == run]


def judge_task(case: Case, key: tuple[str, str], tries: Sequence[Line], verdict: Verdict) -> None:
    run, task = key
    attempts, final = case.attempts[key], tries[-1]
    verdict.tasks += 1
    verdict.attempts += len(tries)
    recorded = number_of(task) is not None
    committed = sum(one["committed"] for one in attempts)

    def broken(rule: str, what: str) -> None:
        verdict.findings.append(Finding(rule, what, run, task))

    if recorded and committed == 0:
        broken("lost", f"its effect is not committed; Airflow says {final['state']}")
    if committed > 1:
        broken("duplicated", f"its effect is committed {committed} times")
    if final["state"] != "success":
        broken(
            "failed" if final["state"] in ("failed", "upstream_failed") else "stuck", f"Airflow says {final['state']}"
        )
    # By number: an attempt that was given up may end after the one that replaced it.
    ended = sorted((one for one in attempts if one["ended"] is not None), key=lambda one: one["number"])
    for one in ended[:-1]:
        why = unavoidable(case, key, one)
        repeat(
            verdict,
            "executed twice",
            f"it ran to its end on {one['host']} at {one['ended']:.1f} s, and again",
            key,
            why,
        )
    for one, other in combinations(attempts, 2):
        seconds = min(last(one), last(other)) - max(one["started"], other["started"])
        if seconds > 0:
            why = silenced(case, key, one) or silenced(case, key, other)
            what = f"two attempts ran at the same time for {seconds:.1f} s, on {one['host']} and {other['host']}"
            repeat(verdict, "overlap", what, key, why)
    for one in tries[:-1]:
        if not (why := cause(case, key, one)):
            what = f"attempt {one['number']} on {one['host'] or 'no worker'} was used, and no fault explains it"
            repeat(verdict, "attempt used", what, key, why)


def repeat(verdict: Verdict, rule: str, what: str, key: tuple[str, str], why: str) -> None:
    """Record that work was repeated: as unavoidable if there is a reason."""
    one = Finding(rule, f"{what}{f' ({why})' if why else ''}", *key)
    (verdict.unavoidable if why else verdict.findings).append(one)


def silenced(case: Case, key: tuple[str, str], attempt: Line) -> str:
    """Return the event because of which nobody could tell whether an attempt goes on; empty if there is none."""
    hosts = case.hosts(key, attempt["number"])
    known = [one["started"] for one in case.tries[key] if one["number"] == attempt["number"] and one["started"]]
    start = min([*known, attempt["started"]])  # Airflow starts a task before the task records it
    for event in case.events:
        if event.what not in SILENCES or not overlaps(case.lasted(event), start, last(attempt)):
            continue
        if (event.what == "freeze" and hosts & {*event.machines}) or cut_off(case, event, hosts):
            return describe(event)
    return ""


def cut_off(case: Case, event: Event, hosts: set[str]) -> bool:
    """Return whether a partition separates a worker from what its tasks call."""
    cuts = event.cuts(case.roles)
    return any(cuts.get(host, set()) & {*path(case)} for host in hosts)


def unavoidable(case: Case, key: tuple[str, str], attempt: Line) -> str:
    """Return why an attempt that ran to its end had to be repeated; empty if it had not."""
    if why := silenced(case, key, attempt):
        return why
    hosts = case.hosts(key, attempt["number"])
    for event in case.events:
        start, end = case.lasted(event)
        reported = attempt["ended"] + case.seconds(REPORTED)
        struck = event.services(case.roles)
        stops = event.what in STOPS and any("worker" in struck.get(host, ()) for host in hosts)
        if stops and overlaps((start, end), attempt["ended"], reported):
            return f"its end was not reported yet: {describe(event)}"
    for start, end, why in outages(case):
        if overlaps((start, end), attempt["ended"], attempt["ended"] + case.seconds(REPORTED)):
            return f"its end could not be reported: {why}"
    return ""


def outages(case: Case) -> Iterator[tuple[float, float, str]]:
    """Return when no task reached its state for longer than its calls wait: begin, end, and because of what.

    A role is away while each of its machines is struck, or the majority that it needs. A machine that is only silent
    accepts calls again when it goes on, before the calls are given up.
    """
    for role, lost in [(own, lost) for own in path(case) for lost in losses(case, own)]:
        away = [(0.0, case.last, "", False)]
        for host in lost:
            struck = [one for one in case.events if role in one.services(case.roles).get(host, ())]
            away = [
                (max(begin, one.begin), min(end, one.end), describe(one), stopped or one.what in STOPS)
                for begin, end, _, stopped in away
                for one in struck
                if one.what in (*STOPS, *SILENCES)
            ]
        for begin, end, why, stopped in away:
            if lost and stopped and end - begin >= case.seconds(PATIENCE):
                yield begin, end + case.seconds(SETTLES), why


def losses(case: Case, role: str) -> Iterator[tuple[str, ...]]:
    """Return the smallest groups of machines without which a role is away."""
    hosts = [name for name, roles in case.roles.items() if role in roles]
    spare = (len(hosts) - 1) // 2 if ROLES[role].machines == "majority" else len(hosts) - 1
    return combinations(hosts, spare + 1)


def cause(case: Case, key: tuple[str, str], attempt: Line) -> str:
    """Return the event that explains why an attempt was used; empty if none does.

    A fault of the worker's machine explains it while the attempt was on that worker. A fault of the database, the load
    balancer or an api-server explains it only for an attempt that was about to start or to end, which has to ask them,
    or if it outlasts what a task waits.
    """
    own = [one for one in case.attempts[key] if one["number"] == attempt["number"]]
    start = min([one["started"] for one in own], default=attempt["started"])
    if start is None:
        start = attempt["queued"] if attempt["queued"] is not None else attempt["at"]
    end = max([last(one) for one in own], default=attempt["ended"] if attempt["ended"] is not None else start)
    hosts = case.hosts(key, attempt["number"])
    margin = case.seconds(5)
    for event in case.events:
        window = case.lasted(event)
        struck = event.services(case.roles)
        if not overlaps(window, start - margin, end + case.seconds(REPORTED)):
            continue
        stops = event.what in STOPS or event.what == "freeze"
        if (stops and any("worker" in struck.get(host, ()) for host in hosts)) or cut_off(case, event, hosts):
            return describe(event)
        on_path = any(role in roles for roles in struck.values() for role in path(case))
        if on_path and event.what in STOPS and (not own or overlaps(window, start - margin, start + margin)):
            return describe(event)
    for begun, over, why in outages(case):
        if overlaps((begun, over), start - margin, end + case.seconds(REPORTED)):
            return why
    return ""


def lost_commits(lines: Sequence[Line]) -> Iterator[Finding]:
    """Return the numbers that the database has acknowledged and does not have."""
    for line in of_kind(lines, "committed"):
        acknowledged = {one["number"] for one in of_kind(lines, "commit") if one["phase"] == "ok"}
        if lost := sorted(acknowledged - {*line["numbers"]}):
            yield Finding("lost", f"{len(lost)} commits that were acknowledged, the first is number {lost[0]}")


def answers(lines: Sequence[Line], kind: str) -> tuple[int, float | None]:
    """Return how many calls of a kind were answered, and the longest time in seconds between two answers."""
    ok = sorted(line["at"] + line["took"] for line in of_kind(lines, kind) if line["phase"] == "ok")
    return len(ok), max((round(after - before, 1) for before, after in pairwise(ok)), default=None)


def late(case: Case) -> Iterator[Finding]:
    """Return the tasks that waited for long after the last fault although workers were free."""
    over = max([event.end for event in case.events], default=0.0) + case.seconds(SETTLES)
    workers = [name for name, roles in case.roles.items() if "worker" in roles]
    slots = len(workers) * case.begin.get("slots", 1)
    busy = [(one["started"], last(one)) for found in case.attempts.values() for one in found]
    for key, tries in case.tries.items():
        for one in tries:
            for ready, until in waits(case, key, one):
                free = sum(
                    1
                    for second in range(int(max(ready, over)), int(until))
                    if sum(begin <= second <= end for begin, end in busy) < slots / 2
                )
                if free > case.seconds(LATE):
                    what = f"it waited {until - max(ready, over):.0f} s after the last fault, while slots were free"
                    yield Finding("late", what, *key)
                    break


def waits(case: Case, key: tuple[str, str], one: Line) -> Iterator[tuple[float, float]]:
    """Return from when to when an attempt waited: to start, and for each of its messages to be received.

    A task whose message was lost is queued again: the first message tells for how long it really waited. A deferred
    attempt has a message for each of its parts.
    """
    own = [entry for entry in case.attempts[key] if entry["number"] == one["number"]]
    ready = one["queued"] if one["queued"] is not None else one["scheduled"] or 0.0
    until = min([entry["started"] for entry in own], default=one["started"])
    if until is None:  # it never started: until it was given up
        until = case.last if one is case.tries[key][-1] else one["ended"] or ready
    yield ready, until
    moments = {
        phase: [line["at"] for line in case.said(key, one) if line["phase"] == phase] for phase in ("sent", "received")
    }
    for sent in moments["sent"]:
        received = min([at for at in moments["received"] if at >= sent], default=None)
        runs = any(entry["started"] <= sent <= last(entry) for entry in own)
        if received is not None and not runs:
            yield sent, received


def outage(case: Case, requests: Sequence[Line]) -> Iterator[Finding]:
    """Return that requests failed while nothing was struck that they need: no change may cost one."""
    windows = [
        case.lasted(event)
        for event in case.events
        if any({*PATH, "scheduler"} & roles for roles in event.services(case.roles).values())
    ]
    failed = [line for line in requests if line["phase"] == "fail"]
    unexplained = [
        line for line in failed if not any(overlaps(one, line["at"], line["at"] + line["took"]) for one in windows)
    ]
    if unexplained:
        first, errors = unexplained[0], ", ".join(sorted({line["error"] for line in unexplained}))
        yield Finding("outage", f"{len(unexplained)} requests failed ({errors}), the first at {first['at']:.1f} s")


def recovery(case: Case) -> float | None:
    """Return the seconds from the first fault until the last task that it interrupted had started again.

    If it interrupted none, until any task started; None if no task started after it.
    """
    if not case.events:
        return None
    fault = min(event.begun for event in case.events)
    starts, again = [], []
    for tries in case.tries.values():
        moments = [one["started"] for one in tries if one["started"] is not None]
        starts += [at for at in moments if at > fault]
        again += [after for before, after in pairwise(moments) if before < fault < after]
    moment = max(again) if again else min(starts, default=None)
    return None if moment is None else round(moment - fault, 1)
