"""The seconds of each test file, and which test ran at a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import timing


def test_seconds_of_each_file_are_written(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    durations = tmp_path / ".lab" / "durations.json"
    monkeypatch.setattr(timing, "DURATIONS", durations)
    durations.parent.mkdir()
    # One that did not run this time, and one that is gone.
    durations.write_text('{"Makefile": 2.5, "tests/test_gone.py": 1.0}')
    fixture = "import time, pytest\n\n@pytest.fixture\ndef slow():\n    time.sleep(0.2)\n\n"
    pytester.makepyfile(test_one=fixture + "def test_a(slow):\n    pass\n\ndef test_b(slow):\n    assert 0\n")
    pytester.makepyfile(test_other="def test_c():\n    pass\n")
    pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "tests.support.timing")
    table = json.loads(durations.read_text())
    assert list(table) == ["Makefile", "test_one.py", "test_other.py"]
    assert table["Makefile"] == 2.5
    assert 0.4 <= table["test_one.py"] < 10


def test_test_at_a_moment_is_the_last_that_had_begun() -> None:
    timeline = timing.Timeline()
    timeline.tests = [(10.0, "a"), (20.0, "b")]
    assert [timeline.test_at(moment) for moment in (9.9, 10, 19, 20, 99)] == ["", "a", "a", "b", "b"]
