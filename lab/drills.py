"""The named drills, as data: each is a schedule of one fault on the lab as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lab.schedule import BUSIEST, Event, Schedule, Work
from lab.topology import ALL, Topology

WORK = Work("ledger", {"tasks": 32, "seconds": 6})  # two waves over the sixteen slots of two workers
WORKS = 4  # seconds until a user's task has begun to write
STARTS = 2  # seconds until a task that Airflow calls running is at work
AT_WORK = 4  # tasks that each worker runs before the fault of a named drill begins


@dataclass(frozen=True)
class Drill:
    """A fault on the first machine that has a role (`every`: on all that have it; no role: on all machines).

    It begins when tasks are `running`, or just `queued`, and is undone after `hold` seconds; None: when the work has
    ended.
    """

    title: str
    fault: str
    role: str = ""
    target: str = ""
    every: bool = False
    moment: str = "running"
    hold: float | None = None

    def victims(self, topology: Topology) -> tuple[str, ...]:
        """Return the names of the machines that it affects."""
        names = tuple(machine.name for machine in topology.with_role(self.role)) or (ALL,)
        return names if self.every else names[:1]

    def schedule(self, name: str, topology: Topology) -> Schedule:
        """Return it as a schedule for the lab as it is now."""
        count = AT_WORK if self.moment == "running" else AT_WORK + 1
        delay = STARTS if self.moment == "running" else 0
        event = Event(self.fault, self.victims(topology), self.target, self.moment, count, delay, self.hold)
        return Schedule(name, self.title, topology.broker, (WORK,), (event,))

    def on(self, dag: Work, name: str, topology: Topology) -> Schedule:
        """Return it as a schedule for a user's DAG, which may have one task only: the worker that runs it is struck."""
        drawn = self.schedule(name, topology)
        (event,) = drawn.events
        machines = (BUSIEST,) if self.role == "worker" else event.machines
        return replace(drawn, works=(dag,), events=(replace(event, machines=machines, count=1, delay=WORKS),))


DRILLS = {
    "worker-halt": Drill("a worker is shut down", "halt", "worker"),
    "worker-crash": Drill("a worker loses power", "crash", "worker"),
    "worker-freeze": Drill("a worker freezes for 40 s", "freeze", "worker", hold=40),
    "worker-cut-from-queue": Drill(
        "a worker is cut off from the broker for 40 s", "partition", "worker", "queue", hold=40
    ),
    "worker-cut-from-api": Drill(
        "a worker is cut off from the api-servers for 40 s", "partition", "worker", "load_balancer", hold=40
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
}
