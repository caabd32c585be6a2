"""Replaces this machine's Celery worker without interrupting a task: the new worker starts while the old one runs.

A worker is not restarted when something that it reads changes (a setting, the environment, the broker). `replace`
starts a unit with the next number, and `airflow-worker-retire@N` ends the old worker when it is not needed any more. If
both use the same broker, this is as soon as the new worker takes tasks. Else, it is when all schedulers have left the
old broker and its queues are empty. A retired worker takes no more tasks, and ends when its tasks have ended, however
long they take.

The unit of the current worker has the alias airflow-worker.service. Runs as root in Airflow's environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.topology import BROKERS, Topology
from provision.roles.airflow.draining import systemctl, wait_until_nothing

if TYPE_CHECKING:
    from provision.roles.airflow.broker_client import BrokerClient

HERE = socket.gethostname()
UNITS = Path("/etc/systemd/system")
STATE = Path("/var/lib/airflow-lab/workers.json")
RUN = Path("/run/airflow-lab")
TEMPLATE = Path("/etc/airflow-lab/airflow-worker.service")  # a unit is a copy with its number instead of @NUMBER@
LEASE = 15  # seconds after which a message that is not renewed is taken back: visibility_timeout, and the next look
SEEN_WITHIN = 60  # seconds that `replace` waits for the old worker's first status


def unit(number: str) -> str:
    return f"airflow-worker-{number}"


def retirement(number: str) -> str:
    return f"airflow-worker-retire@{number}.service"


def node(number: str) -> str:
    """Return the Celery name of a worker."""
    return f"celery@{HERE}-{number}"


def status_of(number: str) -> Path:
    """Return the file that says what a retired worker still waits for; empty while that is not known."""
    return RUN / f"retiring-{number}"


def draining(number: str) -> Path:
    """Return the file that exists while a worker takes no more tasks."""
    return RUN / f"draining-{number}"


def workers() -> dict[str, dict[str, str]]:
    """Return the workers of this machine by number, the current one last: the `digest` of its files, its `broker`."""
    return json.loads(STATE.read_text()) if STATE.exists() else {}


def save(state: dict[str, dict[str, str]]) -> None:
    STATE.parent.mkdir(parents=True, exist_ok=True)
    part = STATE.with_suffix(".part")
    part.write_text(json.dumps(state))
    part.rename(STATE)


def digest(paths: list[str]) -> str:
    """Return a digest of the files that a worker reads; of a folder, of all files in it."""
    found = hashlib.sha256()
    for path in map(Path, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found.update(f"{file}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def is_current(paths: list[str]) -> bool:
    """Return whether the current worker runs, is enabled, and has read the current content of `paths`."""
    state = workers()
    if not state:
        return False
    number = list(state)[-1]
    return state[number]["digest"] == digest(paths) and systemctl("is-enabled", unit(number)) and runs(number)


def runs(number: str) -> bool:
    """Return whether a worker runs or is starting."""
    show = ["systemctl", "show", "--value", "--property", "ActiveState", unit(number)]
    return subprocess.run(show, capture_output=True, text=True, check=False).stdout.strip() in ("active", "activating")


def replace(paths: list[str], broker: str) -> None:
    """Make a worker with the current content of `paths` the current one, and retire the others."""
    state, wanted = workers(), digest(paths)
    same = [number for number, worker in state.items() if worker["digest"] == wanted]
    number = same[-1] if same else str(int(list(state)[-1]) + 1 if state else 1)
    state.pop(number, None)
    if same:
        cancel_retirement(number, broker)
    else:
        (UNITS / f"{unit(number)}.service").write_text(TEMPLATE.read_text().replace("@NUMBER@", number))
    systemctl("daemon-reload")
    for other in state:
        systemctl("disable", unit(other))  # before the new unit is enabled: both have the same alias
    save(state | {number: {"digest": wanted, "broker": broker}})
    systemctl("enable", unit(number))
    systemctl("start", "--no-block", unit(number))
    for other in state:
        RUN.mkdir(exist_ok=True)
        status_of(other).touch()
        systemctl("enable", retirement(other))
        systemctl("start", "--no-block", retirement(other))
    # Wait until it is known what they are busy with, to show it to the user, but not until they have ended.
    deadline = time.monotonic() + Topology.of_this_machine().seconds(SEEN_WITHIN)
    while any(status_of(other).exists() and not status_of(other).read_text() for other in state):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)


def cancel_retirement(number: str, broker: str) -> None:
    """Cancel the retirement of a worker."""
    systemctl("disable", "--now", retirement(number))
    status_of(number).unlink(missing_ok=True)
    if draining(number).exists():
        draining(number).unlink()
        ask(broker).resume(node(number), Topology.of_this_machine()[HERE].queues)


def ask(broker: str) -> BrokerClient:
    # Imported here: `is-current` needs neither Celery nor SQLAlchemy, and they take a second.
    from provision.roles.airflow.broker_client import BrokerClient

    return BrokerClient(broker, Topology.of_this_machine().seconds(3))


def retire(number: str) -> None:
    """End a worker that is not the current one when it is not needed any more and its tasks have ended."""
    RUN.mkdir(exist_ok=True)
    from provision.roles.airflow.register import Register

    broker = ask(workers()[number]["broker"])
    while True:
        wait_until_nothing(lambda: needed(number, broker), status_of(number))
        draining(number).touch()
        wait_until_nothing(lambda: busy(number, broker), status_of(number))
        systemctl("stop", unit(number))
        draining(number).unlink()
        if not returned(number, broker):
            break
    Register().leave(unit(number))
    status_of(number).unlink(missing_ok=True)
    (UNITS / f"{unit(number)}.service").unlink(missing_ok=True)
    save({other: worker for other, worker in workers().items() if other != number})
    systemctl("disable", retirement(number))
    systemctl("daemon-reload")


def needed(number: str, broker: BrokerClient) -> str:
    """Return what must happen until a retired worker is not needed any more; empty if it is not needed."""
    from provision.roles.airflow.register import Register, unmoved

    lab, current = Topology.of_this_machine(), list(workers())[-1]
    if lab.broker == broker.name:
        listens = broker.listens(node(current))
        return "" if listens else "the new worker to take tasks"
    reason = ""
    if names := unmoved(lab, "scheduler", Register().clients("scheduler")):
        reason = f"the schedulers of {', '.join(names)} to be provisioned: they use {broker.name}"
    elif count := broker.queued(lab[HERE].queues):
        reason = f"{count} tasks queued on {broker.name}"
    elif count := broker.expired(lab.seconds(LEASE)):
        reason = f"{count} messages on {broker.name} of a worker that has died"
    if reason and not systemctl("is-active", unit(number)):
        systemctl("start", "--no-block", unit(number))  # after a reboot: it is not enabled
    return reason


def busy(number: str, broker: BrokerClient) -> str:
    """Stop a worker from taking tasks, and return what it still waits for; empty if nothing."""
    if not runs(number):
        return ""
    if queues := broker.listens(node(number)):
        broker.cancel(node(number), queues)
    tasks = broker.tasks(node(number))
    if tasks is None:
        return "the old worker, which does not answer"
    return f"{len(tasks)} tasks of the old worker, the longest running for {max(tasks):.0f} s" if tasks else ""


def returned(number: str, broker: BrokerClient) -> bool:
    """Return whether the old broker of a move has messages again, which the worker returned when it ended."""
    from provision.roles.airflow.broker_client import OperationalError

    lab = Topology.of_this_machine()
    if lab.broker == broker.name:
        return False
    try:
        return broker.queued(lab[HERE].queues) > 0
    except OperationalError:
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("is-current", "replace"):
        given: Any = verbs.add_parser(verb)
        given.add_argument("broker", choices=BROKERS)
        given.add_argument("paths", nargs="+")
    verbs.add_parser("retire").add_argument("number")
    given = parser.parse_args()
    if given.verb == "retire":
        retire(given.number)
    elif given.verb == "replace":
        replace(given.paths, given.broker)
    else:
        raise SystemExit(not is_current(given.paths))


if __name__ == "__main__":
    main()
