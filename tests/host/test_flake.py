"""The flake, evaluated against a strict stand-in for nixpkgs: the hosts of these tests cannot reach nixpkgs.

Every output is evaluated. The scripts of the checks run with the host's tools.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

SYSTEMS = ("x86_64-linux", "aarch64-linux")
COPIED = (
    *(".ci", "bin", "config", "lab", "nix", "provision", "tests/lint.sh", "tests/host/nixpkgs"),
    *(".rubocop.yml", "Makefile", "Vagrantfile", "flake.nix"),
)
KNOWN = json.loads((ROOT / "tests/host/nixpkgs/attributes.json").read_text())
PACKAGES: dict[str, list[str]] = {name: entry["commands"] for name, entry in KNOWN["packages"].items()}
# Commands that the host's scripts call and that the shell does not contain.
ELSEWHERE = {
    "apt-get": "only on Debian",
    "mmdebstrap": "not in nixpkgs; Vagrant pulls the base image then",
    "nix-instantiate": "installed wherever the shell can be entered",
    "dockerd": "nixosModules.host",
    "libvirtd": "nixosModules.host",
    "virtiofsd": "nixosModules.host",
    "tini": "only outside systemd",
}
# Of provision/host, what runs on the host.
SCRIPTS = ("install", "with-groups", "environment", "clean")
OUTPUTS = """
let
  flake = import ./flake.nix;
  self = { outPath = toString ./.; };
  nixpkgs = { outPath = ./tests/host/nixpkgs; lib = import ./tests/host/nixpkgs/lib.nix; };
in
flake.outputs { inherit self nixpkgs; }
"""
# All outputs of a system, as values that JSON can represent.
FORCED = f"""
let
  outputs = {OUTPUTS};
  names = map (tool: tool.pname);
  system = name: {{
    shell = removeAttrs outputs.devShells.${{name}}.default [ "packages" "type" "outPath" ]
      // {{ tools = names outputs.devShells.${{name}}.default.tools; }};
    formatter = outputs.formatter.${{name}}.pname;
    checks = builtins.mapAttrs (_: check: {{ inherit (check) name script; tools = names check.tools; }})
      outputs.checks.${{name}};
  }};
in
builtins.listToAttrs (map (name: {{ inherit name; value = system name; }}) (builtins.attrNames outputs.devShells))
"""
STAND_IN = 'import ./tests/host/nixpkgs { system = "any"; config.allowUnfreePredicate = _: false; }'


def evaluate(expression: str, root: Path = ROOT) -> Any:
    """Return the value of a Nix expression; AssertionError, with Nix's message, if it cannot be evaluated."""
    command = ["nix-instantiate", "--eval", "--strict", "--json", "--expr", expression]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def code(*scripts: Path) -> str:
    """Return the text of `scripts` without comment lines."""
    return "\n".join(re.sub(r"^\s*#.*", "", script.read_text(), flags=re.MULTILINE) for script in scripts)


def parts() -> dict[str, str]:
    """Return the commands of each part of tests/lint.sh."""
    text = code(ROOT / "tests/lint.sh")
    return dict(re.findall(r"^    (\w+)\)(.*?);;$", text, re.DOTALL | re.MULTILINE))


def called(text: str) -> set[str]:
    """Return the commands of known packages, and of ELSEWHERE, that occur in `text` as words."""
    words = set(re.findall(r"(?<![\w./-])[a-z][\w-]*(?![\w/-])", text))
    return words & {command for commands in (*PACKAGES.values(), ELSEWHERE) for command in commands}


def locked_python() -> set[str]:
    """Return the commands that .venv has: those of the packages in pyproject.toml's groups."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"].values()
    return {package for group in groups for package in group if isinstance(package, str)}


def called_on_the_host() -> set[str]:
    """Return the commands that the code on the host calls, except those of .venv and ELSEWHERE."""
    scripts = [ROOT / "Makefile", ROOT / "bin/lab", ROOT / "tests/lint.sh", *(ROOT / "lab").glob("*.py")]
    scripts += [
        *(ROOT / "provision/host").glob("*.rb"),
        *(ROOT / "tests").glob("*.py"),
        *(ROOT / "tests/support").glob("*.py"),
    ]
    scripts += [ROOT / "provision/host" / f"{name}.sh" for name in SCRIPTS]
    scripts += [ROOT / "provision/images/add-box.sh"]
    return called(code(*scripts)) - set(ELSEWHERE) - locked_python()


def missing_in_shell(root: Path = ROOT) -> set[str]:
    tools = evaluate(FORCED, root)["x86_64-linux"]["shell"]["tools"]
    return called_on_the_host() - {command for tool in tools for command in PACKAGES[tool]}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the files that the flake and its checks read. Tests break it."""
    for name in COPIED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path.name} does not contain {old}"
    path.write_text(text.replace(old, new))


