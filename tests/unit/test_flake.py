"""The flake, as far as it can be checked without nixpkgs: parsed, and evaluated against a stand-in for it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.topology import ROOT

FILES = [ROOT / "flake.nix", *sorted((ROOT / "nix").glob("*.nix"))]
OUTPUTS = """
let nixpkgs = { outPath = ./tests/unit/nixpkgs; lib = import ./tests/unit/nixpkgs/lib.nix; };
in (import ./flake.nix).outputs { self = { outPath = ./.; }; inherit nixpkgs; }
"""


def evaluate(expression: str, root: Path = ROOT) -> Any:
    """Return what a Nix expression is; CalledProcessError if it cannot be evaluated."""
    command = ["nix-instantiate", "--eval", "--strict", "--json", "--expr", expression]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_is_nix(path: Path) -> None:
    subprocess.run(["nix-instantiate", "--parse", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("system", ["x86_64-linux", "aarch64-linux"])
def test_shell_has_what_a_host_needs(system: str) -> None:
    names = evaluate(f"map (p: p.name) ({OUTPUTS}).devShells.{system}.default.packages")
    assert {"vagrant", "docker-client", "libvirt", "qemu", "python313", "shellcheck", "ruby"} <= set(names)


def test_checks_evaluate() -> None:
    names = evaluate(f"builtins.attrNames ({OUTPUTS}).checks.x86_64-linux")
    assert names == ["addresses", "format", "ruby", "shell"]
    assert evaluate(f"({OUTPUTS}).checks.x86_64-linux.addresses.name") == "airflow-lab-addresses"


def test_two_machines_with_one_address_fail_a_check(tmp_path: Path) -> None:
    for path in ("flake.nix", "nix", "config", "tests/unit/nixpkgs"):
        source, target = ROOT / path, tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    lab = tmp_path / "config" / "lab.json"
    lab.write_text(lab.read_text().replace("192.168.56.22", "192.168.56.21"))
    with pytest.raises(subprocess.CalledProcessError) as failure:
        evaluate(f"({OUTPUTS}).checks.x86_64-linux.addresses.name", tmp_path)
    assert "two machines of config/lab.json have one address" in failure.value.stderr


def test_lock_pins_a_revision_by_hash() -> None:
    lock = json.loads((ROOT / "flake.lock").read_text())
    locked = lock["nodes"]["nixpkgs"]["locked"]
    assert re.fullmatch(r"[0-9a-f]{40}", locked["rev"])
    assert re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", locked["narHash"])
    asked = lock["nodes"]["nixpkgs"]["original"]["ref"]
    assert f'nixpkgs.url = "github:NixOS/nixpkgs/{asked}"' in (ROOT / "flake.nix").read_text()
