"""The table of roles, `roles.json`: the host's Ruby code and all Python code read it. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Role:
    """What a machine with this role runs, listens on, connects to and needs to know.

    `services` gives the systemd unit of each service, `ports` the ports of lab.json that it listens on; either may
    depend on the broker. `secrets` are those that the machine gets. `connects` gives, by role, the port of lab.json
    that it connects to; `broker` is that of the chosen broker. At most one machine has a role that is `single`. `job`
    is the type under which Airflow records the heartbeats of the service, if it does.
    """

    services: Mapping[str, str | Mapping[str, str]]
    ports: Sequence[str] | Mapping[str, Sequence[str]]
    secrets: Sequence[str]
    connects: Mapping[str, str]
    single: bool
    job: str = ""

    def units(self, broker: str) -> dict[str, str]:
        """Return the systemd unit of each service while the lab works with `broker`."""
        return {name: unit if isinstance(unit, str) else unit[broker] for name, unit in self.services.items()}

    def ports_on(self, broker: str) -> Sequence[str]:
        """Return the ports that are open while the lab works with `broker`."""
        return self.ports[broker] if isinstance(self.ports, Mapping) else self.ports

    def all_ports(self) -> list[str]:
        """Return the ports that are open with any broker."""
        groups = self.ports.values() if isinstance(self.ports, Mapping) else [self.ports]
        return [port for group in groups for port in group]


# Other names that people use for a role or its service.
ALIASES = {
    "broker": "queue",
    "redis": "queue",
    "rabbitmq": "queue",
    "postgresql": "database",
    "postgres": "database",
    "nginx": "load_balancer",
    "webserver": "api_server",
}
ROLES = {name: Role(**entry) for name, entry in json.loads(Path(__file__).with_suffix(".json").read_text()).items()}


def canonical(name: str) -> str:
    """Return the name of a role or service as the table has it: `api-server` is `api_server`, `nginx` its role."""
    name = name.lower().replace("-", "_")
    return ALIASES.get(name, name)
