"""Installs the roles of the machine that it runs on, then configures them, each in the order of their dependencies.

Without a machine's name, it installs every role and configures none: this makes the machine image.
"""

from pyinfra import config, host

from lab.topology import Topology
from provision.operations import Context, refuse_changed_secrets, rolling_restart
from provision.roles.airflow import deploy as airflow
from provision.roles.api_server import deploy as api_server
from provision.roles.base import deploy as base
from provision.roles.dag_processor import deploy as dag_processor
from provision.roles.database import deploy as database
from provision.roles.flower import deploy as flower
from provision.roles.load_balancer import deploy as load_balancer
from provision.roles.queue import deploy as queue
from provision.roles.scheduler import deploy as scheduler
from provision.roles.triggerer import deploy as triggerer
from provision.roles.worker import deploy as worker

config.REQUIRE_PYINFRA_VERSION = "==3.10.0"

context = Context(
    lab=Topology.from_document(host.data.lab),
    name=host.data.machine,
    secrets=host.data.secrets,
)

# base and airflow are on every machine. Airflow's environment comes before the database's migration, which runs in it.
STEPS = (
    (base, None),
    (airflow, None),
    (database, "database"),
    (queue, "queue"),
    (load_balancer, "load_balancer"),
    (flower, "flower"),
    (api_server, "api_server"),
    (scheduler, "scheduler"),
    (dag_processor, "dag_processor"),
    (triggerer, "triggerer"),
    (worker, "worker"),
)

refuse_changed_secrets(context.secrets)
steps = [module for module, role in STEPS if role is None or context.has(role)]
for module in steps:
    module.install()
if context.name:
    for module in steps:
        module.configure(context)
    rolling_restart()
