"""The table of roles, `roles.json`: the host's Ruby code and all Python code read it. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Role:
    """What a machine with this role runs, listens on, connects to and needs to know.

    `services` gives the systemd unit of each service, `ports` the ports of lab.json that it listens on; either may
    depend on the broker. `secrets` are those that the machine gets. `connects` gives, by role, the port of lab.json
    that it connects to; `broker` is that of the chosen broker. `machines` says how many machines may have the role:
    `one`, `any` number, or a `majority` of them must be there: one, or an odd number from three on. A lab needs each
    role that is not `optional`. `clustered` replaces values if more than one machine has the role. `job` is the type
    under which Airflow records the heartbeats of the service, if it does.
    """

    services: Mapping[str, str | Mapping[str, str]]
    ports: Sequence[str] | Mapping[str, Sequence[str]]
    secrets: Sequence[str]
    connects: Mapping[str, str]
    machines: str
    optional: bool = False
    clustered: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""

    def variant(self, several: bool) -> Role:
        """Return the role as it is if several machines have it, or one."""
        return replace(self, **self.clustered) if several else self

    def units(self, broker: str) -> dict[str, str]:
        """Return the systemd unit of each service while the lab works with `broker`."""
        units = {name: unit if isinstance(unit, str) else unit.get(broker) for name, unit in self.services.items()}
        return {name: unit for name, unit in units.items() if unit}

    def ports_on(self, broker: str) -> Sequence[str]:
        """Return the ports that are open while the lab works with `broker`."""
        return self.ports[broker] if isinstance(self.ports, Mapping) else self.ports

    def all_ports(self) -> list[str]:
        """Return the ports that are open with any broker, on one machine or on several."""
        ports = [self.ports, self.variant(True).ports]
        groups = [group for one in ports for group in (one.values() if isinstance(one, Mapping) else [one])]
        return list(dict.fromkeys(port for group in groups for port in group))


# Other names that people use for a role or its service.
ALIASES = {
    "broker": "queue",
    "redis": "queue",
    "rabbitmq": "queue",
    "postgresql": "database",
    "postgres": "database",
    "patroni": "database",
    "etcd": "consensus",
    "haproxy": "local_proxy",
    "nginx": "load_balancer",
    "webserver": "api_server",
}
ROLES = {name: Role(**entry) for name, entry in json.loads(Path(__file__).with_suffix(".json").read_text()).items()}


def canonical(name: str) -> str:
    """Return the name of a role or service as the table has it: `api-server` is `api_server`, `nginx` its role."""
    name = name.lower().replace("-", "_")
    return ALIASES.get(name, name)
