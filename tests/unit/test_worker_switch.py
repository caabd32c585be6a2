"""Which worker is the current one, and what the old queue server waits for in a move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from provision import operations
from provision.roles.airflow import register
from provision.roles.airflow.broker_client import BrokerClient
from provision.roles.airflow.register import Client
from provision.roles.queue.drain import clients_left
from provision.roles.worker import switch as worker_switch
from tests.support.shipped import SHIPPED

LAB = replace(SHIPPED, broker="redis")
BOTH = [Client("worker1", "airflow-worker-2", "redis"), Client("worker2", "airflow-worker-5", "redis")]


def test_digest_depends_on_the_content_of_a_file_and_not_on_its_time(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    secret = tmp_path / "secrets" / "key"
    secret.write_text("a")
    before = worker_switch.digest([str(tmp_path / "secrets")])
    secret.write_text("a")
    assert worker_switch.digest([str(tmp_path / "secrets")]) == before
    secret.write_text("b")
    assert worker_switch.digest([str(tmp_path / "secrets")]) != before


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let worker_switch work in a temporary folder, and return the list of its calls of systemctl."""
    asked: list[str] = []
    (tmp_path / "template").write_text("number @NUMBER@")
    for name in ("UNITS", "RUN"):
        monkeypatch.setattr(worker_switch, name, tmp_path)
    monkeypatch.setattr(worker_switch, "STATE", tmp_path / "state.json")
    monkeypatch.setattr(worker_switch, "TEMPLATE", tmp_path / "template")
    monkeypatch.setattr(worker_switch, "SEEN_WITHIN", 0)
    monkeypatch.setattr(worker_switch.Topology, "of_this_machine", lambda: LAB)

    def systemctl(*words: str) -> bool:
        asked.append(" ".join(words))
        return True

    monkeypatch.setattr(worker_switch, "systemctl", systemctl)
    return asked


def test_changed_file_starts_a_worker_in_addition_to_the_old_one(tmp_path: Path, systemd: list[str]) -> None:
    (tmp_path / "read").write_text("a")
    worker_switch.replace([str(tmp_path / "read")], "redis")
    (tmp_path / "read").write_text("b")
    worker_switch.replace([str(tmp_path / "read")], "rabbitmq")
    assert (tmp_path / "airflow-worker-2.service").read_text() == "number 2"
    assert {number: worker["broker"] for number, worker in worker_switch.workers().items()} == {
        "1": "redis",
        "2": "rabbitmq",
    }
    assert systemd.index("disable airflow-worker-1") < systemd.index("enable airflow-worker-2")  # they share the alias
    assert systemd[-1] == "start --no-block airflow-worker-retire@1.service"
    assert not any(words.startswith(("stop", "restart")) for words in systemd)


def test_change_that_is_reverted_keeps_the_worker_that_read_it(tmp_path: Path, systemd: list[str]) -> None:
    for text in ("a", "b", "a"):
        (tmp_path / "read").write_text(text)
        worker_switch.replace([str(tmp_path / "read")], "redis")
    assert list(worker_switch.workers()) == ["2", "1"]  # the current one last
    assert "disable --now airflow-worker-retire@1.service" in systemd
    assert systemd[-1] == "start --no-block airflow-worker-retire@2.service"
    assert not any(words.startswith(("stop", "restart")) for words in systemd)


@pytest.mark.parametrize(
    ("clients", "left"),
    [
        (BOTH, ""),
        (BOTH[:1], "the worker of worker2 to be provisioned (`vagrant up`, `vagrant provision`)"),
        ([*BOTH, Client("worker1", "airflow-worker-1", "rabbitmq")], "the worker of worker1 to stop using"),
        # A machine that was destroyed while the lab moved
        ([*BOTH, Client("worker3", "airflow-worker-1", "rabbitmq")], ""),
    ],
)
def test_queue_server_waits_only_for_clients_of_existing_machines(clients: list[Client], left: str) -> None:
    found = clients_left(LAB, "rabbitmq", "worker", clients)
    assert found.startswith(left)
    assert bool(found) == bool(left)


def test_changed_secret_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "secrets.json"
    monkeypatch.setattr(operations, "write_secret", lambda text, dest: Path(dest).write_text(text))
    monkeypatch.setattr(operations.files, "directory", lambda **_: None)
    operations.refuse_changed_secrets({"jwt_secret": "a"}, known)
    operations.refuse_changed_secrets({"jwt_secret": "a", "fernet_key": "b"}, known)  # with an additional role
    assert known.read_text().count('"') == 8
    assert '"a"' not in known.read_text()
    with pytest.raises(SystemExit, match=r"^==> lab: jwt_secret in .lab/secrets.json: .* `vagrant destroy"):
        operations.refuse_changed_secrets({"jwt_secret": "c", "fernet_key": "b"}, known)


@pytest.mark.parametrize(
    ("queued", "expired", "reason"),
    [
        (0, 0, ""),
        (2, 0, "2 tasks queued on redis"),
        (0, 3, "3 messages on redis of a worker that has died"),
    ],
)
def test_old_worker_of_a_move_is_needed_until_redis_has_no_message_of_a_dead_worker(
    tmp_path: Path, systemd: list[str], monkeypatch: pytest.MonkeyPatch, queued: int, expired: int, reason: str
) -> None:
    moved = [Client(machine.name, "airflow-scheduler", "rabbitmq") for machine in SHIPPED.with_role("scheduler")]
    broker = SimpleNamespace(name="redis", queued=lambda _: queued, expired=lambda _: expired)
    monkeypatch.setattr(worker_switch, "HERE", "worker1")
    monkeypatch.setattr(worker_switch.Topology, "of_this_machine", lambda: replace(SHIPPED, broker="rabbitmq"))
    monkeypatch.setattr(register, "Register", lambda: SimpleNamespace(clients=lambda _: moved))
    worker_switch.save({"1": {"digest": "a", "broker": "redis"}, "2": {"digest": "b", "broker": "rabbitmq"}})
    assert worker_switch.needed("1", cast("BrokerClient", broker)) == reason
