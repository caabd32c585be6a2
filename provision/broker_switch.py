"""Moves a running lab from one broker to the other, each machine for itself, with nothing lost and no pause.

Both queue servers run while the lab moves. Every scheduler and worker registers in the database which broker it
works with. A machine that is provisioned starts its new worker beside the old one, which goes on until all
schedulers have moved and its queues are empty, and then ends its running tasks. The old queue server goes last.
So wherever a message is, somebody consumes it, whatever has been provisioned and in whatever order; units do the
waiting, not `vagrant provision`, and a machine that was halted half-way goes on with it when it is back.

Runs with Airflow's environment on the machines: `register` as the user airflow, the others as root.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from sqlalchemy import create_engine, make_url, text

from lab.topology import QUEUE_UNITS, Topology

STATUS = Path("/run/airflow-lab-switch")
OTHER = {"redis": "rabbitmq", "rabbitmq": "redis"}
HERE = socket.gethostname()
QUIET = 3  # times in a row, half a second apart, that nothing may be left: a message on its way is in no queue
TABLE = """
    CREATE TABLE IF NOT EXISTS broker_users (
        machine text, service text, broker text, since timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (machine, service, broker)
    )
"""


def secret(option: str) -> str:
    """Return a secret option of Airflow; FileNotFoundError if this machine has it not."""
    return Path("/opt/airflow/secrets", option).read_text()


def systemctl(*words: str) -> bool:
    """Call systemctl and return whether it succeeded."""
    return subprocess.run(["systemctl", *words], capture_output=True, check=False).returncode == 0


class Register:
    """Who works with which broker."""

    def __init__(self) -> None:
        url = make_url(secret("sql_alchemy_conn"))
        self.engine = create_engine(url.set(database="lab"), pool_pre_ping=True)
        with self.engine.begin() as connection:
            # Two machines at once would both find no table: CREATE ... IF NOT EXISTS is not atomic.
            connection.execute(text("SELECT pg_advisory_xact_lock(3)"))
            connection.execute(text(TABLE))

    def add(self, service: str, broker: str) -> None:
        """Note that this machine's `service` works with `broker`, and with the other only if it still runs there."""
        with self.engine.begin() as connection:
            row = {"machine": HERE, "service": service, "broker": broker}
            connection.execute(
                text("INSERT INTO broker_users VALUES (:machine, :service, :broker) ON CONFLICT DO NOTHING"), row
            )
        if service != "worker" or not systemctl("is-active", f"airflow-worker@{OTHER[broker]}.service"):
            self.remove(service, OTHER[broker])

    def remove(self, service: str, broker: str) -> None:
        """Note that this machine's `service` has left `broker`."""
        with self.engine.begin() as connection:
            row = {"machine": HERE, "service": service, "broker": broker}
            connection.execute(
                text("DELETE FROM broker_users WHERE (machine, service, broker) = (:machine, :service, :broker)"), row
            )

    def machines(self, service: str, broker: str) -> set[str]:
        """Return the machines whose `service` works with `broker`."""
        query = text("SELECT machine FROM broker_users WHERE service = :service AND broker = :broker")
        with self.engine.connect() as connection:
            return set(connection.execute(query, {"service": service, "broker": broker}).scalars())


class OldBroker:
    """The broker that is being left."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lab = Topology.of_this_machine()
        self.register = Register()
        self.app = Celery(broker=secret(f"broker_url_{name}"), set_as_current=False)

    def unmoved(self, service: str) -> list[str]:
        """Return the machines in use whose `service` has not begun with the new broker, or not ended with the old."""
        new = self.register.machines(service, OTHER[self.name])
        old = self.register.machines(service, self.name) if service == "scheduler" else set()
        return [machine.name for machine in self.lab.with_role(service) if machine.name not in new - old]

    def queued(self, queues: Iterable[str]) -> int:
        """Return how many messages wait in `queues`; OperationalError if the broker does not answer."""
        total = 0
        with self.app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1)
            for queue in queues:
                try:
                    with connection.channel() as channel:
                        total += channel.queue_declare(queue, passive=True).message_count
                except ChannelError:  # there is no such queue
                    continue
        return total

    def reserved(self) -> int:
        """Return how many messages this machine's worker has taken and not begun."""
        answer = (
            self.app.control.inspect(destination=[f"celery@{HERE}"], timeout=3 * self.lab.time_factor).reserved() or {}
        )
        return sum(map(len, answer.values()))


