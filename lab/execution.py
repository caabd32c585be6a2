"""Runs a schedule on the lab: work, events and client traffic at the same time. What happens becomes a history."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import httpx
import psycopg

from lab import evidence, faults, members, schedule
from lab.changes import CHANGES, leave
from lab.checkout import Lab
from lab.client import TERMINAL
from lab.history import History
from lab.schedule import BUSIEST, HOLDERS, Event, Schedule, Work
from lab.status import problems
from lab.topology import ALL
from lab.traffic import CONNECT, QUERY, ClientTraffic, Commits, DatabaseClient, PageTraffic

Say = Callable[[str], None]
MOMENT = 120  # seconds within which the moment of an event comes
ANSWER = 10  # seconds that a request may take; the first one to an api-server that has just started took 6.6
UNDO = 120  # seconds within which an event is undone
PAGE = 1  # seconds that a page may take that needs no database
STALLED = 90  # seconds without any change while tasks wait and none runs; then nothing will happen any more
WAITING = ("none", "scheduled", "queued", *TERMINAL, "upstream_failed", "skipped", "removed")  # nothing goes on
GIVE_UP = 300  # seconds after the last event in which work must end; then it is stuck


class StalledError(RuntimeError):
    """Tasks wait, and nothing happens."""


class Own(Protocol):
    """A user's DAG: what is done before the events, and after the work."""

    @property
    def dag(self) -> str: ...

    def before(self, execution: Execution) -> None: ...

    def after(self, execution: Execution) -> None: ...


class Progress(DatabaseClient):
    """Asks Airflow's database twice a second how far the runs of the drill are."""

    RUNS = "SELECT run_id, state FROM dag_run WHERE run_id = ANY(%s)"
    TASKS = """
        SELECT coalesce(state, 'none'), coalesce(hostname, ''), count(*)
        FROM task_instance WHERE run_id = ANY(%s) GROUP BY 1, 2
    """

    DATABASE = "airflow"

    def __init__(self, lab: Lab, history: History, say: Say) -> None:
        super().__init__(lab, history)
        self.say = say
        self.accepted: list[str] = []  # runs that Airflow has accepted
        self.maybe: list[str] = []  # runs that Airflow may have accepted: no answer came
        self.states: Counter[str] = Counter()
        self.running: Counter[str] = Counter()  # tasks by machine
        self.runs: dict[str, str] = {}
        self.asked_at = 0.0
        self.changed_at = time.monotonic()

    async def work(self, connection: psycopg.AsyncConnection[Any]) -> None:
        said = 0.0
        while not self.done.is_set():
            before = self.states
            async with asyncio.timeout(self.lab.seconds(QUERY)):
                await self.ask(connection)
            if self.states != before or not set(+self.states) <= set(WAITING):
                self.changed_at = time.monotonic()
            if self.states != before and time.monotonic() - said > 2:
                self.history.write("states", states=dict(self.states))
                self.say(self.words())
                said = time.monotonic()
            await asyncio.sleep(0.3)

    async def ask(self, connection: psycopg.AsyncConnection[Any]) -> None:
        known = [*self.accepted, *self.maybe]
        at = time.monotonic()
        self.runs = dict(await (await connection.execute(self.RUNS, [known])).fetchall())
        rows = await (await connection.execute(self.TASKS, [known])).fetchall()
        self.states = Counter()
        for state, _, count in rows:
            self.states[state] += count
        self.running = Counter({host: count for state, host, count in rows if state == "running"})
        self.asked_at = at

    def words(self) -> str:
        return ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()) if count)

    def unfinished(self) -> list[str]:
        """Return the runs that have not ended, as far as is known."""
        expected = [*self.accepted, *(run for run in self.maybe if run in self.runs)]
        return [run for run in expected if self.runs.get(run) not in TERMINAL]


