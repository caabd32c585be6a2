"""Clients on the host bypass the host's proxy when they connect to the lab."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lab.client import Airflow
from tests.support import ROOT
from tests.support.servers import HEALTHY

NOT_THERE = "http://127.0.0.1:9"  # nothing listens on this port


def test_airflow_client_bypasses_the_proxy(healthy_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NOT_THERE)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Airflow(healthy_server, "", token="any").get("monitor/health") == HEALTHY  # noqa: S106


@pytest.mark.parametrize("path", sorted((ROOT / "lab").glob("*.py")), ids=lambda path: path.name)
def test_no_client_of_the_lab_takes_a_proxy_from_the_environment(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        if ast.unparse(call.func) in ("httpx.Client", "httpx.get", "httpx.post", "httpx.stream", "httpx.request"):
            assert "trust_env=False" in [ast.unparse(word) for word in call.keywords], ast.unparse(call)
