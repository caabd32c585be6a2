"""A copy of the checkout that a test may edit, and the fixture that makes one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

Change = Callable[[dict[str, Any]], object]


class Checkout:
    """A copy of what Vagrant reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("config", "dags", "lab", "provision"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Vagrantfile", root)

    def change(self, change: Change) -> None:
        """Applies `change` to the content of config/lab.json."""
        path = self.root / "config" / "lab.json"
        lab = json.loads(path.read_text())
        change(lab)
        path.write_text(json.dumps(lab))

    def use_network(self, prefix: str) -> None:
        """Gives the lab the network `prefix`.0/24."""
        use_network(self.root, prefix)

    def use_free_ports(self) -> None:
        """Forwards to ports that nothing listens on: the real lab may have the usual ones."""
        services = json.loads((ROOT / "config/lab.json").read_text())["forwarded_ports"]
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in services]
            ports = {service: server.getsockname()[1] for service, server in zip(services, sockets, strict=True)}
        self.change(lambda lab: lab["forwarded_ports"].update(ports))

    def refused(self, command: str, **environment: str) -> str:
        """Returns Vagrant's error message; AssertionError unless it fails without having touched anything."""
        done = subprocess.run(
            ["vagrant", command],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            cwd=self.root,
            timeout=60,
        )
        assert done.returncode != 0, done.stdout
        assert "Bringing machine" not in done.stdout
        assert not (self.root / ".lab" / "secrets.json").exists()
        assert done.stderr.startswith("airflow-lab: "), done.stderr
        return done.stderr


def use_network(root: Path, prefix: str) -> None:
    """Gives the lab of a copy of the checkout the network `prefix`.0/24."""
    path = root / "config" / "lab.json"
    path.write_text(path.read_text().replace("192.168.56", prefix))


def set_machine(name: str, **entries: Any) -> Change:
    return lambda lab: lab["machines"][name].update(entries)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)
