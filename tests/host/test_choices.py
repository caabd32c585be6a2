"""Only the user's choices are remembered. All other code reads the lab that was resolved with them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.topology import Topology
from tests.support import ROOT
from tests.support.commands import Commands, ruby

SAVE = "Lab.new(ARGV[0]).save"
PROVIDE = "lab = Lab.new(ARGV[0]); LibvirtProvider.new(lab); lab.save"
CHECK = "lab = Lab.new(ARGV[0]); Provider.new(lab).check(create: false); lab.save"
CHOICES = ("LAYOUT", "BROKER", "PROVIDER", "WORKERS", "TIMINGS", "TIME_FACTOR", "REVISION", "DAGS")
ID = "0123456789ab"
WITHOUT = {name: value for name, value in os.environ.items() if name not in CHOICES}


class Checkout:
    """The configuration of a checkout, and its remembered choices."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "config", root / "config")

    def edit(self, **values: Any) -> None:
        """Change config/lab.json, as a user does in an editor."""
        path = self.root / "config" / "lab.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def remember(self, name: str, **values: Any) -> None:
        (self.root / ".lab").mkdir(exist_ok=True)
        (self.root / ".lab" / f"{name}.json").write_text(json.dumps(values))

    def save(self, script: str = SAVE, **environment: str) -> Topology:
        """Resolve, save and return the lab, as `vagrant up` does before the first machine."""
        done = ruby(script, self.root, library="libvirt", environment=WITHOUT | environment)
        assert done.returncode == 0, done.stderr
        return Topology.load(self.root)

    @property
    def choices(self) -> dict[str, Any]:
        return json.loads((self.root / ".lab" / "choices.json").read_text())

    @property
    def moving(self) -> bool:
        return (self.root / ".lab" / "moving").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_only_choices_are_remembered(checkout: Checkout) -> None:
    checkout.save()
    assert checkout.choices == {}
    checkout.save(WORKERS="3")
    checkout.save(BROKER="rabbitmq")
    assert checkout.choices == {"workers": 3, "broker": "rabbitmq"}


def test_revision_is_remembered(checkout: Checkout) -> None:
    assert checkout.save().revision == 1
    assert checkout.save(REVISION="2").revision == 2
    assert checkout.save().revision == 2


def test_layout_says_which_roles_each_machine_has(checkout: Checkout) -> None:
    assert not checkout.save().several("database")
    lab = checkout.save(LAYOUT="ha")
    assert [machine.name for machine in lab.with_role("database")] == ["broker", "master1", "master2"]
    assert (lab.address, checkout.save().layout) == ("192.168.56.9", "ha")
    assert checkout.save(LAYOUT="single").address == ""


def test_machines_keep_the_layout_that_they_were_created_with(checkout: Checkout) -> None:
    checkout.save(LAYOUT="ha")
    identity = checkout.root / ".vagrant" / "machines" / "broker" / "docker" / "id"
    identity.parent.mkdir(parents=True)
    identity.write_text(ID)
    done = ruby(SAVE, checkout.root, library="libvirt", environment=WITHOUT | {"LAYOUT": "single"})
    assert "LAYOUT: single is not allowed while machines exist that were created with LAYOUT=ha: broker." in done.stderr
    assert checkout.save().layout == "ha"


MASTER = ["api_server", "scheduler", "dag_processor", "triggerer"]
SEVERAL = {
    "broker": ["database", "queue", "load_balancer", "flower", "consensus", "local_proxy"],
    **{name: [*MASTER, "database", "consensus", "local_proxy"] for name in ("master1", "master2")},
    **{name: ["worker", "local_proxy"] for name in ("worker1", "worker2")},
}


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"master2": ["api_server", "dag_processor", "triggerer"]}, "machines.master2: without scheduler, which would"),
        (
            SEVERAL,
            "the role database on broker, master1, master2 is not allowed while machines exist that had it on broker:",
        ),
    ],
)
def test_machine_that_exists_keeps_its_roles(checkout: Checkout, roles: dict[str, list[str]], message: str) -> None:
    checkout.save()
    for name in ("broker", "master1", "master2"):
        identity = checkout.root / ".vagrant" / "machines" / name / "docker" / "id"
        identity.parent.mkdir(parents=True)
        identity.write_text(ID)
    machines = json.loads((checkout.root / "config" / "lab.json").read_text())["machines"]
    checkout.edit(machines=machines | {name: machines[name] | {"roles": own} for name, own in roles.items()})
    for folder in ("dags", "lab", "provision"):
        (checkout.root / folder).mkdir()
    done = ruby(CHECK, checkout.root, library="provider", environment=WITHOUT)
    assert message in done.stderr
    for name in roles:
        (checkout.root / ".vagrant" / "machines" / name / "docker" / "id").unlink(missing_ok=True)
    assert message not in ruby(CHECK, checkout.root, library="provider", environment=WITHOUT).stderr


