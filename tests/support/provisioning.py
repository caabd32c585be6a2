"""A changed setting, and a check of what provisioning reports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import ROOT


@contextmanager
def changed_setting() -> Iterator[None]:
    """Changes an option that every service of Airflow reads, and restores it."""
    settings = ROOT / "config" / "airflow.cfg.j2"
    before = settings.read_text()
    settings.write_text(before.replace("[core]\n", "[core]\nmax_active_runs_per_dag = 17\n", 1))
    try:
        yield
    finally:
        settings.write_text(before)


def check_unchanged(output: str) -> None:
    """Asserts that provisioning changed nothing, by its own count."""
    assert re.search(r"nothing to change \(\d\d+ steps", output), output
