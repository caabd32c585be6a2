"""Provisions machines that Vagrant did not create, over SSH: sends them the same code and runs it there."""

from __future__ import annotations

import json
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from lab.parallel import for_each
from lab.topology import Topology

# What a machine needs of the checkout. Other files in config/ are the user's, and may be private.
CONFIG = ("airflow.cfg.j2", "connections.yml.j2", "requirements.lock", "variables.json")
SENT = ("provision", "lab", "dags", *(f"config/{name}" for name in CONFIG))
HOST_ONLY = (Path("provision/host"), Path("provision/images"))
SECRETS = "secrets.json"
# The same code resolves an inventory as for Vagrant. Choices in the environment, and the machines that exist, are those
# of the checkout's own lab and do not apply.
RESOLVE = """
Lab::CHOICES.each_key { |variable| ENV.delete(variable) }
begin
  lab = Class.new(Lab) { def check_created(_) = nil }.new(ARGV[0], file: ARGV[1], folder: ARGV[2])
  lab.check_existing
rescue Lab::Invalid => e
  abort e.message
end
abort "#{ARGV[1]}: dags: #{lab.own_dags} is not allowed; allowed: none. Only dags/ is sent" if lab.own_dags
lab.save
puts JSON.generate(lab.resolved)
"""
# Runs on a machine: sets its name, and unpacks the code and the DAGs to the same folders as on a lab's machines.
RECEIVE = """
set -eu
umask 022
hostname "$name"
echo "$name" >/etc/hostname
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
tar --extract --gzip --directory "$new" --no-same-owner

# replace FROM TO: writes the files of FROM to TO, and only then removes all others. The dag-processor, which may
# read TO at the same time, finds neither an empty folder nor an incomplete file.
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
# A server may not have sudo.
AS_ROOT = """if [ "$(id -u)" = 0 ]; then sh -c {command}; else sudo sh -c {command}; fi"""


class InvalidError(Exception):
    """A mistake in an inventory."""


def deploy(root: Path, inventory: Path, ssh: list[str], say: Callable[[str], None]) -> list[str]:
    """Provision the machines of `inventory`, a file in the form of `lab.json`; return those that failed.

    `root` is the checkout whose code they get. `ssh` is a command to which an address and a command are added; its user
    must be root or be allowed to use sudo. Secrets are created the first time and kept in a folder next to the
    inventory, named after it. InvalidError before any machine is reached if the inventory has a mistake.
    """
    state = _state(inventory)
    topology = Topology.from_document(_resolve(root, inventory, state))
    code = archive(root)

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
        say(f"{name}: provisioned")
        return True

    names = [machine.name for machine in topology.machines]
    good = for_each(names, one)
    failed = [name for name in names if not good[name]]
    if not failed:
        address = topology.address or topology.with_role("load_balancer")[0].address
        url = f"http://{address}:{topology.ports['load_balancer']}"
        say(f"Airflow: {url}, user admin, password: airflow_admin_password in {state / SECRETS}")
    return failed


def _state(inventory: Path) -> Path:
    """Return the folder of an inventory's secrets; InvalidError if it belongs to something else."""
    state = inventory.with_suffix("")
    if not inventory.is_file():
        raise InvalidError(f"there is no inventory {inventory}")
    if state == inventory:
        raise InvalidError(
            f"{inventory}: its name must end in .json; its secrets are kept in a folder named after the rest"
        )
    if state.exists() and not (state / SECRETS).exists():
        raise InvalidError(f"{state} is not the folder of an inventory: rename {inventory.name}")
    return state


def _resolve(root: Path, inventory: Path, state: Path) -> Any:
    """Validate an inventory, write the documents of its machines to `state`, and return the resolved inventory."""
    command = ["ruby", "-r", str(root / "provision/host/lab"), "-e", RESOLVE, str(root), str(inventory), str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InvalidError(done.stderr.strip())
    state.chmod(0o700)
    (state / ".gitignore").write_text("*\n")
    return json.loads(done.stdout)


def receive(name: str) -> str:
    """Return the script with which the machine `name` unpacks an archive from its standard input."""
    return f"name={name}\n{RECEIVE}"


def archive(root: Path) -> bytes:
    """Return what a machine needs of the checkout at `root`, as a tar archive."""

    def needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Return an entry of the archive, or None for what only the host needs, and for the state of an inventory."""
        path = Path(entry.name)
        host = path in HOST_ONLY or path.name == "__pycache__" or (root / path / SECRETS).exists()
        return None if host else entry

    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in SENT:
            tar.add(root / path, path, filter=needed)
    return buffer.getvalue()
