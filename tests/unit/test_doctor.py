"""The findings of `lab doctor` for given answers of the machines."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from lab.doctor import findings
from lab.topology import Topology
from provision import examine
from tests.support.shipped import SHIPPED

CONFIGS = {"airflow.cfg": "a", "airflow-redis.cfg": "r", "airflow-rabbitmq.cfg": "q"}


def answers(topology: Topology) -> dict[str, dict[str, Any]]:
    answer = {
        "configs": dict(CONFIGS),
        "packages": "p",
        "secrets": {"secret_key": "s"},
        "dags": {"dags/ledger.py": "l"},
        "hosts": dict(topology.hosts),
        "unreachable": [],
        "skew": 0.1,
    }
    return {machine.name: deepcopy(answer) for machine in topology.machines}


def test_machines_that_match_have_no_findings() -> None:
    topology = SHIPPED
    assert [*findings(topology, answers(topology))] == []


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("configs", CONFIGS | {"airflow.cfg": "b"}, "its airflow.cfg differs from the others'"),
        ("configs", CONFIGS | {"airflow-redis.cfg": "b"}, "its airflow-redis.cfg differs from the others'"),
        ("configs", CONFIGS | {"airflow-rabbitmq.cfg": "b"}, "its airflow-rabbitmq.cfg differs from the others'"),
        ("packages", "q", "its Python packages differ from the others'"),
        ("secrets", {"secret_key": "t"}, "the secret secret_key differs from the others'"),
        ("dags", {"dags/ledger.py": "m"}, "the DAG file dags/ledger.py differs from the others'"),
        ("dags", {}, "the DAG file dags/ledger.py differs from the others'"),
        ("unreachable", ["broker:5432"], "does not reach broker:5432"),
        ("skew", 60.0, "its clock is 60.0 s ahead, more than Airflow allows for tokens (10 s) and logs (30 s)"),
        ("skew", -12.0, "its clock is 12.0 s behind, more than Airflow allows for tokens (10 s)"),
        ("skew", -3.0, "its clock is 3.0 s behind"),
    ],
)
def test_machine_that_does_not_match_is_found(key: str, value: Any, wrong: str) -> None:
    topology = SHIPPED
    given = answers(topology)
    given["worker1"][key] = value
    found = [*findings(topology, given)]
    assert [(finding.machine, finding.wrong) for finding in found] == [("worker1", wrong)]
    assert found[0].fix


def test_name_that_resolves_wrongly_is_found() -> None:
    topology = SHIPPED
    given = answers(topology)
    given["master1"]["hosts"]["broker"] = "127.0.0.1"
    assert [finding.wrong for finding in findings(topology, given)] == [
        f"resolves broker to 127.0.0.1, not {topology.hosts['broker']}"
    ]


@pytest.mark.parametrize("key", ["secrets", "configs"])
def test_file_that_a_machine_does_not_need_may_be_missing(key: str) -> None:
    topology = SHIPPED
    given = answers(topology)
    given["worker1"][key] = {}
    assert [*findings(topology, given)] == []


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Airflow on a machine that reaches all others."""
    monkeypatch.setattr(examine, "HOME", tmp_path)
    monkeypatch.setattr(examine, "reaches", lambda *_: True)
    monkeypatch.setattr(examine, "resolve", lambda name: SHIPPED.hosts[name])
    return tmp_path


def test_dag_files_of_both_folders_are_compared(home: Path) -> None:
    for path in ("dags/ledger.py", "own-dags/team/mine.py", "logs/no_dag.py"):
        (home / path).parent.mkdir(parents=True)
        (home / path).touch()
    found: dict[str, Any] = examine.examine(SHIPPED, "worker1")
    assert found["dags"].keys() == {"dags/ledger.py", "own-dags/team/mine.py"}


def test_every_configuration_of_airflow_on_a_machine_is_compared(home: Path) -> None:
    for name in ("airflow.cfg", "airflow-redis.cfg", "airflow-rabbitmq.cfg", "airflow.env"):
        (home / name).write_text(name)
    found: dict[str, Any] = examine.examine(SHIPPED, "worker1")
    assert found["configs"].keys() == CONFIGS.keys()
    assert len(set(found["configs"].values())) == 3
