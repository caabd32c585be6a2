"""The generated tables of the documentation are current."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from lab.drills import DRILLS, Drill
from lab.generate import DRILLED, FAILURES, README, drills, faults, kept, machines, put, recorded
from tests.support import ROOT
from tests.support.shipped import SHIPPED

LONGEST = 150  # lines that README.md may have: the rest belongs in docs/


def test_table_of_machines_is_current() -> None:
    text = README.read_text()
    assert put(text, "machines", machines(SHIPPED)) == text, "run: make format"


def test_table_of_machines_follows_the_topology() -> None:
    broker, *others = SHIPPED.machines
    moved = replace(SHIPPED, machines=(replace(broker, address="192.168.56.99"), *others))
    assert "| broker | 192.168.56.99 |" in put(README.read_text(), "machines", machines(moved))


def test_table_of_faults_is_current() -> None:
    text = FAILURES.read_text()
    assert put(text, "faults", faults()) == text, "run: make format"


@pytest.mark.parametrize("layout", DRILLED)
def test_table_of_drills_is_current(layout: str) -> None:
    text = DRILLED[layout].read_text()
    assert put(text, "drills", drills(layout, *kept(text))) == text, "run: make format"


def test_new_drill_has_not_been_run(monkeypatch: pytest.MonkeyPatch) -> None:
    results, note = kept(FAILURES.read_text())
    monkeypatch.setitem(DRILLS, "moon", Drill("the moon is full", "crash"))
    table = drills("single", results, note)
    assert "| `moon` | the moon is full | not run | not run |" in table
    assert f"| `worker-crash` | a worker loses power | {results['worker-crash', 'redis']} |" in table


def test_table_of_a_layout_has_no_drill_that_needs_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DRILLS, "moon", Drill("the moon is full", "crash", layout="ha"))
    assert "`moon`" in drills("ha", {}, "")
    assert "`moon`" not in drills("single", {}, "")


def test_table_of_drills_is_made_from_the_records_of_its_layout(tmp_path: Path) -> None:
    for number, (passed, seconds) in enumerate([(True, 20.0), (True, 24.0), (False, None)]):
        gaps = {"recovery": seconds, "write_gap": 0.5, "page_gap": None}
        record = {"name": "worker-crash", "layout": "single", "broker": "redis", "passed": passed} | gaps
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "verdict.json").write_text(json.dumps(record | {"started": f"2026-11-2{number}T10:00:00+00:00"}))
    table = drills("single", *recorded(tmp_path, "single"))
    assert "| `worker-crash` | a worker loses power | 2 of 3: 22.0 / 0.5 / - s | not run |" in table
    assert table.endswith("\n3 runs, recorded from 2026-11-20 to 2026-11-22.\n")
    assert recorded(tmp_path, "ha") == ({}, "0 runs.")


@pytest.mark.parametrize("text", ["", "<!-- machines -->\n", 2 * "<!-- machines -->\n<!-- /machines -->\n"])
def test_text_without_the_marks_of_a_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="machines"):
        put(text, "machines", "a table")


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST


def test_suite_runs_every_file_of_tests() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    files = {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py")}
    assert set(settings["testpaths"]) == files | {"tests/unit", "tests/host"}
