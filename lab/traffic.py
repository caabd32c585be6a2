"""What clients do while a drill runs, written to its history: they request pages and commit numbers."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import psycopg

from lab.checkout import Lab
from lab.client import Airflow
from lab.history import History

CONNECT = 15  # seconds that a connection to the database may take: each of its machines is asked
QUERY = 5  # seconds that a query may take; then its connection is given up


class Background(threading.Thread):
    """Works until the block that it accompanies has ended."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()

    @contextmanager
    def working(self, within: float | None = None) -> Iterator[None]:
        """Work during a block; at its end, wait at most `within` seconds for the thread."""
        self.start()
        try:
            yield
        finally:
            self.done.set()
            self.join(within)


class ClientTraffic(Background):
    """Requests pages through nginx five times a second, as a user would, until it is told to stop.

    `kind` is that of its lines in the history. `timeout` is in seconds.
    """

    PATHS: tuple[str, ...] = ("/api/v2/monitor/health", "/api/v2/dags?limit=5")
    kind = "request"

    def __init__(self, airflow: Airflow, history: History, timeout: float) -> None:
        super().__init__()
        self.http = httpx.Client(
            base_url=airflow.http.base_url, headers=airflow.http.headers, timeout=timeout, trust_env=False
        )
        self.history = history

    def run(self) -> None:
        while not self.done.wait(0.2):
            for path in self.PATHS:
                at, error = self.history.now(), ""
                try:
                    self.http.get(path).raise_for_status()
                except httpx.HTTPStatusError as failure:
                    error = str(failure.response.status_code)
                except httpx.HTTPError as failure:
                    error = type(failure).__name__
                took = round(self.history.now() - at, 3)
                self.history.write(self.kind, at=at, phase="fail" if error else "ok", took=took, error=error)


class PageTraffic(ClientTraffic):
    """Requests a page that needs no database: the address and an api-server answer, or they do not."""

    PATHS = ("/api/v2/version",)
    kind = "page"


class DatabaseClient(Background, ABC):
    """Works with a database, and connects again after each error."""

    DATABASE = "lab"

    def __init__(self, lab: Lab, history: History) -> None:
        super().__init__()
        self.lab, self.history = lab, history

    def run(self) -> None:
        asyncio.run(self.connected())

    async def connected(self) -> None:
        while not self.done.is_set():
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(self.lab.seconds(CONNECT)):
                    connection = await self.lab.connect_async(self.DATABASE)
                try:
                    await self.work(connection)
                finally:
                    await connection.close()
            await asyncio.sleep(0.1)

    @abstractmethod
    async def work(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Work until `done` is set, or an error ends the connection."""


class Commits(DatabaseClient):
    """Commits a number ten times a second. None that was acknowledged may be missing at the end."""

    TABLE = "CREATE TABLE IF NOT EXISTS drill_commits (drill text, number int)"
    INSERT = "INSERT INTO drill_commits VALUES (%s, %s)"
    FOUND = "DELETE FROM drill_commits WHERE drill = %s RETURNING number"
    number = 0

    async def work(self, connection: psycopg.AsyncConnection[Any]) -> None:
        if not self.number:
            await connection.execute(self.TABLE)
        while not self.done.is_set():
            self.number += 1
            at, phase = self.history.now(), "unknown"
            try:
                async with asyncio.timeout(self.lab.seconds(QUERY)):
                    await connection.execute(self.INSERT, [self.history.folder.name, self.number])
                phase = "ok"
            finally:
                took = round(self.history.now() - at, 3)
                self.history.write("commit", at=at, phase=phase, number=self.number, took=took)
            await asyncio.sleep(0.1)
