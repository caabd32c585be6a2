"""The page of a drill: one file with a picture of what happened; it loads nothing from the network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from lab.drills import Record
from lab.ledger import Attempt

WIDTH = 1000  # of the picture, in its own units, without the names of the lanes
ROW = 9  # height of one slot of a worker
GRAPH = 60  # height of the graph of requests
OUTCOMES = {  # and the CSS class of each
    "done": "done",
    "done at a later attempt": "later",
    "interrupted": "interrupted",
    "executed twice": "twice",
}


@dataclass(frozen=True)
class Bar:
    """An attempt in the picture: where it is, how long, how it ended."""

    x: float
    width: float
    row: int
    outcome: str
    text: str


@dataclass(frozen=True)
class Lane:
    """A worker's bars, one above the other where they overlap."""

    name: str
    bars: list[Bar]

    @property
    def rows(self) -> int:
        return max((bar.row for bar in self.bars), default=0) + 1


def write(record: Record, folder: Path) -> Path:
    """Write a drill's record, picture and page to `folder` and return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{record.began:%Y%m%dT%H%M%S}-{record.name}-{record.broker}"
    text = json.dumps(record.document(), default=lambda value: value.isoformat(), indent=2)
    (folder / f"{stem}.json").write_text(text + "\n")
    (folder / f"{stem}.svg").write_text(render(record, "timeline.svg.j2"))
    page = folder / f"{stem}.html"
    page.write_text(render(record, "report.html.j2"))
    return page


def render(record: Record, template: str) -> str:
    """Return the page of a drill, or the picture alone."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    end = max(
        moment
        for moment in (record.began, record.ended_at, record.healthy_at, *(one.last for one in record.attempts))
        if moment
    )
    seconds = max((end - record.began).total_seconds(), 1)

    def x(moment: datetime) -> float:
        return round((moment - record.began).total_seconds() / seconds * WIDTH, 1)

    marks = {
        "fault": record.fault_at,
        "recovered": record.recovered_at,
        "undone": record.healed_at,
        "work done": max((one.ended for one in record.attempts if one.committed and one.ended), default=None),
        "healthy": record.healthy_at,
    }
    answered, failed = _per_second(record, failed=False), _per_second(record, failed=True)
    return environment.get_template(template).render(
        record=record,
        outcomes=OUTCOMES,
        lanes=list(_lanes(record, x)),
        marks=[(name, x(moment)) for name, moment in marks.items() if moment],
        ticks=[(second, round(second / seconds * WIDTH, 1)) for second in range(0, int(seconds) + 1, 10)],
        answered=answered,
        failed=failed,
        second=WIDTH / seconds,
        most=max([*answered.values(), *failed.values(), 1]),
        width=WIDTH,
        row=ROW,
        graph=GRAPH,
    )


def _lanes(record: Record, x: Callable[[datetime], float]) -> Iterable[Lane]:
    executed_twice = set(record.judgement.executed_twice)
    for host in sorted({one.host for one in record.attempts}):
        free: list[datetime] = []  # by row: until when it is in use
        bars = []
        for one in sorted((one for one in record.attempts if one.host == host), key=lambda one: one.started):
            row = next((row for row, until in enumerate(free) if until <= one.started), len(free))
            free[row : row + 1] = [one.last]
            outcome = _outcome(one, executed_twice)
            text = f"task {one.task}, attempt {one.number}: {outcome}, {(one.last - one.started).total_seconds():.1f} s"
            bars.append(Bar(x(one.started), max(x(one.last) - x(one.started), 1), row, outcome, text))
        yield Lane(host, bars)


def _outcome(one: Attempt, executed_twice: set[int]) -> str:
    if not one.ended:
        return "interrupted"
    if one.task in executed_twice:
        return "executed twice"
    return "done" if one.number == 1 else "done at a later attempt"


def _per_second(record: Record, *, failed: bool) -> dict[int, int]:
    """Return how many requests were answered, or failed, in each second of the drill."""
    return Counter(
        int((request.at - record.began).total_seconds()) for request in record.requests if bool(request.error) == failed
    )
