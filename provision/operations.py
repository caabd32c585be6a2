"""What the roles share: the machine that is provisioned, and operations that pyinfra does not have."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import FactBase
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.server import Command
from pyinfra.operations import apt, files, server

from lab.topology import Machine, Topology

STAMPS = "/var/lib/airflow-lab"
# A file for each unit that rolling_restart.py has to restart. A reboot removes them, and the need to restart.
RESTARTS = "/run/airflow-lab/restart"


@dataclass(frozen=True)
class Context:
    """The machine that is provisioned. Without a name it is the machine image, which has the packages of every role."""

    lab: Topology
    name: str | None
    secrets: Mapping[str, str]

    @property
    def machine(self) -> Machine:
        assert self.name, "an image has no machine"
        return self.lab[self.name]

    def has(self, role: str) -> bool:
        return self.name is None or role in self.machine.roles


def packages(*names: str) -> None:
    """Install Debian packages; the package lists are updated only if one is missing."""
    apt.packages(
        name=f"Install {', '.join(names)}",
        packages=[*names],
        update=True,
        no_recommends=True,
        _if=lambda: not host.get_fact(DebPackages).keys() >= set(names),
    )


class Outdated(FactBase[bool]):
    """Whether a unit is not enabled, not running, or was started before any of `paths` was last written.

    It compares the times of the files, not whether this run wrote them. If a run was interrupted between writing a file
    and restarting its service, the next run completes it.
    """

    def command(self, unit: str, paths: Iterable[str] = ()) -> str:
        show = f"systemctl show --timestamp=us+utc --value {unit} --property"
        words = " ".join(map(shlex.quote, paths))
        start = f'"$({show} InactiveExitTimestamp)"'
        newer = f'[ -n "$(find {words} -newermt {start} -print -quit)" ]' if words else "false"
        return (
            f"case $({show} UnitFileState):$({show} ActiveState) in "
            f"enabled*:active | enabled*:activating | enabled*:reloading) ! {newer} || echo yes;; *) echo yes;; esac"
        )

    def process(self, output: Iterable[str]) -> bool:
        return "yes" in list(output)


def service(unit: str, *, reads: Iterable[str] = (), wait: bool = True, rolls: str = "") -> None:
    """Enable `unit`, and start it, or restart it if it started before a file that it reads was written.

    Without `wait`, do not wait until the unit is active: it may wait for another machine. With `rolls`, a role, do not
    restart an active unit but record it; `rolling_restart` restarts it.
    """
    paths = [*reads]
    restart = f"systemctl restart {'' if wait else '--no-block '}{unit}"
    if rolls:
        record = f"mkdir -p {RESTARTS} && echo {rolls} >{RESTARTS}/{unit}"
        restart = f"if systemctl is-active --quiet {unit}; then {record}; else {restart}; fi"
    systemctl = f"systemctl enable --quiet {unit} && {restart}"
    server.shell(
        name=f"Start {unit}, or restart it if its files are newer",
        commands=[f"systemctl daemon-reload && {systemctl}"],
        _if=lambda: host.get_fact(Outdated, unit=unit, paths=paths),
    )


def rolling_restart() -> None:
    """Restart the units that `service` recorded, while another machine serves each of their roles."""
    server.shell(
        name="Restart services, one machine at a time",
        commands=["PYTHONPATH=/vagrant /opt/airflow/venv/bin/python -m provision.roles.airflow.rolling_restart"],
        _if=lambda: bool(host.get_fact(Command, f"ls {RESTARTS} 2>/dev/null || true")),
    )


def restart_always(unit: str) -> str:
    """Restart a unit of a Debian package whenever it exits; return the path of its drop-in."""
    source = Path(__file__).parent / "roles" / "base" / "restart.conf"
    return copy(source, f"/etc/systemd/system/{unit}.d/restart.conf", folder=True)


def drain(unit: str, *, drainer: str) -> None:
    """Start `drainer`, a unit that stops `unit` when it is not used any more, also after a reboot."""
    server.shell(
        name=f"Drain {unit}",
        commands=[f"systemctl daemon-reload && systemctl enable {drainer} && systemctl start --no-block {drainer}"],
        _if=lambda: _is(unit, "enabled") and not _is(drainer, "active"),
    )


def cancel_drain(unit: str, *, drainer: str) -> None:
    """Stop `drainer`: `unit` is used again."""
    server.shell(
        name=f"Cancel the drain of {unit}",
        commands=[f"systemctl disable --now {drainer}"],
        _if=lambda: _is(drainer, "enabled"),
    )


def _is(unit: str, state: str) -> bool:
    return host.get_fact(Command, f"systemctl is-{state} {unit} || true") == state


def refuse_changed_secrets(secrets: Mapping[str, str], known: Path = Path(STAMPS, "secrets.json")) -> None:
    """Exit if this machine got another value of a secret before; else record a digest of each.

    Airflow accepts only one `jwt_secret` at a time, and PostgreSQL only one password of a role. While the machines get
    a new value one after the other, tasks and services with the old value would be refused.
    """
    before = json.loads(known.read_text()) if known.exists() else {}
    now = {name: digest(value) for name, value in secrets.items()}
    if changed := [name for name in now if before.get(name, now[name]) != now[name]]:
        sys.exit(
            f"==> lab: {', '.join(changed)} in .lab/secrets.json: this machine has another value, and secrets cannot "
            "change while the lab runs. Restore the former file, or call `vagrant destroy -f` and `vagrant up`."
        )
    if now:
        files.directory(name=f"Create {known.parent}", path=str(known.parent))
        write_secret(json.dumps(before | now), str(known))


def run_once(name: str, *, key: str, digest: str, commands: list[str]) -> None:
    """Run `commands` unless they have succeeded before with this `digest` of their input."""
    stamp = f"{STAMPS}/{key}"
    server.shell(
        name=name,
        commands=[*commands, f"mkdir -p {STAMPS} && echo {digest} >{stamp}"],
        _if=lambda: host.get_fact(Command, f"cat {stamp} 2>/dev/null || true") != digest,
    )


def digest(*texts: str) -> str:
    """Return a digest of texts, for `run_once`."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def template(
    src: Path,
    dest: str,
    *,
    user: str = "root",
    group: str = "root",
    mode: str = "644",
    folder: bool = False,
    **variables: Any,
) -> str:
    """Render a template to `dest` and return `dest`. With `folder`, create the folder of `dest`."""
    owner: dict[str, Any] = {"user": user, "group": group, "mode": mode, "create_remote_dir": folder}
    files.template(name=f"Render {dest}", src=str(src), dest=dest, **owner, **variables)
    return dest


def copy(
    src: Path, dest: str, *, user: str = "root", group: str = "root", mode: str = "644", folder: bool = False
) -> str:
    """Copy a file to `dest` and return `dest`. With `folder`, create the folder of `dest`."""
    owner: dict[str, Any] = {"user": user, "group": group, "mode": mode, "create_remote_dir": folder}
    files.put(name=f"Write {dest}", src=str(src), dest=dest, **owner)
    return dest


def write_secret(text: str, dest: str, *, user: str = "root", group: str = "root", mode: str = "600") -> str:
    """Write a text that contains a secret to `dest`, in an existing folder, and return `dest`."""
    owner: dict[str, Any] = {"user": user, "group": group, "mode": mode, "create_remote_dir": False}
    files.put(name=f"Write {dest}", src=io.StringIO(text), dest=dest, **owner)
    return dest
