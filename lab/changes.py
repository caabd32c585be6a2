"""What a user changes while the lab works. A change is a value like a fault, with its undo if it has one."""

from __future__ import annotations

from collections.abc import Sequence

from lab.checkout import Lab
from lab.faults import Fault
from lab.machines import ABSENT
from lab.switchover import switchover
from lab.topology import BROKERS


def move(lab: Lab, _: str, __: str) -> str:
    (other,) = [broker for broker in BROKERS if broker != lab.topology.broker]
    lab.machines.provision(BROKER=other)
    return other


def roll(lab: Lab, _: str, __: str) -> None:
    lab.machines.provision(REVISION=str(lab.topology.revision + 1))


def reload(lab: Lab, name: str, _: str) -> None:
    lab.machines.reload(name)


def join(lab: Lab, name: str, _: str) -> None:
    lab.machines.up(name, WORKERS=str(len(lab.topology.with_role("worker")) + 1))


def destroy(lab: Lab, name: str, _: str) -> None:
    lab.machines.destroy(name)


def make_again(lab: Lab, names: Sequence[str]) -> list[str]:
    gone = [name for name in names if lab.machines.state(name) == ABSENT]
    for name in gone:
        lab.machines.up(name)
    return [f"{name} made again" for name in gone]


def hand_over(lab: Lab, _: str, role: str) -> str:
    return switchover(lab, role)


def leave(lab: Lab, names: Sequence[str]) -> list[str]:
    """Destroy workers that have joined last, as a user does who wants fewer."""
    workers = [worker.name for worker in lab.topology.with_role("worker")]
    joined = [name for name in workers if name in names]
    for name in joined:
        lab.machines.destroy(name)
    lab.machines.up(WORKERS=str(len(workers) - len(joined)))
    return [f"{name} left" for name in joined]


def keep(lab: Lab, names: Sequence[str]) -> list[str]:
    """Undo nothing: the lab stays as it was changed."""
    return []


CHANGES = {
    "move": Fault("the lab moves to the other broker (vagrant provision)", move, keep, machine=False),
    "roll": Fault("a changed setting rolls through the lab (vagrant provision)", roll, keep, machine=False),
    "reload": Fault("vagrant reload: a machine is shut down and starts again", reload, keep),
    "destroy": Fault("a machine is destroyed, and made again with an empty disk", destroy, make_again),
    "switchover": Fault(
        "the database's primary or the queue's master hands over", hand_over, keep, takes="role", machine=False
    ),
    "join": Fault("a worker joins (vagrant up), and leaves again (vagrant destroy)", join, leave),
}
