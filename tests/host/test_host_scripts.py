"""The scripts that run on the host, with stand-ins for the host's commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.machines import Machines
from tests.support import ROOT
from tests.support.commands import Commands

HOST, IMAGES = ROOT / "provision" / "host", ROOT / "provision" / "images"
BASE = "airflow-lab/debian:trixie"


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose path contains spaces and a quote."""
    root = tmp_path / "it's a checkout"
    for folder in ("config", "lab", "provision"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return root


# base-image.sh


def test_base_image_is_the_root_file_system(commands: Commands, tmp_path: Path) -> None:
    commands.add("mmdebstrap", "echo a root file system")
    commands.add("docker", f'case $1 in image) exit 1 ;; import) cp "$2" "{tmp_path}/imported" ;; esac')
    commands.run("sh", str(IMAGES / "base-image.sh"), cwd=tmp_path).check_returncode()
    assert (tmp_path / "imported").read_text() == "a root file system\n"
    assert commands.calls[-1].endswith(f" {BASE}")


def test_failure_of_mmdebstrap_leaves_no_base_image(commands: Commands, tmp_path: Path) -> None:
    commands.add("mmdebstrap", "echo part of a root file system; exit 1")
    commands.add("docker", "[ $1 != image ]")
    done = commands.run("sh", str(IMAGES / "base-image.sh"), cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode != 0
    assert not [call for call in commands.calls if call.startswith("docker import")]
    assert not list(tmp_path.glob("tmp.*"))


# clean.sh


def machine(root: Path, name: str, provider: str) -> None:
    """Create the file that Vagrant keeps for a machine."""
    path = root / ".vagrant" / "machines" / name / provider / "id"
    path.parent.mkdir(parents=True)
    path.touch()


@pytest.fixture
def lab(tmp_path: Path, commands: Commands) -> Path:
    """A checkout that was used, on a host without an engine."""
    root = tmp_path / "lab"
    for folder in (".lab", ".vagrant", ".venv", "logs"):
        (root / folder).mkdir(parents=True)
    commands.add("vagrant", 'echo "PROVIDER=$PROVIDER" >>"$0.log"')
    for command in ("docker", "virsh", "VBoxManage"):
        commands.add(command, "exit 1")
    commands.add("sudo", "exit 1")
    return root


def clean(commands: Commands, root: Path) -> subprocess.CompletedProcess[str]:
    return commands.run("sh", str(HOST / "clean.sh"), cwd=root)


@pytest.mark.parametrize(
    ("provider", "start"),
    [
        ("docker", "sudo systemctl start docker"),
        ("libvirt", "sudo systemctl start libvirtd"),
        ("virtualbox", "VBoxManage --version"),
    ],
)
def test_clean_deletes_nothing_while_the_machines_cannot_be_destroyed(
    commands: Commands, lab: Path, provider: str, start: str
) -> None:
    machine(lab, "broker", provider)
    done = clean(commands, lab)
    assert done.returncode != 0
    assert done.stderr.startswith(f"airflow-lab: nothing was deleted: the machines broker belong to {provider},")
    assert start in done.stderr
    assert sorted(path.name for path in lab.iterdir()) == [".lab", ".vagrant", ".venv", "logs"]
    assert not [call for call in commands.calls if call.startswith("vagrant")]


def test_clean_destroys_each_machine_with_its_provider(commands: Commands, lab: Path) -> None:
    commands.add("docker")
    commands.add("VBoxManage")
    machine(lab, "broker", "virtualbox")
    machine(lab, "worker1", "docker")
    machine(lab, "worker2", "docker")
    assert clean(commands, lab).returncode == 0
    destroyed = [call for call in commands.calls if call.startswith("vagrant destroy")]
    assert destroyed == ["vagrant destroy --force worker1 worker2", "vagrant destroy --force broker"]
    log = (commands.folder / "vagrant.log").read_text().split()
    assert log[:2] == ["PROVIDER=docker", "PROVIDER=virtualbox"]
    assert list(lab.iterdir()) == []


def test_clean_deletes_nothing_if_vagrant_fails(commands: Commands, lab: Path) -> None:
    commands.add("docker")
    commands.add("vagrant", "exit 1")
    machine(lab, "broker", "docker")
    assert clean(commands, lab).returncode != 0
    assert (lab / ".lab").exists()


def test_clean_needs_no_engine_without_machines(commands: Commands, lab: Path) -> None:
    assert clean(commands, lab).returncode == 0
    assert list(lab.iterdir()) == []


def test_clean_never_pulls_an_image_to_remove_the_logs(commands: Commands, lab: Path) -> None:
    commands.add("rm", '[ "$2" != logs ] && exec /bin/rm "$@"')  # the logs belong to Airflow's user on the machines
    commands.add("docker", "[ $1 != run ]")
    commands.add("sudo", 'exec /bin/rm "$2" "$3"')
    assert clean(commands, lab).returncode == 0
    assert [call for call in commands.calls if call.startswith("docker run --rm --pull never ")]
    assert not (lab / "logs").exists()


# install.sh


TOOLS = ("sh", "env", "dirname", "cat", "sed", "head", "grep", "seq", "mkdir", "mktemp", "rm", "readlink", "touch")


class Debian:
    """A host that has everything the lab needs except Docker. Its user may use sudo."""

    def __init__(self, commands: Commands, root: Path) -> None:
        self.commands, self.root = commands, root
        commands.link(*TOOLS)
        for name in ("vagrant", "ssh", "shellcheck", "rubocop", "nix-instantiate", "python3"):
            commands.add(name)
        for name in ("apt-cache", "usermod", "sleep"):
            commands.add(name)
        commands.add("mmdebstrap", "echo a root file system")
        commands.add("id", "case $* in -u) echo 1000 ;; *) echo user ;; esac")
        start = f'touch "{commands.folder}/docker.started"'
        # Commands that would change the real host do nothing.
        commands.add(
            "sudo",
            f'case $* in *dockerd* | systemctl*) {start} ;; apt-get* | docker* | env* | sh*) ROOT=1 exec "$@" ;; esac',
        )
        commands.add("dpkg", "exit 1")
        commands.add("apt-get", "exit 1")

    def docker(self, answers: str, package: str = "") -> None:
        """Add the command docker. It answers if `answers`, a condition in shell, is true."""
        self.commands.add("docker", f"case $1 in version) {answers} ;; image) exit 1 ;; esac")
        self.commands.add("dpkg", f"echo {package}: docker" if package else "exit 1")

    def install(self, **environment: str) -> subprocess.CompletedProcess[str]:
        # The real host may have an engine in /usr/sbin.
        script = (HOST / "install.sh").read_text()
        assert script.count("PATH=$PATH:/usr/sbin") == 1
        install = self.root / "provision" / "host" / "install.sh"
        install.write_text(script.replace("PATH=$PATH:/usr/sbin", ":"))
        environment = {"DOCKER_HOST": ""} | environment
        return self.commands.run(
            "sh", "provision/host/install.sh", cwd=self.root, alone=True, PROVIDER="docker", **environment
        )

    @property
    def installed(self) -> list[str]:
        return [call for call in self.commands.calls if call.startswith("apt-get")]


@pytest.fixture
def debian(commands: Commands, checkout: Path) -> Debian:
    return Debian(commands, checkout)


def test_engine_that_answers_only_the_user_is_used_by_the_user(debian: Debian) -> None:
    debian.docker('[ -z "$ROOT" ]')  # Docker Desktop: root has no engine
    done = debian.install()
    assert done.returncode == 0, done.stderr
    assert debian.installed == []
    calls = debian.commands.calls
    assert "sudo docker version" not in calls
    assert [call for call in calls if call.startswith("docker import")]
    assert not [call for call in calls if call.startswith("sudo docker")]
    assert [call for call in calls if call.startswith("sudo sh ") and call.endswith("root-file-system.sh -")]


def test_engine_that_answers_only_root_is_used_by_root(debian: Debian) -> None:
    debian.docker('[ -n "$ROOT" ]', "docker-ce-cli")
    done = debian.install()
    assert done.returncode == 0, done.stderr
    assert debian.installed == []
    assert [call for call in debian.commands.calls if call.startswith("sudo sh ") and "base-image.sh" in call]


def test_client_of_another_package_is_not_replaced(debian: Debian) -> None:
    debian.docker("exit 1", "docker-ce-cli")
    done = debian.install()
    assert done.returncode != 0
    assert done.stderr.startswith(
        f"airflow-lab: {debian.commands.folder}/docker is not from Debian's package docker.io"
    )
    assert "no Docker engine answers" in done.stderr
    assert "systemctl --user start docker-desktop" in done.stderr
    assert debian.installed == []


def test_remote_engine_that_does_not_answer_is_named(debian: Debian) -> None:
    debian.docker('[ -n "$ROOT" ]', "docker.io")
    done = debian.install(DOCKER_HOST="tcp://192.0.2.1:2375")
    assert done.returncode != 0
    assert "no Docker engine answers at DOCKER_HOST=tcp://192.0.2.1:2375" in done.stderr
    assert "unset DOCKER_HOST" in done.stderr
    assert debian.installed == []


def test_engine_of_another_package_is_started(debian: Debian) -> None:
    debian.docker('[ -e "$0.started" ]', "docker-ce-cli")
    debian.commands.add("dockerd")
    done = debian.install()
    assert done.returncode == 0, done.stderr
    assert debian.installed == []


@pytest.mark.parametrize("package", [None, "", "docker-cli", "docker.io"])
def test_installing_docker_removes_no_package(debian: Debian, package: str | None) -> None:
    if package is not None:  # "": a client that belongs to no package, in /usr/local/bin
        debian.docker("exit 1", package)
    debian.install()
    assert "apt-get update -qq" in debian.installed
    debian.commands.add("apt-get")
    debian.install()
    install = [call for call in debian.installed if call.startswith("apt-get install")]
    assert install
    assert all("--no-remove" in call and "docker.io" in call for call in install)


# with-groups.sh


def test_arguments_of_a_command_survive_sg(commands: Commands, tmp_path: Path) -> None:
    # The user joined both groups after this login.
    commands.add("id", 'case $* in "-nG me") echo me docker libvirt ;; -nG) echo me $JOINED ;; -un) echo me ;; esac')
    commands.add("sg", 'export JOINED="$JOINED $1"; exec sh -c "$3"')
    words = ["--ssh", "ssh -i key", "it's $HOME", "", 'a "quoted" *', "two\nlines"]
    script = 'printf "%s|" "$@"'
    done = commands.run("sh", str(HOST / "with-groups.sh"), "sh", "-c", script, "sh", *words, cwd=tmp_path)
    assert done.stdout == "".join(f"{word}|" for word in words)
    assert len([call for call in commands.calls if call.startswith("sg ")]) == 2


# A checkout whose path has a space


def test_ssh_finds_the_key_and_the_configuration(checkout: Path) -> None:
    (checkout / ".lab").mkdir()
    shutil.copy(ROOT / "tests" / "support" / "lab.json", checkout / ".lab")
    machines = Machines(checkout)
    shown = subprocess.run(
        ["ssh", "-G", "-F", str(machines.ssh_config), "worker1"], check=True, capture_output=True, text=True
    ).stdout
    assert f"identityfile {checkout}/.vagrant/machines/worker1/docker/private_key" in shown.splitlines()
    assert machines.guest("worker1").host.backend.ssh_config == str(checkout / ".lab" / "ssh-config")


def test_ssh_shares_connections_if_the_temporary_folder_has_a_space(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / ".lab").mkdir()
    shutil.copy(ROOT / "tests" / "support" / "lab.json", checkout / ".lab")
    monkeypatch.setattr("tempfile.tempdir", str(checkout))
    path = Machines(checkout).ssh_config
    subprocess.run(["ssh", "-G", "-F", str(path), "worker1"], check=True, capture_output=True)


def test_box_is_built_with_relative_paths_only(commands: Commands, checkout: Path) -> None:
    output = 'for last; do :; done; case $last in *.tar) echo tar >"$last" ;; esac'
    commands.add("mmdebstrap", output)
    commands.add("dpkg", "echo amd64")
    done = commands.run("sh", "provision/images/box.sh", ".lab/box", cwd=checkout)
    assert done.returncode == 0, done.stderr
    hooks = "\n".join(commands.calls)
    assert "copy-in provision lab config /vagrant" in hooks
    assert "copy-out /root/airflow-lab.box /root/vmlinuz .lab/box" in hooks
    assert str(checkout) not in hooks
    assert os.listdir(checkout / ".lab" / "box") == ["system.log"]
