"""The project as Python tools see it: what pyproject.toml declares, its locks, its environments and its checks."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT
from tests.support.commands import Commands

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {room: (ROOT / room / "requirements.lock").read_text() for room in ("config", "lab", "provision", "tests")}
# Modules that another package than that of their name has.
PACKAGE = {
    "amqp": "celery",
    "kombu": "celery",
    "redis": "celery",  # celery[redis]
    "testinfra": "pytest-testinfra",
    "vagrant": "python-vagrant",
}


def name(requirement: str) -> str:
    return re.split(r"[\[<=>~!;\s]", requirement)[0]


def pinned(lock: str) -> dict[str, str]:
    """Return the version of each package of a lock."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))


def imported(path: Path) -> set[str]:
    """Return the modules that a file of lab/ imports, but for those of Python and of the project."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {module.split(".")[0] for module in names} - set(sys.stdlib_module_names) - {"lab"}


# pyproject.toml and the locks


def test_command_imports_what_the_project_depends_on_and_nothing_else() -> None:
    modules = set().union(*(imported(path) for path in (ROOT / "lab").glob("*.py")))
    declared = {name(requirement) for requirement in PROJECT["project"]["dependencies"]}
    assert {PACKAGE.get(module, module) for module in modules} == declared


def test_command_needs_no_airflow() -> None:
    assert not [package for package in pinned(LOCKS["lab"]) if "airflow" in package]


@pytest.mark.parametrize("room", LOCKS)
def test_lock_has_a_hash_for_each_package_and_no_address(room: str) -> None:
    entries = re.split(r"^(?=[\w.-]+==)", LOCKS[room], flags=re.MULTILINE)[1:]
    assert entries
    assert not [entry for entry in entries if "--hash=sha256:" not in entry]
    assert "://" not in LOCKS[room]
    assert "--index" not in LOCKS[room]


def test_locks_that_are_installed_together_agree() -> None:
    versions: dict[str, set[str]] = {}
    for room in ("config", "lab", "tests"):
        for package, version in pinned(LOCKS[room]).items():
            versions.setdefault(package, set()).add(version)
    assert not {package: both for package, both in versions.items() if len(both) > 1}
    assert set(pinned(LOCKS["lab"])) <= set(pinned(LOCKS["tests"]))


@pytest.mark.parametrize(
    ("room", "groups"), [("lab", []), ("provision", ["provisioning"]), ("tests", ["provisioning", "tests", "lint"])]
)
def test_lock_has_what_pyproject_declares(room: str, groups: list[str]) -> None:
    wanted = [] if room == "provision" else PROJECT["project"]["dependencies"]
    for group in groups:
        wanted = wanted + [entry for entry in PROJECT["dependency-groups"][group] if isinstance(entry, str)]
    assert {name(requirement).lower() for requirement in wanted} <= set(pinned(LOCKS[room]))


# The command, installed


def installed(tmp_path: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `lab` from a copy of the package that is in no checkout."""
    if not (tmp_path / "site").exists():
        shutil.copytree(ROOT / "lab", tmp_path / "site" / "lab")
    command = [sys.executable, "-c", "from lab.cli import app; app(prog_name='lab')", *words]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_command_outside_a_checkout_says_so(tmp_path: Path) -> None:
    assert installed(tmp_path, tmp_path, "--help").returncode == 0
    done = installed(tmp_path, tmp_path, "status")
    assert done.returncode == 2
    assert done.stderr == f"lab: {tmp_path} is not in a checkout of airflow-lab. Next: cd to one\n"


def test_command_finds_the_checkout_that_the_caller_is_in(tmp_path: Path) -> None:
    (tmp_path / "checkout" / "dags").mkdir(parents=True)
    shutil.copytree(ROOT / "config", tmp_path / "checkout" / "config")
    done = installed(tmp_path, tmp_path / "checkout" / "dags", "status")
    assert done.stderr == "lab: this checkout does not have a lab. Next: make up\n"


# environment.sh


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """A host whose python3 makes environments that have a pip and a uv."""
    commands = Commands(tmp_path)
    install = f'for name in pip uv; do ln -s "{commands.folder}/$name" "$folder/bin/$name"; done'
    make = f'for folder; do :; done; mkdir -p "$folder/bin" "$folder/lib/python3.11/site-packages"; {install}'
    version = "exit ${OLD:-0}"
    commands.add("python3", f"case $* in *version_info*) {version} ;; *venv*) {make} ;; *) echo Python 3.9.2 ;; esac")
    commands.add("pip", "exit ${OFFLINE:-0}")
    commands.add("uv")
    (tmp_path / "nix").mkdir()
    shutil.copy(ROOT / "nix/libraries.pth", tmp_path / "nix")
    for lock in ("one.lock", "two.lock"):
        (tmp_path / lock).write_text(f"{lock}==1\n")
        os.utime(tmp_path / lock, (0, 0))
    return commands


