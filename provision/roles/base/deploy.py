"""Every machine: Debian's tools, the names of all machines, the shared folders."""

from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import server

from provision.operations import Context, copy, packages, template

HERE = Path(__file__).parent
# Prints a line for /etc/fstab for each virtiofs mount that is not in it.
UNLISTED = (
    'awk \'$3 == "virtiofs" {print $1, $2, $3, "defaults,nofail", 0, 0}\' /proc/mounts | sort -u'
    " | grep -vxFf /etc/fstab || true"
)


def install() -> None:
    # Before any package: Debian enables and starts the services that it installs.
    copy(HERE / "airflow-lab.preset", "/etc/systemd/system-preset/00-airflow-lab.preset", folder=True)
    packages("curl", "iproute2", "nftables", "procps")


def configure(context: Context) -> None:
    hosts = "".join(f"{address} {name}\n" for name, address in context.lab.hosts.items())
    content = f"127.0.0.1 localhost\n::1 localhost\n{hosts}"
    # Docker overwrites /etc/hosts whenever a machine starts; systemd-tmpfiles restores ours before any service starts.
    path = template(HERE / "hosts.conf.j2", "/etc/tmpfiles.d/lab-hosts.conf", folder=True, content=content)
    server.shell(
        name="Write /etc/hosts",
        commands=[f"systemd-tmpfiles --create {path}"],
        _if=lambda: host.get_fact(Command, "cat /etc/hosts").strip() != content.strip(),
    )
    # Vagrant mounts the shared folders over SSH, after the boot. With lines in /etc/fstab, a machine that reboots
    # without Vagrant mounts them before its services start. Only virtual machines have virtiofs mounts.
    server.shell(
        name="Mount the shared folders at boot",
        commands=[f"missing=$({UNLISTED}); printf '%s\\n' \"$missing\" >>/etc/fstab"],
        _if=lambda: bool(host.get_fact(Command, UNLISTED)),
    )
