"""Code that several test files share is in tests/support: no test file is imported."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from tests.support import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))


def imported(source: str) -> set[str]:
    """Returns the modules that a file imports, and the names that it imports from them as if they were modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module} | {f"{module.rstrip('.')}.{alias.name}" for alias in node.names}
    return found


def of_a_test_file(modules: set[str]) -> set[str]:
    return {name for name in modules if re.search(r"^(tests\b.*)?\.(\w+\.)*(test_\w+|conftest)$", name)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_no_file_imports_a_test_file(path: Path) -> None:
    assert of_a_test_file(imported(path.read_text())) == set()


@pytest.mark.parametrize(
    "line",
    [
        "from tests.test_broker import depth",
        "from tests.unit.test_judge import entry",
        "from tests import test_broker",
        "import tests.test_broker as broker",
        "from .test_broker import depth",
        "from . import test_broker",
        "from tests.conftest import BROKERS",
    ],
)
def test_import_of_a_test_file_is_found(line: str) -> None:
    assert of_a_test_file(imported(line)) != set()


@pytest.mark.parametrize("line", ["from tests.support.brokers import on_redis", "from lab.judge import test_it"])
def test_other_imports_are_allowed(line: str) -> None:
    assert of_a_test_file(imported(line)) == set()


def test_unit_tests_find_no_command() -> None:
    assert shutil.which("sh") is None
