"""What `lab deploy` sends, keeps and refuses, with a stand-in for ssh that only records its input."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from lab import deploy
from tests.support import ROOT
from tests.support.checkout import Checkout

FAKE_SSH = '#!/bin/sh\ncat >"$(dirname "$0")/sent/$1.$(ls "$(dirname "$0")/sent" | grep -c "^$1[.]")"\n'
SERVERS = {
    "data": {"roles": ["database", "queue", "load_balancer", "flower"], "address": "10.0.0.2"},
    "control": {"roles": ["api_server", "scheduler", "dag_processor", "triggerer"], "address": "10.0.0.3"},
    "runner1": {"roles": ["worker"], "queues": ["default"], "address": "10.0.0.4"},
    "runner2": {"roles": ["worker"], "queues": ["default"], "address": "10.0.0.5"},
}


class Desk:
    """A user's folder with a stand-in for ssh, and a checkout in another folder."""

    def __init__(self, root: Path, checkout: Checkout) -> None:
        self.root = root
        self.checkout = checkout
        (root / "sent").mkdir(parents=True)
        self.ssh = root / "ssh"
        self.ssh.write_text(FAKE_SSH)
        self.ssh.chmod(0o755)

    def inventory(self, path: str = "servers.json", **changes: Any) -> Path:
        """Write an inventory and return its path; `path` is relative to the desk."""
        machines = {name: server | {"memory_mb": 1024} for name, server in SERVERS.items()}
        lab = json.loads((ROOT / "config/lab.json").read_text())
        file = self.root / path
        file.write_text(json.dumps(lab | {"machines": machines, "network": "10.0.0.0/24", "workers": 1} | changes))
        return file

    def deploy(self, inventory: Path) -> set[str]:
        """Deploy an inventory and return the machines that were reached."""
        for old in (self.root / "sent").iterdir():
            old.unlink()
        said: list[str] = []
        assert deploy.deploy(self.checkout.root, inventory, [str(self.ssh)], said.append) == []
        assert said.pop().startswith("Airflow: http://10.0.0.2:8080, user admin, password: airflow_admin_password in ")
        return {line.partition(":")[0] for line in said}

    def archive(self) -> list[str]:
        """Return the names of the files that were sent to the first machine."""
        sent = (self.root / "sent" / "10.0.0.2.0").read_bytes()
        with tarfile.open(fileobj=BytesIO(sent)) as archive:
            return [entry.name for entry in archive if not entry.isdir()]

    def document(self, address: str = "10.0.0.2") -> dict[str, Any]:
        """Return the document that was sent to a machine."""
        script = (self.root / "sent" / f"{address}.1").read_text()
        return json.loads(script.partition("<<'DOCUMENT'\n")[2].rpartition("DOCUMENT\n")[0])


