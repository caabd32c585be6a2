"""The model of the lab. Standard library only: machines use it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.roles import ROLES, Role

BROKERS = ("redis", "rabbitmq")
ALL = "all"  # the name of every machine at once
OTHERS = "others"  # of every machine but the one that is spoken of


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
    others know a worker before it joins. `layout` is the name of the layout in use. `address` is that of several
    load balancers, on one of their machines; empty if there is one. `timings` are in seconds.
    `own_dags`: whether the machines have a folder of the user's own DAGs.
    """

    layout: str
    broker: str
    provider: str
    time_factor: int
    network: str
    address: str
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

    def several(self, role: str) -> bool:
        """Return whether more than one machine has `role`."""
        return len(self.with_role(role)) > 1

    def role(self, name: str) -> Role:
        """Return a role as this lab has it, on one machine or on several."""
        return ROLES[name].variant(self.several(name))

    def broker_urls(self, password: str, by_address: bool = False) -> str:
        """Return the URLs of the chosen broker as Celery takes them, separated by semicolons.

        Of several Redis servers, these are the Sentinels, which know the master. `by_address`: for a client that does
        not know the machines' names.
        """
        scheme, user, path = {"redis": ("redis", "", "0"), "rabbitmq": ("amqp", "airflow", "airflow")}[self.broker]
        scheme, port = ("sentinel", "sentinel") if self.sentinels else (scheme, self.broker)
        hosts = [machine.address if by_address else machine.name for machine in self.with_role("queue")]
        return ";".join(f"{scheme}://{user}:{password}@{host}:{self.ports[port]}/{path}" for host in hosts)

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
        shared = self.address if self.several("load_balancer") and port in ROLES["load_balancer"].all_ports() else ""
        return f"{shared or self.listening(port)[0].address}:{self.ports[port]}"

    def endpoints(self, role: str, port: str) -> list[str]:
        """Return `name:port` for every machine with `role`: clients take lists, even of one."""
        return [f"{machine.name}:{self.port(port)}" for machine in self.with_role(role)]

    def reached(self, role: str, port: str) -> list[str]:
        """Return the `host:port` at which clients on a machine reach a role: its local proxy, if there is one."""
        if self.with_role("local_proxy"):
            return [f"127.0.0.1:{self.ports[f'proxy_{port}']}"]
        return self.endpoints(role, port)

    @property
    def execution_api(self) -> str:
        """Where tasks reach the api-servers: through the local proxy, or the load balancer."""
        role = "api_server" if self.with_role("local_proxy") else "load_balancer"
        return self.reached(role, role)[0]

    def services(self, machine: str) -> dict[str, str]:
        """Return the systemd unit of each service of a machine."""
        roles = [self.role(name) for name in self[machine].roles]
        return {service: unit for role in roles for service, unit in role.units(self.broker).items()}

    @property
    def sentinels(self) -> bool:
        """Whether clients of the chosen broker ask Redis' Sentinels for the master."""
        return self.broker == "redis" and self.several("queue")

    def queue_units(self, broker: str) -> list[str]:
        """Return the systemd units of a broker's queue server, itself first, whether it is the chosen one or not."""
        return [f"{unit}.service" for unit in self.role("queue").units(broker).values()]
