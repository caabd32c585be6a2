"""The search of the machines' logs, on logs of Airflow, Celery, RabbitMQ and systemd as they are written."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.drills import DRILLS
from tests.support import ROOT, expected_logs, log_search, logs, machine_logs
from tests.support.expected_logs import CAUSES, EXPECTED, Expected
from tests.support.log_search import Line, constant, findings, search, unit_name
from tests.support.shipped import SHIPPED

NOON = 1764072000.0  # 2025-11-25 12:00:00 UTC
SAMPLES = Path(__file__).parent / "log_samples"
CHAINED = (SAMPLES / "chained.log").read_text()
SCHEDULER = "airflow.jobs.scheduler_job_runner.SchedulerJobRunner"
SENDING = (SAMPLES / "inside_a_message.log").read_text()  # the logger comes after the traceback
REMOTE = (SAMPLES / "of_a_child.log").read_text()
EXCEPTION_GROUP = (SAMPLES / "group.log").read_text()
UNCAUGHT = (SAMPLES / "uncaught.log").read_text()


def lines(text: str, unit: str = "airflow-scheduler", machine: str = "master1", process: str = "1") -> list[Line]:
    return [Line(machine, unit, process, NOON + number, one) for number, one in enumerate(text.splitlines())]


@pytest.mark.parametrize(
    ("text", "logger", "line"),
    [
        (
            CHAINED,
            SCHEDULER,
            "sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) server closed the connection unexpectedly",
        ),
        (
            SENDING,
            "airflow.providers.celery.executors.celery_executor.CeleryExecutor",
            "airflow.sdk.exceptions.AirflowTaskTimeout: Timeout, PID: #",
        ),
        (REMOTE, "", "billiard.exceptions.WorkerLostError: Worker exited prematurely: signal # (SIGKILL) Job: #."),
        (EXCEPTION_GROUP, "uvicorn.error", "ConnectionResetError: #"),
        (UNCAUGHT, "", "KeyError: 'broker'"),
        ('Traceback (most recent call last):\n  File "x", line 1\n', "", 'File "x", line #'),
    ],
    ids=["chained", "inside a message", "of a child", "group", "uncaught", "cut off"],
)
def test_traceback_is_found_with_its_logger_and_last_line(text: str, logger: str, line: str) -> None:
    (found,) = findings(lines(text))
    assert (found.logger, found.line) == (logger, line)


def test_traceback_has_its_message_and_all_of_its_lines() -> None:
    (found,) = findings(lines(CHAINED))
    assert found.text == "\n".join(CHAINED.splitlines()[1:-1])
    assert found.moment == NOON + 1


def test_tracebacks_of_processes_that_log_at_the_same_time_are_kept_apart() -> None:
    one, other = lines(CHAINED), lines(SENDING, process="2")
    mixed = [line for pair in zip(one, [*other, *[other[-1]] * len(one)], strict=False) for line in pair]
    assert {found.line for found in findings(mixed)} == {found.line for found in (*findings(one), *findings(other))}


def test_message_of_another_process_in_the_same_stream_does_not_end_a_traceback() -> None:
    text = CHAINED.splitlines()
    text.insert(4, "2025-11-25T12:00:01.5Z [info     ] from a child                   [airflow.other]")
    (found,) = findings(lines("\n".join(text)))
    assert found.line.startswith("sqlalchemy.exc.OperationalError: ")


def test_two_tracebacks_one_after_the_other_are_two() -> None:
    assert len([*findings(lines(CHAINED + SENDING + CHAINED))]) == 3


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("task manual__2025-11-25T09:30:20.483512+00:00 failed", "task manual__# failed"),
        ("to 192.168.56.10:6379 after 4.5 s at 0x7f3a", "to # after # s at #"),
        ("id 01a2120a-b1f1-7bcc-b48c-560734caaff3", "id #"),
        ("(psycopg2.OperationalError) worker1 e3q8 [Errno 111]", "(psycopg2.OperationalError) worker1 e3q8 [Errno #]"),
    ],
)
def test_times_identifiers_and_numbers_are_left_out(line: str, text: str) -> None:
    assert constant(line) == text


@pytest.mark.parametrize(
    "text",
    [
        "kernel: BUG: unable to handle page fault for address: 0000",
        "This should never happen, please report it",
        "2025-11-25 12:00:00.123 UTC [77] PANIC:  could not write to file: No space left on device",
        "2025-11-25 12:00:00.123 UTC [77] ERROR:  deadlock detected",
        "2025-11-25 12:00:00.123456+00:00 [error] <0.693.0> ** CRASH REPORT Process <0.693.0> with 0 neighbours",
        "airflow-scheduler.service: Main process exited, code=dumped, status=11/SEGV Segmentation fault",
        "airflow-api-server.service: A process of this unit has been killed by the OOM killer: oom-kill",
        "sys:1: RuntimeWarning: coroutine 'Session.close' was never awaited",
        "2025-11-25T12:00:00Z [critical ] Frequent restarts detected     [celery.worker.consumer.consumer]",
        "2025/11/25 12:00:00 [alert] 123#123: worker process 124 exited on signal 11",
    ],
)
def test_line_that_names_a_bug_is_found(text: str) -> None:
    (found,) = findings(lines(text))
    assert found.line == constant(text)


@pytest.mark.parametrize(
    "text",
    [
        '192.168.56.1 - "GET /api/v2/dags HTTP/1.1" 500 Internal Server Error',
        "2025-11-25T12:00:00Z [debug    ] debug: nothing                 [airflow.debugger]",
        '2025-11-25 12:00:00.123 UTC [77] FATAL:  password authentication failed for user "airflow"',
        "2025-11-25 12:00:00.123456+00:00 [warning] <0.9.0> closing AMQP connection: client unexpectedly closed",
        "airflow-scheduler.service: Main process exited, code=killed, status=9/KILL",
        "consumer: Cannot connect to redis://:**@broker:6379/0: Error 111 connecting to broker:6379.",
    ],
)
def test_line_that_names_no_bug_is_not_found(text: str) -> None:
    assert [*findings(lines(text))] == []


def test_exception_of_a_task_is_found_in_its_json() -> None:
    causes = [{"exc_type": "OperationalError", "exc_value": "timeout expired\nmore", "frames": []}, {"exc_type": "X"}]
    message = {"timestamp": "2025-11-25T12:00:00Z", "level": "error", "event": "Task failed with exception"}
    text = json.dumps(message | {"logger": "task", "error_detail": causes}, separators=(",", ":"))
    good = json.dumps(message | {"level": "info", "event": "Done. Returned value was: None"}, separators=(",", ":"))
    (found,) = findings(lines(f"{good}\n{text}\n{good}", unit="task"))
    assert (found.logger, found.line) == ("task", "OperationalError: timeout expired")


# Grouping


def test_findings_that_are_alike_are_one_group_with_count_machines_and_units() -> None:
    text = CHAINED + CHAINED.replace("1650", "99")
    found = search([*lines(text), *lines(CHAINED, "airflow-worker-#", "worker1"), *lines(SENDING)], [])
    first, second = found.unexpected
    assert (len(first.findings), first.machines, first.units) == (
        3,
        ["master1", "worker1"],
        ["airflow-scheduler", "airflow-worker-#"],
    )
    assert len(second.findings) == 1


def test_what_is_expected_is_counted_and_not_reported() -> None:
    expected = Expected("airflow-sched*", "(psycopg2.OperationalError) server closed")
    never = Expected("airflow-worker-#", "(psycopg2.OperationalError) server closed")
    found = search([*lines(CHAINED), *lines(SENDING)], [never, expected])
    assert [group.line for group in found.unexpected] == ["airflow.sdk.exceptions.AirflowTaskTimeout: Timeout, PID: #"]
    assert found.expected == {never: 0, expected: 1}


def test_what_is_unexpected_is_described_once_and_can_be_copied_to_the_list() -> None:
    found = search(lines(CHAINED + CHAINED), [])
    shown = log_search.report(found, lambda moment: f"the test at {moment - NOON:g}")
    assert shown.startswith(f"2 x master1: airflow-scheduler [{SCHEDULER}]\n    sqlalchemy.exc.OperationalError: ")
    assert "first at 12:00:01 UTC on master1, during the test at 1\n" in shown
    (line,) = re.findall(r"^ +(Expected\(.*\)),$", shown, re.MULTILINE)
    assert search(lines(CHAINED), [eval(line, vars(expected_logs))]).unexpected == []  # noqa: S307
    assert shown.count("UPDATE job SET") == 1  # the text in full


# Reading


def entry(message: object, **fields: str) -> str:
    given = {
        "MESSAGE": message,
        "_SYSTEMD_UNIT": "airflow-worker-12.service",
        "_PID": "7",
        "SYSLOG_IDENTIFIER": "airflow",
    }
    return json.dumps(given | {"__REALTIME_TIMESTAMP": f"{NOON:.0f}000000"} | fields)


def test_entries_of_the_journal_become_lines() -> None:
    written = [
        entry("one\ntwo"),
        entry([104, 105, 255]),
        entry(None),
        entry("Started.", UNIT="nginx.service", _SYSTEMD_UNIT="init.scope"),
        entry("vagrant : COMMAND=/usr/bin/grep BUG", SYSLOG_IDENTIFIER="sudo"),
    ]
    found = [*log_search.journal("worker1", written)]
    assert [line.text for line in found] == ["one", "two", "hi\ufffd", "Started."]
    assert [line.unit for line in found] == [*["airflow-worker-#"] * 3, "nginx"]
    assert {(line.machine, line.moment) for line in found} == {("worker1", NOON)}


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("airflow-worker-3.service", "airflow-worker-#"),
        ("airflow-worker-retire@12.service", "airflow-worker-retire@#"),
        ("postgresql@17-main.service", "postgresql@17-main"),
        ("session-42.scope", "session-#.scope"),
    ],
)
def test_unit_is_named_without_its_number(unit: str, name: str) -> None:
    assert unit_name(unit) == name


SENT = f"""\
{NOON + 100}
{entry("Traceback (most recent call last):")}
{entry('  File "x", line 1, in <module>')}
{entry("ValueError: 5")}
==> /var/log/postgresql/postgresql-17-main.log <==
2025-11-25 11:59:00.000 UTC [77] PANIC:  of an earlier run
	and more of it
