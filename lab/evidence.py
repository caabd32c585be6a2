"""Reads, at the end of a drill, what the machines and Airflow know of it, and writes it to the history."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from lab import ledger
from lab.checkout import Lab
from lab.history import History
from lab.machines import RUNNING
from lab.parallel import for_each
from lab.traffic import Commits

RECORDING = ("ledger", "ledger_chain", "ledger_deferrable")  # the DAGs whose tasks record their attempts
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# What the journals say of a message.
SENT = re.compile(rf"sent ({UUID}): TaskInstanceKey\((.*?)\)")
MESSAGES = {
    "received": re.compile(rf"Task execute_workload\[({UUID})\] received"),
    "ignored": re.compile(rf"\[({UUID})\] Task already running elsewhere"),
    "done": re.compile(rf"Task execute_workload\[({UUID})\] (?:succeeded|raised|ignored|failed)"),
}
# What else the journals say that matters, and what it means. A group is a number of tasks.
SAYINGS = {
    "misses the heartbeats of tasks": r"Failing (\d+) TIs without heartbeat",
    "does not count the silence of tasks: their heartbeats could not have arrived": r"Not failing (\d+) of them",
    "takes over the tasks of a dead scheduler": r"Adopted the following (\d+) tasks",
    "finds that schedulers are dead": r"Marked (\d+) SchedulerJob instances as failed",
    "returns the tasks of a dead scheduler to the scheduled ones": r"Reset the following (\d+) orphaned TaskInstances",
    "finds a task whose message is lost, and sends it again": r"its message is lost: sending it again",
    "queues a task again that was queued for too long": r"Task stuck in queued; will try to requeue",
    "has lost the connection to the broker": r"[Cc]onnection to broker lost|Connection to broker lost",
    "is connected to the broker": r"Connected to (?:redis|amqp)://",
    "restarts a stalled consumer": r"is connected but listens to",
    "takes no more tasks from a queue": r"Canceling queue ",
    "stops the queue server that the lab has left": r"^stopping (?:redis|rabbitmq)",
    "ends unexpectedly": r"Main process exited",
    "starts": r"^Started Airflow",
}
# One expression for journalctl --grep, which is PCRE.
GREP = "|".join(
    [r"sent [0-9a-f-]{36}: TaskInstanceKey", r"execute_workload\[", "already running elsewhere", *SAYINGS.values()]
)
JOURNAL = """
date +%s.%N
journalctl --output=json --all --output-fields=MESSAGE,UNIT,_SYSTEMD_UNIT --since=@{since} --grep='{grep}' 2>/dev/null
true
"""
TRIES = """
    SELECT dag_id, run_id, task_id, map_index, try_number, state, hostname, external_executor_id, max_tries,
        scheduled_dttm, queued_dttm, start_date, end_date
    FROM {table} WHERE run_id = ANY(%s)
"""
RUNS = "SELECT dag_id, run_id, state, start_date, end_date FROM dag_run WHERE run_id = ANY(%s)"


def collect(lab: Lab, history: History, dags: Mapping[str, str]) -> None:
    """Write what is known of the runs `dags`, given the DAG of each. What cannot be read is a line `unreadable`."""
    runs = [*dags]
    with _noted(history, "Airflow's records of the runs"), lab.connect("airflow") as connection:
        ahead = clock(connection)
        for dag, run, state, started, ended in connection.execute(RUNS, [runs]):
            history.write(
                "run", dag=dag, run=run, state=state, started=history.at(started, ahead), ended=history.at(ended, ahead)
            )
        for table in ("task_instance", "task_instance_history"):
            for row in connection.execute(TRIES.format(table=table), [runs]):
                history.write("try", **_try(history, row, ahead))
    with _noted(history, "the records of the tasks"), lab.connect() as connection:
        ahead = clock(connection)
        for run in (run for run, dag in dags.items() if dag in RECORDING):
            for one in ledger.read(connection, run):
                history.write("attempt", at=history.at(one.started, ahead), **_attempt(history, run, one, ahead))
    with _noted(history, "the numbers that were committed"), lab.connect() as connection:
        rows = connection.execute(Commits.FOUND, [history.folder.name]).fetchall()
        history.write("committed", numbers=sorted(number for (number,) in rows))
    journals(lab, history, [machine.name for machine in lab.topology.machines])


def clock(connection: psycopg.Connection[Any]) -> float:
    """Return how many seconds the database's clock is ahead of the host's; 0 if it is less than asking may take."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row
    return _ahead(row[0].timestamp())


