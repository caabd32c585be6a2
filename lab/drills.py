"""Drills: work on the lab, a fault, recovery, and a judgement of what became of the work."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from lab import ledger
from lab.client import Airflow, connect, eventually
from lab.faults import ALL, FAULTS, heal
from lab.machines import Machines
from lab.status import problems
from lab.topology import Topology

DAG = "ledger"
WORK = {"tasks": 32, "seconds": 6}  # two waves over the sixteen places of two workers
AT_WORK = 4  # tasks that each worker has begun before a fault strikes
GIVE_UP = 300  # seconds after which what has not recovered is called lost


@dataclass(frozen=True)
class Drill:
    """A fault on the first machine that has a role (`every`: on all that have it; no role: on the whole lab).

    It strikes at a `moment`, when tasks are `running` or just `queued`, and is undone after `hold` seconds, or, without
    them, when the work has ended. `overlap`: it cannot be avoided that a task is at work twice.
    """

    title: str
    fault: str
    role: str = ""
    target: str = ""
    every: bool = False
    moment: str = "running"
    hold: float | None = None
    overlap: bool = False

    def victims(self, topology: Topology) -> list[str]:
        """Return the names of the machines that it strikes."""
        names = [machine.name for machine in topology.with_role(self.role)] or [ALL]
        return names if self.every else names[:1]


DRILLS = {
    "worker-halt": Drill("a worker is shut down", "halt", "worker"),
    "worker-crash": Drill("a worker loses power", "crash", "worker"),
    "worker-freeze": Drill("a worker freezes for 40 s", "freeze", "worker", hold=40, overlap=True),
    "worker-cut-from-queue": Drill(
        "a worker is cut off from the broker for 40 s", "partition", "worker", "queue", hold=40
    ),
    "worker-cut-from-api": Drill(
        "a worker is cut off from the api-servers for 40 s",
        "partition",
        "worker",
        "load_balancer",
        hold=40,
        overlap=True,
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
    "broker-halt": Drill("the machine of broker and database is shut down", "halt", "queue", hold=0),
    "broker-freeze": Drill("the machine of broker and database freezes for 40 s", "freeze", "queue", hold=40),
    "database-kill": Drill("the database is killed", "kill", "database", "database", hold=0),
    "database-crash": Drill("the database's machine loses power", "crash", "database", hold=0),
    "nginx-restart": Drill("nginx is restarted", "restart", "load_balancer", "load_balancer", hold=0),
    "nginx-kill": Drill("nginx is killed", "kill", "load_balancer", "load_balancer", hold=0),
    "lab-crash": Drill("every machine loses power", "crash", hold=0),
}


@dataclass
class Request:
    """A request through nginx: when, for how many seconds, and why it failed, if it did."""

    at: datetime
    seconds: float
    error: str = ""


@dataclass
class Record:
    """What happened in a drill. Moments are UTC; one that was not reached is None. `fault_at`: the fault was done."""

    name: str
    title: str
    broker: str
    overlap: bool
    struck: list[str]
    run_id: str
    began: datetime
    fault_at: datetime | None = None
    healed_at: datetime | None = None
    ended_at: datetime | None = None
    whole_at: datetime | None = None
    tries: list[ledger.Try] = field(default_factory=list)
    judgement: ledger.Judgement = field(default_factory=ledger.Judgement)
    requests: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, done twice or failed, and the lab is whole again."""
        return self.judgement.good(overlap=self.overlap) and not self.problems

    @property
    def failed_requests(self) -> int:
        return sum(bool(request.error) for request in self.requests)

    @property
    def again(self) -> list[ledger.Try]:
        """The second tries of tasks whose first had begun before the fault, and was given up."""
        if not self.fault_at:
            return []
        before = {one.task for one in self.tries if one.started < self.fault_at}
        return [t for t in self.tries if t.started > self.fault_at and t.number == 2 and t.task in before]

    @property
    def recovered_at(self) -> datetime | None:
        """When the last of the tasks that the fault had caught had begun again, or, if none, when any task began."""
        if not self.fault_at:
            return None
        if again := self.again:
            return max(one.started for one in again)
        return min((one.started for one in self.tries if one.started > self.fault_at), default=None)

    @property
    def recovery(self) -> float | None:
        """Seconds from the fault to `recovered_at`."""
        return (self.recovered_at - self.fault_at).total_seconds() if self.recovered_at and self.fault_at else None

    def document(self) -> dict[str, Any]:
        """Return the record with its results, for JSON."""
        results = {"passed": self.passed, "recovery_seconds": self.recovery, "failed_requests": self.failed_requests}
        return asdict(self) | results


