"""What the journals of the machines say of a drill."""

from __future__ import annotations

import json

from lab.evidence import parse

BEGAN = 1_000_000.0
ID = "ba93e4e8-6fa1-4235-baf9-62cc786e015e"


def line(message: str, second: float = 5, unit: str = "airflow-scheduler.service") -> str:
    moment = str(int((BEGAN + second) * 1e6))
    return json.dumps({"MESSAGE": message, "__REALTIME_TIMESTAMP": moment, "_SYSTEMD_UNIT": unit})


def parsed(*lines: str) -> list[tuple[str, dict[str, object]]]:
    return list(parse("master1", lines, BEGAN))


def test_message_that_is_sent_names_its_task() -> None:
    key = "TaskInstanceKey(dag_id='ledger', task_id='work', run_id='drill-1', try_number=2, map_index=31)"
    expected = {"run": "drill-1", "task": "work[31]", "number": 2, "celery": ID, "phase": "sent"}
    assert parsed(line(f"2026-11-26T17:37:41Z [info     ] sent {ID}: {key} [lab_executor.LabExecutor]")) == [
        ("message", {"at": 5.0, "machine": "master1"} | expected)
    ]
    assert parsed(line(f"sent {ID}: {key.replace('31', '-1')}"))[0][1]["task"] == "work"


def test_message_is_received_ignored_and_done() -> None:
    said = parsed(
        line(f"Task execute_workload[{ID}] received", 1),
        line(f"[{ID}] Task already running elsewhere, ignoring redelivered message", 2),
        line(f"Task execute_workload[{ID}] succeeded in 0.49388181399996256s: None", 3),
        line(f"Task execute_workload[{ID}] raised unexpected: WorkerLostError('signal 9')", 4),
    )
    assert [(fields["phase"], fields["at"]) for _, fields in said] == [
        ("received", 1.0),
        ("ignored", 2.0),
        ("done", 3.0),
        ("done", 4.0),
    ]


def test_what_matters_is_said_in_words_with_its_number_of_tasks() -> None:
    (kind, fields), *more = parsed(line("[warning  ] Failing 8 TIs without heartbeat after 2026-11-26 17:37:41"))
    assert (kind, fields["what"], fields["count"]) == ("journal", "misses the heartbeats of tasks", 8)
    assert not more


def test_lines_from_before_the_drill_and_of_other_units_are_left_out() -> None:
    assert not parsed(line("Failing 8 TIs without heartbeat after", -1))
    assert not parsed(line("Main process exited, code=killed", unit="cron.service"))
    assert parsed(line("Main process exited, code=killed", unit="airflow-worker-1.service"))
