"""Fixtures. A test that asks for a role is run once for every machine that has it; `any_machine` is all of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from lab.client import Airflow, connect, eventually, secrets
from lab.machines import Guest, Machines
from lab.status import problems
from lab.topology import QUEUE_UNITS, Topology
from tests.virtual_machine import VirtualMachine

BROKERS = tuple(QUEUE_UNITS)
ROLES = ("database", "queue", "load_balancer", "flower", "api_server", "scheduler", "worker")


# The commands that the tests of `make unit` call and a host may lack, and Debian's packages of them.
PACKAGES = {
    "docker": "docker.io",
    "git": "git",
    "nix-instantiate": "nix-bin",
    "rubocop": "rubocop",
    "ruby": "ruby",
    "shellcheck": "shellcheck",
    "ssh": "openssh-client",
    "vagrant": "vagrant",
}
VIRTUAL_MACHINE = pytest.StashKey[VirtualMachine]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skip-missing", action="store_true", help="skip the tests that call a command which this host lacks"
    )


def _skip_if_missing(item: pytest.Item) -> Generator[None, object, object]:
    """Skip a test that calls a command of PACKAGES which this host lacks; with no --skip-missing, it fails."""
    try:
        return (yield)
    except FileNotFoundError as error:
        if item.config.getoption("skip_missing") and error.filename in PACKAGES:
            pytest.skip(f"{error.filename} is missing (apt-get install {PACKAGES[error.filename]})")
        raise


pytest_runtest_setup = pytest_runtest_call = pytest.hookimpl(wrapper=True)(_skip_if_missing)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin what takes longest, the virtual machine, before the first test; it is looked at after the last."""
    wanted = any("virtual_machine" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        session.config.stash[VIRTUAL_MACHINE] = VirtualMachine()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if VIRTUAL_MACHINE in session.config.stash:
        session.config.stash[VIRTUAL_MACHINE].remove()


@pytest.fixture(scope="session")
def virtual_machine(request: pytest.FixtureRequest) -> VirtualMachine:
    return request.config.stash[VIRTUAL_MACHINE]


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
    guest = machines.guest(request.param)
    request.node.guest = guest
    return guest


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


def check_whole(machines: Machines) -> None:
    """Assert that every part of the lab reports, and that nothing is left to be done."""
    found = problems(machines)
    assert not found, found


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """A destructive test starts with a whole lab, and leaves one behind."""
    if "destructive" not in request.keywords:
        yield
        return
    machines = request.getfixturevalue("machines")
    eventually(lambda: check_whole(machines), within=60)
    yield
    eventually(lambda: check_whole(machines), within=120)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add what the machine under test logged last to the report of a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and (guest := getattr(item, "guest", None)):
        units = "-u 'airflow*' -u 'postgresql*' -u 'redis*' -u 'rabbitmq*' -u nginx"
        log = guest.host.run(f"systemctl --failed --no-pager; journalctl --no-pager --lines 40 {units}")
        report.sections.append((f"journal of {guest.machine.name}", log.stdout + log.stderr))
