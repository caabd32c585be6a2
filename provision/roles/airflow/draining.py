"""Waits until nothing needs a unit that is to be stopped: an old worker, or the old queue server of a move."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

QUIET = 3  # checks in a row, half a second apart, that must find nothing: messages in transit are in no queue


def systemctl(*words: str) -> bool:
    """Call systemctl and return whether it succeeded."""
    return subprocess.run(["systemctl", *words], capture_output=True, check=False).returncode == 0


def wait_until_nothing(left: Callable[[], str], status: Path) -> None:
    """Wait until `left` has returned nothing for a while. Write each of its results to the file `status`."""
    # Imported here: `switch.py is-current` needs neither, and they take a second.
    from amqp.exceptions import AMQPError
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError
    from sqlalchemy.exc import SQLAlchemyError

    quiet, said = 0, ""
    while quiet < QUIET:
        try:
            reason = left()
        except (OperationalError, AMQPError, RedisError, OSError, SQLAlchemyError) as error:
            text = str(error).partition("\n")[0]
            reason = f"the broker or the database, which does not answer: {text}"
        quiet = 0 if reason else quiet + 1
        status.write_text(reason)
        if reason and reason.split(",")[0] != said:
            said = reason.split(",")[0]
            print(f"waiting for {reason}", flush=True)
        time.sleep(0.5)
