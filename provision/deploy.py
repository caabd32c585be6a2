"""Installs the roles of the machine that it runs on, then configures them, each in the order of their dependencies.

Without a machine's name, it installs every role and configures none: this makes the machine image.
"""

from importlib import import_module

from pyinfra import config, host

from lab.roles import ROLES
from lab.topology import Topology
from provision.operations import Context, refuse_changed_secrets, rolling_restart

config.REQUIRE_PYINFRA_VERSION = "==3.10.0"

context = Context(
    lab=Topology.from_document(host.data.lab),
    name=host.data.machine,
    secrets=host.data.secrets,
)

# base and airflow are on every machine. The order in lab/roles.json is that of dependencies.
names = ["base", "airflow", *(name for name in ROLES if context.has(name))]
steps = [import_module(f"provision.roles.{name}.deploy") for name in names]

refuse_changed_secrets(context.secrets)
for step in steps:
    step.install()
if context.name:
    for step in steps:
        step.configure(context)
    rolling_restart()
