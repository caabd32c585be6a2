"""The README is true where it can be computed."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

from lab.drills import DRILLS
from lab.readme import as_shipped, machines, put
from lab.topology import ROOT

README = (ROOT / "README.md").read_text()


def test_table_of_machines_is_current() -> None:
    assert put(README, "machines", machines(as_shipped())) == README, "run: make format"


def test_table_of_machines_follows_the_topology() -> None:
    lab = as_shipped()
    moved = replace(lab, machines=(replace(lab.machines[0], address="192.168.56.99"), *lab.machines[1:]))
    assert "| broker | 192.168.56.99 |" in put(README, "machines", machines(moved))


def test_table_of_drills_has_each() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE) == list(DRILLS)


def test_make_targets_that_it_names_exist() -> None:
    lines = re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in lines for target in line.split()}
    assert set(re.findall(r"`make ([a-z]+)`", README)) <= targets


def test_files_that_it_names_exist() -> None:
    for path in re.findall(r"`((?:config|dags|provision|lab|tests|bin)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path


def test_suite_runs_every_file_of_tests() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    files = {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py")}
    assert set(settings["testpaths"]) == files | {"tests/unit"}
