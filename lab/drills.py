"""Drills: a workload, a fault, recovery, and a judgement of what happened to the work."""

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
from lab.checkout import Lab
from lab.client import Airflow
from lab.faults import ALL, FAULTS, heal
from lab.status import problems
from lab.topology import Topology

DAG = "ledger"
WORK = {"tasks": 32, "seconds": 6}  # two waves over the sixteen slots of two workers
AT_WORK = 4  # tasks that each worker runs before the fault is injected
GIVE_UP = 300  # seconds after which a task that has not ended counts as lost


@dataclass(frozen=True)
class Drill:
    """A fault on the first machine that has a role (`every`: on all that have it; no role: on all machines).

    It is injected at a `moment`, when tasks are `running` or just `queued`, and undone after `hold` seconds; without
    them, when the work has ended. `overlap`: two attempts of a task may run at the same time, which is unavoidable.
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
        """Return the names of the machines that it affects."""
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
    "broker-halt": Drill("the machine of the broker and the database is shut down", "halt", "queue", hold=0),
    "broker-freeze": Drill("the machine of the broker and the database freezes for 40 s", "freeze", "queue", hold=40),
    "database-kill": Drill("the database is killed", "kill", "database", "database", hold=0),
    "database-crash": Drill("the database's machine loses power", "crash", "database", hold=0),
    "nginx-restart": Drill("nginx is restarted", "restart", "load_balancer", "load_balancer", hold=0),
    "nginx-kill": Drill("nginx is killed", "kill", "load_balancer", "load_balancer", hold=0),
    "lab-crash": Drill("every machine loses power", "crash", hold=0),
}


@dataclass
class Request:
    """A request through nginx: when, how many seconds it took, and why it failed, if it did."""

    at: datetime
    seconds: float
    error: str = ""


@dataclass
class Record:
    """What happened in a drill. Times are UTC; None for what was not reached. `fault_at`: the fault was injected."""

    name: str
    title: str
    broker: str
    overlap: bool
    victims: list[str]
    run_id: str
    began: datetime
    fault_at: datetime | None = None
    healed_at: datetime | None = None
    ended_at: datetime | None = None
    healthy_at: datetime | None = None
    attempts: list[ledger.Attempt] = field(default_factory=list)
    judgement: ledger.Judgement = field(default_factory=ledger.Judgement)
    requests: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, executed twice or failed, and the lab is healthy again."""
        return self.judgement.good(overlap=self.overlap) and not self.problems

    @property
    def failed_requests(self) -> int:
        return sum(bool(request.error) for request in self.requests)

    @property
    def retried(self) -> list[ledger.Attempt]:
        """The second attempts of tasks whose first one had started before the fault."""
        if not self.fault_at:
            return []
        before = {one.task for one in self.attempts if one.started < self.fault_at}
        return [t for t in self.attempts if t.started > self.fault_at and t.number == 2 and t.task in before]

    @property
    def recovered_at(self) -> datetime | None:
        """When the last interrupted task started again; if the fault interrupted none, when any task started."""
        if not self.fault_at:
            return None
        if retried := self.retried:
            return max(one.started for one in retried)
        return min((one.started for one in self.attempts if one.started > self.fault_at), default=None)

    @property
    def recovery(self) -> float | None:
        """Seconds from the fault to `recovered_at`."""
        return (self.recovered_at - self.fault_at).total_seconds() if self.recovered_at and self.fault_at else None

    def document(self) -> dict[str, Any]:
        """Return the record and its results, for JSON."""
        results = {"passed": self.passed, "recovery_seconds": self.recovery, "failed_requests": self.failed_requests}
        return asdict(self) | results


