"""The one machine that provisioning works on: the one it runs in, with what it was given as its data."""

import json
from pathlib import Path

DOCUMENT = Path("/etc/airflow-lab/machine.json")

machines = [("@local", json.loads(DOCUMENT.read_text()))]
