"""The register: a table in the database `lab` with the broker that each scheduler and each worker uses.

A service registers itself before it starts, and writes only its own row. Runs in Airflow's environment.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, create_engine, make_url, text

from lab.topology import BROKERS, Topology

HERE = socket.gethostname()
UNITS = Path("/etc/systemd/system")
TABLE = """
    CREATE TABLE IF NOT EXISTS broker_clients (
        machine text, unit text, service text, broker text, since timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (machine, unit)
    )
"""
DRAINED = "CREATE TABLE IF NOT EXISTS drained_brokers (broker text PRIMARY KEY)"
DRAINS = "CREATE TABLE IF NOT EXISTS drains (broker text, at timestamptz NOT NULL DEFAULT now())"
JOINED = "CREATE TABLE IF NOT EXISTS rabbitmq_nodes (machine text, drains int, PRIMARY KEY (machine, drains))"
ENTER = """
    INSERT INTO broker_clients VALUES (:machine, :unit, :service, :broker)
    ON CONFLICT (machine, unit) DO UPDATE SET broker = excluded.broker, service = excluded.service, since = now()
"""


@dataclass(frozen=True)
class Client:
    """A service that uses a broker."""

    machine: str
    unit: str
    broker: str


def secret(option: str) -> str:
    """Return a secret option of Airflow; FileNotFoundError if this machine does not have it."""
    return Path("/opt/airflow/secrets", option).read_text()


def engine(database: str) -> Engine:
    """Return SQLAlchemy's engine for a database of the lab's PostgreSQL, as the user airflow."""
    return create_engine(make_url(secret("sql_alchemy_conn")).set(database=database), pool_pre_ping=True)


class Register:
    """Every method raises sqlalchemy.exc.OperationalError while the database does not answer."""

    def __init__(self) -> None:
        self.engine = engine("lab")
        with self.engine.begin() as connection:
            # CREATE ... IF NOT EXISTS is not atomic: it fails if two machines call it at the same time.
            connection.execute(text("SELECT pg_advisory_xact_lock(3)"))
            connection.execute(text(TABLE))
            connection.execute(text(DRAINED))
            connection.execute(text(DRAINS))
            connection.execute(text(JOINED))

    def enter(self, service: str, unit: str, broker: str) -> None:
        """Record that a unit of this machine uses `broker`, and delete the rows of units that no longer exist here."""
        row = {"machine": HERE, "unit": unit, "service": service, "broker": broker}
        with self.engine.begin() as connection:
            connection.execute(text(ENTER), row)
            connection.execute(text("DELETE FROM drained_brokers WHERE broker = :broker"), {"broker": broker})
        for client in self.clients(service):
            if client.machine == HERE and not (UNITS / f"{client.unit}.service").exists():
                self.leave(client.unit)

    def leave(self, unit: str) -> None:
        """Delete the row of a unit of this machine that will not start again."""
        with self.engine.begin() as connection:
            query = text("DELETE FROM broker_clients WHERE (machine, unit) = (:machine, :unit)")
            connection.execute(query, {"machine": HERE, "unit": unit})

    def note_drained(self, broker: str) -> None:
        """Record that no service uses a broker any more, and that its queues are empty."""
        with self.engine.begin() as connection:
            query = text("INSERT INTO drained_brokers VALUES (:broker) ON CONFLICT DO NOTHING")
            if connection.execute(query, {"broker": broker}).rowcount:  # the first of several servers
                connection.execute(text("INSERT INTO drains (broker) VALUES (:broker)"), {"broker": broker})

    def drained(self, broker: str) -> bool:
        """Return whether that was recorded since a service began to use the broker."""
        with self.engine.connect() as connection:
            query = text("SELECT count(*) FROM drained_brokers WHERE broker = :broker")
            return bool(connection.execute(query, {"broker": broker}).scalar())

    def drains(self, broker: str) -> int:
        """Return how often a broker has been drained."""
        with self.engine.connect() as connection:
            query = text("SELECT count(*) FROM drains WHERE broker = :broker")
            return connection.execute(query, {"broker": broker}).scalar_one()

    def note_joined(self, drains: int) -> None:
        """Record that this machine's node is in the cluster of RabbitMQ that was made after so many drains."""
        with self.engine.begin() as connection:
            query = text("INSERT INTO rabbitmq_nodes VALUES (:machine, :drains) ON CONFLICT DO NOTHING")
            connection.execute(query, {"machine": HERE, "drains": drains})

    def has_joined(self, drains: int) -> bool:
        """Return whether that was recorded."""
        with self.engine.connect() as connection:
            query = text("SELECT count(*) FROM rabbitmq_nodes WHERE (machine, drains) = (:machine, :drains)")
            return bool(connection.execute(query, {"machine": HERE, "drains": drains}).scalar())

    def clients(self, service: str) -> list[Client]:
        """Return the units of a service, also of machines that have been destroyed."""
        query = text("SELECT machine, unit, broker FROM broker_clients WHERE service = :service ORDER BY machine, unit")
        with self.engine.connect() as connection:
            return [Client(*row) for row in connection.execute(query, {"service": service})]


def unmoved(lab: Topology, service: str, clients: Iterable[Client]) -> list[str]:
    """Return the machines whose `service` does not use the chosen broker yet."""
    moved = {client.machine for client in clients if client.broker == lab.broker}
    return [machine.name for machine in lab.with_role(service) if machine.name not in moved]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", choices=["scheduler", "worker"])
    parser.add_argument("unit")
    parser.add_argument("broker", choices=BROKERS)
    given = parser.parse_args()
    Register().enter(given.service, given.unit, given.broker)
