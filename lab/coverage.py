"""What drills have tried: in which phase of its life a fault caught a task, on which broker; from the reports."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.case import PHASES
from lab.topology import BROKERS

Cell = tuple[str, str, str]  # broker, fault, phase


def verdicts(reports: Path) -> Iterator[dict[str, Any]]:
    """Return the verdicts of all drills of the checkout, the oldest first; those that cannot be read are left out."""
    for path in sorted(reports.glob("*/verdict.json")):
        try:
            yield json.loads(path.read_text())
        except ValueError:
            continue


def cells_of(what: str, machines: Sequence[str], target: str, broker: str) -> tuple[str, str]:
    """Return broker and fault of an event. Machines of a kind are one: `crash worker` is that of any worker."""
    kinds = sorted({re.sub(r"\d+$", "", name) for name in machines})
    peers = [re.sub(r"\d+$", "", peer) for peer in target.split(",")]
    return broker, " ".join([what, *kinds, *peers]).strip()


def tried(reports: Path) -> Counter[Cell]:
    """Return how many tasks each fault has caught, by broker, fault and phase; a fault that caught none has a 0."""
    cells: Counter[Cell] = Counter()
    for verdict in verdicts(reports):
        for event in verdict["events"]:
            broker, fault = cells_of(event["what"], event["machines"], event["target"], verdict["broker"])
            for phase in PHASES:
                cells[broker, fault, phase] += event["hits"].get(phase, 0)
    return cells


def rows(cells: Mapping[Cell, int]) -> Iterator[tuple[str, str, list[int]]]:
    """Return the table: fault, broker, and the number of tasks that were caught in each of `PHASES`."""
    for fault in sorted({fault for _, fault, _ in cells}):
        for broker in BROKERS:
            counts = [cells[broker, fault, phase] for phase in PHASES if (broker, fault, phase) in cells]
            if counts:
                yield fault, broker, counts


def untried(cells: Mapping[Cell, int]) -> list[tuple[str, str]]:
    """Return the phases in which no fault has caught a task, by broker."""
    caught = {(broker, phase) for (broker, _, phase), count in cells.items() if count}
    return [(broker, phase) for broker in BROKERS for phase in PHASES if (broker, phase) not in caught]