def run_check(root: Path, part: str, out: Path) -> subprocess.CompletedProcess[str]:
    """Run the script of one check of the flake at `root`, with the host's tools."""
    script = evaluate(FORCED, root)["x86_64-linux"]["checks"][part]["script"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, env=os.environ | {"PATH": path, "out": str(out)}, capture_output=True, text=True)


def test_every_output_evaluates_on_both_systems() -> None:
    outputs = evaluate(FORCED)
    assert set(outputs) == set(SYSTEMS)
    for system in SYSTEMS:
        assert set(outputs[system]["shell"]["tools"]) <= set(PACKAGES)
        assert outputs[system]["shell"]["system"] == system
        assert outputs[system]["formatter"] == "nixfmt-tree", "nixfmt reads standard input when it is given no file"


def test_shell_has_every_command_that_the_host_calls() -> None:
    assert {"vagrant", "docker", "virsh", "shellcheck", "ruby", "python3", "make", "ssh"} <= called_on_the_host()
    assert missing_in_shell() == set()


def test_every_command_that_install_looks_for_has_a_source() -> None:
    install = code(ROOT / "provision/host/install.sh")
    looked_for = set(re.findall(r"\b(?:lacks|command -v) ([a-z][\w-]*)", install))
    assert {"vagrant", "docker", "virsh"} <= looked_for
    known = {command for commands in PACKAGES.values() for command in commands}
    assert looked_for <= known | set(ELSEWHERE)


@pytest.mark.parametrize(
    "tool", re.findall(r"^    pkgs\.(\S+)$", (ROOT / "nix/devshell.nix").read_text(), re.MULTILINE)
)
def test_missing_or_misspelt_tool_is_noticed(copy: Path, tool: str) -> None:
    shell = copy / "nix/devshell.nix"
    original = shell.read_text()
    replace(shell, f"    pkgs.{tool}\n", "")
    assert missing_in_shell(copy)
    shell.write_text(original)
    replace(shell, f"    pkgs.{tool}\n", f"    pkgs.{tool}x\n")
    with pytest.raises(AssertionError, match=f"attribute '{tool}x' missing"):
        evaluate(FORCED, copy)


@pytest.mark.parametrize(
    ("predicate", "complaint"),
    [
        ("config.allowUnfreePredicate = _: true;", "the predicate allows consul"),
        ('config.allowUnfreePredicate = package: lib.getName package >= "va";', "the predicate allows vault vscode"),
        ("config.allowUnfreePredicate = _: false;", "vagrant is unfree, and not allowed"),
        ("config.allowUnfree = true;", "the configuration of nixpkgs is not only a predicate"),
    ],
)
def test_no_unfree_package_except_vagrant_is_allowed(copy: Path, predicate: str, complaint: str) -> None:
    replace(copy / "flake.nix", 'config.allowUnfreePredicate = package: lib.getName package == "vagrant";', predicate)
    with pytest.raises(AssertionError, match=complaint):
        evaluate(FORCED, copy)


def test_checks_are_the_parts_of_make_lint_except_python() -> None:
    assert "sh tests/lint.sh\n" in (ROOT / "Makefile").read_text()
    run = re.search(r"\|\| set -- (.*)", (ROOT / "tests/lint.sh").read_text())
    assert run is not None
    assert set(run[1].split()) == set(parts())
    assert set(evaluate(FORCED)["x86_64-linux"]["checks"]) == set(parts()) - {"python"}


