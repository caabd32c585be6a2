"""VirtualBox's settings, tested without VirtualBox: a stand-in for its command only prints a version."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import Checkout


@pytest.fixture
def virtualbox(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a PATH on which there is a VBoxManage."""
    command: Path = tmp_path_factory.mktemp("bin") / "VBoxManage"
    command.write_text("#!/bin/sh\necho 7.0.20r163906\n")
    command.chmod(0o755)
    return f"{command.parent}:{os.environ['PATH']}"


def test_vagrant_accepts_the_settings(checkout: Checkout, virtualbox: str) -> None:
    environment = os.environ | {"PROVIDER": "virtualbox", "PATH": virtualbox}
    subprocess.run(["vagrant", "validate"], check=True, capture_output=True, cwd=checkout.root, env=environment)


def test_vagrant_refuses_an_unknown_setting(checkout: Checkout, virtualbox: str) -> None:
    definition = checkout.root / "provision" / "host" / "virtualbox.rb"
    definition.write_text(definition.read_text().replace("linked_clone", "linked_copy"))
    # The lab's provider overrides the user's default provider.
    environment = os.environ | {"PROVIDER": "virtualbox", "VAGRANT_DEFAULT_PROVIDER": "docker", "PATH": virtualbox}
    done = subprocess.run(["vagrant", "validate"], capture_output=True, text=True, cwd=checkout.root, env=environment)
    assert done.returncode != 0
    assert "linked_copy" in done.stderr


def test_missing_virtualbox_is_named(checkout: Checkout) -> None:
    assert "no VirtualBox: the command VBoxManage is not installed" in checkout.refused("up", PROVIDER="virtualbox")
