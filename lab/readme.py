"""Writes the generated parts of the documentation and the tests; called in the root of the checkout.

`python -m lab.readme` renews the table of machines in README.md and `tests/support/lab.json`, the resolved lab of
`config/lab.json`. With the argument `drills` it also renews the table of drills in docs/failures.md, from
`.lab/reports`.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from lab.drills import DRILLS
from lab.topology import BROKERS, Topology

README = Path("README.md")  # has the table `machines`
FAILURES = Path("docs", "failures.md")  # has the table `drills`
RESOLVED = Path("tests", "support", "lab.json")
# In an empty folder, and without the environment: no choices.
RESOLVE = "puts JSON.pretty_generate(Lab.new(Dir.pwd, folder: ARGV[0]).resolved)"


def machines(topology: Topology) -> str:
    """Return the machines in use as a Markdown table."""
    rows = ["| machine | address | runs |", "| --- | --- | --- |"]
    for machine in topology.machines:
        runs = ", ".join(role.replace("_", "-") for role in machine.roles)
        queues = f": queues {', '.join(f'`{queue}`' for queue in machine.queues)}" if machine.queues else ""
        rows.append(f"| {machine.name} | {machine.address} | {runs}{queues} |")
    return "\n".join(rows) + "\n"


def drills(reports: Path) -> str:
    """Return the drills as a Markdown table, and below it how many records it is made of and when they began.

    For each broker it gives how many of the recorded runs passed, and the median of their recovery times.
    """
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
    days = sorted({record["began"][:10] for record in records})
    when = f", recorded from {days[0]} to {days[-1]}" if days else ""
    return "\n".join([*rows, "", f"{len(records)} runs{when}."]) + "\n"


def put(text: str, name: str, table: str) -> str:
    """Return a Markdown text with the table between the marks of `name` replaced; ValueError if it has none."""
    marked = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    replaced, count = marked.subn(lambda _: table, text)
    if count != 1:
        raise ValueError(f"the marks <!-- {name} --> and <!-- /{name} --> are there {count} times; needed: once")
    return replaced


def resolve() -> str:
    """Return `config/lab.json` as `provision/host/lab.rb` resolves it, without the choices of this checkout."""
    command = ["ruby", "-r", "./provision/host/lab", "-e", RESOLVE, "there-is-none"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}).stdout


if __name__ == "__main__":
    RESOLVED.write_text(resolve())
    README.write_text(put(README.read_text(), "machines", machines(Topology.from_document(json.loads(resolve())))))
    if sys.argv[1:] == ["drills"]:
        FAILURES.write_text(put(FAILURES.read_text(), "drills", drills(Path(".lab", "reports"))))
