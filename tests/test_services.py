"""The services of each role: installed, running, always restarted, on the right ports, and protected."""

from __future__ import annotations

import re
import socket

import httpx
import psycopg
import pytest
from packaging.requirements import Requirement

from lab.client import Airflow
from lab.machines import Guest, Machines
from lab.topology import Machine, Topology
from tests.support import ROOT

DATABASE = "postgresql@17-main.service"
pytestmark = pytest.mark.usefixtures("broker")
ON_LOOPBACK = {"flower_local", "proxy_postgresql", "proxy_api_server"}
# The port of sshd, which is open on every machine.
SSH = 22


def units(topology: Topology, machine: Machine) -> list[str]:
    return [f"{unit}.service" for unit in topology.services(machine.name).values()]


def test_services_are_enabled_and_running(any_machine: Guest, topology: Topology) -> None:
    for unit in units(topology, any_machine.machine):
        service = any_machine.host.service(unit.removesuffix(".service"))
        assert service.is_running, unit
        # An instance of postgresql@ is started by postgresql.service's generator.
        assert service.is_enabled or unit == DATABASE, unit


def test_services_are_always_restarted(any_machine: Guest, topology: Topology) -> None:
    for unit in units(topology, any_machine.machine):
        shown = any_machine.run("systemctl show --property Restart,StartLimitIntervalUSec --value %s", unit).split()
        assert shown == ["always", "0"], unit


def test_only_the_ports_of_the_roles_are_open(any_machine: Guest, topology: Topology) -> None:
    roles = [topology.role(role) for role in any_machine.machine.roles]
    ports = {port for role in roles for port in role.ports_on(topology.broker)} - ON_LOOPBACK
    expected = {topology.ports[port] for port in ports} | {SSH}
    lines = any_machine.run("ss --tcp --listening --numeric --no-header").splitlines()
    addresses = [line.split()[3] for line in lines]
    # 127.0.0.11 is Docker's own resolver.
    public = {int(a.rpartition(":")[2]) for a in addresses if not re.match(r"127\.|\[::1\]", a)}
    assert public == expected


def test_airflow_cfg_is_the_same_file_everywhere(machines: Machines, topology: Topology) -> None:
    paths = (
        "/opt/airflow/airflow.cfg",
        "/opt/airflow/airflow-redis.cfg",
        "/opt/airflow/airflow-rabbitmq.cfg",
        "/var/lib/airflow-lab/environment",
    )
    for path in paths:
        digests = {m.name: machines.guest(m.name).host.file(path).sha256sum for m in topology.machines}
        assert len(set(digests.values())) == 1, digests


def test_installed_packages_are_those_of_the_lock(any_machine: Guest) -> None:
    lines = re.findall(r"^([a-z0-9].*?)(?: \\)?$", (ROOT / "config/requirements.lock").read_text(), re.MULTILINE)
    environment = {"python_full_version": "3.13.5", "python_version": "3.13", "implementation_name": "cpython"}
    environment |= {"platform_python_implementation": "CPython", "sys_platform": "linux"}
    wanted = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate(environment)]
    locked = sorted(f"{requirement.name}{requirement.specifier}" for requirement in wanted)
    frozen = any_machine.run("/opt/pyinfra/bin/uv pip freeze --quiet --python /opt/airflow/venv/bin/python")
    assert sorted(frozen.splitlines()) == locked


def files_with(guest: Guest, values: list[str], folders: str, *, found: str = "-type f") -> str:
    """Return the files below `folders` that contain one of `values`."""
    return guest.run_script(
        f"umask 077; cat >/root/values <<'END'\n{chr(10).join(values)}\nEND\n"
        f"find {folders} -xdev {found} ! -path /root/values "
        "-exec grep --files-with-matches --fixed-strings --file /root/values {} +\nrm /root/values"
    )


