"""Reads what the machines have logged: over SSH, from all of them at the same time, each with a deadline."""

from __future__ import annotations

import math
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lab.machines import RUNNING, Machines

# Where servers log that do not log to the journal.
FOLDERS = "/var/log/postgresql /var/log/rabbitmq /var/log/nginx /var/log/airflow"


def jobs(
    machines: Machines, script: str, files: Mapping[str, Path], since: float, within: float, **words: object
) -> dict[str, Callable[[], None]]:
    """Returns a job for each machine of `files`, which writes there what the script prints.

    The script is a format with `folders`, `seconds` and `minutes`, from `since` until now, and `words`.
    """
    seconds = math.ceil(time.time() - since)
    text = script.format(folders=FOLDERS, seconds=seconds, minutes=seconds // 60 + 1, **words)
    machines.ssh_config  # noqa: B018 # written once, before several threads read it
    return {name: partial(read, machines, name, text, file, within) for name, file in files.items()}


class UnreadableError(Exception):
    """A machine whose logs cannot be read, and why."""


def in_parallel(jobs: Mapping[str, Callable[[], object]], within: float) -> dict[str, Exception]:
    """Calls all jobs at the same time and returns the errors of those that failed, by name.

    A job that has not ended after `within` seconds is abandoned: its error is a TimeoutError.
    """
    ended: queue.SimpleQueue[tuple[str, Exception | None]] = queue.SimpleQueue()

    def call(name: str) -> None:
        try:
            jobs[name]()
            ended.put((name, None))
        except Exception as error:
            ended.put((name, error))

    for name in jobs:
        threading.Thread(target=call, args=(name,), daemon=True).start()
    results: dict[str, Exception | None] = {}
    deadline = time.monotonic() + within
    while len(results) < len(jobs):
        try:
            name, error = ended.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            break
        results[name] = error
    late = TimeoutError(f"no answer within {within:g} s")
    found = {name: results.get(name, late) for name in jobs}
    return {name: error for name, error in found.items() if error}


def ssh(machines: Machines, name: str) -> list[str]:
    """Returns the command that runs a script from its standard input on a machine, as root."""
    return ["ssh", "-F", str(machines.ssh_config), name, "sudo", "sh", "-s"]


def read(machines: Machines, name: str, script: str, to: Path, within: float) -> None:
    """Writes what a script prints on a machine to a file; UnreadableError if the machine is off, frozen or silent."""
    state = machines.state(name)
    if state != RUNNING:
        raise UnreadableError(f"{name} is {state}")
    with to.open("wb") as output:
        try:
            done = subprocess.run(
                ssh(machines, name), input=script.encode(), stdout=output, stderr=subprocess.PIPE, timeout=within
            )
        except subprocess.TimeoutExpired as error:
            raise UnreadableError(f"{name} does not answer within {within:g} s") from error
    if done.returncode:
        raise UnreadableError(f"{name}: {done.stderr.decode(errors='replace').strip() or done.returncode}")
