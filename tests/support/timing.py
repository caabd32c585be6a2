"""When each test began, and how many seconds each test file took: .lab/durations.json, at the end of a run."""

from __future__ import annotations

import json
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support import ROOT

DURATIONS = ROOT / ".lab" / "durations.json"


class Timeline:
    """The tests of a run by the moment at which they began; moments are the host's, in seconds since 1970."""

    def __init__(self) -> None:
        self.began = time.time()
        self.tests: list[tuple[float, str]] = []

    def test_at(self, moment: float) -> str:
        """Returns the test that ran at a moment; empty before the first."""
        place = bisect(self.tests, (moment, "\uffff"))
        return self.tests[place - 1][1] if place else ""


TIMELINE = pytest.StashKey[Timeline]()
BEGAN = pytest.StashKey[float]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TIMELINE] = Timeline()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[BEGAN] = time.time()
    item.config.stash[TIMELINE].tests.append((item.stash[BEGAN], item.nodeid))
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Writes the seconds of each file that ran; those of other files stay as they were."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration  # type: ignore[assignment]
    if not seconds:
        return
    before = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    table = {path: took for path, took in before.items() if (ROOT / path).exists()}
    table |= {path: round(took, 1) for path, took in seconds.items()}
    DURATIONS.parent.mkdir(exist_ok=True)
    DURATIONS.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
