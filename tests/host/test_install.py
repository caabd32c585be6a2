"""What install.sh does on hosts without apt and on NixOS, with fakes for the commands that change a host."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

# The real commands. They change nothing outside the copy of the checkout.
TOOLS = (
    *("cat", "cut", "dirname", "env", "find", "grep", "head", "ls", "mkdir", "mktemp", "readlink", "rm", "sed", "seq"),
    *("sh", "touch"),
)
FAKES = {
    "apt-cache": "exit 1",
    "apt-get": "",
    # The engine answers root and users in its group. It does not have an image yet.
    "docker": """case $1 in
        version) [ -e "$HOST/docker" ] && { [ "${ROOT-}" ] || grep -qw docker "$HOST/groups"; } ;;
        image) exit 1 ;;
    esac""",
    "dockerd": "",
    "getent": 'shift; for name; do grep "^$name:" "$HOST/etc/group"; done',
    "id": """case "$*" in
        -u) echo 1000 ;;
        -un) echo ada ;;
        "-nG ada") cat "$HOST/groups" ;;
        -nG) cat "$HOST/session" ;;
    esac""",
    "libvirtd": "",
    "mmdebstrap": "",
    "nix-instantiate": "",
    "python3": "",
    "qemu-img": "",
    "qemu-system-x86_64": "",
    "rubocop": "",
    "sg": "",
    "shellcheck": "",
    "sleep": "",
    "ssh": "",
    "sudo": 'ROOT=1 "$@"',
    "systemctl": 'touch "$HOST/docker" "$HOST/libvirt"',
    "timeout": 'shift; "$@"',
    "tini": "",
    "usermod": "",
    "vagrant": '[ "$*" != "plugin list" ] || echo "vagrant-libvirt (0.12.2, system)"',
    "virsh": '[ -e "$HOST/libvirt" ]',
    "virtiofsd": "",
}


class Host:
    """A fake host: a folder instead of /, fake commands on PATH, and a copy of the checkout.

    It starts as Debian with systemd: it has every command, both daemons run, and the user is in their groups.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.checkout = folder / "host", folder / "bin", folder / "checkout"
        for path in (self.root / "run/systemd/system", self.root / "etc", self.root / "boot", self.bin):
            path.mkdir(parents=True)
        for name in ("docker", "libvirt"):
            (self.root / name).touch()
        self.groups("docker", "libvirt")
        for name in TOOLS:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name, body in FAKES.items():
            (self.bin / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"$HOST/calls"\n{body}\n')
            (self.bin / name).chmod(0o755)
        for part in ("provision/host", "provision/images", "lab"):
            shutil.copytree(ROOT / part, self.checkout / part)
        shutil.copytree(ROOT / "config", self.checkout / "config")
        for script in (self.checkout / "provision").glob("*/*.*"):
            text = re.sub(
                r"""(?<=[\s"'=:])/(?=(etc|run|dev/kvm|var|usr|boot)\b)""", f"{self.root}/", script.read_text()
            )
            script.write_text(text)

    def groups(self, *names: str, known: tuple[str, ...] = ("docker", "libvirt"), session: str | None = None) -> None:
        """Put the user in the groups `names`. `known`: those of the host. `session`: those of the current login."""
        (self.root / "groups").write_text(" ".join(names) + "\n")
        (self.root / "session").write_text((" ".join(names) if session is None else session) + "\n")
        (self.root / "etc/group").write_text("".join(f"{name}:x:100:\n" for name in known))

    def remove(self, *commands: str) -> None:
        for command in commands:
            (self.bin / command).unlink()

    def become_nixos(self) -> None:
        """Become NixOS with nixosModules.host, inside `nix develop`."""
        (self.root / "etc/NIXOS").touch()
        self.remove("apt-get", "mmdebstrap", "virtiofsd")
        self.groups("docker", "libvirtd", known=("docker", "libvirtd"))
        (self.root / "var/lib/qemu/vhost-user").mkdir(parents=True)
        (self.root / "var/lib/qemu/vhost-user/50-virtiofsd.json").touch()

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={"PATH": str(self.bin), "HOST": str(self.root), "LANG": "C.UTF-8"} | environment,
            capture_output=True,
            text=True,
            cwd=self.checkout,
            timeout=60,
        )

    def install(self, provider: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("sh", "provision/host/install.sh", *words, PROVIDER=provider)

    def calls(self, *commands: str) -> list[str]:
        """Return the calls of `commands`, in order."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] in commands]

    def changes(self) -> list[str]:
        """Return the calls of commands that change a host and fail on NixOS."""
        return self.calls("apt-get", "systemctl", "usermod")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("provider", ["docker", "libvirt"])
def test_host_that_has_everything_is_not_changed(host: Host, provider: str) -> None:
    done = host.install(provider, "no-box")
    assert done.returncode == 0, done.stderr
    assert host.changes() == []
    made = [call for call in host.calls("docker") if "import" in call]
    assert len(made) == (provider == "docker")
    assert all(call.endswith("/root.tar airflow-lab/debian:trixie") for call in made)


@pytest.mark.parametrize("provider", ["docker", "libvirt"])
def test_nixos_with_the_module_needs_no_mmdebstrap(host: Host, provider: str) -> None:
    host.become_nixos()
    done = host.install(provider, "no-box")
    assert (done.returncode, done.stderr) == (0, "")
    assert host.changes() == []
    assert not [call for call in host.calls("docker") if "import" in call], "an image cannot be made without mmdebstrap"


def test_debian_without_mmdebstrap_installs_it(host: Host) -> None:
    host.remove("mmdebstrap")
    host.install("docker")
    assert any(call.endswith(" mmdebstrap") for call in host.calls("apt-get"))


@pytest.mark.parametrize("nixos", [True, False])
def test_missing_packages_are_named_without_apt(host: Host, nixos: bool) -> None:
    host.remove("vagrant", "shellcheck")
    if nixos:
        host.become_nixos()
    else:
        host.remove("apt-get", "mmdebstrap")
    done = host.install("docker")
    assert done.returncode == 1
    assert "Missing, by Debian's package names: vagrant shellcheck\n" in done.stderr
    assert ("nixosModules.host" in done.stderr) == nixos
    assert ("nix develop" in done.stderr) == nixos
    assert host.changes() == []


def test_daemon_without_virtiofsd_is_noticed_on_nixos(host: Host) -> None:
    host.become_nixos()
    (host.root / "var/lib/qemu/vhost-user/50-virtiofsd.json").unlink()
    assert "by Debian's package names: qemu-system-x86\n" in host.install("libvirt").stderr


@pytest.mark.parametrize(
    ("provider", "option"), [("docker", "virtualisation.docker.enable"), ("libvirt", "virtualisation.libvirtd.enable")]
)
def test_stopped_daemon_is_started_except_on_nixos(host: Host, provider: str, option: str) -> None:
    (host.root / provider).unlink()
    assert host.install(provider, "no-box").returncode == 0
    assert [call.startswith("systemctl enable --now ") for call in host.changes()] == [True]
    (host.root / provider).unlink()
    (host.root / "calls").unlink()
    host.become_nixos()
    done = host.install(provider, "no-box")
    assert done.returncode == 1
    assert f"add {option} = true;" in done.stderr
    assert "nixos-rebuild switch" in done.stderr
    assert host.changes() == []


@pytest.mark.parametrize(
    ("provider", "known", "group"),
    [("docker", "libvirt", "docker"), ("libvirt", "libvirt", "libvirt"), ("libvirt", "libvirtd", "libvirtd")],
)
def test_user_joins_the_group_that_the_host_has(host: Host, provider: str, known: str, group: str) -> None:
    host.groups("users", known=("docker", known))
    assert host.install(provider, "no-box").returncode == 0
    assert host.changes() == [f"usermod --append --groups {group} ada"]


@pytest.mark.parametrize(("provider", "group"), [("docker", "docker"), ("libvirt", "libvirtd")])
def test_group_is_named_on_nixos(host: Host, provider: str, group: str) -> None:
    host.become_nixos()
    host.groups("users", known=("docker", "libvirtd"))
    done = host.install(provider, "no-box")
    assert done.returncode == 1
    assert f'add users.users.ada.extraGroups = [ "{group}" ];' in done.stderr
    assert host.changes() == []


def test_box_of_another_machine_is_used_without_mmdebstrap(host: Host) -> None:
    host.become_nixos()
    done = host.install("libvirt")
    assert done.returncode == 1
    assert "the box airflow-lab/debian-13 is made with mmdebstrap" in done.stderr
    assert "make box on a Debian machine" in done.stderr
    box = host.checkout / ".lab/box/airflow-lab.box"
    box.parent.mkdir(parents=True)
    box.touch()
    assert host.install("libvirt").returncode == 0
    assert any(call.endswith("--provider libvirt .lab/box/airflow-lab.box") for call in host.calls("vagrant"))


def test_kvm_is_tested_with_the_kernel_of_nixos(host: Host) -> None:
    host.become_nixos()
    (host.root / "dev").mkdir()
    (host.root / "dev/kvm").touch()
    host.install("libvirt", "no-box")
    (trial,) = host.calls("qemu-system-x86_64")
    assert f"-kernel {host.root}/run/current-system/kernel " in trial


@pytest.mark.parametrize("group", ["docker", "libvirt", "libvirtd"])
def test_session_older_than_the_membership_gets_the_group(host: Host, group: str) -> None:
    host.groups("users", group, session="users")
    host.run("sh", "provision/host/with-groups.sh", "vagrant", "up")
    assert host.calls("sg") == [f"sg {group} -c sh 'provision/host/with-groups.sh' 'vagrant' 'up' "]


@pytest.mark.parametrize(
    ("known", "nixos", "advice"),
    [
        ("libvirt", False, "`sudo usermod -aG libvirt $USER`"),
        ("libvirtd", False, "`sudo usermod -aG libvirtd $USER`"),
        ("libvirtd", True, "`users.users.<name>.extraGroups` in NixOS's configuration"),
    ],
)
def test_vagrant_names_the_group_that_the_host_has(host: Host, known: str, nixos: bool, advice: str) -> None:
    host.groups("users", known=("docker", known))
    if nixos:
        (host.root / "etc/NIXOS").touch()
    (host.root / "libvirt").unlink()
    check = "LibvirtProvider.new(Lab.new(Dir.pwd)).send(:check_daemon)"
    done = host.run(str(shutil.which("ruby")), "-r", "./provision/host/libvirt", "-e", check)
    assert "Lab::Invalid" in done.stderr
    assert advice in done.stderr
