"""What the providers check and make on the host before the first machine."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.checkout import Checkout, set_machine
from tests.support.commands import Commands, ruby


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "a checkout"
    root.mkdir()
    return Checkout(root)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def provider(commands: Commands, checkout: Checkout, script: str, **environment: str) -> str:
    """Run a Ruby script in which `it` is a DockerProvider. Return its output, or the message of its refusal."""
    start = "it = DockerProvider.new(Lab.new(ARGV[0])); begin; "
    end = "; rescue Lab::Invalid => e; puts e.message; end"
    path = {"PATH": f"{commands.folder}:{os.environ['PATH']}"}
    done = ruby(start + script + end, checkout.root, library="docker", environment=os.environ | path | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Memory, disk and ports


@pytest.fixture
def docker(commands: Commands, checkout: Checkout) -> Commands:
    """A Docker engine without machines."""
    checkout.use_free_ports()
    commands.add("docker", 'case $1 in version) echo 1 ;; info) echo "/nonexistent" ;; esac')
    return commands


def check(*words: str) -> str:
    return f"def it.make = nil; def it.closing = nil; it.around({json.dumps(['up', *words])}); puts 'checked'"


def test_memory_is_checked_for_the_named_machines(docker: Commands, checkout: Checkout) -> None:
    checkout.change(set_machine("broker", memory_mb=10**9))
    assert "checked" in provider(docker, checkout, check("worker1"))
    assert "checked" in provider(docker, checkout, check("--provision", "worker1", "worker2"))
    assert "too little memory: broker need" in provider(docker, checkout, check("broker"))
    assert "too little memory: broker, master1, master2, worker1, worker2 need" in provider(docker, checkout, check())


def test_ports_are_checked_for_the_named_machines(docker: Commands, checkout: Checkout) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as taken:
        checkout.change(lambda lab: lab["forwarded_ports"].update(flower=taken.server_port))
        assert "checked" in provider(docker, checkout, check("worker1"))
        assert f"forwarded_ports.flower: port {taken.server_port}" in provider(docker, checkout, check("broker"))


def test_free_disk_is_found_if_the_path_has_a_space(docker: Commands, checkout: Checkout) -> None:
    assert " " in str(checkout.root)
    assert "checked" in provider(docker, checkout, check())
    checkout.change(lambda lab: lab.update(disk_mb=10**9))
    assert f"MiB are free in {checkout.root}." in provider(docker, checkout, check())


# The image


ENGINE = """
case "$1 $2" in
  "image ls") for last; do :; done; ! grep -qxF "$last" "{images}" || echo id ;;
  "image inspect") grep -qxF "$3" "{images}" ;;
  "import "*) echo "$3" >>"{images}" ;;
  "pull "*) echo "$2" >>"{images}" ;;
  "commit "*) for last; do :; done; echo "$last" >>"{images}" ;;
  "ps "*) cat "{machines}" ;;
  "network ls") echo {network} ;;
  "network inspect") echo '[{{"Name": "{network}", "IPAM": {{}}}}]' ;;
esac
"""
NAMES = ("broker", "master1", "master2", "worker1", "worker2")


class Engine:
    """A fake Docker engine. One file lists its images, another one the machines of this checkout."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self.commands, self.images, self.machines = commands, folder / "images", folder / "machines"
        self.images.touch()
        self.machines.touch()
        network = "airflow-lab-192.168.56.0_24"
        commands.add("docker", ENGINE.format(images=self.images, machines=self.machines, network=network))

    @property
    def has(self) -> str:
        return self.images.read_text()

    def called(self, *words: str) -> bool:
        return any(call.startswith(" ".join(words)) for call in self.commands.calls)


@pytest.fixture
def engine(commands: Commands, checkout: Checkout, tmp_path: Path) -> Engine:
    for name in NAMES:
        path = checkout.root / ".vagrant" / "machines" / name / "docker" / "id"
        path.parent.mkdir(parents=True)
        path.write_text("0123")
    (checkout.root / ".lab").mkdir()
    commands.add("mmdebstrap", "echo a root file system")
    return Engine(commands, tmp_path)


def test_image_that_was_pruned_with_its_machines_is_made_again(
    commands: Commands, checkout: Checkout, engine: Engine
) -> None:
    provider(commands, checkout, "it.make")
    assert "airflow-lab/machine:" in engine.has
    assert "airflow-lab/debian:trixie" in engine.has
    assert not engine.called("docker pull")


def test_no_image_is_made_for_existing_machines(commands: Commands, checkout: Checkout, engine: Engine) -> None:
    engine.machines.write_text("\n".join(NAMES))
    provider(commands, checkout, "it.make")
    assert engine.has == ""


def test_machine_image_is_never_pulled(commands: Commands, checkout: Checkout) -> None:
    assert "--pull never" in provider(commands, checkout, "puts it.create_args('broker', {}).join(' ')")


def test_base_image_is_pulled_without_mmdebstrap(commands: Commands, checkout: Checkout, engine: Engine) -> None:
    (commands.folder / "mmdebstrap").unlink()
    commands.link("sh", "ruby", "grep", "cat")
    provider(commands, checkout, "it.make", PATH=str(commands.folder))
    assert engine.called("docker pull debian:trixie-slim")
    assert "airflow-lab/machine:" in engine.has


def test_base_image_that_cannot_be_made_is_not_pulled(commands: Commands, checkout: Checkout, engine: Engine) -> None:
    commands.add("mmdebstrap", "echo part of a root file system; echo no user namespaces >&2; exit 1")
    said = provider(commands, checkout, "it.make")
    assert "no user namespaces" in said
    assert "`make up`" in said
    assert engine.has == ""
