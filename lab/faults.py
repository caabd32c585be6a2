"""The faults of the lab and how each is undone, with the same commands on every provider.

An undo does not rely on a record: it asks the machines what is wrong. `heal` undoes everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.checkout import Lab
from lab.doctor import CLOCK
from lab.machines import FROZEN, RUNNING
from lab.parallel import for_each
from lab.roles import ROLES, canonical
from lab.topology import ALL, OTHERS, Topology

SCRIPTS = Path(__file__).parent / "scripts"
TABLE = "inet airflow_lab_fault"
FILLER = "/var/lib/airflow-lab/filler"
SKEWED = "/var/lib/airflow-lab/skewed"  # exists while a machine's clock is set wrong by `skew`
DELAY, LOSS = "200ms", 5  # of a slow link: latency one way, and percent of packets lost in both directions
KILLED = "The host's kernel has closed the connections. If a real machine loses power, its connections stay open"

Inject = Callable[[Lab, str, str], str | None]
Undo = Callable[[Lab, Sequence[str]], list[str]]


class UnknownError(Exception):
    """A fault, machine, service or peer that does not exist."""


@dataclass(frozen=True)
class Fault:
    """A fault of one machine; without `machine`, of the whole lab.

    `does` describes it. `inject` injects it into a machine, and returns a note for the user if there is one. `undo`
    undoes it on those of the given machines that have it, and returns what it undid. `takes` names the argument that it
    needs in addition to a machine. `not_on_docker` says why containers do not have it.
    """

    does: str
    inject: Inject
    undo: Undo
    takes: str = ""
    not_on_docker: str = ""
    machine: bool = True


def unit(lab: Lab, machine: str, service: str) -> str:
    """Return the systemd unit of a service of a machine; UnknownError if it has no such service."""
    found = lab.topology.services(machine)
    if canonical(service) not in found:
        raise UnknownError(f"{machine} does not have the service {service!r}: {', '.join(found)}")
    return found[canonical(service)]


def endpoints(topology: Topology, peer: str) -> list[str]:
    """Return what to cut for `peer`, a machine or a role, as nftables matches it; UnknownError if it is neither."""
    there = [role for role in ROLES if topology.with_role(role)]
    roles = {role: ports for role in there if (ports := topology.role(role).ports_on(topology.broker))}
    if peer in topology.hosts:  # first: broker is a machine here
        return [topology.hosts[peer]]
    if (role := canonical(peer)) in roles:
        machines = topology.with_role(role)
        return [f"{machine.address} {topology.ports[port]}" for machine in machines for port in roles[role]]
    raise UnknownError(f"{peer!r} is not a machine or a role with a port: {', '.join([*roles, *topology.hosts])}")


def halt(lab: Lab, name: str, _: str) -> None:
    lab.machines.halt(None if name == ALL else name)


def crash(lab: Lab, name: str, _: str) -> str | None:
    lab.machines.halt(None if name == ALL else name, force=True)
    return KILLED if lab.topology.provider == "docker" else None


def bring_up(lab: Lab, names: Sequence[str]) -> list[str]:
    off = [name for name, state in states(lab, names).items() if state not in (FROZEN, RUNNING)]
    if off:
        lab.machines.up(off[0] if len(off) == 1 else None)
    return [f"{name} up" for name in off]


def freeze(lab: Lab, name: str, _: str) -> None:
    lab.machines.hypervisor("freeze", name)


def thaw(lab: Lab, names: Sequence[str]) -> list[str]:
    frozen = [name for name, state in states(lab, names).items() if state == FROZEN]
    for name in frozen:
        lab.machines.hypervisor("thaw", name)
    return [f"{name} thawed" for name in frozen]


def states(lab: Lab, names: Sequence[str]) -> dict[str, str]:
    return for_each(names, lab.machines.state)


def script(lab: Lab, machine: str, name: str, *arguments: object) -> str:
    """Run a file of `lab/scripts` on a machine and return what it prints."""
    text = (SCRIPTS / name).read_text()
    return lab.machines.guest(machine).run_script(text, *map(str, arguments))


def undo_by(name: str, arguments: Callable[[Lab, str], Sequence[object]]) -> Undo:
    """Return an undo that runs a file of `lab/scripts` on each machine, with arguments for it."""

    def undo(lab: Lab, names: Sequence[str]) -> list[str]:
        printed = for_each(names, lambda machine: script(lab, machine, name, *arguments(lab, machine)))
        return [f"{machine} {word}" for machine, text in printed.items() for word in text.split()]

    return undo


def partition(lab: Lab, name: str, peers: str) -> None:
    rules = []
    others = [other for other in lab.topology.hosts if other != name]
    for peer in others if peers == OTHERS else peers.split(","):
        for endpoint in endpoints(lab.topology, peer):
            address, _, port = endpoint.partition(" ")
            rules.append(f"add rule {TABLE} input ip saddr {address} {f'tcp sport {port}' if port else ''} drop")
            rules.append(f"add rule {TABLE} output ip daddr {address} {f'tcp dport {port}' if port else ''} drop")
    chains = [f"add chain {TABLE} {hook} {{ type filter hook {hook} priority -10; }}" for hook in ("input", "output")]
    ruleset = "\n".join([f"add table {TABLE}", *chains, *rules])
    lab.machines.guest(name).run_script(f"nft -f - <<'END'\n{ruleset}\nEND\n")


def slow(lab: Lab, name: str, _: str) -> str:
    others = [address for other, address in lab.topology.hosts.items() if other != name]
    return script(lab, name, "slow.sh", DELAY, LOSS, TABLE, *others).strip()


def kill(lab: Lab, name: str, service: str) -> None:
    lab.machines.guest(name).run("systemctl kill --kill-whom main --signal SIGKILL %s", unit(lab, name, service))


def restart(lab: Lab, name: str, service: str) -> None:
    lab.machines.guest(name).run("systemctl restart %s", unit(lab, name, service))


def skew(lab: Lab, name: str, seconds: str) -> None:
    try:
        ahead = int(seconds)
    except ValueError:
        raise UnknownError(f"{seconds!r} is not a number of seconds: 60 is a minute ahead, -60 behind") from None
    script(lab, name, "skew.sh", ahead, SKEWED)


def fill(lab: Lab, name: str, _: str) -> None:
    script(lab, name, "fill.sh", FILLER)


reconnect = undo_by("restore-network.sh", lambda lab, name: [TABLE])
start_services = undo_by("start-services.sh", lambda lab, name: [*lab.topology.services(name).values()])
set_clock = undo_by("restore-clock.sh", lambda lab, name: [int(time.time()), round(lab.seconds(CLOCK)), SKEWED])
empty = undo_by("empty.sh", lambda lab, name: [FILLER])

# In the order in which `heal` undoes them: what runs on a machine needs a machine that runs.
FAULTS = {
    "freeze": Fault("answers nothing, and keeps its connections open", freeze, thaw),
    "halt": Fault("shut down: services have time to end", halt, bring_up),
    "crash": Fault("power off", crash, bring_up),
    "partition": Fault("cut off from machines or roles; SSH still works", partition, reconnect, takes="peers"),
    "slow": Fault(
        f"{DELAY} latency and {LOSS} % of packets lost; only the loss if the kernel has no netem", slow, reconnect
    ),
    "fill": Fault("its disk is full", fill, empty, not_on_docker="a container's disk is the host's"),
    "skew": Fault(
        "its clock is ahead by this many seconds, or behind if the number is negative",
        skew,
        set_clock,
        takes="seconds",
        not_on_docker="a container has the host's clock",
    ),
    "kill": Fault("SIGKILL of a service's main process; systemd restarts it", kill, start_services, takes="service"),
    "restart": Fault("restart of a service", restart, start_services, takes="service"),
}


def heal(lab: Lab, names: Sequence[str] = ()) -> list[str]:
    """Undo every fault on the machines `names`, or on all, and return what was undone."""
    names = names or [machine.name for machine in lab.topology.machines]
    return [line for undo in dict.fromkeys(fault.undo for fault in FAULTS.values()) for line in undo(lab, names)]
