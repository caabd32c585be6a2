"""The named drills, as data: each is a schedule of a fault, or of two, on the lab as it is."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from lab.schedule import ACTIONS, BUSIEST, HOLDERS, Event, Schedule, Work
from lab.topology import ALL, OTHERS, Topology

WORK = Work("ledger", {"tasks": 32, "seconds": 6})  # two waves over the sixteen slots of two workers
WORKS = 4  # seconds until a user's task has begun to write
STARTS = 2  # seconds until a task that Airflow calls running is at work
THEN = 5  # seconds after the first event until a second one
ANY = "any"  # in place of a role: any machine
AT_WORK = 4  # tasks that each worker runs before the fault of a named drill begins


@dataclass(frozen=True)
class Drill:
    """A fault or a change, and maybe another one `then`, while it lasts.

    It strikes the first `number` machines that have a role; of several databases or queue servers the one that is the
    primary or the master, and `ANY` machine, drawn when the drill begins; with `every`, all that have the role, and
    without a role all machines. It begins when tasks are `running`, or just `queued`, and is undone after `hold`
    seconds; None: when the work has ended. `layout` is the one that it needs.
    """

    title: str
    fault: str
    role: str = ""
    target: str = ""
    every: bool = False
    number: int = 1
    moment: str = "running"
    hold: float | None = None
    layout: str = ""
    then: Drill | None = None

    def fits(self, topology: Topology) -> bool:
        return self.layout in ("", topology.layout)

    def victims(self, topology: Topology) -> tuple[str, ...]:
        """Return the names of the machines that it affects."""
        if not ACTIONS[self.fault].machine:
            return ()
        if self.role == ANY:
            return (random.choice(topology.machines).name,)  # noqa: S311
        names = tuple(machine.name for machine in topology.with_role(self.role)) or (ALL,)
        if self.every:
            return names
        holder = [name for name, role in HOLDERS.items() if role == self.role]
        return tuple(holder) if holder and len(names) > 1 and self.number == 1 else names[: self.number]

    def event(self, topology: Topology) -> Event:
        count = AT_WORK if self.moment == "running" else AT_WORK + 1
        delay = STARTS if self.moment == "running" else 0
        return Event(self.fault, self.victims(topology), self.target, self.moment, count, delay, self.hold)

    def schedule(self, name: str, topology: Topology) -> Schedule:
        """Return it as a schedule for the lab as it is now."""
        events = [self.event(topology)]
        while self.then:
            following = self.then.event(topology)
            if following.machines and set(following.machines) & set(events[0].machines):
                continue  # another one is drawn
            events.append(replace(following, moment="event", delay=THEN))
            break
        return Schedule(name, self.title, topology.broker, (WORK,), tuple(events))

    def on(self, dag: Work, name: str, topology: Topology) -> Schedule:
        """Return it as a schedule for a user's DAG, which may have one task only: the worker that runs it is struck."""
        drawn = self.schedule(name, topology)
        event, *others = drawn.events
        machines = (BUSIEST,) if self.role == "worker" else event.machines
        return replace(drawn, works=(dag,), events=(replace(event, machines=machines, count=1, delay=WORKS), *others))


DRILLS = {
    "worker-halt": Drill("a worker is shut down", "halt", "worker"),
    "worker-crash": Drill("a worker loses power", "crash", "worker"),
    "worker-freeze": Drill("a worker freezes for 40 s", "freeze", "worker", hold=40),
    "worker-cut-from-queue": Drill(
        "a worker is cut off from the broker for 40 s", "partition", "worker", "queue", hold=40
    ),
    "worker-cut-from-api": Drill(
        "a worker is cut off from the api-servers for 40 s", "partition", "worker", "load_balancer,api_server", hold=40
    ),
    "worker-slow": Drill("a worker's link is slow for 30 s", "slow", "worker", hold=30),
    "worker-kill": Drill("a worker's main process is killed", "kill", "worker", "worker", hold=0),
    "master-crash": Drill("a master loses power", "crash", "scheduler"),
    "master-freeze": Drill("a master freezes for 40 s", "freeze", "scheduler", hold=40),
    "scheduler-kill-queued": Drill(
        "a scheduler is killed while tasks are queued", "kill", "scheduler", "scheduler", moment="queued", hold=0
    ),
    "scheduler-kill-running": Drill("a scheduler is killed while tasks run", "kill", "scheduler", "scheduler", hold=0),
    "schedulers-kill": Drill("all schedulers are killed", "kill", "scheduler", "scheduler", every=True, hold=0),
    "api-server-kill": Drill("an api-server is killed", "kill", "api_server", "api_server", hold=0),
    "queue-restart": Drill("the broker is restarted", "restart", "queue", "queue", hold=0),
    "queue-kill": Drill("the broker is killed", "kill", "queue", "queue", hold=0),
    "broker-halt": Drill("the machine of the broker and the database is shut down", "halt", "queue", hold=0),
    "broker-freeze": Drill("the machine of the broker and the database freezes for 40 s", "freeze", "queue", hold=40),
    "database-kill": Drill("the database is killed", "kill", "database", "database", hold=0),
    "database-crash": Drill("the database's machine loses power", "crash", "database", hold=0),
    "nginx-restart": Drill("nginx is restarted", "restart", "load_balancer", "load_balancer", hold=0),
    "nginx-kill": Drill("nginx is killed", "kill", "load_balancer", "load_balancer", hold=0),
    "lab-crash": Drill("every machine loses power", "crash", hold=0),
    "machine-crash": Drill("a machine, any of them, loses power", "crash", ANY, layout="ha"),
    "machine-freeze": Drill("a machine, any of them, freezes for 40 s", "freeze", ANY, hold=40, layout="ha"),
    "machine-cut": Drill(
        "a machine, any of them, is cut off from all others for 40 s",
        "partition",
        ANY,
        OTHERS,
        hold=40,
        layout="ha",
    ),
    "database-switchover": Drill("the primary hands over", "switchover", target="database", hold=0, layout="ha"),
    "database-destroy": Drill(
        "the primary's machine is destroyed and made again", "destroy", "database", hold=0, layout="ha"
    ),
    "queue-switchover": Drill("the queue's master hands over", "switchover", target="queue", hold=0, layout="ha"),
    "consensus-kill": Drill("etcd's leader is killed", "kill", "consensus", "consensus", hold=0, layout="ha"),
    "majority-crash": Drill(
        "two of the three machines of database and queue lose power for 20 s",
        "crash",
        "consensus",
        number=2,
        hold=20,
        layout="ha",
    ),
    "primary-and-worker-crash": Drill(
        "the primary's machine and a worker lose power",
        "crash",
        "database",
        hold=40,
        layout="ha",
        then=Drill("", "crash", "worker", hold=20),
    ),
    "move-crash": Drill(
        "a machine loses power in the middle of a move",
        "move",
        hold=0,
        layout="ha",
        then=Drill("", "crash", ANY, hold=20),
    ),
    "roll-crash": Drill(
        "a machine loses power while a changed setting rolls",
        "roll",
        hold=0,
        layout="ha",
        then=Drill("", "crash", ANY, hold=20),
    ),
}
