"""The lab under test. A test that asks for a role runs once for every machine that has it; `any_machine` is all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from lab.client import Airflow, connect, secrets
from lab.machines import Guest, Machines
from lab.topology import QUEUE_UNITS, Topology

BROKERS = tuple(QUEUE_UNITS)
ROLES = ("database", "queue", "load_balancer", "flower", "api_server", "scheduler", "worker")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    topology = Topology.load()
    for role in ("any_machine", *ROLES):
        if role in metafunc.fixturenames:
            machines = topology.machines if role == "any_machine" else topology.with_role(role)
            metafunc.parametrize(role, [machine.name for machine in machines], indirect=True)


@pytest.fixture
def topology() -> Topology:
    return Topology.load()


@pytest.fixture(scope="session")
def machines() -> Machines:
    return Machines()


@pytest.fixture(scope="session", params=sorted(BROKERS, key=lambda broker: broker != Topology.load().broker))
def broker(request: pytest.FixtureRequest, machines: Machines) -> str:
    """The broker that the lab is on: pytest runs all tests on one, and then all on the other."""
    if Topology.load().broker != request.param:
        machines.provision(BROKER=request.param)
    return request.param


def _guest(request: pytest.FixtureRequest, machines: Machines) -> Guest:
    return machines.guest(request.param)


for _role in ("any_machine", *ROLES):
    globals()[_role] = pytest.fixture(name=_role)(_guest)


@pytest.fixture(scope="session")
def secret() -> dict[str, str]:
    return secrets()


@pytest.fixture(scope="session")
def airflow() -> Airflow:
    return Airflow.of_this_checkout()


@pytest.fixture
def flower_api(topology: Topology, secret: dict[str, str]) -> Iterator[httpx.Client]:
    """Flower's API, as its user reaches it."""
    url = f"http://{topology.reach('flower', 'flower')}/api"
    with httpx.Client(base_url=url, auth=("admin", secret["flower_password"]), timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def lab_database(topology: Topology) -> Iterator[psycopg.Connection[Any]]:
    """The database that the DAGs write to."""
    with connect(topology) as connection:
        yield connection
