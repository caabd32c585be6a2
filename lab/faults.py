"""What can be done to the lab, and how each is undone: the same words on every provider.

Whatever was done, `heal` undoes it all: it asks the machines, and not a memory of what was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lab.machines import FROZEN, RUNNING, Machines
from lab.topology import QUEUE_UNITS, Topology

ALL = "all"  # the name of every machine at once, for power
TABLE = "inet airflow_lab_fault"
FILLER = "/var/lib/airflow-lab/filler"
SKEWED = "/var/lib/airflow-lab/skewed"  # is there while a machine's clock is as `skew` has set it
CLOCK = 2  # seconds that a machine's clock may differ from the host's, times the lab's factor: asking takes time
CONTAINER = {  # what a container cannot show, and why
    "skew": "a container has the host's clock",
    "fill": "a container's disk is the host's",
}
KILLED = "The host's kernel has ended the connections: those of a real machine that loses power stay open"
DELAY, LOSS = "200ms", 5  # the link of a slow machine: latency one way, and percent of packets lost both ways
SLOW = f"""
device=$(ip -o route get {{address}} | grep -o 'dev [^ ]*' | cut -c5- | head -1)
tc qdisc add dev $device root netem delay {DELAY} loss {LOSS}% 2>/dev/null && exit
echo 'loss only: this kernel has no netem, so no latency'
nft -f - <<'END'
add table {TABLE}
add chain {TABLE} input {{{{ type filter hook input priority -10; }}}}
add rule {TABLE} input ip saddr {{{{ {{addresses}} }}}} numgen random mod 100 < {LOSS} drop
END
"""
HEAL = f"""
nft delete table {TABLE} 2>/dev/null && echo connected
[ ! -e {FILLER} ] || {{{{ rm {FILLER}; echo emptied; }}}}
late=$(({{now}} - $(date +%s)))
if [ -e {SKEWED} ] || [ ${{{{late#-}}}} -gt {{clock}} ]; then
  date --set=@{{now}} >/dev/null && rm -f {SKEWED} && echo on-time
  systemctl start systemd-timesyncd
fi
for device in $(ls /sys/class/net); do
  tc qdisc show dev $device | grep -qE '^qdisc (netem|tbf)' && tc qdisc del dev $device root && echo fast
done
for unit in {{units}}; do  # one that systemd is about to start by itself is left to it
  case $(systemctl show --value --property ActiveState $unit) in
    inactive | failed) systemctl start $unit && echo started ;;
  esac
done
"""


class UnknownError(Exception):
    """A fault, machine, service or peer that there is not."""


@dataclass(frozen=True)
class Fault:
    """Something bad: `does` says what, `takes` what it must be told beside a machine: a service, or peers.

    `inject` does it, and returns what the user should know of how it was done.
    """

    does: str
    inject: Callable[[Machines, str, str], str | None]
    takes: str = ""


def services(topology: Topology, machine: str) -> dict[str, str]:
    """Return the systemd unit of each service that a machine has, by the role that it plays."""
    units = {
        "database": "postgresql@17-main",
        "queue": QUEUE_UNITS[topology.broker].removesuffix(".service"),
        "load_balancer": "nginx",
        "flower": "airflow-flower",
        "api_server": "airflow-api-server",
        "scheduler": "airflow-scheduler",
        "dag_processor": "airflow-dag-processor",
        "triggerer": "airflow-triggerer",
        "worker": "airflow-worker",
    }
    found = {role: units[role] for role in topology[machine].roles}
    if "worker" in found:
        found["log_server"] = "airflow-log-server"
    return found


def endpoints(topology: Topology, peer: str) -> list[str]:
    """Return what to cut for `peer`, a machine or a role, as nftables matches it; UnknownError if it is neither."""
    ports = topology.ports
    by_role = {
        "database": "postgresql",
        "queue": topology.broker,
        "load_balancer": "load_balancer",
        "api_server": "api_server",
    }
    if peer in by_role:
        return [f"{machine.address} {ports[by_role[peer]]}" for machine in topology.with_role(peer)]
    if peer in topology.hosts:
        return [topology.hosts[peer]]
    raise UnknownError(f"{peer!r} is nothing to cut a machine from: {', '.join([*by_role, *topology.hosts])}")


def _halt(machines: Machines, name: str, _: str) -> None:
    machines.halt(None if name == ALL else name)


def _crash(machines: Machines, name: str, _: str) -> str | None:
    machines.halt(None if name == ALL else name, force=True)
    return KILLED if machines.topology.provider == "docker" else None


def _freeze(machines: Machines, name: str, _: str) -> None:
    machines.hypervisor("freeze", name)


def _partition(machines: Machines, name: str, peers: str) -> None:
    rules = []
    for peer in peers.split(","):
        for endpoint in endpoints(machines.topology, peer):
            address, _, port = endpoint.partition(" ")
            rules.append(f"add rule {TABLE} input ip saddr {address} {f'tcp sport {port}' if port else ''} drop")
            rules.append(f"add rule {TABLE} output ip daddr {address} {f'tcp dport {port}' if port else ''} drop")
    chains = [f"add chain {TABLE} {hook} {{ type filter hook {hook} priority -10; }}" for hook in ("input", "output")]
    script = "\n".join([f"add table {TABLE}", *chains, *rules])
    machines.guest(name).run_script(f"nft -f - <<'END'\n{script}\nEND\n")


def _kill(machines: Machines, name: str, service: str) -> None:
    named = unit(machines, name, service)
    machines.guest(name).run("systemctl kill --kill-whom main --signal SIGKILL %s", named)


def _restart(machines: Machines, name: str, service: str) -> None:
    named = unit(machines, name, service)
    machines.guest(name).run("systemctl restart %s", named)


def _slow(machines: Machines, name: str, _: str) -> str:
    others = [address for other, address in machines.topology.hosts.items() if other != name]
    return machines.guest(name).run_script(SLOW.format(address=others[0], addresses=", ".join(others))).strip()


def _skew(machines: Machines, name: str, seconds: str) -> None:
    try:
        ahead = int(seconds)
    except ValueError:
        raise UnknownError(f"{seconds!r} is no number of seconds: 60 is a minute ahead, -60 a minute behind") from None
    mark = f"mkdir -p {SKEWED.rpartition('/')[0]} && touch {SKEWED} || exit"
    change = f"systemctl stop systemd-timesyncd; date --set=@$(($(date +%s) + {ahead}))"
    machines.guest(name).run_script(f"{mark}\n{change}")


def _fill(machines: Machines, name: str, _: str) -> None:
    free = "$(df --output=avail --block-size=1 /var/lib | tail -1)"
    machines.guest(name).run_script(f"mkdir -p {FILLER.rpartition('/')[0]}; fallocate --length {free} {FILLER}")


FAULTS = {
    "halt": Fault("shut down: what runs has time to end", _halt),
    "crash": Fault("power off", _crash),
    "freeze": Fault("answers nothing, and keeps its connections", _freeze),
    "partition": Fault("cut from machines or services; ssh stays", _partition, takes="peers"),
    "kill": Fault("SIGKILL of a service's main process; systemd starts it again", _kill, takes="service"),
    "restart": Fault("restart of a service", _restart, takes="service"),
    "skew": Fault("its clock goes wrong, so many seconds ahead or, below zero, behind", _skew, takes="seconds"),
    "fill": Fault("its disk is full", _fill),
    "slow": Fault(f"{DELAY} of latency and {LOSS} % loss on its link", _slow),
}


def unit(machines: Machines, name: str, service: str) -> str:
    """Return the systemd unit of a service of a machine; UnknownError if it has no such service."""
    found = services(machines.topology, name)
    if service not in found:
        raise UnknownError(f"{name} has no service {service!r}: {', '.join(found)}")
    return found[service]


def heal(machines: Machines) -> list[str]:
    """Undo whatever was done to the lab, and return what had to be undone, a line for each machine."""
    names = [machine.name for machine in machines.topology.machines]
    undone = []
    with ThreadPoolExecutor() as pool:
        states = dict(zip(names, pool.map(machines.state, names), strict=True))
        for name in (name for name, state in states.items() if state == FROZEN):
            machines.hypervisor("thaw", name)
            undone.append(f"{name} thawed")
        off = [name for name, state in states.items() if state not in (FROZEN, RUNNING)]
        if off:
            machines.up(off[0] if len(off) == 1 else None)
            undone += [f"{name} up" for name in off]

        for words in pool.map(lambda name: mend(machines, name), names):
            undone += words
    return undone


def mend(machines: Machines, name: str) -> list[str]:
    """Undo what was done inside a machine that runs, and return what had to be undone."""
    topology = machines.topology
    units = " ".join(services(topology, name).values())
    script = HEAL.format(units=units, now=int(time.time()), clock=CLOCK * topology.time_factor)
    return [f"{name} {word}" for word in machines.guest(name).run_script(script).split()]
