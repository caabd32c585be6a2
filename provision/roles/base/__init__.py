"""Every machine: the names of all the others."""

from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import server

from provision.operations import Context, template

HERE = Path(__file__).parent
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
