"""The machines, from the host: power through Vagrant, everything inside them through testinfra over SSH."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from subprocess import PIPE, STDOUT
from urllib.parse import quote

import testinfra
import vagrant
from testinfra.host import Host

from lab.topology import Machine, Topology

VIRSH = ("virsh", "--connect", "qemu:///system")
# Commands that Vagrant does not have, by provider; `state` prints RUNNING if the machine runs.
PROVIDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "docker": {
        "state": ("docker", "inspect", "--format", "{{.State.Status}}"),
        "freeze": ("docker", "pause"),
        "thaw": ("docker", "unpause"),
        "cut": ("docker", "kill"),
    },
    "libvirt": {
        "state": (*VIRSH, "domstate"),
        "freeze": (*VIRSH, "suspend"),
        "thaw": (*VIRSH, "resume"),
        "cut": (*VIRSH, "destroy"),
    },
    "virtualbox": {
        "state": ("sh", "-c", "VBoxManage showvminfo --machinereadable $0 | sed -n 's/^VMState=\"\\(.*\\)\"/\\1/p'"),
        "freeze": ("sh", "-c", "VBoxManage controlvm $0 pause"),
        "thaw": ("sh", "-c", "VBoxManage controlvm $0 resume"),
        "cut": ("sh", "-c", "VBoxManage controlvm $0 poweroff"),
    },
}
RUNNING, FROZEN, ABSENT = "running", "paused", "absent"


class UnsupportedError(Exception):
    """What a provider cannot do, and which provider can."""


@dataclass(frozen=True)
class Guest:
    """Access to a machine of the topology."""

    machine: Machine
    host: Host
    ssh_config: Path

    def run(self, command: str, *words: str) -> str:
        """Return what a command prints, root running it; AssertionError if it fails."""
        return self.host.check_output(command, *words)

    def run_script(self, script: str, *arguments: str) -> str:
        """Return what a shell script prints, run by root; CalledProcessError if it fails.

        The script goes to standard input: unlike arguments, it does not appear in process lists or logs.
        """
        words = ["sudo", "sh", "-s", "--", *map(shlex.quote, arguments)]
        command = ["ssh", "-F", str(self.ssh_config), self.machine.name, *words]
        return subprocess.run(command, input=script, capture_output=True, text=True, check=True).stdout


class Machines:
    """The machines of a checkout. Vagrant controls their power; each method closes the connections that it breaks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / ".lab" / "vagrant.log"

    @property
    def topology(self) -> Topology:
        """The lab as it is now: provisioning may have moved it to the other broker, or added workers."""
        return Topology.load(self.root)

    @cached_property
    def ssh_config(self) -> Path:
        """Write the ssh-config of all machines and return its path. Connections are kept open and shared."""
        path, topology = self.root / ".lab" / "ssh-config", self.topology
        entries = [
            f"Host {name}\n  HostName {address}\n"
            f'  IdentityFile "{self.root}/.vagrant/machines/{name}/{topology.provider}/private_key"\n'
            for name, address in topology.hosts.items()
        ]
        common = (
            "Host *\n  User vagrant\n  IdentitiesOnly yes\n  LogLevel ERROR\n"
            f"  ConnectTimeout {topology.seconds(5)}\n"
            # A frozen machine keeps the shared connection open: without these a command never ends.
            f"  ServerAliveInterval {topology.seconds(3)}\n  ServerAliveCountMax 2\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
            f'  ControlMaster auto\n  ControlPath "{self._sockets}/%C"\n  ControlPersist 60\n'
        )
        path.write_text("".join([*entries, common]))
        return path

    @cached_property
    def _sockets(self) -> Path:
        """The folder of the sockets of this checkout and user; a socket's path must be short."""
        mine = hashlib.sha256(f"{os.getuid()} {self.root}".encode()).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"airflow-lab-{mine}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        return folder

    def up(self, name: str | None = None, **environment: str) -> None:
        """Bring a machine up, or all of them, and provision."""
        self.vagrant(**environment).up(vm_name=name)

    def provision(self, **environment: str) -> None:
        self.vagrant(**environment).provision()

    def reload(self, name: str) -> None:
        """Shut a machine down, bring it up again and provision."""
        self._disconnect(name)
        self.vagrant().reload(vm_name=name)

    def start_provision(self, **environment: str) -> subprocess.Popen[str]:
        """Start provisioning, and return the running command with its output in a pipe."""
        command = ["vagrant", "provision"]
        env = os.environ | environment
        return subprocess.Popen(command, env=env, cwd=self.root, stdout=PIPE, stderr=STDOUT, text=True)

    def halt(self, name: str | None = None, force: bool = False) -> None:
        """Shut a machine down, or all of them; with `force`, cut its power.

        Vagrant cuts no power: it asks the machine to shut down first, and kills it then (vagrant-libvirt 0.11, and its
        docker provider). What runs there may have closed its connections by then.
        """
        self._disconnect(name)
        if not force:
            self.vagrant().halt(vm_name=name)
            return
        for one in [name] if name else [machine.name for machine in self.topology.machines]:
            if self.state(one) in (RUNNING, FROZEN):
                self.hypervisor("cut", one)

    def destroy(self, name: str) -> None:
        self._disconnect(name)
        self.vagrant().destroy(vm_name=name)

    def status(self) -> dict[str, str]:
        """Return the state of each machine, in Vagrant's terms."""
        return {status.name: status.state for status in self.vagrant().status()}

    def guest(self, name: str) -> Guest:
        """Return access to a machine; KeyError if the lab has none of that name."""
        host = testinfra.get_host(
            f"ssh://{name}?ssh_config={quote(str(self.ssh_config))}&sudo=true&timeout={self.topology.seconds(10)}"
        )
        return Guest(self.topology[name], host, self.ssh_config)

    def state(self, name: str) -> str:
        """Return the state of a machine in its provider's terms; `absent` if it does not exist."""
        return self.hypervisor("state", name) if self._identity(name).exists() else ABSENT

    def snapshots(self) -> set[str]:
        """Return the names of all snapshots; UnsupportedError if the provider has none."""
        if self.topology.provider == "docker":
            raise UnsupportedError("no snapshots on docker: a container has no own disk. PROVIDER=libvirt has them")
        listed = self.vagrant().snapshot_list()
        return {line.strip() for line in listed if line.strip() and not line.startswith("==>")}

    def snapshot(self, label: str) -> None:
        """Shut all machines down, save their disks, and bring them up again."""
        self.halt()
        self.vagrant().snapshot_save(label)
        self.up()

    def restore(self, label: str) -> None:
        """Cut the power of all machines, and bring them up with the disks of a snapshot."""
        self.halt(force=True)
        self.vagrant().snapshot_restore(label)
        self.up()

    def hypervisor(self, verb: str, name: str) -> str:
        """Return what the provider's own command for `verb` prints; CalledProcessError if it fails.

        The verbs are those of `PROVIDERS`.
        """
        command = [*PROVIDERS[self.topology.provider][verb], self._identity(name).read_text()]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def _identity(self, name: str) -> Path:
        """Return the file in which Vagrant keeps the provider's identifier of a machine."""
        return self.root / ".vagrant" / "machines" / name / self.topology.provider / "id"

    def vagrant(self, **environment: str) -> vagrant.Vagrant:
        """Return Vagrant for this checkout; its output goes to `.lab/vagrant.log`."""
        output = vagrant.make_file_cm(str(self.log), mode="a")
        return vagrant.Vagrant(self.root, env=os.environ | environment, out_cm=output, err_cm=output)

    def _disconnect(self, name: str | None) -> None:
        """Close the shared connections to a machine, or to all."""
        for gone in [name] if name else [machine.name for machine in self.topology.machines]:
            subprocess.run(["ssh", "-F", str(self.ssh_config), "-O", "exit", gone], capture_output=True, check=False)
