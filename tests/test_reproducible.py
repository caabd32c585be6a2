"""Two labs that are built from scratch have the same manifest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import Checkout

SECOND_LAB = {"WORKERS": "1"}  # runs in addition to the lab under test


@pytest.mark.thorough
def test_two_labs_built_from_scratch_have_equal_manifests(tmp_path: Path) -> None:
    one, other = (_manifest_of_a_new_lab(tmp_path / "lab", build) for build in ("one", "other"))
    assert one.keys() == {"broker", "master1", "worker1"}
    for name, machine in one.items():
        assert min(len(machine[part]) for part in ("debian", "python", "files")) > 50
        for part, found in machine.items():
            assert found == other[name][part], (name, set(found.items()) ^ set(other[name][part].items()))


def _manifest_of_a_new_lab(root: Path, build: str) -> dict[str, Any]:
    """Build a lab with its own machine image, return its manifest, and remove everything of it."""
    checkout = Checkout(root)
    checkout.use_network("192.168.57")
    checkout.change(lambda lab: lab.update(forwarded_ports={k: port + 1 for k, port in lab["forwarded_ports"].items()}))
    checkout.change(lambda lab: lab["machines"].pop("master2"))  # one machine of each kind is enough
    # The tag of the image is a hash of its inputs: with another file, it is not the image of another lab.
    (root / "provision" / "build").write_text(build)
    environment, before = os.environ | SECOND_LAB, _images()
    try:
        subprocess.run(["vagrant", "up"], check=True, cwd=root, env=environment)
        manifest = subprocess.run(
            [sys.executable, "-m", "lab.cli", "manifest"], check=True, capture_output=True, text=True, cwd=root
        )
        return dict(json.loads(manifest.stdout))
    finally:
        subprocess.run(["vagrant", "destroy", "--force"], check=False, cwd=root, env=environment)
        for image in _images() - before:
            subprocess.run(["docker", "image", "rm", image], check=False)
        shutil.rmtree(root)


def _images() -> set[str]:
    listed = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "airflow-lab/machine"]
    return set(subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split())
