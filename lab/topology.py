"""The model of the lab, read from `config/lab.json`; standard library only, because machines read it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def find_checkout() -> Path:
    """Return the checkout that this package is in, or, if it is installed elsewhere, the one that the caller is in."""
    here = Path(__file__).resolve().parent.parent
    if (here / "config" / "lab.json").exists():
        return here
    above = [Path.cwd(), *Path.cwd().parents]
    return next((folder for folder in above if (folder / "config" / "lab.json").exists()), here)


ROOT = find_checkout()
QUEUE_UNITS = {"redis": "redis-server.service", "rabbitmq": "rabbitmq-server.service"}  # by broker


@dataclass(frozen=True)
class Machine:
    """One machine: a name, an IPv4 address, what it does, and the Celery queues it serves, if it is a worker."""

    name: str
    address: str
    roles: tuple[str, ...]
    memory_mb: int
    queues: tuple[str, ...] = ()


@dataclass(frozen=True)
class Topology:
    """The whole lab.

    `hosts` gives the address of every machine that `lab.json` lists, so that one which joins later is known
    already; `machines` are those in use, workers beyond the chosen number left out. Timings are those of
    the chosen profile times `time_factor`, in seconds: emulated machines are slow.
    """

    broker: str
    provider: str
    time_factor: int
    network: str
    machines: tuple[Machine, ...]
    hosts: Mapping[str, str]
    ports: Mapping[str, int]
    forwarded_ports: Mapping[str, int]
    timings: Mapping[str, int]
    worker_concurrency: int
    parallelism: int

    @classmethod
    def from_document(cls, lab: Mapping[str, Any]) -> Topology:
        """Build the model from the content of `lab.json`, which the Vagrantfile has checked."""
        listed = [
            Machine(name, entry["address"], tuple(entry["roles"]), entry["memory_mb"], tuple(entry.get("queues", ())))
            for name, entry in lab["machines"].items()
        ]
        spare = [machine for machine in listed if "worker" in machine.roles][lab["workers"] :]
        return cls(
            machines=tuple(machine for machine in listed if machine not in spare),
            hosts={machine.name: machine.address for machine in listed},
            timings={
                name: seconds * lab["time_factor"] for name, seconds in lab["timing_profiles"][lab["timings"]].items()
            },
            **{
                key: lab[key]
                for key in (
                    "broker",
                    "provider",
                    "time_factor",
                    "network",
                    "ports",
                    "forwarded_ports",
                    "worker_concurrency",
                    "parallelism",
                )
            },
        )

    @classmethod
    def load(cls, root: Path = ROOT) -> Topology:
        """Read the lab of the checkout at `root` as the last `vagrant up` or `vagrant provision` had it.

        That wrote `.lab/lab.json`; an earlier version wrote only what differs, `.lab/choices.json`.
        """
        paths = [root / "config/lab.json", root / ".lab/choices.json", root / ".lab/lab.json"]
        lab: dict[str, Any] = {}
        for path in paths:
            lab |= json.loads(path.read_text()) if path.exists() else {}
        return cls.from_document(lab)

    @classmethod
    def of_this_machine(cls) -> Topology:
        """Read the lab as the machine that this runs in was given it; only root may."""
        return cls.from_document(json.loads(Path("/etc/airflow-lab/machine.json").read_text())["lab"])

    def __getitem__(self, name: str) -> Machine:
        """Return the machine called `name`; KeyError if none in use is."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise KeyError(name)

    def with_role(self, role: str) -> tuple[Machine, ...]:
        """Return the machines that have `role`, in the order of `lab.json`."""
        return tuple(machine for machine in self.machines if role in machine.roles)

    def broker_url(self, endpoint: str, password: str) -> str:
        """Return the URL of the chosen broker at `endpoint`, a `host:port`, as Celery takes it."""
        scheme, user, path = {"redis": ("redis", "", "0"), "rabbitmq": ("amqp", "airflow", "airflow")}[self.broker]
        return f"{scheme}://{user}:{password}@{endpoint}/{path}"

    def reach(self, role: str, port: str) -> str:
        """Return the `host:port` at which the host reaches a role: Docker's machines through forwarded ports."""
        if self.provider == "docker":
            return f"localhost:{self.forwarded_ports[port]}"
        return f"{self.with_role(role)[0].address}:{self.ports[port]}"

    def endpoints(self, role: str, port: str) -> list[str]:
        """Return `name:port` for every machine with `role`: clients take lists, however short."""
        return [f"{machine.name}:{self.ports[port]}" for machine in self.with_role(role)]
