"""pyinfra's inventory: only the machine on which it runs, with the machine's document as its data."""

import json
from pathlib import Path

DOCUMENT = Path("/etc/airflow-lab/machine.json")

machines = [("@local", json.loads(DOCUMENT.read_text()))]
