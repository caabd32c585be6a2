"""Every machine: the names of all the others."""

from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import server

from provision.operations import Context, template

HERE = Path(__file__).parent
# The mounts of virtiofs that /etc/fstab does not have, as lines for it.
UNLISTED = (
    'awk \'$3 == "virtiofs" {print $1, $2, $3, "defaults,nofail", 0, 0}\' /proc/mounts | sort -u'
    " | grep -vxFf /etc/fstab || true"
)
PACKAGES = ("curl", "iproute2", "nftables", "procps")


def configure(context: Context) -> None:
    hosts = "".join(f"{address} {name}\n" for name, address in context.lab.hosts.items())
    content = f"127.0.0.1 localhost\n::1 localhost\n{hosts}"
    # Docker writes /etc/hosts anew whenever a machine starts; systemd-tmpfiles puts ours back before any service.
    path = template(HERE / "hosts.conf.j2", "/etc/tmpfiles.d/lab-hosts.conf", folder=True, content=content)
    server.shell(
        name="Write /etc/hosts",
        commands=[f"systemd-tmpfiles --create {path}"],
        _if=lambda: host.get_fact(Command, "cat /etc/hosts").strip() != content.strip(),
    )
    # Vagrant mounts the shared folders over SSH, after the boot: a machine that comes back by itself has them before
    # its services start. Only virtual machines have such mounts.
    server.shell(
        name="Mount the shared folders at boot",
        commands=[f"missing=$({UNLISTED}); printf '%s\\n' \"$missing\" >>/etc/fstab"],
        _if=lambda: bool(host.get_fact(Command, UNLISTED)),
    )
