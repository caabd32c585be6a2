"""Keeps what a failure needs to be understood, in .lab/failures/<test>/: it is there when the lab has gone on.

After a failed test of the lab: what each machine has logged since the test began (one file a machine), the task logs
written since then, `lab status --json`, the states of the machines, and the failure itself. The last lines of each
machine are in the test's report too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.machines import Machines
from tests.support import ROOT, machine_logs
from tests.support.timing import BEGAN

FAILURES = ROOT / ".lab" / "failures"
WITHOUT_LAB = (ROOT / "tests" / "unit", ROOT / "tests" / "host")
KEPT = 20  # failures a run: a lab that has broken down fails every test that follows
WITHIN = 30  # seconds that each part has, times the lab's factor
EARLIER = 5  # seconds before the beginning of a test that are kept too
JOURNAL, LOG = 1_000_000, 200_000  # bytes a machine, from the end
TASK_LOGS, TASK_LOG = 200, 100_000  # files, and bytes of each, from the end
TAIL = 20  # lines of each machine in the report
JOURNALS = """
echo '== failed units'
systemctl --failed --plain --no-legend --no-pager
echo '== logs of servers, the last 200 lines of each'
find {folders} -name '*.log' -mmin -{minutes} -exec tail --verbose --lines=200 {{}} + 2>/dev/null | tail --bytes={log}
echo '== journal'
journalctl --no-pager --output=short-iso-precise --since=-{seconds}s | tail --bytes={journal}
"""

Section = tuple[str, str]
FOLDERS = pytest.StashKey[dict[str, Path]]()


def collect(machines: Machines, folder: Path, began: float) -> list[Section]:
    """Writes all that is known of the lab since `began` to a folder and returns the end of each machine's logs.

    What could not be collected is noted in its file.
    """
    topology = machines.topology
    within, since = topology.seconds(WITHIN), began - EARLIER
    files = {machine.name: folder / f"{machine.name}.log" for machine in topology.machines}
    reading = machine_logs.jobs(machines, JOURNALS, files, since, within, journal=JOURNAL, log=LOG)
    jobs: dict[str, Callable[[], None]] = {files[name].name: job for name, job in reading.items()}
    jobs["status.json"] = partial(_status, machines, folder / "status.json", within)
    jobs["machines.json"] = partial(_states, machines, folder / "machines.json", within)
    jobs["task-logs"] = partial(_task_logs, machines.root / "logs", folder / "task-logs", since)
    for name, error in machine_logs.in_parallel(jobs, within + 5).items():
        note = folder / (name if Path(name).suffix else f"{name}.txt")
        with note.open("a") as file:
            file.write(f"\nnot collected: {error}\n")
    return [(f"end of {_shown(file)}", _tail(file)) for file in files.values()]


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-TAIL:])


def _status(machines: Machines, to: Path, within: float) -> None:
    command = [sys.executable, "-m", "lab.cli", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within, cwd=machines.root)
    to.write_text(done.stdout + done.stderr)


def _states(machines: Machines, to: Path, within: float) -> None:
    """Writes the state of each machine as its provider has it; a container's with its exit code and the like."""
    found: dict[str, Any] = {}
    for machine in machines.topology.machines:
        try:
            found[machine.name] = machines.state(machine.name)
        except (OSError, subprocess.CalledProcessError) as error:
            found[machine.name] = f"unknown: {error}"
    to.write_text(json.dumps(found, indent=2))
    if machines.topology.provider == "docker":
        ids = [path.read_text() for path in (machines.root / ".vagrant" / "machines").glob("*/docker/id")]
        show = ["docker", "inspect", "--format", '{"{{.Config.Hostname}}": {{json .State}}}', *ids]
        done = subprocess.run(show, capture_output=True, text=True, timeout=within)
        for line in done.stdout.splitlines():
            found |= json.loads(line)
        to.write_text(json.dumps(found, indent=2))


def _task_logs(logs: Path, to: Path, since: float) -> None:
    """Copies the ends of the newest task logs that were written to after `since`."""
    found: list[tuple[float, Path]] = []
    for path in logs.rglob("*.log"):
        with suppress(OSError):
            if path.is_file() and (written := path.stat().st_mtime) >= since:
                found.append((written, path))
    for _, path in sorted(found, reverse=True)[:TASK_LOGS]:
        copy = to / path.relative_to(logs)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source:
            source.seek(-min(TASK_LOG, source.seek(0, os.SEEK_END)), os.SEEK_END)
            copy.write_bytes(source.read())
    if (left := len(found) - TASK_LOGS) > 0:
        (to / "README").write_text(f"{left} task logs that were written earlier are not kept\n")


def folder_of(nodeid: str) -> str:
    """Returns the name of a test's folder: one that needs no quotes in a shell."""
    name = nodeid.removeprefix("tests/").replace(".py::", ".")
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:120]


def uses_lab(item: pytest.Item) -> bool:
    return not any(item.path.is_relative_to(folder) for folder in WITHOUT_LAB)


def keep(item: pytest.Item, report: pytest.TestReport) -> list[Section]:
    """Keeps what a failure needs to be understood and returns what its report shows of it."""
    kept = item.config.stash[FOLDERS]
    if item.nodeid in kept:  # the call has failed, and then its teardown
        folder = kept[item.nodeid] / report.when
    elif len(kept) < KEPT:
        name = folder_of(item.nodeid)
        same = sum(other.name.startswith(name) for other in kept.values())
        folder = kept[item.nodeid] = FAILURES / (f"{name}-{same + 1}" if same else name)
    else:
        return [("logs of the machines", f"not kept: {_shown(FAILURES)} has those of {KEPT} failures")]
    try:
        folder.mkdir(parents=True)
        FAILURES.chmod(0o700)
        (folder / "failure.txt").write_text(f"{item.nodeid}: {report.when}\n\n{report.longreprtext[-LOG:]}\n")
        machines = getattr(item, "funcargs", {}).get("machines")
        machines = machines if isinstance(machines, Machines) else Machines(ROOT)
        return collect(machines, folder, item.stash[BEGAN])
    except Exception as error:  # whatever it is: the failure of the test is what matters
        return [("logs of the machines", f"not kept: {error!r}")]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FOLDERS] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    if any(map(uses_lab, session.items)) and not session.config.option.collectonly:
        shutil.rmtree(FAILURES, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if report.failed and uses_lab(item):
        report.sections += keep(item, report)
    return report


# Around the terminal's own: the summary comes before.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    result = yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and (kept := session.config.stash[FOLDERS]):
        terminal.write_line(f"logs, task logs and states of the lab at {len(kept)} failures: {_shown(FAILURES)}/")
        for folder in list(kept.values())[:5]:
            terminal.write_line(f"  {_shown(folder)}")
    return result
