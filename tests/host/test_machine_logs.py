"""The scripts that read a machine's logs, run by the host's shell with stand-ins for systemd's commands."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support import failures, log_search, logs
from tests.support.commands import Commands

PANIC = "2025-11-25 12:00:00.000 UTC [77] PANIC:  could not write"


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    commands = Commands(tmp_path)
    commands.add("systemctl", "echo airflow-worker-1.service failed")
    commands.add("journalctl", "seq 300000")
    return commands


@pytest.fixture
def folders(tmp_path: Path) -> str:
    """Folders with a server's log, one that nobody has written to for a day, and a folder that is not there."""
    for name, text in {"postgresql": PANIC, "nginx": "idle", "rabbitmq": "started"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.log").write_text(text + "\n")
    (tmp_path / "nginx" / "access.log").write_text("GET /\n")
    yesterday = time.time() - 86400
    os.utime(tmp_path / "nginx" / "nginx.log", (yesterday, yesterday))
    return f"{tmp_path}/postgresql {tmp_path}/rabbitmq {tmp_path}/nginx {tmp_path}/airflow"


def test_logs_of_a_failure_end_with_the_journal_and_are_bounded(
    commands: Commands, folders: str, tmp_path: Path
) -> None:
    script = failures.JOURNALS.format(folders=folders, seconds=90, minutes=2, journal=1000, log=10_000)
    done = commands.run("sh", "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "airflow-worker-1.service failed" in done.stdout
    assert PANIC in done.stdout
    assert "GET /" in done.stdout
    assert "idle" not in done.stdout
    assert done.stdout.endswith("\n299999\n300000\n")
    assert len(done.stdout) < 3000
    assert "journalctl --no-pager --output=short-iso-precise --since=-90s" in commands.calls


def test_logs_of_a_run_are_understood(commands: Commands, folders: str, tmp_path: Path) -> None:
    entry = '{"MESSAGE":"BUG: soft lockup","__REALTIME_TIMESTAMP":"1764072000000000"}'
    commands.add("journalctl", f"echo '{entry}'")
    script = logs.LOGS.format(folders=folders, seconds=90, minutes=2)
    done = commands.run("sh", "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "sent").write_text(done.stdout)
    now = float(done.stdout.splitlines()[0])
    lines = [*logs.sent("broker", tmp_path / "sent", 0, now)]
    assert {line.unit for line in lines} == {"kernel", "postgresql.log", "rabbitmq.log"}
    assert [found.line for found in log_search.findings(lines)] == [
        "BUG: soft lockup",
        "# UTC [#] PANIC:  could not write",
    ]
