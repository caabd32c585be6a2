"""The host's proxy is for what lies outside the lab: no machine and no client of the host asks it for the lab."""

from __future__ import annotations

import ast
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab.client import Airflow
from lab.topology import ROOT
from tests.unit.commands import ruby
from tests.unit.test_bad_input import Checkout, checkout  # noqa: F401 # a fixture

NOT_THERE = "http://127.0.0.1:9"  # a port that nothing has
HEALTHY = {"scheduler": {"status": "healthy"}}


def given(lab: Checkout, **environment: str) -> dict[str, Any]:
    script = "puts Lab.new(ARGV[0]).document(nil)['environment'].to_json"
    without = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = ruby(script, lab.root, environment=without | environment)
    return json.loads(done.stdout)


def test_machines_reach_each_other_without_the_proxy(checkout: Checkout) -> None:  # noqa: F811
    environment = given(checkout, https_proxy=NOT_THERE, NO_PROXY="intranet.example,localhost")
    assert environment["https_proxy"] == NOT_THERE
    assert environment["no_proxy"] == environment["NO_PROXY"]
    direct = environment["no_proxy"].split(",")
    assert len(direct) == len(set(direct))
    assert {"intranet.example", "localhost", "127.0.0.1", "192.168.56.0/24"} <= set(direct)
    assert {"broker", "worker4", "192.168.56.10", "192.168.56.24"} <= set(direct)


def test_machines_are_told_of_no_proxy_where_there_is_none(checkout: Checkout) -> None:  # noqa: F811
    assert not [name for name in given(checkout) if name.lower().endswith("_proxy")]


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that answers as a healthy Airflow does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(HEALTHY).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_health_is_asked_without_the_proxy(checkout: Checkout, server: str) -> None:  # noqa: F811
    # Not 127.0.0.1, which Ruby never asks a proxy for.
    address = server.removeprefix("http://").replace("127.0.0.1", "0.0.0.0")  # noqa: S104
    script = (
        f"it = DockerProvider.new(Lab.new(ARGV[0])); def it.reach(_) = '{address}'; def it.healthy_within = 0; "
        "puts it.send(:healthy?)"
    )
    environment = os.environ | {"http_proxy": NOT_THERE, "no_proxy": ""}
    assert "true" in ruby(script, checkout.root, library="docker", environment=environment).stdout


def test_airflow_is_asked_without_the_proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NOT_THERE)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Airflow(server, "", token="any").get("monitor/health") == HEALTHY  # noqa: S106


@pytest.mark.parametrize("path", sorted((ROOT / "lab").glob("*.py")), ids=lambda path: path.name)
def test_no_client_of_the_lab_takes_a_proxy_from_the_environment(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        if ast.unparse(call.func) in ("httpx.Client", "httpx.get", "httpx.post", "httpx.stream", "httpx.request"):
            assert "trust_env=False" in [ast.unparse(word) for word in call.keywords], ast.unparse(call)
