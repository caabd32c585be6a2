"""Reads all that the machines and the tasks have logged in a run of the tests, for tests/test_logs.py."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from lab.machines import Machines
from tests.support import log_search, machine_logs
from tests.support.log_search import Line
from tests.support.timing import TIMELINE

WITHIN = 120  # seconds that a machine has to send its logs, times the lab's factor
# The machine's time; the journal in JSON; the log files that were written to.
LOGS = """
date +%s.%N
journalctl --output=json --all --output-fields=MESSAGE,UNIT,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER,_PID --since=-{seconds}s
find {folders} -name '*.log' ! -name access.log -mmin -{minutes} -exec tail --verbose --lines=+1 {{}} + 2>/dev/null
true
"""


def lines_of_the_machines(machines: Machines, since: float, folder: Path) -> Iterator[Line]:
    """Returns what all machines have logged since a moment; AssertionError if the logs of one cannot be read.

    The logs pass through files in `folder`. Moments are the host's.
    """
    within = machines.topology.seconds(WITHIN)
    files = {machine.name: folder / machine.name for machine in machines.topology.machines}
    jobs = machine_logs.jobs(machines, LOGS, files, since, within)
    began = time.time()
    errors = machine_logs.in_parallel(jobs, within + 5)
    assert not errors, {name: str(error) for name, error in errors.items()}
    for name, file in files.items():
        yield from sent(name, file, since, began)
        file.unlink()


def sent(machine: str, file: Path, since: float, began: float) -> Iterator[Line]:
    """Returns the lines in what a machine has sent; its clock is ahead by what it says of the time at `began`."""
    with file.open(errors="replace") as stream:
        lines = (line.removesuffix("\n") for line in stream)
        ahead = float(next(lines)) - began
        ahead = ahead if abs(ahead) > 5 else 0.0  # less is what asking takes
        rest: list[str] = []

        def entries() -> Iterator[str]:
            for line in lines:
                if not line.startswith("{"):
                    rest.append(line)
                    return
                yield line

        for line in log_search.journal(machine, entries()):
            yield Line(line.machine, line.unit, line.process, line.moment - ahead, line.text)
        for line in log_search.files(machine, (one for part in (rest, lines) for one in part), since + ahead):
            yield Line(line.machine, line.unit, line.process, line.moment - ahead, line.text)


def lines_of_the_tasks(root: Path, since: float) -> Iterator[Line]:
    """Returns what the tasks have logged since a moment: JSON, in files that all machines and the host share."""
    for path in sorted((root / "logs").rglob("*.log")):
        with suppress(OSError):
            if path.stat().st_mtime < since:
                continue
            for text in path.read_text(errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    moment = datetime.fromisoformat(json.loads(text)["timestamp"]).timestamp()
                    if moment >= since:
                        yield Line("logs", "task", str(path), moment, text)


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "tests/test_logs.py searches the logs of so many minutes, instead of those of this run"
    parser.addoption("--logs-of", type=float, metavar="MINUTES", help=help_)


@pytest.fixture
def logs_since(pytestconfig: pytest.Config) -> float:
    minutes = pytestconfig.getoption("--logs-of")
    return time.time() - 60 * minutes if minutes else pytestconfig.stash[TIMELINE].began
