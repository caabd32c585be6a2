"""The DAGs load in the locked Airflow of the machines."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import ROOT

FILES = sorted(path.stem for path in (ROOT / "dags").glob("*.py"))
DAGS = sorted([*FILES, "ledger_chain", "ledger_deferrable"])


@pytest.fixture(scope="module")
def dagbag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("airflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(home))
        from airflow.dag_processing.dagbag import DagBag

        yield DagBag(dag_folder=ROOT / "dags", bundle_path=ROOT / "dags")


def test_every_file_contains_the_dag_of_its_name(dagbag: Any) -> None:
    assert dagbag.import_errors == {}
    assert sorted(dagbag.dags) == DAGS


def test_example_dags_exist() -> None:
    examples = {"dist_example", "celery_parallel_demo", "get_stocks_dag", "collectors", "append_orders", "merge_orders"}
    assert examples <= set(FILES)


@pytest.mark.parametrize("dag_id", DAGS)
def test_dag_has_a_description_and_a_tag(dagbag: Any, dag_id: str) -> None:
    assert dagbag.dags[dag_id].doc_md or (ROOT / f"dags/{dag_id}.py").read_text().startswith('"""')
    assert "lab" in dagbag.dags[dag_id].tags


def test_tasks_are_pinned_to_their_queues(dagbag: Any) -> None:
    queues = {task.task_id: task.queue for task in dagbag.dags["dist_example"].tasks}
    assert queues == {"on_queue_1": "queue_1", "on_queue_2": "queue_2"}


def test_two_tickers_at_a_time_over_several_runs(dagbag: Any) -> None:
    dag = dagbag.dags["get_stocks_dag"]
    assert (dag.max_active_tasks, dag.catchup) == (2, True)


def test_collectors_are_retried(dagbag: Any) -> None:
    assert {task.retries for task in dagbag.dags["collectors"].tasks} == {3}


def test_ledger_chain_is_a_chain_of_twenty_tasks(dagbag: Any) -> None:
    tasks = ["create_table", *(f"work_{number}" for number in range(20))]
    followers = {task.task_id: task.downstream_task_ids for task in dagbag.dags["ledger_chain"].tasks}
    assert followers == {one: {following} for one, following in pairwise(tasks)} | {"work_19": set()}


@pytest.mark.parametrize("dag_id", ["ledger", "ledger_deferrable"])
def test_tasks_of_the_ledger_are_mapped(dagbag: Any, dag_id: str) -> None:
    assert {task.task_id: task.is_mapped for task in dagbag.dags[dag_id].tasks} == {"plan": False, "work": True}


def test_deferred_task_ends_the_row_that_it_has_begun(dagbag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    operator = dagbag.dags["ledger_deferrable"].get_task("work").operator_class
    names = operator.resume.__globals__
    calls: list[tuple[object, ...]] = []

    class Ledger:
        def begin(self, *values: object) -> int:
            calls.append(values)
            return 7

        def write(self, *values: object) -> None:
            calls.append(values)

    monkeypatch.setitem(names, "Ledger", Ledger)
    task = operator(task_id="work", seconds=10)
    context = {"run_id": "run", "ti": SimpleNamespace(map_index=3, try_number=1)}
    with pytest.raises(TaskDeferred) as deferral:
        task.execute(context)
    task.resume_execution(deferral.value.method_name, (deferral.value.kwargs or {}) | {"event": None}, context)
    assert calls == [("run", 3, 1), (names["END"], 7)]


def test_drills_with_orders_name_dags(dagbag: Any) -> None:
    drills = tomllib.loads((ROOT / "dags/orders.toml").read_text())
    assert {name: drill["dag"] for name, drill in drills.items()} == {
        "append-orders": "append_orders",
        "merge-orders": "merge_orders",
    }
    for drill in drills.values():
        assert set(drill) == {"title", "dag", "drill", "check"}
        assert drill["dag"] in dagbag.dags
        assert f"FROM {drill['dag']} WHERE run_id = %(run_id)s" in drill["check"]
