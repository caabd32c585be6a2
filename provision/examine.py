"""Prints as JSON, for `lab doctor`, what must be the same on all machines, or must match the other machines.

Runs as root with the machine's own Python. Secrets are printed as hashes, which reveal nothing: secrets are random.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.topology import Topology

HOME = Path("/opt/airflow")


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def packages() -> str:
    """Return a hash of the Python packages of Airflow's environment, with their versions."""
    names = sorted(path.name for path in HOME.glob("venv/lib/python*/site-packages/*.dist-info"))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def resolve(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except OSError:
        return ""


def reaches(endpoint: tuple[str, int], within: float) -> bool:
    try:
        socket.create_connection(endpoint, timeout=within).close()
    except OSError:
        return False
    return True


def endpoints(lab: Topology, roles: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yield the name and port of each service that a machine with `roles` connects to."""
    for role in roles:
        for peer, port in lab.role(role).connects.items():
            for machine in lab.with_role(peer):
                yield machine.name, lab.port(port)


def examine(lab: Topology, name: str) -> dict[str, object]:
    needed = sorted(set(endpoints(lab, lab[name].roles)))
    with ThreadPoolExecutor() as pool:
        reached = list(pool.map(lambda endpoint: reaches(endpoint, lab.seconds(2)), needed))
    return {
        "secrets": {path.name: sha(path) for path in sorted(HOME.glob("secrets/*"))},
        "packages": packages(),
        "configs": {path.name: sha(path) for path in sorted(HOME.glob("airflow*.cfg"))},
        "dags": {
            str(path.relative_to(HOME)): sha(path) for path in sorted(HOME.glob("*dags/**/*.py")) if path.is_file()
        },
        "hosts": {other: resolve(other) for other in lab.hosts},
        "unreachable": [f"{host}:{port}" for (host, port), ok in zip(needed, reached, strict=True) if not ok],
        "time": time.time(),
    }


if __name__ == "__main__":
    document = json.loads(Path("/etc/airflow-lab/machine.json").read_text())
    print(json.dumps(examine(Topology.from_document(document["lab"]), document["machine"])))
