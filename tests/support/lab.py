"""The lab under test. A test with the fixture of a role runs for each machine with it; `any_machine`: for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import psycopg
import pytest

from lab.checkout import Lab
from lab.client import Airflow
from lab.machines import Guest, Machines
from lab.roles import ROLES
from lab.topology import BROKERS, Topology
from tests.support import ROOT
from tests.support.shipped import SHIPPED

LAB = Lab(ROOT)
# The tests can be listed before the first `vagrant up`, too, and after that of another version.
NOW = SHIPPED
with suppress(FileNotFoundError, ValueError):
    NOW = LAB.topology


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for role in ("any_machine", *ROLES):
        if role in metafunc.fixturenames:
            machines = NOW.machines if role == "any_machine" else NOW.with_role(role)
            metafunc.parametrize(role, [machine.name for machine in machines], indirect=True)


@pytest.fixture
def topology() -> Topology:
    return LAB.topology


@pytest.fixture(scope="session")
def machines() -> Machines:
    return LAB.machines


@pytest.fixture(scope="session", params=sorted(BROKERS, key=lambda broker: broker != NOW.broker))
def broker(request: pytest.FixtureRequest, machines: Machines) -> str:
    """The broker that the lab is on: pytest runs all tests on one, and then all on the other."""
    if LAB.topology.broker != request.param:
        machines.provision(BROKER=request.param)
    return request.param


def _guest(request: pytest.FixtureRequest, machines: Machines) -> Guest:
    return machines.guest(request.param)


for _role in ("any_machine", *ROLES):
    globals()[_role] = pytest.fixture(name=_role)(_guest)


@pytest.fixture(scope="session")
def secret() -> dict[str, str]:
    return LAB.secrets


@pytest.fixture(scope="session")
def airflow() -> Airflow:
    return LAB.airflow


@pytest.fixture
def flower_api(topology: Topology, secret: dict[str, str]) -> Iterator[httpx.Client]:
    """Flower's API, as users reach it."""
    url = f"http://{topology.reach('flower')}/api"
    with httpx.Client(base_url=url, auth=("admin", secret["flower_password"]), timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def lab_database(topology: Topology) -> Iterator[psycopg.Connection[Any]]:
    """The database that the DAGs write to."""
    with LAB.connect() as connection:
        yield connection
