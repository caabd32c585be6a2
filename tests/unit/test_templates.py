"""Every template renders to a valid file, for every machine and every broker."""

from __future__ import annotations

import configparser
import itertools
import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from jinja2 import Environment, StrictUndefined

from lab.roles import ROLES
from lab.topology import BROKERS, Topology
from provision import operations
from provision.operations import Context
from provision.roles.airflow import deploy as airflow
from provision.roles.database import cluster, single
from provision.roles.load_balancer import deploy as load_balancer
from provision.roles.queue import rabbitmq, redis
from tests.support.shipped import HA, SHIPPED

SECRETS = {
    name: f"the-{name}"
    for name in (
        "postgresql_password", "redis_password", "rabbitmq_password", "airflow_admin_password",
        "flower_password", "fernet_key", "api_secret_key", "jwt_secret", "replication_password", "patroni_password",
        "erlang_cookie",
    )
}  # fmt: skip
# By role, as in provision/deploy.py; `base` and `airflow` are on every machine.
STEPS = {name: import_module(f"provision.roles.{name}.deploy") for name in ("base", "airflow", *ROLES)}
FIRST = {role: HA.with_role(role)[0].name for role in ROLES}  # the first machine with each role, in both layouts
LABS = (SHIPPED, HA)


def rendered(broker: str, name: str, patch: pytest.MonkeyPatch, lab: Topology = SHIPPED) -> dict[str, str]:
    """Return the files that provisioning would write on a machine, by path: pyinfra's operations are replaced."""
    topology = replace(lab, broker=broker)
    context = Context(lab=topology, name=name, secrets=SECRETS)
    written: dict[str, str] = {}
    jinja = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 # as in pyinfra
    own = {"name", "src", "dest", "user", "group", "mode", "create_remote_dir"}

    def template(src: str, dest: str, **words: Any) -> MagicMock:
        variables = {key: value for key, value in words.items() if key not in own}
        written[dest] = jinja.from_string(Path(src).read_text()).render(**variables)
        return MagicMock()

    def put(src: Any, dest: str, **words: Any) -> MagicMock:
        written[dest] = Path(src).read_text() if isinstance(src, str) else src.read()
        return MagicMock()

    files = MagicMock(template=template, put=put)
    for module in (operations, cluster, single, rabbitmq, redis, *STEPS.values()):
        for library in ("apt", "files", "server", "systemd", "postgres", "host"):
            if hasattr(module, library):
                patch.setattr(module, library, files if library == "files" else MagicMock())
    for role, module in STEPS.items():
        if role not in ROLES or context.has(role):
            module.configure(context)
    return written


@pytest.fixture(params=LABS, ids=lambda lab: lab.layout)
def lab(request: pytest.FixtureRequest) -> Topology:
    return request.param