def test_edit_of_lab_json_takes_effect_at_the_next_provisioning(checkout: Checkout) -> None:
    checkout.save()
    checkout.edit(broker="rabbitmq", workers=3, timings="stock", time_factor=2)
    assert Topology.load(checkout.root).broker == "redis"
    lab = checkout.save()
    assert (lab.broker, len(lab.with_role("worker")), lab.time_factor) == ("rabbitmq", 3, 2)
    assert lab.timings["retry_delay"] == 600


def test_choice_overrides_an_edit(checkout: Checkout) -> None:
    checkout.save(BROKER="redis")
    checkout.edit(broker="rabbitmq")
    assert checkout.save().broker == "redis"


def test_edit_of_the_broker_starts_a_move(checkout: Checkout) -> None:
    checkout.save()
    assert not checkout.moving
    checkout.edit(broker="rabbitmq")
    checkout.save()
    assert checkout.moving


def test_emulation_slows_the_lab_down_only_without_kvm(checkout: Checkout) -> None:
    checkout.edit(provider="libvirt")
    assert checkout.save(PROVIDE).time_factor == 8
    assert checkout.choices == {}
    (checkout.root / ".lab" / "kvm").touch()
    assert checkout.save(PROVIDE).time_factor == 1


@pytest.mark.parametrize(("chosen", "written", "factor"), [("", 3, 3), ("1", 1, 1), ("5", 3, 5), ("", 1, 8)])
def test_emulation_keeps_a_factor_that_the_user_set(checkout: Checkout, chosen: str, written: int, factor: int) -> None:
    checkout.edit(provider="libvirt", time_factor=written)
    assert checkout.save(PROVIDE, TIME_FACTOR=chosen).time_factor == factor


@pytest.mark.parametrize(("provider", "factor"), [("docker", 1), ("libvirt", 4)])
def test_time_factor_is_forgotten_with_its_provider(checkout: Checkout, provider: str, factor: int) -> None:
    checkout.save(PROVIDER="libvirt", TIME_FACTOR="4")
    assert checkout.save(PROVIDER=provider).time_factor == factor


def test_refusal_of_an_earlier_choice_says_so(checkout: Checkout) -> None:
    checkout.save(TIMINGS="stock")
    profiles = json.loads((checkout.root / "config" / "lab.json").read_text())["timing_profiles"]
    checkout.edit(timing_profiles={"fast": profiles["fast"]})
    message = ruby(SAVE, checkout.root, environment=WITHOUT).stderr
    assert 'TIMINGS, chosen earlier (.lab/choices.json): "stock" is not allowed; allowed: fast' in message


def test_dropping_workers_in_lab_json_names_a_command_that_works(checkout: Checkout) -> None:
    for name in ("worker3", "worker4"):
        (checkout.root / ".vagrant" / "machines" / name / "docker").mkdir(parents=True)
        (checkout.root / ".vagrant" / "machines" / name / "docker" / "id").touch()
    message = ruby(SAVE, checkout.root, environment=WITHOUT).stderr
    assert "`WORKERS=4 vagrant destroy -f worker3 worker4` first" in message


# The provider


def machine(root: Path, name: str, provider: str) -> Path:
    """Create the file that Vagrant keeps for a machine, and return its path."""
    path = root / ".vagrant" / "machines" / name / provider / "id"
    path.parent.mkdir(parents=True)
    path.write_text(ID)
    return path


