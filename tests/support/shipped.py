"""The lab of config/lab.json in both layouts, for tests that need no Ruby to resolve it. `make format` renews them."""

from __future__ import annotations

import json
from typing import Any

from lab.topology import Topology
from tests.support import ROOT

DOCUMENT: dict[str, Any] = json.loads((ROOT / "tests" / "support" / "lab.json").read_text())
SHIPPED = Topology.from_document(DOCUMENT)
HA = Topology.from_document(json.loads((ROOT / "tests" / "support" / "lab-ha.json").read_text()))
