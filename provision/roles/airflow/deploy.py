"""Airflow itself: its user, the locked Python environment, the configuration, and the secrets of this machine.

Environment and airflow.cfg are the same on every machine. airflow.cfg names a file for each secret; a machine has the
files that its roles need.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import files, server

from lab.topology import BROKERS, Topology
from provision.operations import Context, copy, digest, packages, run_once, template, write_secret

HERE = Path(__file__).parent
CONFIG = HERE.parents[2] / "config"
HOME = "/opt/airflow"
COMMON = f"{HOME}/airflow.cfg"
VENV = f"{HOME}/venv"  # a link to the environment of the lock
# Airflow has this folder in its Python path.
MODULES = f"{HOME}/config"
NAMES = ("lab_executor", "heartbeat_path", "message_lease", "metastore_retry", "no_delayed_delivery", "primary_proof")
SECRETS = f"{HOME}/secrets"
LOCK = CONFIG / "requirements.lock"
# One folder for each lock: a running service keeps using the environment that it was started from.
ENVIRONMENT = f"{HOME}/venvs/{digest(LOCK.read_text())[:12]}"
UNITS = "/etc/systemd/system/airflow-*.service"
ID = 50000  # of user and group: equal on all machines, because they share the folder of the task logs

# What every Airflow service reads, in addition to its configuration.
READS = (f"{HOME}/airflow.env", MODULES, SECRETS, "/var/lib/airflow-lab/environment")


def install() -> None:
    packages("libpq5")
    template(HERE / "sysusers.conf.j2", "/etc/sysusers.d/airflow.conf", folder=True, home=HOME, id=ID)
    server.shell(
        name="Create the user airflow",
        commands=["systemd-sysusers"],
        _if=lambda: host.get_fact(Command, "id -u airflow || true") != str(ID),
    )
    files.directory(name=f"Create {HOME}", path=HOME, user="airflow", group="airflow", mode="755")
    uv = "/opt/pyinfra/bin/uv"
    run_once(
        "Install the locked Python environment",
        key="environment",
        digest=digest(LOCK.read_text()),
        commands=[
            # Remove environments that no unit names. The previous one is still named: services run from it.
            f"for old in {HOME}/venvs/*; do grep -qsF $old {UNITS} || rm -rf $old; done",
            f"[ -x {ENVIRONMENT}/bin/python ] || {uv} venv --quiet --python /usr/bin/python3 {ENVIRONMENT}",
            # Not in /tmp, which is in memory on a real machine.
            f"TMPDIR=/var/tmp {uv} pip sync --quiet --no-cache --require-hashes --compile-bytecode"
            f" --python {ENVIRONMENT}/bin/python {LOCK}",
            f"ln -sfn {ENVIRONMENT} {VENV}",
        ],
    )


def configure(context: Context) -> None:
    files.directory(
        name="Create the folder of the task logs", path=f"{HOME}/logs", user="airflow", group="airflow", mode="2775"
    )
    files.directory(
        name="Create the folder of the local logs", path="/var/log/airflow", user="airflow", group="airflow", mode="755"
    )
    files.directory(name="Create the folder of the secrets", path=SECRETS, user="root", group="airflow", mode="750")
    for option, value in secret_options(context.lab, context.secrets).items():
        write_secret(value, f"{SECRETS}/{option}", group="airflow", mode="640")
    # A file for each broker, and airflow.cfg for the chosen one: during a move, a machine runs workers of both brokers.
    for broker in BROKERS:
        lab = replace(context.lab, broker=broker)
        template(CONFIG / "airflow.cfg.j2", config_of(broker), lab=lab, celery=celery_config(lab))
        if broker == context.lab.broker:
            template(CONFIG / "airflow.cfg.j2", COMMON, lab=lab, celery=celery_config(lab))
    for name in NAMES:
        copy(HERE / "modules" / f"{name}.py", f"{MODULES}/{name}.py", folder=True)
    template(HERE / "airflow_local_settings.py.j2", f"{MODULES}/airflow_local_settings.py", lab=context.lab)
    template(HERE / "airflow.env.j2", f"{HOME}/airflow.env", lab=context.lab, roles=context.machine.roles)
    copy(HERE / "airflow.sh", "/usr/local/bin/airflow", mode="755")


def config_of(broker: str) -> str:
    """Return the path of the configuration for services that use `broker`, even if it is not the chosen one."""
    return f"{HOME}/airflow-{broker}.cfg"


def secret_options(lab: Topology, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the secret options of airflow.cfg whose values can be made from `secrets`."""
    database = ""
    if password := secrets.get("postgresql_password"):
        hosts = "&".join(f"host={endpoint}" for endpoint in lab.reached("database", "postgresql"))
        database = f"airflow:{password}@/airflow?{hosts}&target_session_attrs=read-write"
    alive = (
        f"connect_timeout={lab.seconds(3)}&keepalives_idle=5&keepalives_interval={lab.seconds(2)}&keepalives_count=3"
        f"&tcp_user_timeout={lab.seconds(10) * 1000}"
    )
    options = {
        "sql_alchemy_conn": database and f"postgresql+psycopg2://{database}&{alive}",
        "sql_alchemy_conn_async": database and f"postgresql+psycopg_async://{database}&{alive}",
        **{f"broker_url_{broker}": broker_url(replace(lab, broker=broker), secrets) for broker in BROKERS},
        "fernet_key": secrets.get("fernet_key", ""),
        "secret_key": secrets.get("api_secret_key", ""),
        "jwt_secret": secrets.get("jwt_secret", ""),
        "sentinel_kwargs": _sentinel_kwargs(lab, secrets),
        "flower_basic_auth": secrets.get("flower_password") and f"admin:{secrets['flower_password']}",
    }
    return {option: value for option, value in options.items() if value}


