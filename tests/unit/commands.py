"""Stand-ins for the host's commands: tests of what runs on the host say what each answers, and read who was called."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lab.topology import ROOT


def missing(name: str) -> FileNotFoundError:
    """Return the error of a call of a command that this host lacks: `--skip-missing` skips the test for it."""
    return FileNotFoundError(errno.ENOENT, "missing", name)


def found(name: str) -> str:
    """Return the path of a command of this host; FileNotFoundError if it lacks it."""
    path = shutil.which(name)
    if path is None:
        raise missing(name)
    return path


class Commands:
    """A folder of commands; each writes its name and words to a log before it does as it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "bin", folder / "calls"
        self.folder.mkdir()

    def add(self, name: str, script: str = "") -> None:
        """Add a command; `script` is in POSIX shell."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.log}"\n{script}\n')
        path.chmod(0o755)

    def link(self, *names: str) -> None:
        """Add commands of this host as they are, for a PATH that has nothing else."""
        for name in names:
            (self.folder / name).symlink_to(found(name))

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def run(
        self, *command: str, cwd: Path, alone: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with these before the host's own, or, `alone`, without the host's."""
        path = str(self.folder) if alone else f"{self.folder}:{os.environ['PATH']}"
        env = os.environ | {"PATH": path} | environment
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60)


def ruby(
    script: str, *words: str | Path, library: str = "lab", environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a script with a file of provision/host."""
    command = ["ruby", "-r", str(ROOT / "provision" / "host" / library), "-e", script, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
