"""What the providers check and make on the host before the first machine."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.unit.commands import Commands, ruby
from tests.unit.test_bad_input import Checkout, free_ports, set_machine


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "a checkout"
    root.mkdir()
    return Checkout(root)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def provider(commands: Commands, checkout: Checkout, script: str, **environment: str) -> str:
    """Run a script in which `it` is Docker's provider; return what it prints, and what it is refused with."""
    start = "it = DockerProvider.new(Lab.new(ARGV[0])); begin; "
    end = "; rescue Lab::Invalid => e; puts e.message; end"
    path = {"PATH": f"{commands.folder}:{os.environ['PATH']}"}
    done = ruby(start + script + end, checkout.root, library="docker", environment=os.environ | path | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Memory, disk and ports


@pytest.fixture
def docker(commands: Commands, checkout: Checkout) -> Commands:
    """A Docker engine that has no machine."""
    free_ports(checkout)
    commands.add("docker", 'case $1 in version) echo 1 ;; info) echo "/nonexistent" ;; esac')
    return commands


def check(*words: str) -> str:
    return f"def it.make = nil; def it.closing = nil; it.around({json.dumps(['up', *words])}); puts 'checked'"


def test_memory_is_asked_for_the_machines_named(docker: Commands, checkout: Checkout) -> None:
    checkout.change(set_machine("broker", memory_mb=10**9))
    assert "checked" in provider(docker, checkout, check("worker1"))
    assert "checked" in provider(docker, checkout, check("--provision", "worker1", "worker2"))
    assert "too little memory: broker need" in provider(docker, checkout, check("broker"))
    assert "too little memory: broker, master1, master2, worker1, worker2 need" in provider(docker, checkout, check())


def test_ports_are_asked_for_the_machines_named(docker: Commands, checkout: Checkout) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as taken:
        checkout.change(lambda lab: lab["forwarded_ports"].update(flower=taken.server_port))
        assert "checked" in provider(docker, checkout, check("worker1"))
        assert f"forwarded_ports.flower: port {taken.server_port}" in provider(docker, checkout, check("broker"))


def test_free_disk_is_found_where_the_path_has_a_space(docker: Commands, checkout: Checkout) -> None:
    assert " " in str(checkout.root)
    assert "checked" in provider(docker, checkout, check())
    checkout.change(lambda lab: lab.update(disk_mb=10**9))
    assert f"MiB are free in {checkout.root}." in provider(docker, checkout, check())
