"""The script that sets a wrong clock right, run by the host's shell with stand-ins for what would set its clock."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.faults import FAULTS, mend
from lab.readme import as_shipped

LAB = as_shipped()


class Clock:
    """A machine on which nothing but its clock can go wrong: stand-ins write down what would set it."""

    def __init__(self, root: Path, time_factor: int) -> None:
        self.root = root
        self.ahead = 0
        self.topology = replace(LAB, time_factor=time_factor)
        (root / "bin").mkdir()
        for name, script in {
            "date": 'case "$1" in --set=*) echo "set" >>"$LOG" ;; *) echo "$NOW" ;; esac',
            "systemctl": 'case "$1" in show) echo active ;; *) echo "$*" >>"$LOG" ;; esac',
            "nft": "exit 1",
            "tc": "exit 1",
        }.items():
            (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (root / "bin" / name).chmod(0o755)

    def guest(self, _: str) -> Any:
        return SimpleNamespace(run_script=self.run_script)

    def run_script(self, script: str) -> str:
        path = f"{self.root}/bin:{os.environ['PATH']}"
        environment = {"PATH": path, "LOG": str(self.root / "log"), "NOW": str(int(time.time()) + self.ahead)}
        inside = script.replace("/var/lib/airflow-lab", f"{self.root}/state")
        done = subprocess.run(["sh", "-s"], input=inside, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def done(self) -> Iterator[str]:
        """Return what has been done to the clock since it was asked last."""
        yield from (self.root / "log").read_text().splitlines()
        (self.root / "log").write_text("")


@pytest.mark.parametrize("factor", [1, 8])
@pytest.mark.parametrize("ahead", [-120, -1, 0, 1, 12, 120])
def test_clock_that_was_made_wrong_is_put_right_however_little(tmp_path: Path, factor: int, ahead: int) -> None:
    clock: Any = Clock(tmp_path, factor)
    FAULTS["skew"].inject(clock, "worker1", str(ahead))
    assert [*clock.done()] == ["stop systemd-timesyncd", "set"]
    clock.ahead = ahead
    assert mend(clock, "worker1") == ["worker1 on-time"]
    assert [*clock.done()] == ["set", "start systemd-timesyncd"]
    clock.ahead = 0
    assert mend(clock, "worker1") == []
    assert [*clock.done()] == []


@pytest.mark.parametrize(
    ("factor", "ahead", "put_right"), [(1, 1, False), (1, 10, True), (8, 10, False), (8, -20, True)]
)
def test_clock_that_went_wrong_by_itself_is_put_right_beyond_what_asking_takes(
    tmp_path: Path, factor: int, ahead: int, put_right: bool
) -> None:
    clock: Any = Clock(tmp_path, factor)
    clock.ahead = ahead
    assert mend(clock, "worker1") == ["worker1 on-time"] * put_right
