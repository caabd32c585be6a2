"""Draws schedules: the same seed, broker count and machines give the same schedule."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from lab.case import NEEDS
from lab.coverage import Cell, cells_of
from lab.schedule import Event, Schedule, Work, destructible
from lab.switchover import HANDED_OVER
from lab.topology import BROKERS, OTHERS, Topology

CANDIDATES = 8  # schedules of which a soak takes the one that has been tried least
SPAN = 25  # seconds; the first event begins at some moment of this part of the work's life
RECOVERY = 30  # seconds; a second event begins while the first lasts or in this time after it
HOLDS = (0, 5, 15, 25, 40)  # seconds that a fault lasts before it is undone

Dice = random.Random
Strike = tuple[int, Callable[[Topology, Dice], Event]]  # with its weight


def tiny(dice: Dice) -> list[Work]:
    return [Work("ledger", {"tasks": dice.randint(80, 200), "seconds": 0})]


def waves(dice: Dice) -> list[Work]:
    return [Work("ledger", {"tasks": dice.randint(24, 48), "seconds": dice.randint(3, 8)})]


def long(dice: Dice) -> list[Work]:
    return [Work("ledger", {"tasks": dice.randint(6, 20), "seconds": dice.randint(20, 50)})]


def chain(dice: Dice) -> list[Work]:
    return [Work("ledger_chain", {"seconds": dice.randint(0, 2)}) for _ in range(dice.randint(1, 3))]


def deferrable(dice: Dice) -> list[Work]:
    return [Work("ledger_deferrable", {"tasks": dice.randint(10, 30), "seconds": dice.randint(5, 20)})]


def several(dice: Dice) -> list[Work]:
    """Several runs at once or one after the other: of short tasks, a long one, and a chain."""
    runs = [Work("ledger", {"tasks": dice.randint(8, 20), "seconds": dice.randint(0, 5), "long": 30})]
    runs += [Work("ledger", {"tasks": dice.randint(8, 20), "seconds": 1}, at=dice.randint(0, 15)) for _ in range(2)]
    return [*runs, Work("ledger_chain", {"seconds": 0}, at=dice.randint(0, 10))]


WORKS: Mapping[str, Callable[[Dice], list[Work]]] = {
    "many tiny tasks": tiny,
    "two or three waves of tasks": waves,
    "a few long tasks": long,
    "deep chains": chain,
    "deferrable tasks": deferrable,
    "several runs at once": several,
}


def any_machine(topology: Topology, dice: Dice) -> str:
    return dice.choice([machine.name for machine in topology.machines])


def strike(topology: Topology, dice: Dice) -> Event:
    """Draw what happens, and to whom; the moment is drawn apart."""
    found = strikes(topology)
    what = dice.choices(list(found), [weight for weight, _ in found.values()])[0]
    return found[what][1](topology, dice)


def strikes(topology: Topology) -> dict[str, Strike]:
    """Return what can happen to a lab: nothing can be handed over if no role is on several machines."""
    handed = topology.several("database") or topology.several("queue")
    return {what: strike for what, strike in STRIKES.items() if handed or what != "switchover"}


def power(what: str) -> Callable[[Topology, Dice], Event]:
    return lambda topology, dice: Event(what, (any_machine(topology, dice),), hold=dice.choice(HOLDS))


def service(what: str) -> Callable[[Topology, Dice], Event]:
    def draw(topology: Topology, dice: Dice) -> Event:
        name = any_machine(topology, dice)
        needed = [one for one in topology.services(name) if one in NEEDS]  # by tasks: no task waits for Flower
        return Event(what, (name,), dice.choice(needed))

    return draw


def partition(topology: Topology, dice: Dice) -> Event:
    name = any_machine(topology, dice)
    others = [machine.name for machine in topology.machines if machine.name != name]
    api = "api_server" if topology.with_role("local_proxy") else "load_balancer"  # what tasks call
    peers = [OTHERS, *others, *(role for role in ("queue", "database", api) if role not in topology[name].roles)]
    return Event("partition", (name,), dice.choice(peers), hold=dice.choice(HOLDS[1:]))


def spare(topology: Topology, dice: Dice) -> Event:
    """Draw a worker that joins and leaves: the first that config/lab.json has and the lab does not use."""
    used = {machine.name for machine in topology.machines}
    free = [name for name in topology.hosts if name not in used]
    hold = dice.choice(HOLDS[2:])  # it has to receive work before it leaves
    return Event("join", (free[0],), hold=hold) if free else roll(topology, dice)


def destroy(topology: Topology, dice: Dice) -> Event:
    names = [machine.name for machine in topology.machines if destructible(topology, machine.name)]
    return Event("destroy", (dice.choice(names),), hold=dice.choice(HOLDS))


def hand_over(topology: Topology, dice: Dice) -> Event:
    return Event("switchover", target=dice.choice([role for role in HANDED_OVER if topology.several(role)]))


def roll(topology: Topology, dice: Dice) -> Event:
    return Event("roll")


# A change takes minutes.
STRIKES: Mapping[str, Strike] = {
    "crash": (5, power("crash")),
    "freeze": (4, lambda topology, dice: Event("freeze", (any_machine(topology, dice),), hold=dice.choice(HOLDS[1:]))),
    "partition": (4, partition),
    "kill": (6, service("kill")),
    "restart": (3, service("restart")),
    "halt": (2, power("halt")),
    "slow": (1, lambda topology, dice: Event("slow", (any_machine(topology, dice),), hold=dice.choice(HOLDS[1:]))),
    "reload": (1, lambda topology, dice: Event("reload", (any_machine(topology, dice),))),
    "roll": (1, roll),
    "move": (1, lambda topology, dice: Event("move")),
    "join": (1, spare),
    "destroy": (1, destroy),
    "switchover": (2, hand_over),
}


def at(event: Event, moment: str, delay: float) -> Event:
    return Event(event.what, event.machines, event.target, moment, event.count, round(delay, 1), event.hold)


def fits(event: Event, before: Sequence[Event], kind: str) -> bool:
    """Return whether an event can follow others, and can catch a task of that kind of work."""
    taken = {name for one in before for name in one.machines}
    repeated = event.what in ("move", "roll") and event.what in [one.what for one in before]
    return not (taken & {*event.machines} or repeated or (event.target == "triggerer" and "deferrable" not in kind))


def draw(seed: int, topology: Topology, faults: int = 1, broker: str = "", works: Sequence[Work] = ()) -> Schedule:
    """Draw a schedule with `faults` events, on a drawn broker or the given one, and on given work, if there is any.

    Two events strike different machines, unless the first is over: nothing can be done to a machine that is off.
    """
    dice = random.Random(seed)  # noqa: S311
    kind = dice.choice([*WORKS])
    drawn, on = WORKS[kind](dice), dice.choice(BROKERS)
    events: list[Event] = []
    while len(events) < faults:
        event = strike(topology, dice)
        if not fits(event, events, kind):
            continue
        delay = dice.uniform(0, (events[-1].hold or 0) + RECOVERY if events else SPAN)
        events.append(at(event, "event" if events else "start", delay))
    title = f"{kind}; {', then '.join(map(str, events))}"
    return Schedule(f"seed-{seed}", title, broker or on, tuple(works or drawn), tuple(events), seed)


def rarest(dice: Dice, topology: Topology, tried: Mapping[Cell, int], faults: int, broker: str = "") -> Schedule:
    """Draw some schedules, each from a seed of its own, and return the one whose faults have been tried least."""
    drawn = [draw(dice.randrange(10**6), topology, faults, broker) for _ in range(CANDIDATES)]
    return min(drawn, key=lambda one: times(one, tried))


def times(schedule: Schedule, tried: Mapping[Cell, int]) -> float:
    """Return how often the faults of a schedule have been tried on its broker, in all phases."""
    return sum(
        count
        for event in schedule.events
        for cell, count in tried.items()
        if cell[:2] == cells_of(event.what, event.machines, event.target, schedule.broker)
    )


def seeds(text: str, count: int) -> Iterable[int]:
    """Return seeds drawn from a text, such as a commit."""
    dice = random.Random(text)  # noqa: S311
    return [dice.randrange(10**6) for _ in range(count)]