def _ahead(moment: float) -> float:
    ahead = moment - time.time()
    return ahead if abs(ahead) > 2 else 0.0


def _try(history: History, row: Sequence[Any], ahead: float) -> dict[str, Any]:
    dag, run, task, index, number, state, host, celery, retries, *moments = row
    names = ("scheduled", "queued", "started", "ended")
    at = {name: history.at(moment, ahead) for name, moment in zip(names, moments, strict=True)}
    return at | {
        "dag": dag,
        "run": run,
        "task": task if index < 0 else f"{task}[{index}]",
        "number": number,
        "state": state,
        "host": host,
        "celery": celery,
        "retries": retries,
    }


def _attempt(history: History, run: str, one: ledger.Attempt, ahead: float) -> dict[str, Any]:
    at = {name: history.at(getattr(one, name), ahead) for name in ("started", "seen", "ended")}
    return at | {"run": run, "task": one.task, "number": one.number, "host": one.host, "committed": one.committed}


def journals(lab: Lab, history: History, names: Sequence[str]) -> None:
    """Write what the journals of some machines say of the time since the drill began."""

    def read(name: str) -> list[tuple[str, dict[str, Any]]]:
        state = lab.machines.state(name)
        if state != RUNNING:
            return [("unreadable", {"what": f"the journal of {name}", "error": f"the machine is {state}"})]
        script = JOURNAL.format(since=int(history.began), grep=GREP)
        try:
            first, *lines = lab.machines.guest(name).run_script(script).splitlines()
        except Exception as error:  # any: the history keeps the reason
            return [("unreadable", {"what": f"the journal of {name}", "error": str(error)})]
        return list(parse(name, lines, history.began + _ahead(float(first))))

    for found in for_each(list(names), read).values():
        for kind, fields in found:
            history.write(kind, **fields)


def parse(machine: str, lines: Sequence[str], began: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the kinds and fields of what a journal says; `began` is the start of the drill on that machine's clock."""
    for text in lines:
        entry = json.loads(text)
        message, unit = entry.get("MESSAGE"), entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or ""
        at = round(int(entry["__REALTIME_TIMESTAMP"]) / 1e6 - began, 3)
        if not isinstance(message, str) or at < 0:
            continue
        common = {"at": at, "machine": machine}
        if found := SENT.search(message):
            yield "message", common | {"phase": "sent", "celery": found[1]} | _key(found[2])
            continue
        phases = ((phase, pattern.search(message)) for phase, pattern in MESSAGES.items())
        if said := next(((phase, found) for phase, found in phases if found), None):
            yield "message", common | {"phase": said[0], "celery": said[1][1]}
            continue
        for what, pattern in SAYINGS.items():
            if unit.startswith("airflow-") and (found := re.search(pattern, message)):
                count = int(found[1]) if found.groups() else 1
                yield "journal", common | {"what": what, "unit": unit, "count": count, "text": message[:300]}


def _key(text: str) -> dict[str, Any]:
    """Return run, task and number of the text of a TaskInstanceKey."""
    values = dict(re.findall(r"(\w+)='?([^',]*)'?", text))
    index = int(values.get("map_index", -1))
    task = values["task_id"] if index < 0 else f"{values['task_id']}[{index}]"
    return {"run": values["run_id"], "task": task, "number": int(values["try_number"])}


@contextmanager
def _noted(history: History, what: str) -> Iterator[None]:
    """Write an error to the history, and continue: what could be read is kept."""
    try:
        yield
    except Exception as error:
        history.write("unreadable", what=what, error=f"{type(error).__name__}: {error}")
