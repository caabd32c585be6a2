"""Requests to the lab bypass the host's proxy, on the machines and in the host's scripts."""

from __future__ import annotations

import json
import os
from typing import Any

from tests.support.checkout import Checkout
from tests.support.commands import ruby

NOT_THERE = "http://127.0.0.1:9"  # nothing listens on this port


def given(lab: Checkout, **environment: str) -> dict[str, Any]:
    script = "puts Lab.new(ARGV[0]).document(nil)['environment'].to_json"
    without = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = ruby(script, lab.root, environment=without | environment)
    return json.loads(done.stdout)


def test_machines_reach_each_other_without_the_proxy(checkout: Checkout) -> None:
    environment = given(checkout, https_proxy=NOT_THERE, NO_PROXY="intranet.example,localhost")
    assert environment["https_proxy"] == NOT_THERE
    assert environment["no_proxy"] == environment["NO_PROXY"]
    direct = environment["no_proxy"].split(",")
    assert len(direct) == len(set(direct))
    assert {"intranet.example", "localhost", "127.0.0.1", "192.168.56.0/24"} <= set(direct)
    assert {"broker", "worker4", "192.168.56.10", "192.168.56.24"} <= set(direct)


def test_machines_get_no_proxy_if_the_host_has_none(checkout: Checkout) -> None:
    assert not [name for name in given(checkout) if name.lower().endswith("_proxy")]


def test_health_check_bypasses_the_proxy(checkout: Checkout, healthy_server: str) -> None:
    # Not 127.0.0.1: Ruby never uses a proxy for it.
    address = healthy_server.removeprefix("http://").replace("127.0.0.1", "0.0.0.0")  # noqa: S104
    script = (
        f"it = DockerProvider.new(Lab.new(ARGV[0])); def it.reach(_) = '{address}'; def it.healthy_within = 0; "
        "puts it.send(:healthy?)"
    )
    environment = os.environ | {"http_proxy": NOT_THERE, "no_proxy": ""}
    assert "true" in ruby(script, checkout.root, library="docker", environment=environment).stdout