@pytest.fixture
def complete(checkout: Checkout) -> Checkout:
    """A checkout in which Vagrant can be called."""
    for folder in ("dags", "lab", "provision"):
        shutil.copytree(ROOT / folder, checkout.root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Vagrantfile", checkout.root)
    checkout.edit(provider="virtualbox")
    return checkout


@pytest.mark.parametrize("verb", ["up", "provision", "destroy"])
def test_machines_of_another_provider_are_not_touched(complete: Checkout, verb: str, tmp_path_factory: Any) -> None:
    commands = Commands(tmp_path_factory.mktemp("host"))
    commands.add("docker")
    commands.add("VBoxManage", "echo 7.0.20r163906")
    machine(complete.root, "broker", "docker")
    done = commands.run("vagrant", verb, cwd=complete.root)
    assert done.returncode != 0
    assert "config/lab.json: provider: virtualbox is not allowed" in done.stderr
    assert "`PROVIDER=docker vagrant destroy -f broker` first" in done.stderr
    assert commands.calls == []
    assert not (complete.root / ".lab").exists()


def test_machines_of_another_provider_are_destroyed_with_it(complete: Checkout, tmp_path_factory: Any) -> None:
    commands = Commands(tmp_path_factory.mktemp("host"))
    commands.add(
        "docker",
        f"case $1 in ps) [ -e {commands.folder}/removed ] || echo {ID} ;; rm) touch {commands.folder}/removed ;; esac",
    )
    identity = machine(complete.root, "broker", "docker")
    done = commands.run("vagrant", "destroy", "-f", "broker", cwd=complete.root, PROVIDER="docker")
    assert done.returncode == 0, done.stderr
    assert not identity.exists()
    assert not (complete.root / ".lab").exists()


# The user's own folder of DAGs


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of DAGs outside of the checkout."""
    folder = tmp_path_factory.mktemp("own") / "my dags"
    folder.mkdir()
    return folder


def refusal(checkout: Checkout, **environment: str) -> str:
    """Return why `vagrant up` refuses the checkout."""
    done = ruby(CHECK, checkout.root, library="provider", environment=WITHOUT | environment)
    assert done.returncode != 0
    return done.stderr


def test_own_folder_is_remembered_until_none_is_chosen(checkout: Checkout, own: Path) -> None:
    assert not checkout.save().own_dags
    assert checkout.save(DAGS=str(own)).own_dags
    assert checkout.choices == {"dags": str(own)}
    assert checkout.save(DAGS="").own_dags
    assert not checkout.save(DAGS="none").own_dags
    checkout.edit(dags=str(own))
    assert not checkout.save().own_dags


def test_relative_own_folder_starts_at_the_folder_of_the_caller(
    checkout: Checkout, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    checkout.save(DAGS="my dags")
    assert checkout.choices == {"dags": str(own)}


def test_relative_own_folder_in_lab_json_starts_at_the_checkout(checkout: Checkout) -> None:
    checkout.edit(dags="mine")
    checkout.save()
    assert (checkout.root / ".lab" / "own-dags").read_text() == str(checkout.root / "mine")


def test_machines_do_not_get_the_path_of_the_own_folder(checkout: Checkout, own: Path) -> None:
    checkout.save(DAGS=str(own))
    for path in [checkout.root / ".lab" / "lab.json", *(checkout.root / ".lab" / "machines").iterdir()]:
        assert "own_dags" in path.read_text()
        assert str(own) not in path.read_text()


def test_machines_keep_the_own_folder_that_they_were_created_with(complete: Checkout, own: Path) -> None:
    complete.edit(provider="docker")
    complete.save(CHECK, DAGS=str(own))
    machine(complete.root, "broker", "docker")
    complete.save(CHECK)
    other = own.with_name("other")
    other.mkdir()
    for chosen in (str(other), "none"):
        message = refusal(complete, DAGS=chosen)
        assert (
            f"DAGS: {chosen} is not allowed while machines exist that were created with DAGS={own}: broker. " in message
        )
        assert "Call `vagrant destroy -f` first, or keep them with DAGS=" in message
    complete.save(CHECK)
    shutil.rmtree(complete.root / ".vagrant")
    assert not complete.save(CHECK, DAGS="none").own_dags


def test_machines_without_an_own_folder_do_not_get_one(complete: Checkout, own: Path) -> None:
    complete.edit(provider="docker")
    machine(complete.root, "broker", "docker")
    complete.save(CHECK)
    complete.edit(dags=str(own))
    message = refusal(complete)
    assert f"config/lab.json: dags: {own} is not allowed while machines exist" in message
    assert "created with DAGS=none: broker." in message