2025-11-25 12:00:30.000 UTC [77] PANIC:  of this run

==> /var/log/airflow/dag_processor/ledger.py.log <==
{{"timestamp":"2025-11-25T12:00:40.1Z","level":"critical","event":"no way","logger":"task"}}
"""


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Machines that all send `SENT`; the clock of each is 100 s ahead."""
    (tmp_path / "sent").write_text(SENT)
    command = f"import sys; sys.stdin.read(); print(open({str(tmp_path / 'sent')!r}).read(), end='')"
    monkeypatch.setattr(machine_logs, "ssh", lambda *_: [sys.executable, "-c", command])
    monkeypatch.setattr(logs.time, "time", lambda: NOON)
    topology = SHIPPED
    return SimpleNamespace(root=tmp_path, topology=topology, state=lambda _: "running", ssh_config=tmp_path)


def test_logs_of_all_machines_are_read_with_their_files_and_moments_of_the_host(machines: Any, tmp_path: Path) -> None:
    found = [*findings(logs.lines_of_the_machines(machines, NOON - 100, tmp_path))]
    assert {one.machine for one in found} == {machine.name for machine in machines.topology.machines}
    assert [(one.unit, one.line, one.moment - NOON) for one in found if one.machine == "worker1"] == [
        ("postgresql-17-main.log", "# UTC [#] PANIC:  of this run", -70),
        ("ledger.py.log", "no way", -60),
        ("airflow-worker-#", "ValueError: #", -100),
    ]


