"""Makes the page and the picture of a drill from its history and its verdict, and the list of all drills.

The pages load nothing from the network.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from lab.case import Case, Event, describe, last
from lab.history import Line, of_kind, read
from lab.judge import FAILED, INCONCLUSIVE, PASSED, Verdict, judge
from lab.story import CHANGES, counted, sayings, service_of, story

PAGE, PICTURE, VERDICT = "index.html", "picture.svg", "verdict.json"
WIDTH = 1000  # of the picture, in its own units, without the names of the lanes
ROW = 9  # height of one slot of a worker
GRAPH = 60  # height of the graph of requests
LETTER = 6  # width of a letter
NARROW = 5  # width of the band of an event that lasts no time
STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)  # seconds between two ticks of the axis
OUTCOMES = {  # of attempts, and the CSS class of each
    "done": "done",
    "done at a later attempt": "later",
    "interrupted": "interrupted",
    "interrupted or failed": "interrupted",  # Airflow's own records do not tell which
    "executed twice": "twice",
}
VERDICTS = {PASSED: "Passed", FAILED: "Not passed", INCONCLUSIVE: "Inconclusive"}
RULES = {  # of the judge, and how the page calls them
    "lost": "lost",
    "duplicated": "committed more than once",
    "executed twice": "executed twice",
    "overlap": "two attempts at the same time",
    "attempt used": "attempts used without a cause",
    "late": "late",
    "failed": "failed",
    "stuck": "stuck",
}


@dataclass(frozen=True)
class Span:
    """An attempt of a task: where and when it ran, and its outcome."""

    host: str
    task: str
    number: int
    start: float
    end: float
    outcome: str


@dataclass(frozen=True)
class Bar:
    """An attempt in the picture: where it is, how long, how it ended."""

    x: float
    width: float
    row: int
    outcome: str
    text: str


@dataclass(frozen=True)
class Band:
    """The time of an event in the lane of a machine."""

    x: float
    width: float
    kind: str
    text: str


@dataclass
class Lane:
    """A machine in the picture: its attempts, one above the other where they overlap, events and journal."""

    name: str
    bars: list[Bar] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    sayings: dict[float, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return max((bar.row for bar in self.bars), default=0) + 1


@dataclass(frozen=True)
class Mark:
    """A moment of the drill: a line with a name, on one of several levels so that the names do not overlap."""

    name: str
    x: float
    kind: str
    level: int


def write(folder: Path, verdict: Verdict | None = None) -> Path:
    """Write the picture, the page and `verdict.json` of the drill in `folder` and return the path of the page.

    Without a verdict, the history is judged. That of a user's DAG may also have `tasks_table` (dicts), `advice` (texts)
    and `delay` (seconds that its run took longer than the undisturbed one).
    """
    lines = read(folder)
    verdict = verdict or judge(lines)
    (folder / PICTURE).write_text(render(lines, verdict))
    (folder / PAGE).write_text(render(lines, verdict, "report.html.j2", folder.name))
    document = summary(lines, verdict)
    (folder / VERDICT).write_text(json.dumps(document, indent=2, default=str) + "\n")  # last: the folder is complete
    return folder / PAGE


def render(lines: Sequence[Line], verdict: Verdict, template: str = "timeline.svg.j2", folder: str = "") -> str:
    """Return the picture of a drill, or its page, whose folder is called `folder`."""
    case = Case(lines)
    return filled(
        template,
        **drawing(case, verdict),
        title=case.begin["schedule"]["title"],
        schedule=case.begin["schedule"],
        document=json.dumps(case.begin["schedule"], indent=2),
        own=case.begin.get("own"),
        broker=case.begin["broker"],
        started=datetime.fromisoformat(case.begin["started"]),
        verdict=verdict,
        word=VERDICTS.get(verdict.outcome, verdict.outcome),
        delay=getattr(verdict, "delay", None),
        advice=getattr(verdict, "advice", None) or [],
        tasks_table=getattr(verdict, "tasks_table", None) or [],
        events=events(case, verdict),
        counts=counts(case, verdict),
        several=len(case.runs) > 1,
        story=story(lines),
        folder=folder,
    )


def filled(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(values)


def summary(lines: Sequence[Line], verdict: Verdict) -> dict[str, Any]:
    """Return what `verdict.json` has."""
    case = Case(lines)
    schedule = case.begin["schedule"]
    return {
        "name": schedule["name"],
        "title": schedule["title"],
        "layout": case.begin["layout"],
        "broker": case.begin["broker"],
        "seed": schedule.get("seed"),
        "started": case.begin["started"],
        "events": [
            {"what": event.what, "machines": [*event.machines], "target": event.target, "hits": hits, "caught": caught}
            for event, hits, caught in with_hits(case, verdict)
        ],
        **verdict.document(),
        "passed": verdict.passed,
    }


def with_hits(case: Case, verdict: Verdict) -> Iterator[tuple[Event, dict[str, int], int]]:
    """Return each event with the tasks that it hit, by phase, and the number of those that it caught."""
    hits, caught = verdict.hits[: len(case.events)], verdict.caught[: len(case.events)]
    for event, found, count in zip_longest(case.events, hits, caught):
        yield event, found or {}, count or 0


def events(case: Case, verdict: Verdict) -> list[tuple[str, str]]:
    """Return a row of the page for each event: what happened when, and whom it hit."""
    notes = {line["event"]: line.get("note") for line in of_kind(case.lines, "event") if line["phase"] == "begun"}
    rows = []
    for event, hits, caught in with_hits(case, verdict):
        phases = ", ".join(f"{count} {phase}" for phase, count in hits.items()) or "none"
        note = f". {notes[event.number]}" if notes.get(event.number) else ""
        text = f"{describe(event)}: tasks hit when it began: {phases}; while it lasted: {caught}{note}"
        rows.append((kind(event) + numbered(case, event), text))
    return rows


def kind(event: Event) -> str:
    return "change" if event.what in CHANGES else "fault"


def numbered(case: Case, event: Event) -> str:
    """Return the number of an event as the end of its name, if there are several."""
    return f" {event.number + 1}" if len(case.events) > 1 else ""


def counts(case: Case, verdict: Verdict) -> list[tuple[str, str]]:
    """Return the rows of the page with numbers. What cannot be known of a user's DAG is left out."""
    rules = Counter(one.rule for one in verdict.findings)
    known = [] if case.begin.get("own") else [*RULES]
    rows = [("tasks", verdict.tasks), ("attempts", verdict.attempts)]
    rows += [(RULES.get(rule, rule), rules[rule]) for rule in dict.fromkeys([*known, *rules])]
    rows.append(("unavoidable repeats", len(verdict.unavoidable)))
    texts = [("requests through nginx", f"{verdict.requests}, of which {verdict.failed_requests} failed")]
    gaps = {"longest time without a commit": verdict.write_gap, "longest time without a page": verdict.page_gap}
    texts += [(name, f"{seconds:.1f} s") for name, seconds in gaps.items() if seconds is not None]
    return [*((name, str(count)) for name, count in rows), *texts]