@pytest.fixture
def desk(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"), checkout)


def test_inventory_that_grows_reaches_its_new_machines(desk: Desk) -> None:
    assert desk.deploy(desk.inventory(workers=1)) == {"data", "control", "runner1"}
    assert desk.deploy(desk.inventory(workers=2)) == {"data", "control", "runner1", "runner2"}
    assert desk.deploy(desk.inventory(workers=1)) == {"data", "control", "runner1"}


def test_choices_of_the_callers_shell_do_not_change_an_inventory(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "BROKER": "rabbitmq",
        "WORKERS": "2",
        "TIMINGS": "stock",
        "TIME_FACTOR": "3",
        "DAGS": "/",
    }.items():
        monkeypatch.setenv(variable, value)
    assert desk.deploy(desk.inventory()) == {"data", "control", "runner1"}
    told = desk.document()["lab"]
    assert (told["broker"], told["time_factor"], told["timings"]["heartbeat_timeout"]) == ("redis", 1, 15)
    assert "runner2" not in told["machines"]


def test_machine_of_the_checkouts_own_lab_does_not_change_an_inventory(desk: Desk) -> None:
    identity = desk.checkout.root / ".vagrant/machines/runner2/docker/id"
    identity.parent.mkdir(parents=True)
    identity.touch()
    assert desk.deploy(desk.inventory(workers=1)) == {"data", "control", "runner1"}


def test_secrets_are_made_once_for_each_inventory(desk: Desk) -> None:
    one, other = desk.inventory("one.json"), desk.inventory("other.json", broker="rabbitmq")
    secrets = {}
    for inventory in (one, other):
        desk.deploy(inventory)
        secrets[inventory] = desk.document()["secrets"]
    assert not set(secrets[one].values()) & set(secrets[other].values())
    assert desk.document()["lab"]["broker"] == "rabbitmq"
    desk.deploy(one)
    assert desk.document()["secrets"] == secrets[one]
    assert desk.document()["lab"]["broker"] == "redis"


def test_state_of_an_inventory_is_private_and_ignored_by_git(desk: Desk) -> None:
    subprocess.run(["git", "init", "--quiet", str(desk.root)], check=True)
    desk.deploy(desk.inventory())
    state = desk.root / "servers"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert (state / "secrets.json").exists()
    status = ["git", "-C", str(desk.root), "status", "--porcelain", "--untracked-files=all"]
    assert "servers/" not in subprocess.run(status, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("folder", ["config", "dags", "lab", "provision", "."])
def test_state_of_an_inventory_in_the_checkout_is_not_sent(desk: Desk, folder: str) -> None:
    inside = Desk(desk.checkout.root / folder / "desk", desk.checkout)
    shutil.move(desk.inventory(), inside.root / "servers.json")
    inside.deploy(inside.root / "servers.json")
    password = json.loads((inside.root / "servers" / "secrets.json").read_text())["postgresql_password"].encode()
    with tarfile.open(fileobj=BytesIO((inside.root / "sent" / "10.0.0.4.0").read_bytes())) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive if entry.isfile()}
        assert [name for name, content in files.items() if content and password in content.read()] == []
    assert not [name for name in files if "servers/" in name]


def test_machine_gets_the_files_that_it_needs_and_none_of_the_host(desk: Desk) -> None:
    (desk.checkout.root / "config" / "production.json").write_text("{}")
    (desk.checkout.root / "lab" / "__pycache__").mkdir()
    (desk.checkout.root / "lab" / "__pycache__" / "cli.pyc").touch()
    desk.deploy(desk.inventory())
    sent = desk.archive()
    assert {"provision/bootstrap.sh", "provision/deploy.py", "lab/topology.py", "dags/ledger.py"} <= set(sent)
    assert not [
        name for name in sent if name.startswith(("provision/host/", "provision/images/")) or "__pycache__" in name
    ]
    # The code of provisioning contains the names of the files in config/ that it reads.
    code = "".join(path.read_text() for path in (ROOT / "provision").rglob("*.py"))
    read = {f"config/{path.name}" for path in (ROOT / "config").iterdir() if f'"{path.name}"' in code}
    assert {name for name in sent if name.startswith("config/")} == read


@pytest.mark.parametrize(
    ("name", "taken", "message"),
    [("dags.json", True, "dags is not the folder of an inventory"), ("servers", False, "its name must end in")],
)
def test_inventory_whose_state_would_mix_with_other_files_is_refused(
    desk: Desk, name: str, taken: bool, message: str
) -> None:
    if taken:
        (desk.root / "dags").mkdir()
        (desk.root / "dags" / "mine.py").touch()
    with pytest.raises(deploy.InvalidError, match=message):
        deploy.deploy(desk.checkout.root, desk.inventory(name), [str(desk.ssh)], print)
    assert not [*desk.root.rglob("secrets.json")]


def test_mistake_in_an_inventory_is_named_before_anything_is_made(desk: Desk) -> None:
    with pytest.raises(deploy.InvalidError, match=r"^.*servers.json: workers: 9 is not allowed; allowed: 1 to 2"):
        deploy.deploy(desk.checkout.root, desk.inventory(workers=9), [str(desk.ssh)], print)
    with pytest.raises(deploy.InvalidError, match=r"servers.json: dags: /mine is not allowed; allowed: none\."):
        deploy.deploy(desk.checkout.root, desk.inventory(dags="/mine"), [str(desk.ssh)], print)
    with pytest.raises(deploy.InvalidError, match=r"no inventory .*missing\.json"):
        deploy.deploy(desk.checkout.root, desk.root / "missing.json", [str(desk.ssh)], print)
    assert not (desk.root / "servers").exists()


def test_paths_are_relative_to_the_callers_folder(desk: Desk) -> None:
    root = desk.checkout.root
    for path in ("bin", "Makefile"):
        (shutil.copytree if (ROOT / path).is_dir() else shutil.copy)(ROOT / path, root / path)
    python = root / ".lab" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (root / ".lab" / "venv" / "installed").touch()
    desk.inventory("mine.json")
    words = [str(root / "bin" / "lab"), "deploy", "mine.json", "--ssh", "./ssh"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=desk.root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (desk.root / "mine" / "secrets.json").exists()
    assert desk.document()["machine"] == "data"


class Server:
    """A folder instead of a server's root. Its `rm` records which DAGs exist when it is called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dags = root / "opt/airflow/dags"
        self.seen = root / "seen"
        commands = root / "commands"
        for folder in (self.dags, commands, root / "etc", root / "opt/airflow/logs", root / "vagrant"):
            folder.mkdir(parents=True)
        for name, script in {"hostname": "", "rm": f'ls {self.dags} >>{self.seen}; exec /bin/rm "$@"'}.items():
            (commands / name).write_text(f"#!/bin/sh\n{script}\n")
            (commands / name).chmod(0o755)
        self.path = f"{commands}:{os.environ['PATH']}"

    def receive(self, archive: bytes) -> None:
        script = deploy.receive("data")
        for path in ("/vagrant", "/opt/airflow", "/etc/hostname"):
            script = script.replace(path, f"{self.root}{path}")
        subprocess.run(["sh", "-c", script], input=archive, check=True, env=os.environ | {"PATH": self.path})


def names(folder: Path, keep: Callable[[Path], bool] = Path.is_file) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if keep(path)}


def test_server_has_the_files_of_the_checkout_and_no_others(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server, dags = Server(tmp_path_factory.mktemp("server")), desk.checkout.root / "dags"
    (dags / "team").mkdir()
    for name in ("goes.py", "changes.py", "team/goes.py"):
        (dags / name).write_text("before")
    code = desk.checkout.root / "provision" / "goes.py"
    code.touch()
    for path in ("opt/airflow/logs/task.log", "vagrant/config/servers/secrets.json", "vagrant/mine"):
        (server.root / path).parent.mkdir(parents=True, exist_ok=True)
        (server.root / path).touch()
    server.receive(deploy.archive(desk.checkout.root))
    assert names(server.dags) == names(dags)
    assert (server.root / "vagrant/provision/goes.py").exists()
    assert (server.root / "etc/hostname").read_text() == "data\n"

    code.unlink()
    shutil.rmtree(dags / "team")
    (dags / "goes.py").unlink()
    (dags / "changes.py").write_text("after")
    (dags / "with space.py").touch()
    server.seen.unlink(missing_ok=True)
    server.receive(deploy.archive(desk.checkout.root))
    assert names(server.dags) == names(dags)
    assert not (server.dags / "team").exists()
    assert (server.dags / "changes.py").read_text() == "after"
    assert not (server.root / "vagrant/provision/goes.py").exists()
    assert not (server.root / "vagrant/config/servers").exists()
    assert (server.root / "opt/airflow/logs/task.log").exists()
    assert (server.root / "vagrant/mine").exists()
    assert {"with space.py", "ledger.py"} <= set(server.seen.read_text().splitlines())


def test_file_replaces_a_folder_and_a_folder_replaces_a_file(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Server(tmp_path_factory.mktemp("server"))
    (desk.checkout.root / "dags" / "team").mkdir()
    (desk.checkout.root / "dags" / "team" / "dag.py").touch()
    (server.dags / "team").touch()
    (server.dags / "ledger.py").mkdir()
    server.receive(deploy.archive(desk.checkout.root))
    assert names(server.dags) == names(desk.checkout.root / "dags")


def test_failure_to_write_a_file_on_a_server_is_noticed(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    server = Server(tmp_path_factory.mktemp("server"))
    (server.root / "commands" / "cp").symlink_to("/bin/false")
    with pytest.raises(subprocess.CalledProcessError):
        server.receive(deploy.archive(desk.checkout.root))