def test_machine_whose_logs_cannot_be_read_fails_the_search(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "state", lambda name: "paused" if name == "worker1" else "running")
    with pytest.raises(AssertionError, match=r"^\{'worker1': 'worker1 is paused'\}"):
        next(logs.lines_of_the_machines(machines, NOON - 100, tmp_path))


def test_logs_of_tasks_are_read_from_the_moment_on(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    earlier, later = (json.dumps({"timestamp": f"2025-11-25T{hour}:00:00Z"}) for hour in (11, 13))
    (tmp_path / "logs" / "attempt=1.log").write_text(f"{earlier}\n{later}\nno JSON\n[]\n")
    assert [line.text for line in logs.lines_of_the_tasks(tmp_path, NOON)] == [later]


# The list


def test_expected_lines_can_match() -> None:
    for one in EXPECTED:
        assert one.line.strip(), one
        assert constant(one.line) == one.line.strip(), f"{one}: write numbers as #"
        assert unit_name(one.unit) == one.unit, f"{one}: write numbers as #"
    assert len(set(EXPECTED)) == len(EXPECTED)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.what)
def test_tests_that_provoke_what_is_expected_exist(cause: expected_logs.Cause) -> None:
    assert cause.tests
    assert cause.harmless
    for test in cause.tests:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), test


def test_drills_that_the_list_names_exist() -> None:
    text = (ROOT / "tests" / "support" / "expected_logs.py").read_text()
    comments = " ".join(re.findall(r"^ +# (.*)$", text, re.MULTILINE))
    kinds = {name.partition("-")[0] for name in DRILLS}
    named = {word for word in re.findall(r"[a-z]+(?:-[a-z]+)+", comments) if word.partition("-")[0] in kinds}
    assert len(named) > 10
    assert named <= set(DRILLS)
