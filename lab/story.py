"""Tells a history in words: what was done to the lab, and what Airflow and the lab did then. It reads nothing else."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lab.case import Case, Event, hits
from lab.history import Line, of_kind
from lab.roles import canonical
from lab.topology import ALL

# What happens to the machines of an event: when it begins, and when it has been undone. A sentence that begins with
# the target is about that service of the machines.
FAULTS = {
    "crash": ("loses power", "is up again"),
    "halt": ("is shut down", "is up again"),
    "freeze": ("freezes", "runs again"),
    "partition": ("is cut off from {target}", "is connected to {target} again"),
    "slow": ("has a slow link", "has its usual link again"),
    "fill": ("has a full disk", "has free disk space again"),
    "skew": ("has a clock that is wrong by {target} s", "has the right time again"),
    "kill": ("{target} is killed", ""),  # systemd starts it: the journal says when
    "restart": ("{target} is restarted", ""),
}
CHANGES = {  # when it begins, and when it has ended
    "move": ("the lab moves to the other broker", "the lab works with {note}"),
    "roll": ("a changed setting rolls through the lab", "the changed setting is in use everywhere"),
    "reload": ("is reloaded", "is up again"),
    "join": ("joins", "has left"),
    "destroy": ("is destroyed", "is made again"),
    "switchover": ("the {target} is handed over", "{note}"),
}
SERVICES = {"queue": "the queue server", "load_balancer": "nginx"}  # the others are called as their roles
PHASES = ("running", "deferred", "finishing", "received", "sent", "queued", "scheduled")  # the most important first
REPEATED = {  # why an attempt is repeated: one task, several tasks
    "interrupted": ("interrupted task", "interrupted tasks"),
    "ended": ("task that had ended", "tasks that had ended"),
    "retried": ("task that Airflow retries", "tasks that Airflow retries"),
}
# What several services do at about the same time, for one cause: one beat.
TOGETHER = ("has lost the connection to the broker", "is connected to the broker", "ends unexpectedly", "starts")
IGNORES = "ignores the messages of tasks that run already"
# Seconds between lines of a journal that are one beat: the first with which the story is short enough.
WINDOWS = (2, 5, 15, 60)
LIMIT = 40  # beats of a story


@dataclass(frozen=True)
class Beat:
    """Something that happened: when, on which machine, if it is one, and what."""

    at: float
    machine: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:.1f} s {self.text}"


def story(lines: Sequence[Line]) -> list[Beat]:
    """Return what happened, by time; lines of the journals that say the same become one beat."""
    case = Case(lines)
    told = [*triggered(case), *struck(case), *repeated(case), *refused(lines), *ended(case)]
    for window in WINDOWS:
        groups = grouped(lines, window)
        if len(told) + len(groups) <= LIMIT:
            break
    return sorted([*told, *shortened(groups, LIMIT - len(told))], key=lambda beat: beat.at)


def shortened(groups: Sequence[Sequence[Line]], room: int) -> Iterator[Beat]:
    """Return a beat for each group if there is room; else those in TOGETHER and the latest are left out first."""
    kept = groups
    if len(groups) > room:
        kept = sorted(groups, key=lambda group: group[0]["what"] in TOGETHER)[: max(room - 1, 0)]
        text = f"the journals have {len(groups) - len(kept)} more entries, in history.jsonl"
        yield Beat(max(group[0]["at"] for group in groups), "", text)
    yield from map(beat_of, kept)


def triggered(case: Case) -> Iterator[Beat]:
    """Return the triggers of runs, and their answers."""
    works = iter(sorted(case.begin["schedule"]["works"], key=lambda work: work["at"]))
    names = runs(case)
    for line in of_kind(case.lines, "client"):
        if line["phase"] == "invoke":
            continue
        name = names[line["run"]]
        baseline = line.get("baseline")
        work: Line = {} if baseline else next(works, {})
        conf = ", ".join(f"{key} {value}" for key, value in work.get("conf", {}).items())
        text = f"{name} is triggered{f' ({conf})' if conf else ''}{', without faults, to compare' if baseline else ''}"
        if line["phase"] == "fail":
            text = f"{name} is not triggered: {line.get('error')}"
        if line["phase"] == "unknown":
            text = f"no answer comes to the trigger of {name}: {line.get('error')}"
        yield Beat(line["at"], "", text)


def runs(case: Case) -> dict[str, str]:
    """Return what to call each run."""
    dags = {line["run"]: line["dag"] for line in of_kind(case.lines, "client", "run")}
    numbers: dict[str, list[str]] = defaultdict(list)
    for run, dag in dags.items():
        numbers[dag].append(run)
    return {
        run: f"run {numbers[dag].index(run) + 1} of {dag}" if len(numbers[dag]) > 1 else f"the run of {dag}"
        for run, dag in dags.items()
    }


def struck(case: Case) -> Iterator[Beat]:
    """Return the begins and ends of the events, and which tasks they hit."""
    by_number = {event.number: event for event in case.events}
    for line in of_kind(case.lines, "event"):
        event = by_number.get(line["event"])
        machines = line["machines"]
        machine = machines[0] if len(machines) == 1 and machines[0] != ALL else ""
        if line["phase"] == "failed":
            why = (line.get("note") or "no reason is known").partition("\n")[0]
            yield Beat(line["at"], machine, f"{' '.join([line['what'], *machines])} fails: {why}")
        elif event and line["phase"] in ("begin", "end"):
            phrase = (FAULTS | CHANGES)[event.what][line["phase"] == "end"]
            if phrase:
                text = sentence(case, event, phrase, line.get("note") or "")
                yield Beat(line["at"], machine, text + (hit(case, event) if line["phase"] == "begin" else ""))


def sentence(case: Case, event: Event, phrase: str, note: str) -> str:
    """Return a phrase of FAULTS or CHANGES with its subject."""
    target = joined(peer if peer in case.roles else service(peer) for peer in event.target.split(","))
    if event.what == "skew":
        target = event.target  # a number
    every = {*event.machines} == {*case.roles}
    machines = "every machine" if every else joined(event.machines)
    if phrase.startswith("{target}"):
        machines, verb = f"{machines}:", phrase
    else:
        verb = agree(phrase, len(event.machines) > 1 and not every)
    return f"{machines} {verb}".strip().format(target=target, note=note or "the other broker")


def hit(case: Case, event: Event) -> str:
    """Return, as the rest of a sentence, in which phases an event found the tasks that needed what it struck."""
    found = hits(case, event, event.begin, event.begun)
    counts = [(found[phase], phase) for phase in PHASES if found[phase]]
    if not counts:
        return ", while no task needs it" if event.what in FAULTS else ""
    (first, phase), *rest = counts
    words = [f"{first} {'task' if first == 1 else 'tasks'} {phase}", *(f"{count} {phase}" for count, phase in rest)]
    return f", with {joined(words)}"


def repeated(case: Case) -> Iterator[Beat]:
    """Return when the first and the last of the tasks that an event interrupted started again, and where."""
    found: dict[tuple[int, str], list[tuple[float, str]]] = defaultdict(list)
    for key in dict.fromkeys([*case.tries, *case.attempts]):
        recorded = case.attempts.get(key)
        started = [one for one in recorded or case.tries.get(key, []) if one["started"] is not None]
        for one, again in pairwise(sorted(started, key=lambda one: one["started"])):
            why = "retried" if not recorded else "interrupted" if one["ended"] is None else "ended"
            found[since(case, one["started"], again["started"]), why].append((again["started"], again["host"] or ""))
    for (_, why), starts in found.items():
        single, several = REPEATED[why]
        (first, host), (last, other), count = min(starts), max(starts), len(starts)
        if last - first < WINDOWS[0]:
            hosts = joined(sorted({host for _, host in starts}))
            who = f"the {single} runs" if count == 1 else f"{count} {several} run"
            yield Beat(first, host if count == 1 else "", f"{who} again on {hosts}")
        else:
            yield Beat(first, host, f"the first of {count} {several} runs again on {host}")
            yield Beat(last, other, f"the last of the {count} {several} runs again on {other}")


def since(case: Case, start: float, again: float) -> int:
    """Return the number of the last event between two attempts; of the last one before the second; or -1."""
    before = [event for event in case.events if event.begin <= again]
    between = [event for event in before if event.begun >= start]
    return max((event.number for event in between or before), default=-1)


def refused(lines: Sequence[Line]) -> Iterator[Beat]:
    """Return the first and the last request that failed."""
    failed = [line for line in of_kind(lines, "request") if line["phase"] == "fail"]
    if len(failed) == 1:
        yield Beat(failed[0]["at"], "", f"one request through nginx fails: {failed[0]['error']}")
    elif failed:
        yield Beat(failed[0]["at"], "", f"the first request through nginx fails: {failed[0]['error']}")
        yield Beat(failed[-1]["at"], "", f"the last of {len(failed)} failed requests through nginx")


def ended(case: Case) -> Iterator[Beat]:
    """Return the ends of the runs, and what is known of the lab after them."""
    names = runs(case)
    for line in case.runs.values():
        if line["ended"] is not None:
            yield Beat(line["ended"], "", f"{names[line['run']]} has ended: {line['state']}")
    for line in of_kind(case.lines, "check"):
        problems = line["problems"] if isinstance(line["problems"], list) else [line["problems"]]
        yield Beat(line["at"], "", f"the check finds {'; '.join(map(str, filter(None, problems))) or 'no problem'}")
    for line in of_kind(case.lines, "problem"):
        yield Beat(line["at"], "", line["text"].partition("\n")[0])
    for line in of_kind(case.lines, "healthy"):
        yield Beat(line["at"], "", "the lab is healthy again")


def grouped(lines: Sequence[Line], window: float) -> list[list[Line]]:
    """Return the lines of the journals; equal ones are in one group if at most `window` seconds are between them."""
    groups: list[list[Line]] = []
    latest: dict[object, list[Line]] = {}
    for line in sayings(lines):
        key = line["what"] if line["what"] in TOGETHER else (line["what"], line["machine"], line["unit"])
        if key not in latest or line["at"] - latest[key][-1]["at"] > window:
            latest[key] = []
            groups.append(latest[key])
        latest[key].append(line)
    return groups


def sayings(lines: Sequence[Line]) -> Iterator[Line]:
    """Return the lines of the journals, and as one of them, each message that a worker ignored."""
    for line in of_kind(lines, "journal", "message"):
        if line["kind"] == "journal":
            yield line
        elif line["phase"] == "ignored":
            yield line | {"what": IGNORES, "unit": "airflow-worker", "count": 1}


def beat_of(group: Sequence[Line]) -> Beat:
    """Return the beat of lines that say the same, perhaps of several services and machines."""
    what, first, last = group[0]["what"], group[0]["at"], group[-1]["at"]
    on: dict[str, set[str]] = defaultdict(set)  # by service: the machines that have said it
    for line in group:
        on[service_of(line["unit"])].add(line["machine"])
    machines = sorted(set().union(*on.values()))
    services = [f"{name}s" if len(found) > 1 else name for name, found in on.items()]
    if what in TOGETHER:
        text = agree(what, len(services) > 1 or len(machines) > 1)
    else:
        text = counted(what, sum(line["count"] for line in group))
    until = f", until {last:.1f} s" if last - first > WINDOWS[1] else ""
    machine = machines[0] if len(machines) == 1 else ""
    return Beat(first, machine, f"{joined(machines)}: {joined(services)} {text}{until}")


def counted(what: str, count: int) -> str:
    """Return what a journal says with the number of tasks, or schedulers, that it says it of.

    Examples: "misses the heartbeats of 8 tasks"; "restarts a stalled consumer (3 times)".
    """
    named = re.search(r"\b(task|scheduler)s( are)?\b", what)
    if named:
        noun = f"{named[1]}{' is' if named[2] else ''}" if count == 1 else named[0]
        return f"{what[: named.start()]}{count} {noun}{what[named.end() :]}"
    return what if count == 1 else f"{what} ({count} times)"


def service(name: str) -> str:
    """Return what to call a service or a role."""
    role = canonical(name)
    return SERVICES.get(role, f"the {role.replace('_', '-')}")


def service_of(unit: str) -> str:
    """Return what to call the service of a unit: `airflow-worker-2.service` is the worker."""
    return service(re.sub(r"^airflow-|-\d+$", "", unit.removesuffix(".service")))


def agree(phrase: str, many: object) -> str:
    """Return a phrase that begins with a verb, for one subject or for several."""
    verb, _, rest = phrase.partition(" ")
    return f"{({'is': 'are', 'has': 'have'}.get(verb) or verb.removesuffix('s')) if many else verb} {rest}".strip()


def joined(words: Iterable[str]) -> str:
    """Return some words as a list in a sentence: "a, b and c"."""
    *most, last = [*words] or [""]
    return f"{', '.join(most)} and {last}" if most else last