def drawing(case: Case, verdict: Verdict) -> dict[str, Any]:
    """Return the values of the template of the picture."""
    seconds = length(case)

    def x(at: float) -> float:
        return round(min(max(at, 0), seconds) / seconds * WIDTH, 1)

    found = lanes(case, verdict, seconds, x)
    shown = {bar.outcome for lane in found for bar in lane.bars}
    step = next((step for step in STEPS if seconds / step <= 12), STEPS[-1])
    answered, failed = per_second(case.lines, "ok"), per_second(case.lines, "fail")
    return {
        "lanes": found,
        "outcomes": {name: css for name, css in OUTCOMES.items() if name in shown},
        "classes": OUTCOMES,
        "marks": marks(case, verdict, x),
        "ticks": [(second, x(second)) for second in range(0, int(seconds) + 1, step)],
        "answered": answered,
        "failed": failed,
        "second": round(WIDTH / seconds, 2),
        "most": max([*answered.values(), *failed.values(), 1]),
        "width": WIDTH,
        "row": ROW,
        "graph": GRAPH,
    }


def length(case: Case) -> float:
    """Return the seconds that the picture shows: until the lab was healthy, without the time of reading the records."""
    moments = [line["at"] for line in of_kind(case.lines, "client", "event", "request", "healthy")]
    moments += [last(one) for found in case.attempts.values() for one in found]
    moments += [one["ended"] for found in (*case.tries.values(), case.runs.values()) for one in found if one["ended"]]
    return max(moments, default=0) + 1


def per_second(lines: Sequence[Line], phase: str) -> dict[int, int]:
    """Return how many requests were answered, or failed, in each second of the drill."""
    return Counter(int(line["at"]) for line in of_kind(lines, "request") if line["phase"] == phase)


def lanes(case: Case, verdict: Verdict, seconds: float, x: Callable[[float], float]) -> list[Lane]:
    """Return a lane for each machine, in the order of the history, and for each that has joined."""
    hosts: dict[str, list[Span]] = defaultdict(list)
    for span in spans(case, verdict, seconds):
        hosts[span.host].append(span)
    struck = [name for event in case.events for name in event.machines]
    found = {name: Lane(name) for name in [*case.roles, *sorted(hosts), *struck]}
    for name, own in hosts.items():
        found[name].bars.extend(bars(own, case.begin.get("slots", 1), x))
    for event in case.events:
        start, end = x(event.begin), x(event.end)
        band = Band(start, max(round(end - start, 1), NARROW), kind(event), describe(event))
        for name in event.machines or found:
            found[name].bands.append(band)
    for line in sayings(case.lines):
        lane = found.get(line["machine"])
        if lane and line["at"] <= seconds:
            at = round(x(line["at"]))
            text = f"{line['at']:.1f} s, {service_of(line['unit'])}: {counted(line['what'], line['count'])}"
            lane.sayings[at] = "\n".join(filter(None, [lane.sayings.get(at), text]))
    return [*found.values()]


