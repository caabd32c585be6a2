"""Keeps the README's table of machines true: `python -m lab.readme` writes it anew from `config/lab.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lab.topology import ROOT, Topology

MARKED = re.compile(r"(?<=<!-- machines -->\n).*?(?=<!-- /machines -->)", re.DOTALL)


def table(topology: Topology) -> str:
    """Return the machines in use as a Markdown table."""
    rows = ["| machine | address | runs |", "| --- | --- | --- |"]
    for machine in topology.machines:
        runs = ", ".join(role.replace("_", "-") for role in machine.roles)
        queues = f": queues {', '.join(f'`{queue}`' for queue in machine.queues)}" if machine.queues else ""
        rows.append(f"| {machine.name} | {machine.address} | {runs}{queues} |")
    return "\n".join(rows) + "\n"


def written(readme: str, topology: Topology) -> str:
    """Return the text of a README with its table renewed."""
    return MARKED.sub(lambda _: table(topology), readme)


def as_shipped(root: Path = ROOT) -> Topology:
    """Return the lab as `config/lab.json` has it, whatever was chosen in this checkout."""
    return Topology.from_document(json.loads((root / "config" / "lab.json").read_text()))


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(written(path.read_text(), as_shipped()))
