"""Brings the machine it runs in to its roles: first the packages of each, then each role, in causal order.

Without a machine's name it only installs the packages of every role: that is the machine image.
"""

from pathlib import Path

from pyinfra import config, host
from pyinfra.facts.deb import DebPackages
from pyinfra.operations import apt

from lab.topology import Topology
from provision.operations import Context, refuse_changed_secrets, template
from provision.roles import airflow, base, components, database, load_balancer, queue

config.REQUIRE_PYINFRA_VERSION = "==3.10.0"

context = Context(
    lab=Topology.from_document(host.data.lab),
    name=host.data.machine,
    secrets=host.data.secrets,
)

# The database comes before what waits for it, Airflow's environment before the migration that runs in it.
STEPS = (
    (base, None),
    (airflow, None),
    (database, "database"),
    (queue, "queue"),
    (load_balancer, "load_balancer"),
    (components, None),
)

refuse_changed_secrets(context.secrets)
steps = [module for module, role in STEPS if role is None or context.has(role)]
preset = Path(base.__file__).parent / "airflow-lab.preset"
template(preset, "/etc/systemd/system-preset/00-airflow-lab.preset", folder=True)
packages = [package for module in steps for package in module.PACKAGES]
apt.packages(
    name="Install Debian's packages",
    packages=packages,
    update=True,
    no_recommends=True,
    _if=lambda: not host.get_fact(DebPackages).keys() >= set(packages),
)
airflow.install()
if context.name:
    for module in steps:
        module.configure(context)