def test_secrets_are_in_no_file_that_everyone_can_read(any_machine: Guest, secret: dict[str, str]) -> None:
    folders = "/etc /home /opt/airflow /root /run /srv /tmp /usr/local /var"
    assert files_with(any_machine, [*secret.values()], folders, found="-type f -perm -o=r") == ""
    assert files_with(any_machine, [*secret.values()], "/opt/airflow/secrets") != ""


def test_secrets_are_in_no_process_arguments(any_machine: Guest, secret: dict[str, str]) -> None:
    arguments = any_machine.run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true")
    assert "airflow" in arguments
    assert not [name for name, value in secret.items() if value in arguments]


def test_worker_has_no_secrets_that_it_does_not_need(worker: Guest, secret: dict[str, str]) -> None:
    names = ("jwt_secret", "fernet_key", "airflow_admin_password", "flower_password")
    folders = "/etc /home /opt/airflow/secrets /root /run /tmp /var"
    assert files_with(worker, [secret[name] for name in names], folders) == ""


def test_secrets_of_the_checkout_are_readable_by_its_owner_only() -> None:
    state = ROOT / ".lab"
    assert (state / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert [f for f in (state / "machines").iterdir() if f.stat().st_mode & 0o777 != 0o600] == []


@pytest.mark.parametrize(
    ("user", "password", "name"),
    [
        ("airflow", "wrong", "airflow"),
        ("airflow", "", "airflow"),
        ("postgres", "", "postgres"),
        ("postgres", "", "airflow"),
    ],
)
def test_postgresql_refuses_other_roles_and_passwords(database: Guest, user: str, password: str, name: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"password|no pg_hba\.conf entry"):
        psycopg.connect(host=database.machine.address, user=user, password=password, dbname=name)


def test_postgresql_refuses_other_databases(database: Guest, secret: dict[str, str]) -> None:
    password = secret["postgresql_password"]
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(host=database.machine.address, user="airflow", password=password, dbname="postgres")


def test_postgresql_refuses_clients_outside_the_labs_network(database: Guest) -> None:
    answer = database.host.run("su postgres -c 'psql --host 127.0.0.1 --user airflow airflow'")
    assert 'no pg_hba.conf entry for host "127.0.0.1"' in answer.stderr


def test_postgresql_stores_passwords_as_scram(database: Guest) -> None:
    query = "SELECT rolname, left(rolpassword, 13) FROM pg_authid WHERE rolpassword IS NOT NULL"
    shell = "cd / && setpriv --reuid=postgres --regid=postgres --init-groups psql --tuples-only --no-align --command %s"
    stored = dict(line.split("|") for line in database.run(shell, query).splitlines())
    assert set(stored.values()) == {"SCRAM-SHA-256"}
    assert "airflow" in stored


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthcheck", "/api/workers"])
def test_flower_answers_only_with_its_password(topology: Topology, secret: dict[str, str], path: str) -> None:
    url = f"http://{topology.reach('flower')}{path}"
    assert httpx.get(url, trust_env=False).status_code == 401
    assert httpx.get(url, auth=("admin", "wrong"), trust_env=False).status_code == 401
    assert httpx.get(url, auth=("admin", secret["flower_password"]), timeout=30, trust_env=False).status_code == 200


def test_airflow_refuses_requests_without_a_login(topology: Topology) -> None:
    url = f"http://{topology.reach('load_balancer')}"
    assert httpx.get(f"{url}/api/v2/dags", trust_env=False).status_code == 401
    answer = httpx.post(f"{url}/auth/token", json={"username": "admin", "password": "admin"}, trust_env=False)
    assert answer.status_code == 401


def test_forwarded_ports_are_on_loopback_only(topology: Topology) -> None:
    gateway = topology.network.rsplit(".", 1)[0] + ".1"
    for port in topology.forwarded_ports.values():
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((gateway, port), timeout=5)


def test_connections_and_variables_are_imported(airflow: Airflow) -> None:
    connection = airflow.get("connections/lab_database")
    assert (connection["conn_type"], connection["schema"], connection["login"]) == ("postgres", "lab", "airflow")
    assert airflow.get("variables/stocks")["value"]