@dataclass
class Execution:
    """A schedule while it is run."""

    schedule: Schedule
    lab: Lab
    history: History
    say: Say
    progress: Progress
    triggered: threading.Event = field(default_factory=threading.Event)  # all work has been triggered
    ended: threading.Event = field(default_factory=threading.Event)  # all work has ended, or is given up
    begun: list[threading.Event] = field(default_factory=list)  # for each event: it has begun, or failed
    dags: dict[str, str] = field(default_factory=dict)  # of each run
    lasting: dict[int, Event] = field(default_factory=dict)  # events that have begun and were not undone
    broken_changes: list[str] = field(default_factory=list)
    give_up: float = GIVE_UP  # seconds after the last event, without the lab's factor
    changing: threading.Lock = field(default_factory=threading.Lock)  # one change at a time: Vagrant locks machines

    def trigger(self) -> None:
        """Trigger the work, each at its time. A run has a name of its own, to be found if no answer comes."""
        start = time.monotonic()
        for number, work in enumerate(sorted(self.schedule.works, key=lambda work: work.at)):
            time.sleep(max(0.0, start + self.lab.seconds(work.at) - time.monotonic()))
            self.trigger_one(work, f"drill-{self.history.started:%Y%m%dT%H%M%S}-{number}")
        self.triggered.set()

    def trigger_one(self, work: Work, run: str, baseline: bool = False) -> None:
        def note(phase: str, error: str = "") -> None:
            self.history.write(
                "client", op="trigger", phase=phase, dag=work.dag, run=run, baseline=baseline, error=error
            )

        note("invoke")
        self.dags[run] = work.dag
        try:
            self.lab.airflow.start(work.dag, scaled(self.lab, work), run)
        except (httpx.ConnectError, httpx.HTTPStatusError) as error:
            answer = error.response if isinstance(error, httpx.HTTPStatusError) else None
            if answer is None or answer.status_code < 500:
                note("fail", f"{error} {answer.text[:300] if answer else ''}".strip())  # it had no effect
                return
            self.progress.maybe.append(run)
            note("unknown", str(error))
        except httpx.HTTPError as error:
            self.progress.maybe.append(run)
            note("unknown", f"{type(error).__name__}: {error}")
        else:
            self.progress.accepted.append(run)
            note("ok")
            self.say(" ".join(["triggered", work.dag, *(f"{key}={value}" for key, value in work.conf.items())]))

    def perform(self, number: int) -> None:
        """Wait for the moment of an event, let it happen, and undo it. What goes wrong is a line of the history."""
        event = self.schedule.events[number]
        try:
            self.wait_for(number)
            event = replace(event, machines=self.named(event))
            self.say(str(event))
            self.note(number, event, "begin")
            if event.what in CHANGES:
                self.begin(number, event)
                with self.changing:
                    text = self.inject(event)
            else:
                text = self.inject(event)
                self.begin(number, event, text)
            self.hold(event)
            self.note(number, event, "undo")
            undone = self.undo(event)
            self.end(number, event, ", ".join(undone) or text)
            if undone or event.hold != 0:
                self.say(f"undone: {', '.join(undone) or event.what}")
        except Exception as error:
            text = f"{error} {getattr(error, 'stderr', None) or ''}".strip()
            if event.what in CHANGES and number in self.lasting:
                self.broken_changes.append(f"{event}: {text}")
            self.say(f"{event.what} failed: {text.splitlines()[0] if text else type(error).__name__}")
            self.note(number, event, "failed", text[-2000:])
        finally:
            self.begun[number].set()

    def note(self, number: int, event: Event, phase: str, text: str | None = None) -> None:
        known: dict[str, Any] = {"what": event.what, "machines": [*event.machines], "target": event.target}
        self.history.write("event", event=number, phase=phase, note=text or "", **known)

    def begin(self, number: int, event: Event, text: str | None = None) -> None:
        self.note(number, event, "begun", text)
        self.lasting[number] = event
        self.begun[number].set()

    def end(self, number: int, event: Event, text: str | None = None) -> None:
        self.note(number, event, "end", text)
        self.lasting.pop(number, None)

    def wait_for(self, number: int) -> None:
        """Wait until the moment of an event has come; AssertionError if it does not come."""
        event, lab = self.schedule.events[number], self.lab
        if event.moment == "event":
            self.begun[number - 1].wait(lab.seconds(MOMENT) * number)
        elif event.moment != "start":
            workers = [worker.name for worker in lab.topology.with_role("worker")]
            struck = [name for name in event.machines if name in workers] or workers

            def come() -> None:
                counts = [self.progress.states["queued"]]
                if event.moment == "running":
                    running = [self.progress.running[name] for name in struck]
                    counts = [max(running)] if BUSIEST in event.machines or event.count == 1 else running
                if self.triggered.is_set() and self.progress.runs and not self.progress.unfinished():
                    raise RuntimeError("the work ended before that moment")
                assert min(counts) >= event.count, f"no moment with {event.count} tasks {event.moment}"

            lab.eventually(come, within=MOMENT, every=0.1)
        time.sleep(lab.seconds(event.delay))

    def named(self, event: Event) -> tuple[str, ...]:
        """Return the machines of an event, with those that are meant by what they do now."""
        workers = [worker.name for worker in self.lab.topology.with_role("worker")]

        def named(name: str) -> str:
            if name == BUSIEST:
                return max(workers, key=lambda worker: self.progress.running[worker])
            return members.holder(self.lab, HOLDERS[name]) if name in HOLDERS else name

        return tuple(map(named, event.machines))

    def inject(self, event: Event) -> str | None:
        inject = schedule.ACTIONS[event.what].inject
        notes = [inject(self.lab, name, event.target) for name in event.machines or [""]]
        return notes[0]

    def hold(self, event: Event) -> None:
        if event.hold is None:
            self.ended.wait()
        else:
            time.sleep(self.lab.seconds(event.hold))

    def undo(self, event: Event) -> list[str]:
        lab, undo = self.lab, schedule.ACTIONS[event.what].undo
        names = [machine.name for machine in lab.topology.machines] if ALL in event.machines else event.machines
        if undo is leave:
            evidence.journals(lab, self.history, names)  # they go with the machine

        def undone() -> list[str]:
            try:
                return undo(lab, names)
            except subprocess.CalledProcessError as error:  # another Vagrant works on the machine, and ends
                raise AssertionError(str(error)) from error

        return lab.eventually(undone, within=UNDO, every=5)

    def wait_for_end(self) -> None:
        """Wait until all work has ended, as far as Airflow can be asked.

        AssertionError after `give_up` seconds; StalledError if nothing has happened for STALLED seconds.
        """

        def ended() -> None:
            left = self.progress.unfinished()
            fresh = time.monotonic() - self.progress.asked_at < self.lab.seconds(5)
            assert self.triggered.is_set(), "not all work was triggered"
            assert fresh, "the database does not answer"
            if left and time.monotonic() - self.progress.changed_at > self.lab.seconds(STALLED):
                raise StalledError(f"nothing has happened for {STALLED} s: {self.progress.words()}")
            assert not left, f"{len(left)} runs have not ended: {self.progress.words()}"

        self.lab.eventually(ended, within=self.give_up, every=0.3)


