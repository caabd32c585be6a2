"""Compares the machines with each other, and names the fix for what does not match."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from lab import members
from lab.checkout import Lab
from lab.members import Finding
from lab.parallel import for_each
from lab.topology import Topology

CLOCK = 2  # seconds that a machine's clock may differ from the host's, times time_factor: asking takes time
EXAMINE = "PYTHONPATH=/vagrant PYTHONDONTWRITEBYTECODE=1 python3 -m provision.examine"
PROVISION = "vagrant provision"


def examine(lab: Lab) -> list[Finding]:
    """Return what is wrong in the lab; nothing if everything matches."""
    topology = lab.topology
    names = [machine.name for machine in topology.machines]
    answers = for_each(names, lambda name: _ask(lab, name))
    silent = [
        Finding(name, "does not answer", f"vagrant up {name}, or lab heal") for name in names if not answers[name]
    ]
    different = findings(topology, {name: answer for name, answer in answers.items() if answer})
    return [*silent, *different, *members.findings(lab)]


def findings(topology: Topology, answers: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Compare the machines' answers, as `provision/examine.py` gives them, with `skew` in seconds."""
    for name in odd({name: answer["packages"] for name, answer in answers.items()}):
        yield Finding(name, "its Python packages differ from the others'", f"{PROVISION} {name}")
    compared = (
        ("configs", "its", PROVISION),
        ("secrets", "the secret", PROVISION),
        ("dags", "the DAG file", "vagrant reload"),
    )
    for key, what, fix in compared:
        for item in sorted({item for answer in answers.values() for item in answer[key]}):
            values = {name: answer[key].get(item, "") for name, answer in answers.items()}
            if key != "dags":  # a machine has only what its roles need
                values = {name: value for name, value in values.items() if value}
            for name in odd(values):
                yield Finding(name, f"{what} {item} differs from the others'", f"{fix} {name}")
    for name, answer in answers.items():
        for other, address in topology.hosts.items():
            if answer["hosts"].get(other) != address:
                found = answer["hosts"].get(other) or "nothing"
                yield Finding(name, f"resolves {other} to {found}, not {address}", f"{PROVISION} {name}")
        for endpoint in answer["unreachable"]:
            yield Finding(name, f"does not reach {endpoint}", "lab heal; lab status shows whether the service runs")
        late = abs(answer["skew"])
        if late > topology.seconds(CLOCK):
            wrong = f"its clock is {late:.1f} s {'ahead' if answer['skew'] > 0 else 'behind'}"
            # Seconds: jwt_leeway in config/airflow.cfg.j2, and Airflow's own log_request_clock_grace.
            allowed = {"tokens": topology.seconds(10), "logs": 30}
            refused = [f"{what} ({limit} s)" for what, limit in allowed.items() if late > limit]
            wrong += f", more than Airflow allows for {' and '.join(refused)}" if refused else ""
            yield Finding(name, wrong, "lab heal")


def odd(values: dict[str, str]) -> list[str]:
    """Return the machines whose value differs from the one that most have."""
    if not values:
        return []
    usual, _ = Counter(values.values()).most_common(1)[0]
    return [name for name, value in values.items() if value != usual]


def _ask(lab: Lab, name: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(lab.machines.guest(name).run_script(EXAMINE))
    except subprocess.CalledProcessError:
        return None
    return answer | {"skew": answer["time"] - time.time()}  # examine.py reads the clock last
