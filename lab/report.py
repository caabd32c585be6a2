"""The page of a drill: one file with a picture of what happened, nothing from the network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from lab.drills import Record
from lab.ledger import Try

WIDTH = 1000  # of the picture, in its own units, beside the names of the lanes
ROW = 9  # height of one place of a worker
GRAPH = 60  # height of the requests
OUTCOMES = {"done": "done", "done at a later try": "later", "broken off": "broken", "done twice": "twice"}  # CSS class


@dataclass(frozen=True)
class Bar:
    """A try in the picture: where it is, how long, what became of it."""

    x: float
    width: float
    row: int
    outcome: str
    text: str


@dataclass(frozen=True)
class Lane:
    """A worker's bars, one above the other where they are at the same time."""

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
        for moment in (record.began, record.ended_at, record.whole_at, *(one.last for one in record.tries))
        if moment
    )
    seconds = max((end - record.began).total_seconds(), 1)

    def x(moment: datetime) -> float:
        return round((moment - record.began).total_seconds() / seconds * WIDTH, 1)

    marks = {
        "fault": record.fault_at,
        "recovered": record.recovered_at,
        "undone": record.healed_at,
        "work done": max((one.ended for one in record.tries if one.stands and one.ended), default=None),
        "whole": record.whole_at,
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
    repeated = set(record.judgement.repeated)
    for host in sorted({one.host for one in record.tries}):
        free: list[datetime] = []  # by row: until when it is taken
        bars = []
        for one in sorted((one for one in record.tries if one.host == host), key=lambda one: one.started):
            row = next((row for row, until in enumerate(free) if until <= one.started), len(free))
            free[row : row + 1] = [one.last]
            outcome = _outcome(one, repeated)
            text = f"task {one.task}, try {one.number}: {outcome}, {(one.last - one.started).total_seconds():.1f} s"
            bars.append(Bar(x(one.started), max(x(one.last) - x(one.started), 1), row, outcome, text))
        yield Lane(host, bars)


def _outcome(one: Try, repeated: set[int]) -> str:
    if not one.ended:
        return "broken off"
    if one.task in repeated:
        return "done twice"
    return "done" if one.number == 1 else "done at a later try"


def _per_second(record: Record, *, failed: bool) -> dict[int, int]:
    """Return how many requests were answered, or failed, in each second of the drill."""
    return Counter(
        int((request.at - record.began).total_seconds()) for request in record.requests if bool(request.error) == failed
    )
