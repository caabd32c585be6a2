"""What the machines have logged while the tests ran: no traceback and no bug but those that the tests provoke.

The journal of a machine that a test has destroyed is gone with it.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from lab.machines import Machines
from tests.support import ROOT
from tests.support.expected_logs import EXPECTED
from tests.support.log_search import describe, report, search
from tests.support.logs import lines_of_the_machines, lines_of_the_tasks
from tests.support.timing import TIMELINE

REPORT = ROOT / ".lab" / "log-search.txt"


def test_nothing_is_logged_that_no_test_provokes(
    machines: Machines, logs_since: float, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    test_at = pytestconfig.stash[TIMELINE].test_at
    of_machines = lines_of_the_machines(machines, logs_since, tmp_path)
    found = search(chain(of_machines, lines_of_the_tasks(machines.root, logs_since)), EXPECTED)
    REPORT.write_text(report(found, test_at))
    said = "\n".join(describe(group, test_at) for group in found.unexpected)
    assert not found.unexpected, (
        f"{len(found.unexpected)} tracebacks or bugs; in full: {REPORT.relative_to(ROOT)}\n{said}\n"
        "Fix what logs them. Where a test provokes one and it is harmless, add its line to "
        "tests/support/expected_logs.py, and search the same logs again: pytest tests/test_logs.py --logs-of MINUTES"
    )