def environment(commands: Commands, *locks: str, **variables: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "provision/host/environment.sh")
    return commands.run("sh", script, "venv", *locks, cwd=commands.folder.parent, alone=False, **variables)


def test_environment_is_made_from_its_lock_and_says_so(commands: Commands, tmp_path: Path) -> None:
    done = environment(commands, "one.lock")
    assert done.returncode == 0, done.stderr
    assert "installing 1 packages of one.lock in venv" in done.stderr
    assert re.search(r"venv is complete, after \d+ s", done.stderr)
    assert done.stdout == "", "lab status --json writes there"
    assert [call for call in commands.calls if re.match(r"pip install .*--require-hashes --requirement one.lock", call)]
    assert (tmp_path / "venv/installed").exists()
    assert (tmp_path / "venv/lib/python3.11/site-packages/libraries.pth").exists()


def test_environment_that_another_call_has_made_is_not_made_again(commands: Commands) -> None:
    environment(commands, "one.lock")
    assert environment(commands, "one.lock").returncode == 0
    assert len([call for call in commands.calls if call.startswith("pip")]) == 1


def test_more_locks_are_installed_together_by_uv(commands: Commands) -> None:
    environment(commands, "one.lock", "two.lock").check_returncode()
    assert commands.calls[-1].startswith("uv pip sync ")
    assert commands.calls[-1].endswith(" one.lock two.lock")


def test_environment_that_could_not_be_made_is_made_again(commands: Commands, tmp_path: Path) -> None:
    done = environment(commands, "one.lock", OFFLINE="1")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "airflow-lab: the Python environment venv is incomplete. Fix what pip or uv says above, then call this again\n"
    )
    assert not (tmp_path / "venv/installed").exists()
    shutil.rmtree(tmp_path / "venv")  # as `venv --clear` does
    assert environment(commands, "one.lock").returncode == 0


def test_python_that_is_too_old_is_named(commands: Commands, tmp_path: Path) -> None:
    done = environment(commands, "one.lock", OLD="1")
    assert done.returncode == 1
    assert done.stderr == "airflow-lab: python3 is Python 3.9.2. The lab needs Python 3.11 or newer as python3\n"
    assert not (tmp_path / "venv").exists()


# make, lint.sh and pytest on a host that lacks commands


def make(*words: str, **variables: str) -> str:
    variables = {"CI": "", "MAKEFLAGS": ""} | variables
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=True
    ).stdout


def test_make_alone_lists_what_it_can_do() -> None:
    listed = make()
    for target in ("up", "test", "unit", "lint", "lock", "clean"):
        assert re.search(rf"^{target} +\w", listed, re.MULTILINE), target
    assert "\t" not in listed


def test_nothing_is_skipped_in_ci_and_in_make_test() -> None:
    assert "--skip-missing" in make("--dry-run", "lint")
    assert "--skip-missing" not in make("--dry-run", "lint", CI="true")
    test = re.search(r"^test:.*\n((\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert test
    assert "sh tests/lint.sh\n" in test[1]
    assert "SKIP" not in test[1]
    assert "skip" not in test[1]
    assert "exec make test" in (ROOT / ".ci/run").read_text()


def test_lint_names_the_command_that_is_missing_and_its_package(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    commands.link("dirname", "find", "sh")
    script = str(ROOT / "tests/lint.sh")
    strict = commands.run("sh", script, "ruby", "shell", cwd=tmp_path, alone=True)
    assert strict.returncode == 2
    assert strict.stderr == "lint.sh: ruby: the command ruby is missing. Next: apt-get install ruby\n"
    lenient = commands.run("sh", script, "--skip-missing", "ruby", "shell", cwd=tmp_path, alone=True)
    assert lenient.returncode == 0
    assert lenient.stderr.splitlines() == [
        "lint.sh: skipped:",
        "  ruby: ruby is missing (apt-get install ruby)",
        "  ruby: rubocop is missing (apt-get install rubocop)",
        "  shell: shellcheck is missing (apt-get install shellcheck)",
    ]


def test_hooks_of_pre_commit_are_the_parts_of_lint() -> None:
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert source["repo"] == "local"
    parts = re.search(r"\|\| set -- (.*)", (ROOT / "tests/lint.sh").read_text())
    assert parts
    assert [hook["entry"] for hook in source["hooks"]] == [f"sh tests/lint.sh {part}" for part in parts[1].split()]
    tracked = [path for path in ROOT.rglob("*") if ".lab" not in path.parts and ".venv" not in path.parts]
    names = [str(path.relative_to(ROOT)) for path in tracked]
    for hook in source["hooks"]:
        assert [path for path in names if re.search(hook["files"], path)], hook["id"]
