"""The DAGs load in the locked Airflow of the machines."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import ROOT

FILES = sorted(path.stem for path in (ROOT / "dags").glob("*.py"))


@pytest.fixture(scope="module")
def dagbag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("airflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(home))
        from airflow.dag_processing.dagbag import DagBag

        yield DagBag(dag_folder=ROOT / "dags", bundle_path=ROOT / "dags")


def test_every_file_contains_the_dag_of_its_name(dagbag: Any) -> None:
    assert dagbag.import_errors == {}
    assert sorted(dagbag.dags) == FILES


def test_example_dags_exist() -> None:
    assert {"dist_example", "celery_parallel_demo", "get_stocks_dag", "collectors"} <= set(FILES)


@pytest.mark.parametrize("dag_id", FILES)
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
