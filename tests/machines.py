"""The machines as the tests reach them: power through Vagrant, everything inside through testinfra over SSH."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT

import testinfra
import vagrant
from testinfra.host import Host

from lab.topology import ROOT, Machine, Topology


@dataclass(frozen=True)
class Guest:
    """A machine of the topology and the way into it."""

    machine: Machine
    host: Host
    ssh_config: Path

    def run(self, command: str, *words: str) -> str:
        """Return what a command prints, root running it; AssertionError if it fails."""
        return self.host.check_output(command, *words)

    def run_script(self, script: str) -> str:
        """Return what a script prints that comes on standard input: arguments are seen and logged."""
        command = ["ssh", "-F", str(self.ssh_config), self.machine.name, "sudo", "sh", "-s"]
        return subprocess.run(command, input=script, capture_output=True, text=True, check=True).stdout


class Machines:
    """The machines of this checkout. Power verbs are Vagrant's own; each forgets the connections it makes stale."""

    def __init__(self, root: Path = ROOT) -> None:
        self.log = root / ".lab" / "tests.log"
        self.root = root
        self.folder = Path(tempfile.mkdtemp(prefix="airflow-lab-"))
        self.connect()

    def connect(self) -> None:
        """Write the one ssh-config that testinfra uses, for every machine that is running."""
        config = self.vagrant().ssh_config()
        shared = f"  ControlMaster auto\n  ControlPath {self.folder}/%C\n  ControlPersist 300\n"
        (self.folder / "ssh-config").write_text(config + f"\nHost *\n{shared}")

    def disconnect(self) -> None:
        """End the shared connections."""
        for socket in self.folder.glob("*"):
            if socket.name != "ssh-config":
                command = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "lab"]
                subprocess.run(command, capture_output=True, check=False)

    def vagrant(self, **environment: str) -> vagrant.Vagrant:
        """Return Vagrant in this checkout, its output going to `.lab/tests.log`."""
        output = vagrant.make_file_cm(str(self.log), mode="a")
        return vagrant.Vagrant(self.root, env=os.environ | environment, out_cm=output, err_cm=output)

    def up(self, name: str | None = None, **environment: str) -> None:
        self.disconnect()
        self.vagrant(**environment).up(vm_name=name)
        self.connect()

    def provision(self, **environment: str) -> None:
        self.vagrant(**environment).provision()

    def start_provision(self, **environment: str) -> subprocess.Popen[str]:
        """Begin to provision, and return the running command, its output in a pipe."""
        command = ["vagrant", "provision"]
        env = os.environ | environment
        return subprocess.Popen(command, env=env, cwd=self.root, stdout=PIPE, stderr=STDOUT, text=True)

    def halt(self, name: str, force: bool = False) -> None:
        self.disconnect()
        self.vagrant().halt(vm_name=name, force=force)

    def destroy(self, name: str) -> None:
        self.disconnect()
        self.vagrant().destroy(vm_name=name)

    def status(self) -> dict[str, str]:
        """Return the state of each machine that Vagrant knows."""
        return {status.name: status.state for status in self.vagrant().status()}

    def guest(self, name: str) -> Guest:
        host = testinfra.get_host(f"ssh://{name}?ssh_config={self.folder}/ssh-config&sudo=true&timeout=10")
        return Guest(Topology.load(self.root)[name], host, self.folder / "ssh-config")