def _sentinel_kwargs(lab: Topology, secrets: Mapping[str, str]) -> str:
    """Return how to connect to a Sentinel. Redis' client would try one that is frozen or off eight times."""
    password = secrets.get("redis_password")
    wait = lab.seconds(0.3)
    kwargs = {"password": password, "socket_timeout": wait, "socket_connect_timeout": wait, "retry": None}
    return json.dumps(kwargs) if password and lab.several("queue") else ""


def broker_url(lab: Topology, secrets: Mapping[str, str]) -> str:
    """Return the URLs of the queue servers; empty without their password."""
    password = secrets.get(f"{lab.broker}_password")
    return lab.broker_urls(password) if password else ""


# A queue for the control of a worker goes with its connection.
ALONE: Mapping[str, object] = {"control_queue_exclusive": True, "event_queue_exclusive": True}


def _of_a_cluster(lab: Topology) -> dict[str, object]:
    """Return what Celery needs to leave a node of RabbitMQ that does not answer any more."""
    return {
        "broker_heartbeat": lab.seconds(4),
        "broker_connection_timeout": lab.seconds(1),
        # An exclusive queue is locked until the cluster has given up the frozen node: a worker that reconnects earlier
        # would exit (RESOURCE_LOCKED).
        "control_queue_durable": True,
        "event_queue_durable": True,
        "imports": ["no_delayed_delivery"],
    }


def celery_config(lab: Topology) -> dict[str, object]:
    """Return the settings of Celery for which airflow.cfg does not have an option."""
    config: dict[str, object] = {
        # If the broker refuses a connection, Celery retries until Airflow's operation_timeout interrupts it. Airflow
        # sends the message again after such a timeout, but fails the task after a refusal.
        "task_publish_retry_policy": {
            "max_retries": 1000,
            "interval_start": 0.2,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
        # Without this, a worker that cannot record a task's start because the database is unavailable acknowledges
        # the message and drops the task. It empties the queue within seconds.
        "result_backend_always_retry": True,
        "result_backend_base_sleep_between_retries_ms": 500,
        "result_backend_max_sleep_between_retries_ms": 2000,
        "broker_connection_max_retries": None,
        "broker_heartbeat": lab.seconds(10),
        # Celery 5.6 lowers the prefetch after a reconnect and never raises it again: celery#9512, fixed in 5.7.
        "worker_enable_prefetch_count_reduction": False,
    }
    if lab.broker == "redis":
        config["imports"] = ["message_lease"]
    else:
        config |= {
            "task_default_queue_type": "quorum",
            "task_create_missing_queue_type": "quorum",
            **(_of_a_cluster(lab) if lab.several("queue") else ALONE),
        }
    return config
