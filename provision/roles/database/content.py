"""Fills Airflow's database: the tables, the admin, the connections and the variables, each when its source has changed.

The database records what was done, so that any of its machines can do it, and one does. Provisioning runs this; if the
database has no primary yet, a unit runs it later. Runs as root in Airflow's environment.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from provision.roles.airflow.draining import systemctl
from provision.roles.airflow.register import engine

STEPS = Path("/opt/airflow/content.json")
UNIT = "airflow-content.service"
LOCK = 6  # any number that no other lock uses
TABLE = "CREATE TABLE IF NOT EXISTS content (name text PRIMARY KEY, digest text NOT NULL)"
DONE = "INSERT INTO content VALUES (:name, :digest) ON CONFLICT (name) DO UPDATE SET digest = excluded.digest"

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["airflow.__main__", "airflow.cli.cli_parser", "airflow.providers.fab.www.app"])


def fill(connection: Connection) -> None:
    """Do the steps whose digest differs from the one that the database has, while no other machine does."""
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
    connection.execute(text(TABLE))
    rows = connection.execute(text("SELECT name, digest FROM content"))
    done = {row.name: row.digest for row in rows}
    for step in json.loads(STEPS.read_text()):
        if done.get(step["name"]) != step["digest"]:
            perform(step, done.get(step["name"], ""))
            connection.execute(text(DONE), {"name": step["name"], "digest": step["digest"]})


def perform(step: dict[str, Any], before: str) -> None:
    print(step["name"], flush=True)
    for words in (step["command"], step["again"] if before else None):
        if words:
            command(words)


def command(words: list[str]) -> None:
    """Call a command of Airflow; SystemExit if it fails.

    Each is a process of its own, forked from a server that has imported Airflow: the imports take longer than the rest.
    """
    process = PROCESSES.Process(target=airflow, args=(words,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"airflow {' '.join(words[:2])} failed: {process.exitcode}")


def airflow(words: list[str]) -> None:
    from airflow.__main__ import main

    sys.argv = ["airflow", *words]
    main()


def main(wait: bool) -> None:
    while True:
        try:
            with engine("lab").connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                fill(connection)
            break
        except SQLAlchemyError as error:
            print(f"the database does not answer: {str(error).splitlines()[0]}", flush=True)
            if not wait:
                systemctl("enable", UNIT)
                systemctl("start", "--no-block", UNIT)
                return
            time.sleep(1)
    systemctl("disable", UNIT)


if __name__ == "__main__":
    main(wait="--wait" in sys.argv)
