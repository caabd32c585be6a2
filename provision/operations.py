"""What the roles share: the machine being provisioned, and two operations that pyinfra does not have."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import FactBase
from pyinfra.facts.server import Command
from pyinfra.operations import files, server, systemd

from lab.topology import Machine, Topology

STAMPS = "/var/lib/airflow-lab"


@dataclass(frozen=True)
class Context:
    """The machine being provisioned. Without a name it is the image, which carries the packages of every role."""

    lab: Topology
    name: str | None
    secrets: Mapping[str, str]
    certificates: Mapping[str, str]

    @property
    def machine(self) -> Machine:
        assert self.name, "an image has no machine"
        return self.lab[self.name]

    def has(self, role: str) -> bool:
        return self.name is None or role in self.machine.roles


class Outdated(FactBase[bool]):
    """Whether a unit is not running, or was started before any of `paths` was last written.

    Asking the file's time, and not whether this run wrote it, also mends a run that was cut short between
    writing a file and restarting what reads it.
    """

    def command(self, unit: str, paths: Iterable[str] = ()) -> str:
        show = f"systemctl show --timestamp=us+utc --value {unit} --property"
        words = " ".join(map(shlex.quote, paths))
        newer = (
            f'[ -n "$(find {words} -newermt "$({show} InactiveExitTimestamp)" -print -quit)" ]' if words else "false"
        )
        return f"case $({show} ActiveState) in active|activating|reloading) ! {newer} || echo yes;; *) echo yes;; esac"

    def process(self, output: Iterable[str]) -> bool:
        return "yes" in list(output)


def service(unit: str, *, reads: Iterable[str] = (), wait: bool = True) -> None:
    """Enable `unit`, and start it, or restart it if it is older than a file it reads.

    Without `wait` the unit may take as long as it likes: it has something on another machine to wait for.
    """
    paths = [*reads]
    systemd.service(name=f"Enable {unit}", service=unit, enabled=True, running=None)
    server.shell(
        name=f"Start {unit}, or restart it if its files are newer",
        commands=[f"systemctl daemon-reload && systemctl restart {'' if wait else '--no-block '}{unit}"],
        _if=lambda: host.get_fact(Outdated, unit=unit, paths=paths),
    )


def once(name: str, *, key: str, digest: str, commands: list[str]) -> None:
    """Run `commands` unless they have succeeded before for this `digest` of what they work on."""
    stamp = f"{STAMPS}/{key}"
    server.shell(
        name=name,
        commands=[*commands, f"mkdir -p {STAMPS} && echo {digest} >{stamp}"],
        _if=lambda: host.get_fact(Command, f"cat {stamp} 2>/dev/null || true") != digest,
    )


def digest(*texts: str) -> str:
    """Return a digest of texts, for `once`."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def template(
    src: Path, dest: str, *, user: str = "root", group: str = "root", mode: str = "644", **variables: Any
) -> str:
    """Render a template to `dest` and return `dest`."""
    files.template(name=f"Render {dest}", src=str(src), dest=dest, user=user, group=group, mode=mode, **variables)
    return dest
