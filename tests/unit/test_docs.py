"""What the documentation refers to exists: links, headings, files, make targets, commands, faults, drills, timings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from lab import cli
from lab.drills import DRILLS
from lab.faults import FAULTS
from tests.support import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "|".join(["bin", "config", "dags", "docs", "lab", "nix", "provision", "tests"])
CODE = re.compile(r"\.(?:py|rb|sh|nix|j2|lock|toml)$")
LINK = re.compile(r"\[(?:[^\]\[]|`[^`]*`)*\]\(([^)\s]+)\)")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


@pytest.fixture(params=PAGES, ids=names(PAGES))
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return [link for link in LINK.findall(prose(page)) if not link.startswith(("https://", "http://"))]


def spans(page: Path) -> list[str]:
    """Return the text between backticks on a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: Path) -> str:
    """Return the code of a page: its blocks, and the text between backticks, one per line."""
    blocks = re.findall(r"^ *```$(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *spans(page)])


def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_files_that_a_page_names_exist(page: Path) -> None:
    for word in commands(page).split():
        path = word.strip("'\",;:()").partition("<")[0]  # provision/roles/<role>/
        if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", path):
            assert (ROOT / path).exists(), word
        elif re.fullmatch(r"\w[\w.-]*", path) and CODE.search(path):
            assert (ROOT / path).exists() or in_a_folder(path), word


def in_a_folder(name: str) -> bool:
    """Return whether a file of the project has this name."""
    return any(found for folder in FOLDERS.split("|") for found in (ROOT / folder).rglob(name))


def test_code_in_the_text_is_not_split_over_lines(page: Path) -> None:
    assert not [line for line in prose(page).splitlines() if line.count("`") % 2]


def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z ]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {target for line in targets for target in line.split()}
    assert set(re.findall(r"(?:^|[\s`])make ([a-z]+)", commands(page), re.MULTILINE)) <= known


def test_commands_of_lab_that_a_page_names_exist(page: Path) -> None:
    known = get_command(cli.app).commands  # type: ignore[attr-defined]
    code = commands(page)
    assert set(re.findall(r"bin/lab ([a-z]+)", code)) <= known.keys()
    assert set(re.findall(r"bin/lab fault ([a-z]+)", code)) <= FAULTS.keys()
    for words in re.findall(r"bin/lab drill ((?:[a-z][a-z-]+ ?)+)", code):
        assert set(words.split()) <= {*DRILLS, "all"}, words


def test_every_page_is_linked_from_the_readme() -> None:
    found = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert {*PAGES, *(ROOT / "docs").iterdir()} <= found | {ROOT / "README.md"}


def test_timings_of_the_documentation_are_those_of_lab_json() -> None:
    profiles = json.loads((ROOT / "config/lab.json").read_text())["timing_profiles"]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (\d+) \| (\d+) \|$", (ROOT / "docs/failures.md").read_text(), re.MULTILINE)
    assert {key: int(fast) for key, fast, _ in rows} == profiles["fast"]
    assert {key: int(stock) for key, _, stock in rows} == profiles["stock"]


def test_every_file_of_tests_is_described() -> None:
    rows = re.findall(
        r"^\| `(tests/[\w/]+\.py)` \| (?:\d+|\?) \| .", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    assert sorted(rows) == files
