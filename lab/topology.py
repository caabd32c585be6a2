"""The model of the lab. Standard library only: machines use it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.roles import ROLES

BROKERS = ("redis", "rabbitmq")
ALL = "all"  # the name of every machine at once


@dataclass(frozen=True)
class Machine:
    """A machine: its name, IPv4 address, roles, memory in MiB, and the Celery queues that it serves as a worker."""

    name: str
    address: str
    roles: tuple[str, ...]
    memory_mb: int
    queues: tuple[str, ...] = ()


@dataclass(frozen=True)
class Topology:
    """The lab, as `provision/host/lab.rb` has resolved it.

    `machines` are those in use; `hosts` has the address of every machine that `config/lab.json` lists, so that the
    others know a worker before it joins. `timings` are in seconds. `own_dags`: whether the machines have a folder
    of the user's own DAGs.
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
    revision: int
    own_dags: bool

    @classmethod
    def from_document(cls, lab: Mapping[str, Any]) -> Topology:
        """Build the model from a resolved lab, as in `.lab/lab.json`; ValueError if it is of another version."""
        try:
            machines = tuple(
                Machine(
                    name, entry["address"], tuple(entry["roles"]), entry["memory_mb"], tuple(entry.get("queues", ()))
                )
                for name, entry in lab["machines"].items()
            )
            return cls(**{**lab, "machines": machines})
        except (KeyError, TypeError) as error:
            raise ValueError(f"the resolved lab has other keys than this version needs: {error}") from error

    @classmethod
    def load(cls, root: Path) -> Topology:
        """Read the lab of the checkout at `root` as the last `vagrant up` or `vagrant provision` resolved it.

        FileNotFoundError before the first `vagrant up`, ValueError if another version wrote it.
        """
        return cls.from_document(json.loads((root / ".lab" / "lab.json").read_text()))

    @classmethod
    def of_this_machine(cls) -> Topology:
        """Read the lab on a machine of it, from the document that the machine got; only root may."""
        return cls.from_document(json.loads(Path("/etc/airflow-lab/machine.json").read_text())["lab"])

    def __getitem__(self, name: str) -> Machine:
        """Return the machine called `name`; KeyError if there is none in use."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise KeyError(name)

    def seconds(self, count: float) -> float:
        """Return `count` times `time_factor`: every wait and timeout goes through this, for slow emulated machines."""
        return count * self.time_factor

    def with_role(self, role: str) -> tuple[Machine, ...]:
        """Return the machines that have `role`, in the order of `lab.json`."""
        return tuple(machine for machine in self.machines if role in machine.roles)

    def broker_url(self, endpoint: str, password: str) -> str:
        """Return the URL of the chosen broker at `endpoint`, a `host:port`, as Celery takes it."""
        scheme, user, path = {"redis": ("redis", "", "0"), "rabbitmq": ("amqp", "airflow", "airflow")}[self.broker]
        return f"{scheme}://{user}:{password}@{endpoint}/{path}"

    def port(self, name: str) -> int:
        """Return a port by its name in lab.json; `broker` is that of the chosen broker."""
        return self.ports[self.broker if name == "broker" else name]

    def listening(self, port: str) -> tuple[Machine, ...]:
        """Return the machines that listen on a port of lab.json."""
        role = next(name for name, role in ROLES.items() if port in role.all_ports())
        return self.with_role(role)

    def reach(self, port: str) -> str:
        """Return the `host:port` at which the host reaches a port of lab.json: with Docker a forwarded port."""
        if self.provider == "docker":
            return f"localhost:{self.forwarded_ports[port]}"
        return f"{self.listening(port)[0].address}:{self.ports[port]}"

    def endpoints(self, role: str, port: str) -> list[str]:
        """Return `name:port` for every machine with `role`: clients take lists, even of one."""
        return [f"{machine.name}:{self.port(port)}" for machine in self.with_role(role)]

    def services(self, machine: str) -> dict[str, str]:
        """Return the systemd unit of each service of a machine."""
        roles = [ROLES[name] for name in self[machine].roles]
        return {service: unit for role in roles for service, unit in role.units(self.broker).items()}

    def queue_unit(self, broker: str) -> str:
        """Return the systemd unit of a broker's queue server, whether the broker is the chosen one or not."""
        return f"{ROLES['queue'].units(broker)['queue']}.service"
