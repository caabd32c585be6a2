"""The lab of a checkout: its topology, its secrets, its machines, and clients of its parts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery

from lab.client import Airflow
from lab.machines import Machines
from lab.topology import Topology
from lab.waiting import T, eventually

ANSWER = 1  # second that a Sentinel has to answer
TOKEN_KEPT = 12 * 3600  # seconds; half of the time that a token is valid


class NoLabError(Exception):
    """A folder is not in a checkout, or the checkout does not have a lab yet."""


def find_root(folder: Path) -> Path:
    """Return the root of the checkout that `folder` is in; NoLabError if it is in none."""
    for root in (folder, *folder.parents):
        if (root / "config" / "lab.json").exists():
            return root
    raise NoLabError(f"{folder} is not in a checkout of airflow-lab. Next: cd to one")


@dataclass(frozen=True)
class Lab:
    """The lab of the checkout at `root`. Topology and secrets are read from `.lab/` whenever they are asked for."""

    root: Path

    @classmethod
    def find(cls, folder: Path) -> Lab:
        """Return the lab of the checkout that `folder` is in; NoLabError if it does not have one yet."""
        lab = cls(find_root(folder))
        if not lab.state("lab.json").exists():
            raise NoLabError("this checkout does not have a lab. Next: make up")
        try:
            lab.topology  # noqa: B018
        except ValueError as error:
            raise NoLabError(f".lab/lab.json: {error}. Next: make up") from error
        return lab

    @property
    def topology(self) -> Topology:
        """The lab as it is now: provisioning may have moved it to the other broker, or added workers."""
        return Topology.load(self.root)

    @property
    def secrets(self) -> dict[str, str]:
        return json.loads(self.state("secrets.json").read_text())

    def state(self, *path: str) -> Path:
        """Return a path in `.lab/`, where the checkout keeps its state."""
        return self.root.joinpath(".lab", *path)

    @cached_property
    def machines(self) -> Machines:
        return Machines(self.root)

    def seconds(self, count: float) -> float:
        """Return `count` seconds times `time_factor`.

        Every wait of the `lab` command uses this: emulated machines are slower by `time_factor`.
        """
        return self.topology.seconds(count)

    def eventually(self, predicate: Callable[[], T], *, within: float, every: float = 1) -> T:
        """Call `predicate` until it raises no AssertionError, at most `seconds(within)`, and return its result."""
        return eventually(predicate, seconds=self.seconds(within), every=every)

    @cached_property
    def airflow(self) -> Airflow:
        """A client of Airflow's REST API. Its token is kept in `.lab/`: Airflow accepts five logins in 40 s."""
        kept, url = self.state("token"), f"http://{self.topology.reach('load_balancer')}"
        fresh = kept.exists() and time.time() - kept.stat().st_mtime < TOKEN_KEPT
        token = kept.read_text() if fresh else ""
        airflow = Airflow(url, self.secrets["airflow_admin_password"], token, seconds=self.seconds)
        if not fresh:
            kept.touch(mode=0o600)
            kept.write_text(airflow.http.headers["Authorization"].removeprefix("Bearer "))
        return airflow

    def connect(self, database: str = "lab") -> psycopg.Connection[Any]:
        """Return a connection to the database that the DAGs write to, or to Airflow's own, `airflow`."""
        return psycopg.connect(**self._to(database))

    async def connect_async(self, database: str = "lab") -> psycopg.AsyncConnection[Any]:
        """As `connect`. Only here a caller can limit the time of a query: a frozen machine goes on acknowledging."""
        return await psycopg.AsyncConnection.connect(**self._to(database))

    def _to(self, database: str) -> dict[str, Any]:
        return {
            "host": ",".join(machine.address for machine in self.topology.with_role("database")),
            "target_session_attrs": "read-write",
            "user": "airflow",
            "password": self.secrets["postgresql_password"],
            "dbname": database,
            "autocommit": True,
            "connect_timeout": round(self.seconds(4)),
        }

    def celery(self) -> Celery:
        """Return a client of the chosen broker, by address: the host does not know the machines' names."""
        topology = self.topology
        password = self.secrets[f"{topology.broker}_password"]
        app = Celery(broker=topology.broker_urls(password, by_address=True), set_as_current=False)
        if topology.sentinels:
            options = {"socket_timeout": ANSWER, "socket_connect_timeout": ANSWER, "retry": None}
            kwargs = {"password": password, **options}
            app.conf.broker_transport_options = {"master_name": "lab", "sentinel_kwargs": kwargs}
        return app
