"""Lets Airflow read from the database's primary only, if the database is a cluster.

A machine that was frozen continues where it stopped: for seconds, its PostgreSQL takes itself for the primary, and
serves data of the time before. An api-server that reads there tells a running task that it was given up, or that an
XCom does not exist. It cannot commit there: a commit needs a replica, and the replicas follow another primary. So a
session of the database begins with a commit, unless one of this process succeeded within the last second.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import Pool

VALID = 1  # seconds that a commit proves: at least 20 pass before another primary is appointed (patroni.yml.j2)
# It writes to the log of the database and nowhere else.
COMMIT = "SELECT pg_logical_emit_message(true, 'airflow-lab', 'this is the primary')"


class Proof:
    """When this process committed last, on a clock that goes on while it is frozen; and the port of the local proxy."""

    at = float("-inf")
    port = 0


def port_of(connection: Any) -> int | None:
    """Return the port of the server that a connection of psycopg2 or psycopg leads to; None for other drivers."""
    connection = getattr(connection, "driver_connection", connection)  # SQLAlchemy wraps an asynchronous one
    return getattr(getattr(connection, "info", None), "port", None)


def check_primary(connection: Any, record: Any, proxy: Any) -> None:
    """Commit on a connection that the pool is about to hand out; the pool discards it if this fails."""
    now = time.monotonic()
    if port_of(connection) != Proof.port or now - Proof.at < VALID:
        return
    try:
        connection.cursor().execute(COMMIT)
        connection.commit()
    except Exception as error:  # of psycopg2 or psycopg
        raise DisconnectionError(str(error)) from error
    Proof.at = now


def require(port: int) -> None:
    """Check the primary whenever a pool hands out a connection to a port: a task may have other databases."""
    Proof.port = port
    event.listen(Pool, "checkout", check_primary)
