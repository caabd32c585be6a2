"""Writes the generated parts of the documentation and the tests; called in the root of the checkout.

`python -m lab.generate` renews the tables of machines in README.md, of faults in docs/failures.md, of the drills of
each layout, and the resolved labs of `config/lab.json` in `tests/support`, one for each layout. With the argument
`drills` it takes the results of the drills from `.lab/reports`, for the layouts that have any; else it keeps them.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab.coverage import verdicts
from lab.drills import DRILLS
from lab.faults import FAULTS
from lab.topology import BROKERS, Topology

README = Path("README.md")  # has the table `machines`
FAILURES = Path("docs", "failures.md")  # has the tables `faults` and `drills`
DRILLED = {"single": FAILURES, "ha": Path("docs", "ha.md")}  # each has the table `drills` of a layout
NOT_RUN = "not run"
RESOLVED = {"single": Path("tests", "support", "lab.json"), "ha": Path("tests", "support", "lab-ha.json")}
# In an empty folder, and without the environment: no choice but the layout.
RESOLVE = "puts JSON.pretty_generate(Lab.new(Dir.pwd, folder: ARGV[0]).resolved)"


def machines(topology: Topology) -> str:
    """Return the machines in use as a Markdown table."""
    rows = ["| machine | address | runs |", "| --- | --- | --- |"]
    for machine in topology.machines:
        runs = ", ".join(role.replace("_", "-") for role in machine.roles)
        queues = f": queues {', '.join(f'`{queue}`' for queue in machine.queues)}" if machine.queues else ""
        rows.append(f"| {machine.name} | {machine.address} | {runs}{queues} |")
    return "\n".join(rows) + "\n"


def faults() -> str:
    """Return the faults as a Markdown table."""
    rows = ["| `bin/lab fault …` | what it does |", "| --- | --- |"]
    for name, fault in FAULTS.items():
        words = " ".join(["MACHINE", *([fault.takes.upper()] if fault.takes else [])])
        where = f". Not on Docker: {fault.not_on_docker}" if fault.not_on_docker else ""
        rows.append(f"| `{name} {words}` | {fault.does}{where} |")
    return "\n".join(rows) + "\n"


def drills(layout: str, results: Mapping[tuple[str, str], str], note: str) -> str:
    """Return the drills of a layout as a Markdown table with their results by drill and broker, and a note below it."""
    rows = ["| drill | what happens | on Redis | on RabbitMQ |", "| --- | --- | --- | --- |"]
    for name, drill in DRILLS.items():
        if drill.layout in ("", layout):
            cells = [results.get((name, broker), NOT_RUN) for broker in BROKERS]
            rows.append(f"| `{name}` | {drill.title} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", note]) + "\n"


def kept(text: str) -> tuple[dict[tuple[str, str], str], str]:
    """Return the results and the note of the table of drills in a Markdown text."""
    (table,) = re.findall(r"<!-- drills -->\n(.*?)<!-- /drills -->", text, re.DOTALL)
    cells = re.findall(r"^\| `([a-z-]+)` \| .+? \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    results = {(name, broker): cell for name, *found in cells for broker, cell in zip(BROKERS, found, strict=True)}
    return results, table.strip().rpartition("\n")[2]


def recorded(reports: Path, layout: str) -> tuple[dict[tuple[str, str], str], str]:
    """Return the results of the drills of a layout recorded in a folder, and a note with their number and dates.

    A result is how many of the runs passed, and the medians of the seconds until the tasks went on, without a commit,
    and without a page.
    """
    records = [one for one in verdicts(reports) if one["name"] in DRILLS and one.get("layout") == layout]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        runs.setdefault((record["name"], record["broker"]), []).append(record)
    results = {}
    for key, found in runs.items():
        seconds = [median(run[what] for run in found) for what in ("recovery", "write_gap", "page_gap")]
        results[key] = f"{sum(run['passed'] for run in found)} of {len(found)}: {' / '.join(seconds)} s"
    days = sorted({record["started"][:10] for record in records})
    return results, f"{len(records)} runs{f', recorded from {days[0]} to {days[-1]}' if days else ''}."


def median(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.1f}" if known else "-"


def put(text: str, name: str, table: str) -> str:
    """Return a Markdown text with the table between the marks of `name` replaced; ValueError if it has none."""
    marked = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    replaced, count = marked.subn(lambda _: table, text)
    if count != 1:
        raise ValueError(f"the marks <!-- {name} --> and <!-- /{name} --> are there {count} times; needed: once")
    return replaced


def resolve(layout: str) -> str:
    """Return `config/lab.json` as `provision/host/lab.rb` resolves it, without other choices of this checkout."""
    command = ["ruby", "-r", "./provision/host/lab", "-e", RESOLVE, "there-is-none"]
    environment = {"PATH": os.environ["PATH"], "LAYOUT": layout}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


if __name__ == "__main__":
    for layout, path in RESOLVED.items():
        path.write_text(resolve(layout))
    shipped = Topology.from_document(json.loads(RESOLVED["single"].read_text()))
    README.write_text(put(README.read_text(), "machines", machines(shipped)))
    FAILURES.write_text(put(FAILURES.read_text(), "faults", faults()))
    for layout, path in DRILLED.items():
        page = path.read_text()
        results, note = recorded(Path(".lab", "reports"), layout) if sys.argv[1:] == ["drills"] else ({}, "")
        path.write_text(put(page, "drills", drills(layout, *((results, note) if results else kept(page)))))
