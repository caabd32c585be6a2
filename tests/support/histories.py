"""Made-up histories of drills. `history` puts lines in order; its parts are made with the other functions.

Moments are seconds since the start of the drill. What is read at the end of a drill gets its moment from `history`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.history import FILE, Line

RUN, DAG = "drill-0", "ledger"
STARTED = "2026-01-01T00:00:00+00:00"
MASTER = ["api_server", "scheduler", "dag_processor", "triggerer"]
MACHINES = {
    "broker": ["database", "queue", "load_balancer", "flower"],
    "master1": MASTER,
    "master2": MASTER,
    "worker1": ["worker"],
    "worker2": ["worker"],
}
SCHEDULE = {
    "name": "worker-crash",
    "title": "a worker loses power",
    "broker": "redis",
    "works": [{"dag": DAG, "conf": {"tasks": 32, "seconds": 6}, "at": 0}],
    "events": [],
    "seed": None,
}


def schedule(**fields: Any) -> dict[str, Any]:
    return SCHEDULE | fields


def begin(**fields: Any) -> Line:
    """Return the first line; `fields` replace its usual ones."""
    usual = {
        "schedule": schedule(),
        "layout": "single",
        "broker": "redis",
        "started": STARTED,
        "machines": MACHINES,
        "slots": 8,
        "factor": 1,
    }
    return {"at": 0.0, "kind": "begin"} | usual | fields


def client(at: float = 0.2, phase: str = "ok", run: str = RUN, **fields: Any) -> list[Line]:
    """Return the trigger of a run, and its answer: `phase` is ok, fail or unknown."""
    line = {"kind": "client", "op": "trigger", "dag": DAG, "run": run, "baseline": False, "error": ""} | fields
    return [line | {"at": at - 0.1, "phase": "invoke"}, line | {"at": at, "phase": phase}]


def event(
    number: int, what: str, machines: Iterable[str], begin: float, end: float | None, target: str = "", **fields: Any
) -> list[Line]:
    """Return the lines of an event that has begun at once; without `end` it is not undone."""
    line = {"kind": "event", "event": number, "what": what, "machines": list(machines), "target": target, "note": ""}
    moments = {"begin": begin, "begun": begin + 0.2}
    if end is not None:
        moments |= {"undo": max(end - 0.1, begin + 0.2), "end": max(end, begin + 0.2)}
    return [line | {"at": at, "phase": phase} | fields for phase, at in moments.items()]


def attempt(host: str, started: float | None, ended: float | None = None, **fields: Any) -> dict[str, Any]:
    """Return an attempt for `task`; without `ended` it was interrupted, without `started` it never ran.

    Fields: `seen`, its last entry; `number`, if not one more than that of the attempt before; `committed`, if it is not
    the first of its task that ended; `state`, `scheduled` and `queued`, as Airflow has them; `sent`, `received`,
    `ignored` and `done`, the moments of its message, of which there are none otherwise.
    """
    return {"host": host, "started": started, "ended": ended} | fields


def task(name: int | str, *attempts: dict[str, Any], run: str = RUN, state: str = "") -> list[Line]:
    """Return what Airflow and the task say of its attempts, and the journals of its messages.

    A task with a number is one of the lab's, which record their attempts; one with a name records nothing. `state` is
    Airflow's of the last attempt.
    """
    lines: list[Line] = []
    tries: dict[int, Line] = {}
    number, committed = 0, False
    title = name if isinstance(name, str) else f"work[{name}]"
    for one in attempts:
        number = one.get("number", number + 1)
        tries[number] = tried(one, number, title, run)
        lines += messages(one, tries[number])
        if isinstance(name, int) and one["started"] is not None:
            commits = one.get("committed", one["ended"] is not None and not committed)
            committed = committed or commits
            lines.append(recorded(one, number, name, run) | {"committed": commits})
    if state:
        tries[number]["state"] = state
    return [*lines, *tries.values()]


def tried(one: dict[str, Any], number: int, title: str, run: str) -> Line:
    """Return what Airflow says of an attempt: it knows of an interruption 15 s later."""
    start = one["started"]
    ended = one["ended"] if one["ended"] is not None or start is None else seen(one) + 15
    line = {"at": None, "kind": "try", "dag": DAG, "run": run, "task": title, "number": number, "retries": 2}
    moments = {
        "scheduled": one.get("scheduled", None if start is None else start - 1),
        "queued": one.get("queued", None if start is None else start - 0.5),
        "started": start,
        "ended": ended,
    }
    state = one.get("state", "success" if one["ended"] is not None else "failed")
    return line | moments | {"state": state, "host": one["host"], "celery": f"{run}-{title}-{number}"}


def recorded(one: dict[str, Any], number: int, name: int, run: str) -> Line:
    """Return what the task has recorded of an attempt."""
    line = {"at": one["started"], "kind": "attempt", "run": run, "task": name, "number": number}
    return line | {key: one[key] for key in ("host", "started", "ended")} | {"seen": seen(one)}


def seen(one: dict[str, Any]) -> float:
    return one.get("seen", one["ended"] if one["ended"] is not None else one["started"] + 1)


def messages(one: dict[str, Any], known: Line) -> list[Line]:
    """Return what the journals say of the message of an attempt."""
    key = {name: known[name] for name in ("run", "task", "number", "celery")}
    return [
        {"at": one[phase], "kind": "message", "phase": phase, "machine": "master1" if phase == "sent" else one["host"]}
        | (key if phase == "sent" else {"celery": known["celery"]})
        for phase in ("sent", "received", "ignored", "done")
        if phase in one
    ]


def run(state: str = "success", ended: float | None = 50.0, run: str = RUN, **fields: Any) -> Line:
    """Return what Airflow says of a run at the end."""
    usual = {"at": None, "kind": "run", "dag": DAG, "run": run, "state": state, "started": 0.3, "ended": ended}
    return usual | fields


def journal(at: float, machine: str, what: str, service: str = "scheduler", count: int = 1) -> Line:
    unit = f"airflow-{service}.service"
    return {"at": at, "kind": "journal", "machine": machine, "what": what, "unit": unit, "count": count, "text": what}


def request(at: float, error: str = "") -> Line:
    return {"at": at, "kind": "request", "phase": "fail" if error else "ok", "took": 0.1, "error": error}


def problem(text: str) -> Line:
    return {"at": None, "kind": "problem", "text": text}


def unreadable(what: str, error: str) -> Line:
    return {"at": None, "kind": "unreadable", "what": what, "error": error}


def healthy(at: float) -> Line:
    return {"at": at, "kind": "healthy"}


def end() -> Line:
    return {"at": None, "kind": "end"}


def history(*groups: Line | Iterable[Line]) -> list[Line]:
    """Return the lines by time; those without a moment follow the last of the others."""
    lines = [line for group in groups for line in ([group] if isinstance(group, dict) else group)]
    moments = [line[name] for line in lines for name in ("at", "started", "seen", "ended") if is_moment(line.get(name))]
    over = max(moments, default=0.0) + 1
    told = [line if line["at"] is not None else line | {"at": over + (line["kind"] == "end")} for line in lines]
    return sorted(told, key=lambda line: line["at"])


def is_moment(value: Any) -> bool:
    return isinstance(value, (int, float))


def save(folder: Path, lines: Iterable[Line]) -> Path:
    """Write a history as a drill leaves it, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def worker_crash(failing: Iterable[int] = ()) -> list[Line]:
    """Return the history of a crash of worker1 at 10 s: it runs 8 tasks then and has received 3.

    A request each second is answered, but for those at the seconds `failing`.
    """
    missed = "misses the heartbeats of tasks"
    waits = attempt("worker1", None, scheduled=7.5, queued=8, sent=8.5, received=9)
    return history(
        begin(),
        client(),
        *(
            task(number, attempt("worker1", 6 + number / 10, seen=9.9), attempt("worker2", 28 + number, 34 + number))
            for number in range(8)
        ),
        *(task(number, waits, attempt("worker2", 29, 35)) for number in range(8, 11)),
        *(task(number, attempt("worker2", 6, 12)) for number in range(11, 16)),
        event(0, "crash", ["worker1"], 10, 45, note="worker1 up"),
        journal(26.1, "master2", missed, count=5),
        journal(26.9, "master2", missed, count=3),
        (request(second, "ReadTimeout" if second in failing else "") for second in range(50)),
        run(ended=41.5),
        healthy(49),
        end(),
    )
