"""What the roles share: the machine being provisioned, and two operations that pyinfra does not have."""

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
from pyinfra.facts.server import Command
from pyinfra.operations import files, server

from lab.topology import Machine, Topology

STAMPS = "/var/lib/airflow-lab"
MARKS = (
    "/run/airflow-lab/restart"  # of units that rolling_restart.py has to restart; gone after a reboot, like the need
)


@dataclass(frozen=True)
class Context:
    """The machine being provisioned. Without a name it is the image, which carries the packages of every role."""

    lab: Topology
    name: str | None
    secrets: Mapping[str, str]

    @property
    def machine(self) -> Machine:
        assert self.name, "an image has no machine"
        return self.lab[self.name]

    def has(self, role: str) -> bool:
        return self.name is None or role in self.machine.roles


class Outdated(FactBase[bool]):
    """Whether a unit is not enabled, not running, or was started before any of `paths` was last written.

    Asking the file's time, and not whether this run wrote it, also mends a run that was cut short between
    writing a file and restarting what reads it.
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
    """Enable `unit`, and start it, or restart it if it is older than a file it reads.

    Without `wait` the unit may take as long as it likes: it has something on another machine to wait for. A unit that
    `rolls` is only marked, with that role; `rolling_restart` does the rest.
    """
    paths = [*reads]
    restart = f"systemctl restart {'' if wait else '--no-block '}{unit}"
    if rolls:
        restart = f"mkdir -p {MARKS} && echo {rolls} >{MARKS}/{unit}"
    systemctl = f"systemctl enable --quiet {unit} && {restart}"
    server.shell(
        name=f"Start {unit}, or restart it if its files are newer",
        commands=[f"systemctl daemon-reload && {systemctl}"],
        _if=lambda: host.get_fact(Outdated, unit=unit, paths=paths),
    )


def rolling_restart() -> None:
    """Restart the units that are marked, when the other machines can do without them."""
    server.shell(
        name="Restart Airflow's services, one machine at a time",
        commands=["PYTHONPATH=/vagrant /opt/airflow/venv/bin/python -m provision.rolling_restart"],
        _if=lambda: bool(host.get_fact(Command, f"ls {MARKS} 2>/dev/null || true")),
    )


def for_ever(unit: str) -> str:
    """Have a unit of Debian's restarted whenever it ends, and return the file that says so."""
    path = f"/etc/systemd/system/{unit}.d/restart.conf"
    return template(Path(__file__).parent / "roles" / "base" / "restart.conf.j2", path, folder=True)


def keep(unit: str, *, leave: str) -> None:
    """Call off `leave`, which was about to end `unit`: it is wanted again."""
    server.shell(
        name=f"Keep {unit}",
        commands=[f"systemctl disable --now {leave}"],
        _if=lambda: _is(leave, "enabled"),
    )


def let_go(unit: str, *, leave: str) -> None:
    """Have `leave` end `unit` once nobody needs it, however long that takes and whatever is restarted meanwhile."""
    server.shell(
        name=f"Let go of {unit} when nobody needs it",
        commands=[f"systemctl daemon-reload && systemctl enable {leave} && systemctl start --no-block {leave}"],
        _if=lambda: _is(unit, "enabled") and not _is(leave, "active"),
    )


def _is(unit: str, state: str) -> bool:
    return host.get_fact(Command, f"systemctl is-{state} {unit} || true") == state


def refuse_changed_secrets(secrets: Mapping[str, str], known: Path = Path(STAMPS, "secrets.json")) -> None:
    """Exit if this machine was given another value of a secret before; else note a digest of each.

    Airflow knows one `jwt_secret` and PostgreSQL one password a role: while machine after machine got a new one, tasks
    and services with the old one would be refused.
    """
    before = json.loads(known.read_text()) if known.exists() else {}
    now = {name: digest(value) for name, value in secrets.items()}
    if changed := [name for name in now if before.get(name, now[name]) != now[name]]:
        sys.exit(
            f"==> lab: {', '.join(changed)} in .lab/secrets.json: this machine has another value, and secrets cannot "
            "change while the lab runs. Put the former file back, or `vagrant destroy -f` and `vagrant up`."
        )
    if now:
        files.directory(name=f"Create {known.parent}", path=str(known.parent))
        put(json.dumps(before | now), str(known))


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
    src: Path,
    dest: str,
    *,
    user: str = "root",
    group: str = "root",
    mode: str = "644",
    folder: bool = False,
    **variables: Any,
) -> str:
    """Render a template to `dest`, whose folder is there unless `folder` is to make it, and return `dest`."""
    owner: dict[str, Any] = {"user": user, "group": group, "mode": mode, "create_remote_dir": folder}
    files.template(name=f"Render {dest}", src=str(src), dest=dest, **owner, **variables)
    return dest


def put(text: str, dest: str, *, user: str = "root", group: str = "root", mode: str = "600") -> str:
    """Write a secret to `dest`, whose folder is there, and return `dest`."""
    owner: dict[str, Any] = {"user": user, "group": group, "mode": mode, "create_remote_dir": False}
    files.put(name=f"Write {dest}", src=io.StringIO(text), dest=dest, **owner)
    return dest
