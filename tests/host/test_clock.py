"""The scripts that set a clock wrong and correct it, run on the host with stand-ins for the commands that set it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.faults import FAULTS, set_clock


class Clock:
    """A lab with one machine. Stand-ins record the commands that would set its clock."""

    def __init__(self, root: Path, time_factor: int) -> None:
        self.root = root
        self.ahead = 0
        self.time_factor = time_factor
        self.machines = self
        (root / "bin").mkdir()
        for name, script in {
            "date": 'case "$1" in --set=*) echo "set" >>"$LOG" ;; *) echo "$NOW" ;; esac',
            "systemctl": 'echo "$*" >>"$LOG"',
        }.items():
            (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (root / "bin" / name).chmod(0o755)

    def guest(self, _: str) -> Any:
        return SimpleNamespace(run_script=self.run_script)

    def seconds(self, count: float) -> float:
        return count * self.time_factor

    def run_script(self, script: str, *arguments: str) -> str:
        path = f"{self.root}/bin:{os.environ['PATH']}"
        environment = {"PATH": path, "LOG": str(self.root / "log"), "NOW": str(int(time.time()) + self.ahead)}
        words = [word.replace("/var/lib/airflow-lab", f"{self.root}/state") for word in arguments]
        command = ["sh", "-s", "--", *words]
        done = subprocess.run(command, input=script, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def done(self) -> Iterator[str]:
        """Yield the commands that were called on the clock since the last call."""
        yield from (self.root / "log").read_text().splitlines()
        (self.root / "log").write_text("")


@pytest.mark.parametrize("factor", [1, 8])
@pytest.mark.parametrize("ahead", [-120, -1, 0, 1, 12, 120])
def test_clock_that_was_set_wrong_is_always_corrected(tmp_path: Path, factor: int, ahead: int) -> None:
    clock: Any = Clock(tmp_path, factor)
    FAULTS["skew"].inject(clock, "worker1", str(ahead))
    assert [*clock.done()] == ["stop systemd-timesyncd", "set"]
    clock.ahead = ahead
    assert set_clock(clock, ["worker1"]) == ["worker1 on-time"]
    assert [*clock.done()] == ["set", "start systemd-timesyncd"]
    clock.ahead = 0
    assert set_clock(clock, ["worker1"]) == []
    assert [*clock.done()] == []


@pytest.mark.parametrize(
    ("factor", "ahead", "corrected"), [(1, 1, False), (1, 10, True), (8, 10, False), (8, -20, True)]
)
def test_drift_is_corrected_if_it_exceeds_the_error_of_measurement(
    tmp_path: Path, factor: int, ahead: int, corrected: bool
) -> None:
    clock: Any = Clock(tmp_path, factor)
    clock.ahead = ahead
    assert set_clock(clock, ["worker1"]) == ["worker1 on-time"] * corrected