class ClientTraffic(threading.Thread):
    """Requests pages through nginx five times a second, as a user would, until it is told to stop."""

    PATHS = ("/api/v2/monitor/health", "/api/v2/dags?limit=5")

    def __init__(self, airflow: Airflow, timeout: float) -> None:
        super().__init__(daemon=True)
        self.http = httpx.Client(
            base_url=airflow.http.base_url, headers=airflow.http.headers, timeout=timeout, trust_env=False
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
    def running(self) -> Iterator[list[Request]]:
        self.start()
        try:
            yield self.requests
        finally:
            self.done.set()
            self.join()


def run(name: str, lab: Lab, say: Callable[[str], None]) -> Record:
    """Run a drill and return its record, whose problems include what could not be undone or judged.

    AssertionError if the lab is not healthy at the beginning, or the fault cannot be injected; that is undone.
    """
    drill, topology, airflow = DRILLS[name], lab.topology, lab.airflow
    lab.eventually(lambda: _healthy(lab), within=60)
    victims = drill.victims(topology)
    record = Record(name, drill.title, topology.broker, drill.overlap, victims, "", datetime.now(UTC))
    traffic = ClientTraffic(airflow, lab.seconds(5))
    with traffic.running() as record.requests:
        work = WORK | {"seconds": round(lab.seconds(WORK["seconds"]))}
        record.run_id = airflow.trigger(DAG, **work)
        say(f"triggered {work['tasks']} tasks of {work['seconds']} s")
        lab.eventually(lambda: _reached(drill.moment, lab, record.run_id), within=60, every=0.3)
        try:
            say(f"{drill.fault} {', '.join(victims)} {drill.target}".rstrip())
            for victim in victims:
                record.note = FAULTS[drill.fault].inject(lab, victim, drill.target) or ""
            record.fault_at = datetime.now(UTC)
            if drill.hold is None:
                with suppress(AssertionError):  # what has not ended may end after the fault is undone
                    _ended(lab, record.run_id, say)
            else:
                time.sleep(lab.seconds(drill.hold))
        finally:
            say("undoing the fault")
            with _noted(record, "the fault was not undone"):
                undone = heal(lab)
                record.healed_at = datetime.now(UTC)
                say(", ".join(undone) or "nothing to undo: systemd has restarted it")
        with _noted(record, "the lab did not recover"):
            _ended(lab, record.run_id, say)
            record.ended_at = datetime.now(UTC)
            say("the work has ended; waiting until the lab is healthy")
            lab.eventually(lambda: _healthy(lab), within=120)
            record.healthy_at = datetime.now(UTC)
    with _noted(record, "the work was not judged"):
        states = {
            task["map_index"]: task["state"] for task in airflow.tasks(DAG, record.run_id) if task["task_id"] == "work"
        }
        with lab.connect() as connection:
            record.attempts = ledger.read(connection, record.run_id)
        record.judgement = ledger.judge(record.attempts, states)
    if not record.ended_at:
        with _noted(record, "the run was not ended"):  # the next drill needs an idle lab
            airflow.give_up(DAG, record.run_id)
    return record


@contextmanager
def _noted(record: Record, what: str) -> Iterator[None]:
    """Add an error to the problems of the record, and continue: there must be a record in any case."""
    try:
        yield
    except Exception as error:
        record.problems.append(f"{what}: {error} {getattr(error, 'stderr', None) or ''}".strip())


def _healthy(lab: Lab) -> None:
    found = problems(lab)
    assert not found, "; ".join(found)


def _reached(moment: str, lab: Lab, run_id: str) -> None:
    """Assert that tasks are queued and, for the moment `running`, that each worker runs some."""
    states = Counter(lab.airflow.states(DAG, run_id).values())
    assert states["queued"] > 4, states
    if moment == "queued":
        return
    with lab.connect() as connection:
        at_work = Counter(one.host for one in ledger.read(connection, run_id) if not one.ended)
    assert all(at_work[worker.name] >= AT_WORK for worker in lab.topology.with_role("worker")), at_work


def _ended(lab: Lab, run_id: str, say: Callable[[str], None]) -> None:
    """Wait for the end of a run, also while Airflow does not answer; AssertionError after `GIVE_UP` seconds."""
    airflow, said = lab.airflow, ""

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

    lab.eventually(ended, within=GIVE_UP)