@pytest.mark.parametrize("part", sorted(set(parts()) - {"python"}))
def test_check_has_its_tools_and_passes(part: str, tmp_path: Path) -> None:
    check = evaluate(FORCED)["x86_64-linux"]["checks"][part]
    assert check["name"] == f"airflow-lab-lint-{part}"
    needed = called(parts()[part]) - set(ELSEWHERE)
    assert needed
    assert needed == {command for tool in check["tools"] for command in PACKAGES[tool]}
    done = run_check(ROOT, part, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "path", "old", "new", "complaint"),
    [
        ("shell", "provision/host/clean.sh", "set -eu", "set -eu; echo $unquoted", "SC2086"),
        ("shell", ".ci/run", "set -euo", "echo $unquoted; set -euo", "SC2086"),
        ("ruby", "provision/host/lab.rb", "class Lab", "class lab", "class/module name must be CONSTANT"),
        ("ruby", "Vagrantfile", "begin\n", "", "syntax error"),
        ("ruby", "provision/host/lab.rb", 'require "json"', "require 'json'", "Style/StringLiterals"),
        ("nix", "nix/host.nix", "enable = true;", "enable = true", "syntax error"),
        ("data", "config/lab.json", '"redis": 6379', '"redis": "6379"', "'6379' is not of type 'integer'"),
        ("data", "config/lab.json", "192.168.56.22", "192.168.56.21", "is already used by worker1"),
        ("data", "config/lab.schema.json", '"integer"', '"count"', "'count' is not valid"),
        ("data", "provision/host/lab.rb", "def check_timings", "def check_watches", "check_timings"),
        ("data", "lab/topology.py", "parallelism: int", "parallel: int", "parallelism"),
    ],
)
def test_check_finds_what_is_wrong(
    copy: Path, tmp_path: Path, part: str, path: str, old: str, new: str, complaint: str
) -> None:
    replace(copy / path, old, new)
    done = run_check(copy, part, tmp_path / "out")
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def options(root: Path = ROOT) -> dict[str, Any]:
    """Return the options that nixosModules.host sets: the value by the path."""

    def flat(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
        leaves: dict[str, Any] = {}
        for name, value in tree.items():
            inner = f"{path}.{name}".lstrip(".")
            leaves |= flat(value, inner) if isinstance(value, dict) else {inner: value}
        return leaves

    module = evaluate(f"toString ({OUTPUTS}).nixosModules.host", root)
    return flat(evaluate(f"import {module} {{ pkgs = {STAND_IN}; }}", root))


def test_module_sets_options_that_exist_and_gives_the_daemon_virtiofsd() -> None:
    assert options() == {
        "virtualisation.docker.enable": True,
        "virtualisation.libvirtd.enable": True,
        "virtualisation.libvirtd.qemu.vhostUserPackages": ["/nix/store/stand-in-virtiofsd"],
        "programs.nix-ld.enable": True,
    }
    assert set(options()) == set(KNOWN["options"])
    assert "virtiofsd" not in evaluate(FORCED)["x86_64-linux"]["shell"]["tools"]


def test_no_library_path_leaks_into_the_programs_of_the_host() -> None:
    shell = evaluate(FORCED)["x86_64-linux"]["shell"]
    assert not [name for name in shell if name.startswith("LD_")]
    assert (
        shell["LAB_LIBRARIES"]
        == "/nix/store/stand-in-gcc-lib/lib/libstdc++.so.6 /nix/store/stand-in-zlib/lib/libz.so.1"
    )


def test_only_the_python_of_the_tests_loads_the_libraries(tmp_path: Path) -> None:
    environment = (ROOT / "provision/host/environment.sh").read_text()
    assert 'cp nix/libraries.pth "$folder"/lib/python3.*/site-packages' in environment
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (packages,) = (tmp_path / ".venv/lib").glob("python3.*/site-packages")
    shutil.copy(ROOT / "nix/libraries.pth", packages)
    # A library that Python does not load by itself: the shell's, or Debian's.
    named = os.environ.get("LAB_LIBRARIES", "").split()
    library = named[0] if named else str(next(Path("/usr/lib").glob("*/libstdc++.so.6")))
    show = "import pathlib; print(pathlib.Path('/proc/self/maps').read_text())"

    def maps(value: str) -> str:
        command = [str(tmp_path / ".venv/bin/python"), "-c", show]
        environment = os.environ | {"LAB_LIBRARIES": value}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert "libstdc++" not in maps("")
    assert "libstdc++" in maps(library)


def test_lock_pins_a_revision_of_the_release_by_hash() -> None:
    lock = json.loads((ROOT / "flake.lock").read_text())
    assert set(lock["nodes"]) == {"nixpkgs", "root"}
    locked, asked = lock["nodes"]["nixpkgs"]["locked"], lock["nodes"]["nixpkgs"]["original"]
    assert re.fullmatch(r"[0-9a-f]{40}", locked["rev"])
    assert re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", locked["narHash"])
    assert {locked["type"], asked["type"]} == {"github"}
    assert re.fullmatch(r"nixos-\d\d\.(05|11)", asked["ref"])
    wanted = f'inputs.nixpkgs.url = "github:{asked["owner"]}/{asked["repo"]}/{asked["ref"]}";'
    assert wanted in (ROOT / "flake.nix").read_text()


def test_direnv_enters_the_shell() -> None:
    assert (ROOT / ".envrc").read_text() == "use flake\n"