@pytest.fixture(params=itertools.product(BROKERS, [one.name for one in SHIPPED.machines]), ids="-".join)
def written(request: pytest.FixtureRequest, lab: Topology, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    broker, name = request.param
    return rendered(broker, name, monkeypatch, lab)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return request.param


def cfg(text: str) -> configparser.ConfigParser:
    # A systemd unit may contain an option more than once.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(text)
    return parser


def test_every_file_renders_and_says_who_manages_it(written: dict[str, str]) -> None:
    for path, text in written.items():
        assert text.strip(), path
        assert "{{" not in text, path
        if Path(path).suffix in {".cfg", ".conf", ".service"}:
            assert "# Managed by provision/roles/" in text.splitlines()[0], path


def test_units_run_a_command_and_are_always_restarted(written: dict[str, str]) -> None:
    units = {
        path: cfg(text)
        for path, text in written.items()
        if path.endswith(".service") and not re.search("database|content|drain|retire|watch", path)
    }
    assert units
    for unit in units.values():
        assert unit["Service"]["ExecStart"].startswith("/opt/airflow/venvs/")
        assert unit["Service"]["Restart"] == "always"
        assert unit["Unit"]["StartLimitIntervalSec"] == "0"


def test_airflow_cfg_is_the_same_everywhere_and_has_no_secret(
    broker: str, lab: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [machine.name for machine in lab.machines]
    text, *others = {rendered(broker, name, monkeypatch, lab)["/opt/airflow/airflow.cfg"] for name in names}
    assert not others
    assert not [value for value in SECRETS.values() if value in text]


def test_airflow_knows_every_option(broker: str, lab: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.configuration import conf
    from airflow.providers_manager import ProvidersManager

    ProvidersManager().initialize_providers_configuration()
    known = conf.configuration_description
    free = {"celery_broker_transport_options"}  # passed to kombu unchanged
    config = cfg(rendered(broker, FIRST["scheduler"], monkeypatch, lab)["/opt/airflow/airflow.cfg"])
    for section in set(config.sections()) - free:
        for option in config[section]:
            assert option.removesuffix("_cmd") in known[section]["options"], f"[{section}] {option}"
            if option.endswith("_cmd"):
                assert (section, option.removesuffix("_cmd")) in conf.sensitive_config_values


@pytest.mark.parametrize("own", [False, True])
def test_own_folder_is_a_bundle_beside_the_labs_dags(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    topology = replace(SHIPPED, own_dags=own)
    texts = {
        rendered("redis", machine.name, monkeypatch, topology)["/opt/airflow/airflow.cfg"]
        for machine in topology.machines
    }
    assert len(texts) == 1
    config = cfg(texts.pop())
    option = config["dag_processor"].get("dag_bundle_config_list")
    assert (option is not None) == own
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", config["core"]["dags_folder"])
    if option:
        monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", option)
    paths = {bundle.name: str(bundle.path) for bundle in DagBundlesManager().get_all_dag_bundles()}
    assert paths == {"dags-folder": "/opt/airflow/dags"} | ({"own-dags": "/opt/airflow/own-dags"} if own else {})


def test_another_revision_changes_only_a_comment(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (
        rendered(broker, FIRST["worker"], monkeypatch, replace(SHIPPED, revision=revision)) for revision in (1, 2)
    )
    configs = {path for path in one if re.search(r"/airflow.*\.cfg$", path)}
    assert len(configs) == 3
    assert {path for path in one if one[path] != other[path]} == configs
    for path in configs:
        assert cfg(one[path]) == cfg(other[path])


def test_settings_fit_each_other(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = cfg(rendered(broker, FIRST["scheduler"], monkeypatch)["/opt/airflow/airflow.cfg"])
    timeout = config.getint("scheduler", "task_instance_heartbeat_timeout")
    assert timeout >= 4 * config.getint("workers", "min_heartbeat_interval")
    assert timeout >= 15  # one call that is retried takes 10 s
    celery = json.loads(config["celery"]["extra_celery_config"])
    assert celery["broker_connection_max_retries"] is None
    assert ("task_default_queue_type" in celery) == (broker == "rabbitmq")


def test_broker_url_is_the_url_of_the_chosen_broker(broker: str) -> None:
    topology, machine = replace(SHIPPED, broker=broker), FIRST["queue"]
    url = airflow.secret_options(topology, SECRETS)[f"broker_url_{broker}"]
    assert (
        url
        == {
            "redis": f"redis://:the-redis_password@{machine}:6379/0",
            "rabbitmq": f"amqp://airflow:the-rabbitmq_password@{machine}:5672/airflow",
        }[broker]
    )


def test_machine_without_a_secret_does_not_have_its_option() -> None:
    options = airflow.secret_options(SHIPPED, {"redis_password": "x"})
    assert list(options) == ["broker_url_redis"]


ENDPOINTS = {"single": (FIRST["database"], 5432), "ha": ("127.0.0.1", 6432)}  # of the database, for clients


def test_database_urls_are_accepted_by_their_drivers(lab: Topology) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.dialects.postgresql import psycopg, psycopg2

    options = airflow.secret_options(lab, SECRETS)
    host, port = ENDPOINTS[lab.layout]
    for dialect, option in ((psycopg2, "sql_alchemy_conn"), (psycopg, "sql_alchemy_conn_async")):
        _, words = dialect.dialect().create_connect_args(make_url(options[option]))
        assert (words["host"], words["port"], words["dbname"]) == (host, str(port), "airflow")
        assert words["connect_timeout"] == "3"


def test_only_machines_with_the_database_write_the_connections(lab: Topology, written: dict[str, str]) -> None:
    text = written.get("/opt/airflow/connections.yml")
    file = {"single": "/etc/postgresql/17/main/pg_hba.conf", "ha": "/etc/patroni/config.yml"}[lab.layout]
    assert (text is not None) == (file in written)
    if text:
        connection = yaml.safe_load(text)["lab_database"]
        assert (connection["host"], connection["port"]) == ENDPOINTS[lab.layout]
        assert connection["password"] == "the-postgresql_password"  # noqa: S105


def test_patroni_reads_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in HA.with_role("database"):
        settings = yaml.safe_load(rendered("redis", machine.name, monkeypatch, HA)["/etc/patroni/config.yml"])
        assert settings["name"] == machine.name
        assert settings["etcd3"]["hosts"] == ["192.168.56.10:2379", "192.168.56.11:2379", "192.168.56.12:2379"]
        assert settings["bootstrap"]["dcs"]["synchronous_mode"] == "quorum"
        assert settings["postgresql"]["pg_hba"][-1] == "host airflow,lab airflow 192.168.56.0/24 scram-sha-256"


def test_nginx_knows_both_api_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    text = rendered("redis", FIRST["load_balancer"], monkeypatch)["/etc/nginx/conf.d/airflow.conf"]
    for endpoint in SHIPPED.endpoints("api_server", "api_server"):
        assert f"server {endpoint} " in text


def test_rabbitmq_defines_only_the_labs_user_and_virtual_host(monkeypatch: pytest.MonkeyPatch) -> None:
    files = rendered("rabbitmq", FIRST["queue"], monkeypatch)
    definitions = json.loads(files["/etc/rabbitmq/definitions.json"])
    assert [user["name"] for user in definitions["users"]] == ["airflow"]
    assert definitions["vhosts"] == [{"name": "airflow", "metadata": {"default_queue_type": "quorum"}}]
    assert "/etc/redis/lab.conf" not in files


def test_passwords_are_hashed_as_their_readers_expect() -> None:
    # The example of RabbitMQ's own documentation has the salt 908D C60A and the password test12.
    import base64
    import hashlib

    stored = base64.b64decode(rabbitmq.password_hash("test12"))
    assert stored[4:] == hashlib.sha256(stored[:4] + b"test12").digest()
    stored = base64.b64decode(load_balancer.ssha("test12"))
    assert stored[:20] == hashlib.sha1(b"test12" + stored[20:], usedforsecurity=False).digest()


@pytest.fixture(autouse=True)
def airflow_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