class Visitor(threading.Thread):
    """Asks for a page through nginx five times a second, as a user would, until it is told to stop."""

    PATHS = ("/api/v2/monitor/health", "/api/v2/dags?limit=5")

    def __init__(self, airflow: Airflow) -> None:
        super().__init__(daemon=True)
        wait = 5 * Topology.load().time_factor
        self.http = httpx.Client(
            base_url=airflow.http.base_url, headers=airflow.http.headers, timeout=wait, trust_env=False
        )
        self.requests: list[Request] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.2):
            for path in self.PATHS:
                at, start = datetime.now(UTC), time.monotonic()
                error = ""
                try:
                    self.http.get(path).raise_for_status()
                except httpx.HTTPStatusError as failure:
                    error = str(failure.response.status_code)
                except httpx.HTTPError as failure:
                    error = type(failure).__name__
                self.requests.append(Request(at, time.monotonic() - start, error))

    @contextmanager
    def visiting(self) -> Iterator[list[Request]]:
        self.start()
        try:
            yield self.requests
        finally:
            self.done.set()
            self.join()


def run(name: str, machines: Machines, say: Callable[[str], None]) -> Record:
    """Run a drill and return its record, which names what was not undone, or not judged, among its problems.

    AssertionError if the lab is not whole to begin with, or the fault cannot be done; what was done of it is undone.
    """
    drill, topology, airflow = DRILLS[name], machines.topology, Airflow.of_this_checkout()
    eventually(lambda: _whole(machines), within=60)
    victims = drill.victims(topology)
    record = Record(name, drill.title, topology.broker, drill.overlap, victims, "", datetime.now(UTC))
    visitor = Visitor(airflow)
    with visitor.visiting() as record.requests:
        work = WORK | {"seconds": WORK["seconds"] * topology.time_factor}
        record.run_id = airflow.trigger(DAG, **work)
        say(f"{work['tasks']} tasks of {work['seconds']} s are on their way")
        eventually(lambda: _reached(drill.moment, airflow, topology, record.run_id), within=60, every=0.3)
        try:
            say(f"{drill.fault} {', '.join(victims)} {drill.target}".rstrip())
            for victim in victims:
                record.note = FAULTS[drill.fault].inject(machines, victim, drill.target) or ""
            record.fault_at = datetime.now(UTC)
            if drill.hold is None:
                with suppress(AssertionError):  # what has not ended may do so once the fault is undone
                    _ended(airflow, record.run_id, say)
            else:
                time.sleep(drill.hold * topology.time_factor)
        finally:
            say("undoing it")
            with _noted(record, "the fault was not undone"):
                undone = heal(machines)
                record.healed_at = datetime.now(UTC)
                say(", ".join(undone) or "nothing had to be undone: systemd had done it")
        with _noted(record, "the lab did not recover"):
            _ended(airflow, record.run_id, say)
            record.ended_at = datetime.now(UTC)
            say("the work has ended; waiting until the lab is whole")
            eventually(lambda: _whole(machines), within=120)
            record.whole_at = datetime.now(UTC)
    with _noted(record, "the work was not judged"):
        states = {
            task["map_index"]: task["state"] for task in airflow.tasks(DAG, record.run_id) if task["task_id"] == "work"
        }
        with connect(topology) as connection:
            record.tries = ledger.read(connection, record.run_id)
        record.judgement = ledger.judge(record.tries, states)
    if not record.ended_at:
        with _noted(record, "the run was not ended"):  # the next drill begins with a lab that has nothing to do
            airflow.give_up(DAG, record.run_id)
    return record


@contextmanager
def _noted(record: Record, what: str) -> Iterator[None]:
    """Note an error as a problem of the record, and go on: a record that says so is worth more than none."""
    try:
        yield
    except Exception as error:
        record.problems.append(f"{what}: {error} {getattr(error, 'stderr', None) or ''}".strip())


def _whole(machines: Machines) -> None:
    found = problems(machines)
    assert not found, "; ".join(found)


def _reached(moment: str, airflow: Airflow, topology: Topology, run_id: str) -> None:
    """Assert that tasks are queued or, where they are to be running, that each worker is at work on some."""
    states = Counter(airflow.states(DAG, run_id).values())
    assert states["queued"] > 4, states
    if moment == "queued":
        return
    with connect(topology) as connection:
        at_work = Counter(one.host for one in ledger.read(connection, run_id) if not one.ended)
    assert all(at_work[worker.name] >= AT_WORK for worker in topology.with_role("worker")), at_work


def _ended(airflow: Airflow, run_id: str, say: Callable[[str], None]) -> None:
    """Wait for the end of a run, through an Airflow that may be away; AssertionError after `GIVE_UP` seconds."""
    said = ""

    def ended() -> None:
        nonlocal said
        try:
            state = airflow.get(f"dags/{DAG}/dagRuns/{run_id}")["state"]
            counts = airflow.counts(DAG, run_id)
        except httpx.HTTPError as error:
            state, counts = "", f"Airflow does not answer: {type(error).__name__}"
        if counts != said:
            say(counts)
            said = counts
        assert state in ("success", "failed"), f"the work has not ended: {counts}"

    eventually(ended, within=GIVE_UP)