def scaled(lab: Lab, work: Work) -> dict[str, object]:
    """Return the conf of a run; the seconds of the lab's own tasks know the lab's factor."""
    if work.dag not in evidence.RECORDING:
        return dict(work.conf)
    return {key: round(lab.seconds(value)) if key in ("seconds", "long") else value for key, value in work.conf.items()}


def run(chosen: Schedule, lab: Lab, say: Say, keep: bool = False, own: Own | None = None) -> Path:
    """Run a schedule and return the folder of its history. With `keep`, the lab is left as the events have left it.

    ScheduleError if the lab cannot run it; AssertionError if the lab is not healthy at the beginning.
    """
    schedule.check(chosen, lab.topology)
    if lab.topology.broker != chosen.broker:
        say(f"moving to {chosen.broker}")
        lab.machines.provision(BROKER=chosen.broker)
    lab.eventually(lambda: healthy(lab), within=60)
    history = start(chosen, lab, own.dag if own else "")
    progress = Progress(lab, history, say)
    execution = Execution(chosen, lab, history, say, progress, begun=[threading.Event() for _ in chosen.events])
    if own:
        own.before(execution)
    clients = [
        ClientTraffic(lab.airflow, history, lab.seconds(ANSWER)),
        PageTraffic(lab.airflow, history, lab.seconds(PAGE)),
        Commits(lab, history),
        progress,
    ]
    with ExitStack() as working:
        for client in clients:
            working.enter_context(client.working(within=lab.seconds(CONNECT)))
        trigger = threading.Thread(target=execution.trigger, daemon=True)
        events = [
            threading.Thread(target=execution.perform, args=[number], daemon=True)
            for number in range(len(chosen.events))
        ]
        for thread in (trigger, *events):
            thread.start()
        finish(execution, events, keep)
    evidence.collect(lab, history, execution.dags)
    for left in progress.unfinished() if not keep else ():
        with noted(history, "the run was not ended"):  # the next drill needs an idle lab
            lab.airflow.give_up(execution.dags[left], left)
    if own:
        own.after(execution)
    history.write("end")
    return history.folder


