"""Brings machines that Vagrant did not make to their roles, over SSH: the same code, sent to them and started there."""

from __future__ import annotations

import json
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from lab.topology import ROOT, Topology

# What a machine needs of the checkout. What else is in config/ is the user's and may be private.
CONFIG = ("airflow.cfg.j2", "connections.yml", "requirements.lock", "variables.json")
SENT = ("provision", "lab", "dags", *(f"config/{name}" for name in CONFIG))
SECRETS = "secrets.json"
# Ruby resolves a description, here as everywhere; but the inventory alone decides, and not what the caller's shell has
# chosen for the lab of this checkout, or the machines of that lab.
RESOLVE = """
Lab::CHOICES.each_key { |variable| ENV.delete(variable) }
begin
  lab = Class.new(Lab) { def check_created(_) = nil }.new(ARGV[0], file: ARGV[1], folder: ARGV[2])
rescue Lab::Invalid => e
  abort e.message
end
lab.save
puts JSON.generate(lab.data)
"""
# A machine's own: its name, the code where a machine of the lab has it, and the DAGs.
RECEIVE = """
set -eu
umask 022
hostname "$name"
echo "$name" >/etc/hostname
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
tar --extract --gzip --directory "$new" --no-same-owner

# replace FROM TO: TO gets the files of FROM and, only then, loses all others: who reads it meanwhile, as the
# dag-processor does, finds it neither empty nor a file half written.
replace() {
  mkdir -p "$2"
  (cd "$1" && find . -mindepth 1 -exec sh -ec '
    for path do
      to="$0/$path"
      if [ -d "$path" ] && [ ! -L "$path" ]; then
        [ -d "$to" ] || rm -f "$to"
        mkdir -p "$to"
      else
        [ ! -d "$to" ] || rm -rf "$to"
        cp --archive "$path" "$to.part"
        mv --no-target-directory "$to.part" "$to"
      fi
    done' "$2" {} +)
  (cd "$2" && find . -mindepth 1 -depth -exec sh -ec '
    for path do
      [ -e "$0/$path" ] || [ -L "$0/$path" ] || rm -rf "$path"
    done' "$1" {} +)
}
for folder in provision lab config; do replace "$new/$folder" "/vagrant/$folder"; done
mkdir -p /opt/airflow/logs
replace "$new/dags" /opt/airflow/dags
"""
# A plain server may have no sudo.
AS_ROOT = """if [ "$(id -u)" = 0 ]; then sh -c {command}; else sudo sh -c {command}; fi"""


class InvalidError(Exception):
    """An inventory with a mistake, told in full."""


def deploy(inventory: Path, ssh: list[str], say: Callable[[str], None]) -> list[str]:
    """Bring the machines of `inventory`, in the form of `lab.json`, to their roles; return those that failed.

    `ssh` is the command that takes an address and a command; its user must be root or may use sudo. Secrets are made
    at the first time and kept in a folder beside the inventory, named after it. InvalidError before any machine is
    reached if the inventory has a mistake.
    """
    state = _state(inventory)
    topology = Topology.from_document(_resolve(inventory, state))
    code = archive()

    def one(name: str) -> bool:
        reach = [*ssh, topology[name].address]
        steps = [(receive(name), code), ("sh -s", (state / "machines" / f"{name}.sh").read_bytes())]
        with (state / f"{name}.log").open("wb") as log:
            for command, given in steps:
                as_root = AS_ROOT.format(command=shlex.quote(command))
                sent = subprocess.run([*reach, as_root], input=given, stdout=log, stderr=log, check=False)
                if sent.returncode:
                    say(f"{name}: failed; see {log.name}")
                    return False
        say(f"{name}: has its roles")
        return True

    names = [machine.name for machine in topology.machines]
    with ThreadPoolExecutor() as pool:
        good = dict(zip(names, pool.map(one, names), strict=True))
    return [name for name in names if not good[name]]


def _state(inventory: Path) -> Path:
    """Return the folder in which an inventory's secrets are kept; InvalidError if that is, or would be, another's."""
    state = inventory.with_suffix("")
    if not inventory.is_file():
        raise InvalidError(f"there is no inventory {inventory}")
    if state == inventory:
        raise InvalidError(f"{inventory}: give it a name that ends in .json; its secrets are kept under that without")
    if state.exists() and not (state / SECRETS).exists():
        raise InvalidError(f"{state} is not the state of an inventory: give {inventory.name} another name")
    return state


def _resolve(inventory: Path, state: Path) -> Any:
    """Check an inventory, write what each machine is given to `state`, and return the inventory as it is understood."""
    (state / "choices.json").unlink(missing_ok=True)  # an earlier version remembered them, against the inventory
    command = ["ruby", "-r", str(ROOT / "provision/host/lab"), "-e", RESOLVE, str(ROOT), str(inventory), str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InvalidError(done.stderr.strip())
    state.chmod(0o700)
    (state / ".gitignore").write_text("*\n")
    return json.loads(done.stdout)


def receive(name: str) -> str:
    """Return the script with which the machine `name` takes an archive from its standard input."""
    return f"name={name}\n{RECEIVE}"


def archive() -> bytes:
    """Return what a machine needs of this checkout, as a tar archive."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in SENT:
            tar.add(ROOT / path, path, filter=_needed)
    return buffer.getvalue()


def _needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return an entry of the archive, or None for what is the host's own, and for the state of an inventory."""
    path = Path(entry.name)
    own = path == Path("provision/host") or path.name == "__pycache__" or (ROOT / path / SECRETS).exists()
    return None if own else entry