def spans(case: Case, verdict: Verdict, seconds: float) -> Iterator[Span]:
    """Return the attempts as the tasks have recorded them; as Airflow knows them, of tasks that record nothing."""
    findings = [*verdict.findings, *verdict.unavoidable]
    twice = {(one.run, one.task) for one in findings if one.rule == "executed twice"}
    for key in dict.fromkeys([*case.tries, *case.attempts]):
        name = " ".join(key[::-1] if len(case.runs) > 1 else key[1:])
        recorded = case.attempts.get(key)
        for one in recorded or case.tries.get(key, []):
            if one["started"] is None or not one["host"]:
                continue
            good = one["ended"] is not None if recorded else one["state"] in ("success", "skipped")
            outcome = "executed twice" if key in twice else "done" if one["number"] == 1 else "done at a later attempt"
            if not good:
                outcome = "interrupted" if recorded else "interrupted or failed"
            end = last(one) if recorded else seconds if one["ended"] is None else one["ended"]
            yield Span(one["host"], name, one["number"], one["started"], end, outcome)


def bars(spans: Sequence[Span], slots: int, x: Callable[[float], float]) -> Iterator[Bar]:
    """Return the bars of a lane. It has as many rows as the worker has slots; what is more, is in the last row."""
    free: list[float] = []  # by row: until when it is in use
    for one in sorted(spans, key=lambda one: one.start):
        row = next((row for row, until in enumerate(free) if until <= one.start), min(len(free), max(slots, 1) - 1))
        free[row : row + 1] = [one.end]
        text = f"{one.task}, attempt {one.number}: {one.outcome}, {one.end - one.start:.1f} s"
        start, end = x(one.start), x(one.end)
        yield Bar(start, max(round(end - start, 1), 1), row, one.outcome, text)


def marks(case: Case, verdict: Verdict, x: Callable[[float], float]) -> list[Mark]:
    """Return the moments that the picture names, by time."""
    undone = {line["event"] for line in of_kind(case.lines, "event") if line["phase"] == "end"}
    found: list[tuple[float, str, str]] = []
    for event in case.events:
        number = numbered(case, event)
        found.append((event.begin, kind(event) + number, kind(event)))
        if event.number in undone:
            found.append((event.end, ("ended" if event.what in CHANGES else "undone") + number, "mark"))
    if verdict.recovery is not None and case.events:
        found.append((min(event.begun for event in case.events) + verdict.recovery, "recovered", "mark"))
    if work := [line["ended"] for line in case.runs.values() if line["ended"] is not None]:
        found.append((max(work), "work done", "mark"))
    found += [(line["at"], "healthy", "mark") for line in of_kind(case.lines, "healthy")]
    return placed([(x(at), name, css) for at, name, css in sorted(found)])


def placed(found: Sequence[tuple[float, str, str]]) -> list[Mark]:
    """Return marks, each on the first level where its name has room. Near the right edge, a name ends at its line."""
    levels: list[float] = []  # where the last name of each ends
    result = []
    for x, name, css in found:
        width = LETTER * len(name) + 8
        start = x if x < WIDTH * 0.9 else x - width
        level = next((level for level, end in enumerate(levels) if end <= start), len(levels))
        levels[level : level + 1] = [start + width]
        result.append(Mark(name, x, css, level))
    return result


def index(reports: Path) -> Path:
    """Write the page that lists all drills, the newest first, and return its path."""
    rows = sorted(summaries(reports), key=lambda row: (row["started"], row["folder"]), reverse=True)
    (reports / PAGE).write_text(filled("reports.html.j2", rows=rows))
    return reports / PAGE


def summaries(reports: Path) -> Iterator[dict[str, Any]]:
    """Return a row of the list for each folder that is complete."""
    for path in reports.glob(f"*/{VERDICT}"):
        try:
            yield row_of(path.parent.name, json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # it is being written, or is not of a drill


def row_of(folder: str, verdict: Mapping[str, Any]) -> dict[str, Any]:
    rules = Counter(one["rule"] for one in [*verdict["findings"], *verdict["unavoidable"]])
    names = ("name", "title", "broker", "seed", "started", "outcome", "recovery", "requests", "failed_requests")
    row = {name: verdict[name] for name in names}
    return row | {
        "folder": folder,
        "date": datetime.fromisoformat(verdict["started"]).strftime("%Y-%m-%d %H:%M:%S"),
        "word": VERDICTS.get(verdict["outcome"], verdict["outcome"]),
        "lost": rules["lost"],
        "twice": rules["executed twice"],
    }
