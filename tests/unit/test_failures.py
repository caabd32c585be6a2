"""What is kept of a failure while some machines do not answer; and the failure of a test is always reported."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import failures, machine_logs, timing
from tests.support.shipped import SHIPPED

# What runs in the place of ssh.
ANSWERS = {
    "broker": "print('first line'); print('last line of broker')",
    "master1": "import sys; sys.exit('ssh: connect to host master1: No route to host')",
    "master2": "import sys; print(sys.stdin.read())",
    "worker1": "print('worker1 is frozen: it was asked nevertheless')",
    "worker2": "import time; time.sleep(60)",
}
STATES = dict.fromkeys(ANSWERS, "running") | {"worker1": "paused"}


@dataclass
class Kept:
    folder: Path
    sections: dict[str, str]
    seconds: float

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()


def collect(tmp_path: Path, patch: pytest.MonkeyPatch) -> Kept:
    """Keeps a failure of a lab with a frozen machine, one that does not answer and one that cannot be reached."""
    patch.setattr(failures, "WITHIN", 2)
    patch.setattr(machine_logs, "ssh", lambda _, name: [sys.executable, "-c", ANSWERS[name]])
    topology = replace(SHIPPED, provider="libvirt")
    machines: Any = SimpleNamespace(root=tmp_path, topology=topology, state=STATES.get, ssh_config=tmp_path)
    logs = tmp_path / "logs" / "dag_id=ledger"
    logs.mkdir(parents=True)
    (logs / "attempt=1.log").write_text("a" * failures.TASK_LOG + "the end")
    (logs / "earlier.log").write_text("of an earlier test")
    os.utime(logs / "earlier.log", (0, 0))
    folder = tmp_path / "failure"
    folder.mkdir()
    began = time.monotonic()
    sections = failures.collect(machines, folder, time.time() - 60)
    return Kept(folder, dict(sections), time.monotonic() - began)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with pytest.MonkeyPatch.context() as patch:
        yield collect(tmp_path_factory.mktemp("checkout"), patch)


def test_each_machine_has_a_file_whose_end_is_in_the_report(kept: Kept) -> None:
    assert {path.name for path in kept.folder.glob("*.log")} == {f"{name}.log" for name in ANSWERS}
    assert kept.text("broker.log") == "first line\nlast line of broker\n"
    assert kept.sections[f"end of {kept.folder}/broker.log"] == kept.text("broker.log").strip()


def test_journal_is_that_of_the_test_and_bounded(kept: Kept) -> None:
    asked = kept.text("master2.log")
    assert f"journalctl --no-pager --output=short-iso-precise --since=-{60 + failures.EARLIER + 1}s" in asked
    assert f"tail --bytes={failures.JOURNAL}" in asked
    assert " -mmin -2 " in asked


@pytest.mark.parametrize(
    ("machine", "note"),
    [
        ("worker1", "not collected: worker1 is paused"),
        ("worker2", "not collected: worker2 does not answer within 2 s"),
        ("master1", "not collected: master1: ssh: connect to host master1: No route to host"),
    ],
)
def test_machine_that_is_off_frozen_or_silent_is_noted_and_not_waited_for(kept: Kept, machine: str, note: str) -> None:
    assert kept.text(f"{machine}.log").strip() == note
    assert note in kept.sections[f"end of {kept.folder}/{machine}.log"]
    assert kept.seconds < 10


def test_task_logs_of_the_test_are_kept_from_their_end(kept: Kept) -> None:
    (copy,) = (path for path in (kept.folder / "task-logs").rglob("*") if path.is_file())
    assert copy == kept.folder / "task-logs" / "dag_id=ledger" / "attempt=1.log"
    assert len(copy.read_text()) == failures.TASK_LOG
    assert copy.read_text().endswith("the end")


def test_states_and_status_of_the_lab_are_kept(kept: Kept) -> None:
    assert json.loads(kept.text("machines.json")) == STATES
    assert "No module named" in kept.text("status.json")  # this folder does not have a lab


def test_what_cannot_be_asked_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such thing")

    for part in ("_status", "_states", "_task_logs"):
        monkeypatch.setattr(failures, part, fail)
    kept = collect(tmp_path, monkeypatch)
    assert kept.text("broker.log").endswith("last line of broker\n")
    for name in ("status.json", "machines.json", "task-logs.txt"):
        assert kept.text(name).strip() == "not collected: no such thing"


def test_job_that_never_ends_is_abandoned() -> None:
    began = time.monotonic()
    errors = machine_logs.in_parallel({"hangs": lambda: time.sleep(60), "ends": lambda: None}, within=0.2)
    assert time.monotonic() - began < 10
    assert {name: str(error) for name, error in errors.items()} == {"hangs": "no answer within 0.2 s"}


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        (
            "tests/test_machines.py::test_machine_bears_its_name[broker]",
            "test_machines.test_machine_bears_its_name-broker",
        ),
        ("tests/test_x.py::test_y[a b/../'c']", "test_x.test_y-a-b-..-c"),
        ("tests/faults/test_x.py::test_y", "faults-test_x.test_y"),
        (f"tests/test_x.py::test_{'y' * 300}", f"test_x.test_{'y' * 108}"),
    ],
)
def test_folder_of_a_test_needs_no_quotes(nodeid: str, name: str) -> None:
    assert failures.folder_of(nodeid) == name


# The hooks, in a run of pytest inside this one

Collect = Callable[[Any, Path, float], list[tuple[str, str]]]


@dataclass
class Run:
    """A run of pytest with the hooks; `collect` is called in the place of failures.collect."""

    pytester: pytest.Pytester
    patch: pytest.MonkeyPatch
    folder: Path

    def __call__(
        self, source: str, collect: Collect = lambda *_: [("end of broker.log", "last line of broker")]
    ) -> Any:
        self.patch.setattr(failures, "collect", collect)
        self.pytester.makepyfile(test_lab=source)
        plugins = ("tests.support.timing", "tests.support.failures")
        return self.pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", *[word for plugin in plugins for word in ("-p", plugin)]
        )

    @property
    def kept(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setattr(timing, "DURATIONS", tmp_path / "durations.json")
    monkeypatch.setattr(failures, "FAILURES", tmp_path / "failures")
    return Run(pytester, monkeypatch, tmp_path / "failures")


FAILS = "def test_a():\n    assert 1 + 1 == 3\n\ndef test_b():\n    pass\n"


def test_failure_is_kept_shown_and_named_in_the_last_lines(run: Run) -> None:
    result = run(FAILS)
    result.assert_outcomes(failed=1, passed=1)
    assert run.kept == ["test_lab.test_a"]
    assert "assert (1 + 1) == 3" in (run.folder / "test_lab.test_a" / "failure.txt").read_text()
    result.stdout.fnmatch_lines(["*end of broker.log*", "last line of broker"])
    assert str(run.folder) in result.outlines[-2]
    assert result.outlines[-1] == f"  {run.folder}/test_lab.test_a"
    assert run.folder.stat().st_mode & 0o777 == 0o700


def test_failure_of_collecting_does_not_hide_the_tests_own(run: Run) -> None:
    def fail(*_: object) -> list[tuple[str, str]]:
        raise OSError("no room")

    result = run(FAILS, fail)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["E*assert (1 + 1) == 3", "*not kept: OSError('no room')*"])
    assert run.kept == ["test_lab.test_a"]


def test_run_without_a_failure_keeps_nothing_and_removes_what_was_kept(run: Run) -> None:
    (run.folder / "test_lab.test_old").mkdir(parents=True)
    result = run("def test_b():\n    pass\n")
    result.assert_outcomes(passed=1)
    assert run.kept == []
    assert str(run.folder) not in str(result.stdout)


def test_run_of_tests_without_the_lab_removes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.folder / "test_lab.test_old").mkdir(parents=True)
    monkeypatch.setattr(failures, "WITHOUT_LAB", (run.pytester.path,))
    run(FAILS).assert_outcomes(failed=1, passed=1)
    assert run.kept == ["test_lab.test_old"]


def test_teardown_that_fails_too_has_a_folder_in_that_of_its_test(run: Run) -> None:
    fixture = "import pytest\n\n@pytest.fixture\ndef lab():\n    yield\n    assert 0, 'unhealthy'\n\n"
    run(fixture + "def test_a(lab):\n    assert 0, 'wrong'\n").assert_outcomes(failed=1, errors=1)
    assert "wrong" in (run.folder / "test_lab.test_a" / "failure.txt").read_text()
    assert "unhealthy" in (run.folder / "test_lab.test_a" / "teardown" / "failure.txt").read_text()


def test_tests_whose_folders_have_one_name_are_kept_apart(run: Run) -> None:
    source = "import pytest\n\n@pytest.mark.parametrize('x', ['a b', 'a/b'])\ndef test_a(x):\n    assert 0\n"
    run(source).assert_outcomes(failed=2)
    assert run.kept == ["test_lab.test_a-a-b", "test_lab.test_a-a-b-2"]


def test_number_of_failures_that_are_kept_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "KEPT", 2)
    source = "import pytest\n\n@pytest.mark.parametrize('x', range(4))\ndef test_a(x):\n    assert 0\n"
    result = run(source)
    result.assert_outcomes(failed=4)
    assert len(run.kept) == 2
    result.stdout.fnmatch_lines(["*not kept: * has those of 2 failures"])
