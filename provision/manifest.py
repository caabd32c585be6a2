"""Prints as JSON the packages of this machine, and a hash of each file under /etc and of each of Airflow's files.

Runs as root with the machine's own Python. Before a file is hashed, each secret in it is replaced with the secret's
name. Files that each machine makes for itself, such as its keys and its identity, are left out.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib.metadata import distributions
from pathlib import Path

HOME = Path("/opt/airflow")
FOLDERS = (Path("/etc"), HOME / "config")
FILES = (HOME / "airflow.cfg", HOME / "airflow-redis.cfg", HOME / "airflow-rabbitmq.cfg", HOME / "airflow.env")
OWN = (  # random, dependent on the clock, or different on every machine
    "/etc/airflow-lab/",
    "/etc/ssh/ssh_host_",
    "/etc/machine-id",
    "/etc/ssl/",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/.updated",
    "/etc/ld.so.cache",
    "/etc/nginx/flower.htpasswd",
)


def manifest(document: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return versions by Debian package and by Python package, and hashes by path."""
    query = ["dpkg-query", "--show", "--showformat", "${Package}:${Architecture} ${Version}\n"]
    debian = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    found = distributions(path=[str(path) for path in HOME.glob("venv/lib/python*/site-packages")])
    paths = [path for folder in FOLDERS for path in folder.rglob("*") if not str(path).startswith(OWN)]
    return {
        "debian": dict(sorted(line.split() for line in debian)),
        "python": dict(sorted((one.name, one.version) for one in found)),
        "files": {
            str(path): f"-> {path.readlink()}" if path.is_symlink() else digest(path, document["secrets"])
            for path in sorted([*paths, *FILES])
            if path.is_symlink() or path.is_file()
        },
    }


def digest(path: Path, secrets: dict[str, str]) -> str:
    """Return the hash of a file in which each secret is replaced with its name."""
    content = path.read_bytes()
    for name, value in secrets.items():
        content = content.replace(value.encode(), name.encode())
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    print(json.dumps(manifest(json.loads(Path("/etc/airflow-lab/machine.json").read_text()))))
