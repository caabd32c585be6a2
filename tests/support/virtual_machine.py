"""The broker as a virtual machine, in a copy of the checkout with another network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from lab import faults
from lab.checkout import Lab
from tests.support import ROOT
from tests.support.checkout import use_network

LEFT_OUT = shutil.ignore_patterns(".git", ".lab", ".vagrant", ".venv", "logs", ".*_cache", "__pycache__")
BOX, BOX_AGAIN = ".lab/box/airflow-lab.box", ".lab/box-again/airflow-lab.box"
KVM = ".lab/kvm"
WITHIN = 45 * 60  # seconds; other tests run at the same time. Without them, an emulated machine takes a quarter of it


class VirtualMachine:
    """The machine. It is brought up in the background at the lowest priority, and suspended until its tests run."""

    def __init__(self, build_box_again: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="airflow-lab-"))
        self.root.chmod(0o755)
        shutil.copytree(ROOT, self.root, ignore=LEFT_OUT, dirs_exist_ok=True)
        use_network(self.root, "192.168.58")
        self.log = ROOT / ".lab" / "virtual-machine.log"
        if (ROOT / KVM).exists():
            (self.root / KVM).parent.mkdir()
            (self.root / KVM).touch()
        steps = [
            "sh provision/images/add-box.sh",
            "vagrant up broker",
            "vagrant suspend broker",
        ]
        if build_box_again:
            steps.append(f"sh provision/images/box.sh {Path(BOX_AGAIN).parent}")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["nice", "-n", "19", "sh", "-c", " && ".join(steps)],
                cwd=self.root,
                env=os.environ | {"PROVIDER": "libvirt"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def resume(self) -> Lab:
        """Return its lab when it runs; AssertionError, with the end of the log, if it cannot be brought up."""
        assert self.process.wait(WITHIN) == 0, self.log.read_text()[-2000:]
        lab = Lab(self.root)
        faults.heal(lab, ["broker"])  # thaws it; its clock stood still
        return lab

    def remove(self) -> None:
        """Remove everything of it except the box."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(60)
        subprocess.run(["vagrant", "destroy", "--force"], cwd=self.root, capture_output=True, check=False)
        shutil.rmtree(self.root, ignore_errors=True)


RUNNING = pytest.StashKey[VirtualMachine]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Starts the virtual machine, which takes longest, before the first test; its tests run last."""
    wanted = any("virtual_machine" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        again = any(item.get_closest_marker("thorough") for item in session.items)
        session.config.stash[RUNNING] = VirtualMachine(build_box_again=again)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if RUNNING in session.config.stash:
        session.config.stash[RUNNING].remove()


@pytest.fixture(scope="session")
def virtual_machine(request: pytest.FixtureRequest) -> VirtualMachine:
    return request.config.stash[RUNNING]
