"""Runs pyinfra and prints a few lines of what it does; its whole output goes to a log.

`python3 progress.py LOG SHOWN COMMAND…`: SHOWN is the path of LOG for the user; the exit code is COMMAND's.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

SLOW = 5  # seconds after which a step is shown while it runs
AGAIN = 20  # seconds after which it is shown again
FEW = 8  # up to this many changes are listed; more are only counted
TAIL = 20  # lines of the log that are shown after an error
STEP = re.compile(r"--> Starting operation: (.+)")
CHANGED = re.compile(r"\[@local\] Success")
SERVICE = re.compile(r"Start (\S+?)(?:\.service)?, or restart it")


class Progress:
    """Reads pyinfra's output line by line."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.step = ""
        self.since = self.start
        self.count = 0
        self.changed: list[str] = []

    def read(self, line: str) -> None:
        """Record a line of the output."""
        if found := STEP.search(line):
            self.step, self.since = found[1].strip(), time.monotonic()
            self.count += 1
        elif CHANGED.search(line) and self.step:
            self.changed.append(self.step)

    def summary(self) -> list[str]:
        """Return what to print at the end."""
        took = f"{self.count} steps, {time.monotonic() - self.start:.0f} s"
        if not self.changed:
            return [f"nothing to change ({took})"]
        services = [found[1] for step in self.changed if (found := SERVICE.match(step))]
        lines = [f"changed: {step}" for step in self.changed] if len(self.changed) <= FEW else []
        started = f"; started or restarted: {', '.join(services)}" if services and not lines else ""
        return [*lines, f"{len(self.changed)} changes ({took}){started}"]


def show_slow_steps(progress: Progress, ended: threading.Event) -> None:
    """Print a step that takes long, while it runs."""
    shown, at = 0.0, 0.0
    while not ended.wait(0.5):
        now = time.monotonic()
        if progress.step and now - progress.since > SLOW and (shown != progress.since or now - at > AGAIN):
            shown, at = progress.since, now
            print(f"{now - progress.start:3.0f} s  {progress.step}", flush=True)


def main() -> int:
    log, known_as, *command = sys.argv[1:]
    progress, ended = Progress(), threading.Event()
    print(f"configuring (log: {known_as})", flush=True)
    watcher = threading.Thread(target=show_slow_steps, args=(progress, ended), daemon=True)
    watcher.start()
    with (
        Path(log).open("w") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running,
    ):
        for line in running.stdout or ():
            file.write(line)
            file.flush()
            if line.startswith("==> lab:"):  # an error message that already says what to do
                print(line, end="", flush=True)
            progress.read(re.sub(r"\x1b\[[0-9;]*m", "", line))
    ended.set()
    if running.returncode:
        print("".join(Path(log).read_text().splitlines(keepends=True)[-TAIL:]))
        print(f"failed in: {progress.step or 'the preparation'}; log: {known_as}", flush=True)
    else:
        print("\n".join(progress.summary()), flush=True)
    return running.returncode


if __name__ == "__main__":
    raise SystemExit(main())