def start(chosen: Schedule, lab: Lab, own: str) -> History:
    """Begin the history of a schedule, in a folder of its own."""
    topology = lab.topology
    stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{chosen.name}-{chosen.broker}"
    history = History(lab.state("reports", stamp))
    chosen.save(history.folder / "schedule.json")
    history.write(
        "begin",
        at=0,
        schedule=chosen.document(),
        layout=topology.layout,
        broker=chosen.broker,
        started=history.started.isoformat(),
        machines={machine.name: list(machine.roles) for machine in topology.machines},
        slots=topology.worker_concurrency,
        factor=topology.time_factor,
        own=own,
    )
    return history


def finish(execution: Execution, events: Sequence[threading.Thread], keep: bool) -> None:
    """Wait for the events and the work, undo what is left, and wait until the lab is healthy."""
    lab, history, say = execution.lab, execution.history, execution.say
    with suppress(AssertionError, StalledError):  # what has not ended may end after the events are undone
        wait_with(execution, events)
    if execution.lasting or execution.broken_changes:
        execution.progress.changed_at = time.monotonic()
    execution.ended.set()
    for thread in events:
        thread.join()
    if not keep:
        repair(execution)
    with noted(history, "the work did not end"):
        execution.wait_for_end()
        say("the work has ended; waiting until the lab is healthy")
        with noted(history, "the lab did not recover"):
            lab.eventually(lambda: healthy(lab), within=120)
            history.write("healthy")


def repair(execution: Execution) -> None:
    """Undo what the events have left, and complete the changes that did not end, as a user would."""
    lab, history, say = execution.lab, execution.history, execution.say
    with noted(history, "a fault was not undone"):
        if undone := faults.heal(lab):
            say(", ".join(undone))
        for number, event in [*execution.lasting.items()]:
            execution.end(number, event, "healed")
    if execution.broken_changes:
        with noted(history, "the change was not completed"):
            say("provisioning again: a change did not end")
            lab.machines.provision()


def wait_with(execution: Execution, events: Sequence[threading.Thread]) -> None:
    """Wait for the end of the work while events last; those with a time of their own end first."""
    timed = [thread for thread, event in zip(events, execution.schedule.events, strict=True) if event.hold is not None]
    for thread in timed:
        thread.join()
    execution.wait_for_end()


@contextmanager
def noted(history: History, what: str) -> Iterator[None]:
    """Write an error to the history as a problem, and continue: there must be a history in any case."""
    try:
        yield
    except (AssertionError, subprocess.CalledProcessError, httpx.HTTPError, RuntimeError, OSError) as error:
        history.write("problem", text=f"{what}: {error} {getattr(error, 'stderr', None) or ''}".strip())


def healthy(lab: Lab) -> None:
    """Assert that every part of the lab is healthy, and that no work is left."""
    found = problems(lab)
    assert not found, "; ".join(found)
