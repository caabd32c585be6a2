"""The history of a drill, `history.jsonl`: everything that happened, one JSON object a line. Only this is judged.

Each line has `at`, the seconds since the drill began, on the host's clock, and `kind`:

=========== ============================================================================================================
kind        other keys
=========== ============================================================================================================
begin       schedule, layout, broker, started (UTC), machines {name: [roles]}, slots (of a worker), factor,
            own (a user's DAG)
client      op "trigger", phase "invoke", "ok", "fail" or "unknown" (no answer came), dag, run, baseline, error
request     a page: phase "ok" or "fail", took (seconds), error
commit      of a number to the database: phase "ok" or "unknown" (no answer came), number, took (seconds)
event       event (its number), phase "begin", "begun", "undo", "end" or "failed", what, machines, target, note
states      how many task instances are in each state, as Airflow reports them: states {state: count}
run         what Airflow says of a run at the end: dag, run, state, started, ended
try         what Airflow says of an attempt at the end: dag, run, task, number, state, host, celery, scheduled, queued,
            started, ended, retries (the attempts that the task may use in addition to the first)
attempt     what a task of the lab's DAGs has recorded of an attempt: run, task, number, host, started, seen, ended,
            committed
committed   the numbers that the database has at the end: numbers
message     of a task: phase "sent" (with run, task, number), "received", "ignored" or "done"; celery, machine
journal     what a machine's journal says: what, machine, unit, count, text
check       what a user's own check found: problems
unreadable  what could not be read, and why: what, error
problem     what was wrong with the lab at the end: text
healthy     the lab was healthy again
end         the drill ended
=========== ============================================================================================================

`task` is `work[3]`, or `work` for a task that is not mapped; in an `attempt`, the number that the task has recorded.
Moments are seconds like `at`, or null.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "history.jsonl"
Line = dict[str, Any]


class UnreadableError(Exception):
    """A folder without a history, or with one that is not complete."""


class History:
    """Writes a history. Several threads may write; each line is in the file at once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.began = time.time()
        self.lock = threading.Lock()
        self.file = (folder / FILE).open("a")

    @property
    def started(self) -> datetime:
        return datetime.fromtimestamp(self.began, UTC)

    def now(self) -> float:
        """Return the seconds since the drill began."""
        return time.time() - self.began

    def at(self, moment: datetime | None, ahead: float = 0) -> float | None:
        """Return a moment in seconds since the drill began; `ahead` is what the clock that gave it is ahead of ours."""
        return None if moment is None else round(moment.timestamp() - self.began - ahead, 3)

    def write(self, kind: str, at: float | None = None, **fields: Any) -> None:
        """Write a line; without `at` it happens now."""
        line = {"at": round(self.now() if at is None else at, 3), "kind": kind} | fields
        with self.lock:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()

    def lines(self) -> list[Line]:
        return read(self.folder)


def read(folder: Path) -> list[Line]:
    """Return the lines of the history in a folder, by time; UnreadableError if there is none."""
    try:
        lines = [json.loads(text) for text in (folder / FILE).read_text().splitlines()]
    except OSError as error:
        raise UnreadableError(
            f"{folder / FILE}: {error.strerror}. The folders of drills are in .lab/reports/"
        ) from error
    except ValueError as error:
        raise UnreadableError(f"{folder / FILE} is not a history: {error}") from error
    if not lines or lines[0].get("kind") != "begin":
        raise UnreadableError(f"{folder / FILE} does not begin with the line of the kind begin")
    return sorted(lines, key=lambda line: line["at"])


def of_kind(lines: Sequence[Line], *kinds: str) -> list[Line]:
    return [line for line in lines if line["kind"] in kinds]
