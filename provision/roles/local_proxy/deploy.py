"""HAProxy on every machine: leads its clients to the database's primary, and to an api-server that answers.

No other machine stands in between. It ends connections to a primary that is frozen, which no time limit of the client
does: the kernel of a frozen machine may go on acknowledging.
"""

from pathlib import Path

from provision.operations import Context, packages, restart_always, service, template

HERE = Path(__file__).parent


def install() -> None:
    packages("haproxy")


def configure(context: Context) -> None:
    config = template(HERE / "haproxy.cfg.j2", "/etc/haproxy/haproxy.cfg", lab=context.lab)
    service("haproxy.service", reads=[config, restart_always("haproxy.service")], rolls="local_proxy")
