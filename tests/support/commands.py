"""Stand-ins for the host's commands: a test defines what each one does, and reads which ones were called."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support import ROOT


class Commands:
    """A folder of commands. Each writes its name and arguments to a log before it runs its script."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "bin", folder / "calls"
        self.folder.mkdir()

    def add(self, name: str, script: str = "") -> None:
        """Add a command; `script` is in POSIX shell."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.log}"\n{script}\n')
        path.chmod(0o755)

    def link(self, *names: str) -> None:
        """Add real commands of this host, for a PATH that contains nothing else."""
        for name in names:
            (self.folder / name).symlink_to(shutil.which(name) or name)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def run(
        self, *command: str, cwd: Path, alone: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with this folder first on PATH, or, with `alone`, with nothing else on it."""
        path = str(self.folder) if alone else f"{self.folder}:{os.environ['PATH']}"
        env = os.environ | {"PATH": path} | environment
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60)


def ruby(
    script: str, *words: str | Path, library: str = "lab", environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a Ruby script that can use a file of provision/host."""
    command = ["ruby", "-r", str(ROOT / "provision" / "host" / library), "-e", script, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