def waiting_for(old: OldBroker) -> Iterator[str]:
    """Say what keeps this machine's old worker at work."""
    if names := old.unmoved("scheduler"):
        yield f"the schedulers of {', '.join(names)} to be provisioned: they work with {old.name}"
    elif count := old.queued(old.lab[HERE].queues):
        yield f"{count} tasks queued on {old.name}"
    elif count := old.reserved():
        yield f"{count} tasks that the worker has taken from {old.name} and not begun"


def holding(old: OldBroker) -> Iterator[str]:
    """Say what keeps the old queue server running."""
    unmoved = sorted({*old.unmoved("scheduler"), *old.unmoved("worker")})
    if unmoved:
        yield f"{', '.join(unmoved)} to be provisioned (`vagrant up`, `vagrant provision`)"
    if count := old.queued({queue for worker in old.lab.with_role("worker") for queue in worker.queues}):
        yield f"{count} tasks queued on {old.name}"
    workers = {worker.name for worker in old.lab.with_role("worker")} & old.register.machines("worker", old.name)
    if workers:
        yield f"{', '.join(sorted(workers))} to end what runs from {old.name}"


def until_nothing_left(old: OldBroker, what: object) -> None:
    """Wait, and say what for whenever it changes, until it has been nothing for a while."""
    quiet, said = 0, ""
    while quiet < QUIET:
        try:
            left = "; ".join(what(old))  # type: ignore[operator]
        except OperationalError as error:
            left = f"{old.name}, which does not answer: {error}"
        quiet = 0 if left else quiet + 1
        STATUS.write_text(left)
        if left and left != said:
            print(f"waiting for {left}", flush=True)
        said = left
        time.sleep(0.5)


def leave_worker(broker: str) -> None:
    """End this machine's worker of `broker` once it has nothing more to expect; its running tasks end first."""
    old = OldBroker(broker)
    unit = f"airflow-worker@{broker}.service"
    while systemctl("is-active", unit):
        until_nothing_left(old, waiting_for)
        print(f"ending the worker of {broker}, when its running tasks have ended", flush=True)
        drop_in = Path(f"/run/systemd/system/{unit}.d/patience.conf")
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text("[Service]\nTimeoutStopSec=infinity\n")
        systemctl("daemon-reload")
        systemctl("stop", unit)
        drop_in.unlink()
        systemctl("daemon-reload")
        if old.queued(old.lab[HERE].queues):  # given back while the worker ended
            systemctl("start", unit)
    systemctl("disable", unit)
    old.register.remove("worker", broker)
    systemctl("disable", f"airflow-leave-worker@{broker}.service")


def leave_queue(broker: str) -> None:
    """Stop the queue server of `broker` once nobody works with it and nothing is left in it."""
    until_nothing_left(OldBroker(broker), holding)
    print(f"stopping {broker}", flush=True)
    systemctl("disable", "--now", QUEUE_UNITS[broker])
    systemctl("disable", f"airflow-leave-queue@{broker}.service")


def follow() -> None:
    """Print what the move waits for, and for how long, until it has ended or waits for another machine."""
    units = [f"airflow-leave-queue@{broker}.service" for broker in OTHER]
    for second in itertools.count():
        if not any(systemctl("is-active", unit) for unit in units):
            break
        left = STATUS.read_text() if STATUS.exists() else ""
        if second % 5 == 0 and left:
            print(f"==> lab: moving: waiting for {left} ({second} s)", flush=True)
        if "to be provisioned" in left and second > 20:
            sys.exit(f"==> lab: not moved yet: waiting for {left}")
        time.sleep(1)
    print("==> lab: moved: only the chosen broker runs", flush=True)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    register = verbs.add_parser("register")
    register.add_argument("service", choices=["scheduler", "worker"])
    register.add_argument("broker", choices=OTHER)
    for verb in ("leave-worker", "leave-queue"):
        verbs.add_parser(verb).add_argument("broker", choices=OTHER)
    verbs.add_parser("follow")
    given = parser.parse_args(words)
    if given.verb == "register":
        Register().add(given.service, given.broker)
    elif given.verb == "leave-worker":
        leave_worker(given.broker)
    elif given.verb == "leave-queue":
        leave_queue(given.broker)
    else:
        follow()


if __name__ == "__main__":
    main(sys.argv[1:])
