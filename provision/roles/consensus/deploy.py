"""etcd: the machines agree there which of them is the database's primary, as long as a majority of them answers."""

from pathlib import Path

from provision.operations import Context, copy, packages, restart_always, service, template

HERE = Path(__file__).parent
DATA = "/var/lib/etcd/lab"


def install() -> None:
    packages("etcd-server", "etcd-client")


def configure(context: Context) -> None:
    settings = template(HERE / "etcd.j2", "/etc/default/etcd", lab=context.lab, machine=context.machine, data=DATA)
    unit = copy(HERE / "etcd.conf", "/etc/systemd/system/etcd.service.d/lab.conf", folder=True)
    # It waits for the others: a member is active when a majority is.
    reads = [settings, unit, restart_always("etcd.service")]
    service("etcd.service", reads=reads, wait=False, rolls="consensus")
