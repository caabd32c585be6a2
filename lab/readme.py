"""Keeps the README's tables true: `python -m lab.readme` writes that of the machines anew, from `config/lab.json`.

With the word `drills` it does so with that of the drills, from the records in `.lab/reports`.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path

from lab.drills import DRILLS
from lab.topology import BROKERS


def machines(topology: Topology) -> str:
    """Return the machines in use as a Markdown table."""
    rows = ["| machine | address | runs |", "| --- | --- | --- |"]
    for machine in topology.machines:
        runs = ", ".join(role.replace("_", "-") for role in machine.roles)
        queues = f": queues {', '.join(f'`{queue}`' for queue in machine.queues)}" if machine.queues else ""
        rows.append(f"| {machine.name} | {machine.address} | {runs}{queues} |")
    return "\n".join(rows) + "\n"


def drills(reports: Path) -> str:
    """Return the drills as a Markdown table: on each broker how many of the recorded runs passed, and the median."""
    records = [json.loads(path.read_text()) for path in sorted(reports.glob("*.json"))]
    rows = ["| drill | what happens | on Redis | on RabbitMQ |", "| --- | --- | --- | --- |"]
    for name, drill in DRILLS.items():
        cells = []
        for broker in BROKERS:
            runs = [record for record in records if (record["name"], record["broker"]) == (name, broker)]
            seconds = [run["recovery_seconds"] for run in runs if run["recovery_seconds"] is not None]
            passed = f"{sum(run['passed'] for run in runs)} of {len(runs)}" if runs else "not run"
            cells.append(f"{passed}, {statistics.median(seconds):.0f} s" if seconds else passed)
        rows.append(f"| `{name}` | {drill.title} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def put(readme: str, name: str, table: str) -> str:
    """Return the text of a README with the table between its marks renewed."""
    marked = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    return marked.sub(lambda _: table, readme)


def as_shipped(root: Path = ROOT) -> Topology:
    """Return the lab as `config/lab.json` has it, whatever was chosen in this checkout."""
    return Topology.from_document(json.loads((root / "config" / "lab.json").read_text()))


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = put(path.read_text(), "machines", machines(as_shipped()))
    if sys.argv[1:] == ["drills"]:
        text = put(text, "drills", drills(ROOT / ".lab" / "reports"))
    path.write_text(text)
