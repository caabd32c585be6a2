"""Prints, as JSON, what this machine is made of: packages, and each file under /etc and of Airflow's own with its hash.

Runs as root with the machine's own Python. Secrets are left out: where one stands in a file, its name is hashed in its
place. So is what each machine makes for itself, such as its keys and its identity.
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
OWN = (  # made by the machine, or for it alone, at random or by the clock
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
    """Return the hash of a file with the name of each secret in its place."""
    content = path.read_bytes()
    for name, value in secrets.items():
        content = content.replace(value.encode(), name.encode())
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    print(json.dumps(manifest(json.loads(Path("/etc/airflow-lab/machine.json").read_text()))))
