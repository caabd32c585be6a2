"""What the tests provoke in the logs of the machines, and why it is harmless. tests/test_logs.py finds all else.

To expect one line more, add it to the cause that provokes it: `Expected(unit, line)`, as the failure of test_logs.py
prints it. `unit` is a systemd unit without .service, or the name of a log file, and may have the wildcards of a shell;
`line` is a part of the traceback's last line, in which every number is a #.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Expected:
    """A traceback, or a line that names a bug, that a test provokes."""

    unit: str
    line: str

    def matches(self, unit: str, line: str) -> bool:
        return fnmatchcase(unit, self.unit) and self.line in line


@dataclass(frozen=True)
class Cause:
    """Why lines are logged: `tests` provoke them, and they are `harmless` because of what follows."""

    what: str
    tests: tuple[str, ...]
    harmless: str
    lines: tuple[Expected, ...]


DRILL = "test_drills.py::test_drill"
CAUSES = (
    Cause(
        "the database is stopped, loses power, or is out of reach",
        # database-kill, database-crash, broker-halt, broker-freeze and lab-crash; master1 is cut off from it.
        (DRILL, "test_faults.py::test_what_a_lost_machine_had_locked_is_free_again"),
        "each service connects again or ends, and systemd restarts it; a task that fails is retried",
        (
            # Scheduler, API server, DAG processor and triggerer; the worker's results; `provision.register`.
            Expected("airflow-*", "sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) "),
            Expected("airflow-*", "sqlalchemy.exc.OperationalError: (psycopg2.errors.AdminShutdown) "),
            Expected("airflow-*", "sqlalchemy.exc.OperationalError: (psycopg2.errors.CrashShutdown) "),
            # The API server's asynchronous connections.
            Expected("airflow-*", "sqlalchemy.exc.OperationalError: (psycopg.OperationalError) "),
            Expected("airflow-*", "sqlalchemy.exc.OperationalError: (psycopg.errors.AdminShutdown) "),
            Expected("airflow-*", "sqlalchemy.exc.OperationalError: (psycopg.errors.CrashShutdown) "),
            # The API server had begun to answer a request.
            Expected(
                "airflow-api-server",
                "PydanticSerializationError: Error serializing to JSON: OperationalError: (psycopg2.OperationalError) ",
            ),
            # The connection of a task's own.
            Expected("task", "OperationalError: "),
            # The API server could not look up the connection: Airflow's client calls this "not defined".
            Expected("task", "AirflowNotFoundException: The conn_id `lab_database` isn't defined"),
        ),
    ),
    Cause(
        "the queue server is stopped, loses power, or is out of reach",
        # queue-restart, queue-kill, broker-halt, broker-freeze, worker-cut-from-queue and lab-crash; the server that a
        # move leaves is stopped.
        (DRILL, "test_move.py::test_lab_moves_to_the_other_broker_under_load"),
        "Celery connects again; a message that was not confirmed, or whose worker is gone, is sent again",
        (
            # "Connection to broker lost. Trying to re-establish the connection", and message_lease.
            Expected("airflow-worker-#", "redis.exceptions.ConnectionError: "),
            Expected("airflow-worker-#", "redis.exceptions.TimeoutError: "),
            Expected("airflow-worker-#", "amqp.exceptions.ConnectionForced: "),
            Expected("airflow-worker-#", "amqp.exceptions.RecoverableConnectionError: "),
            Expected("airflow-worker-#", "OSError: Server unexpectedly closed connection"),
            Expected("airflow-worker-#", "ConnectionResetError: [Errno #] Connection reset by peer"),
            Expected("airflow-worker-#", "BrokenPipeError: [Errno #] Broken pipe"),
            Expected("airflow-worker-#", "kombu.exceptions.OperationalError: "),
            # The message is delivered again, and the API server refuses to start its task a second time.
            Expected("airflow-worker-#", "[critical ] Couldn't ack #, reason:"),
            # RabbitMQ's own processes, which end with the server.
            Expected("rabbit@localhost.log", "[error] <#>   crasher:"),
            # "Error sending Celery workload": the scheduler sends it in its next loop (`lab_executor.py`).
            Expected("airflow-scheduler", "AirflowTaskTimeout: Timeout, PID: #"),
            Expected("airflow-scheduler", "kombu.exceptions.OperationalError: "),
            # "Failed to update workers": the tests ask Flower to.
            Expected("airflow-flower", "kombu.exceptions.OperationalError: "),
        ),
    ),
    Cause(
        "nginx or both API servers are stopped, lose power, or are out of reach",
        # nginx-restart, nginx-kill, api-server-kill, worker-cut-from-api and all that strike the machine broker.
        (DRILL, "test_faults.py::test_nginx_asks_api_servers_that_it_has_set_aside"),
        "a worker sends a task's calls again for 40 s; heartbeats that fail are logged with their traceback",
        (
            Expected("airflow-worker-#", "httpx.ConnectError: "),
            Expected("airflow-worker-#", "httpx.ConnectTimeout: "),
            Expected("airflow-worker-#", "httpx.ReadTimeout: "),
            Expected("airflow-worker-#", "httpx.ReadError: "),
            Expected("airflow-worker-#", "httpx.RemoteProtocolError: Server disconnected "),
            Expected("airflow-worker-#", "httpx.HTTPStatusError: Server error "),
            # An answer of 500; and, in worker-freeze and worker-cut-from-api, the refusal of a report on a task that
            # another worker has by now: the drill judges that the task is committed once.
            Expected("airflow-worker-#", "airflow.sdk.api.client.ServerResponseError: Server returned error"),
            # The same refusal, in the log of the task.
            Expected("task", "AirflowRuntimeError: API_SERVER_ERROR: "),
        ),
    ),
    Cause(
        "a changed setting restarts the DAG processors, or a drill stops their machine",
        (DRILL, "test_provisioning.py::test_changed_setting_fails_no_request_and_interrupts_no_task"),
        "it was told to stop, while it read a DAG file",
        (Expected("airflow-dag-processor", "SystemExit: #"),),
    ),
    Cause(
        "a worker freezes, or is shut down, while it starts a task or is watched",
        # worker-freeze and worker-halt.
        (DRILL, "test_drills.py::test_random_schedule"),
        "Airflow has given the task to another worker by then; systemd starts the watch again",
        (
            # It was frozen for longer than importing a DAG may take.
            Expected("task", "AirflowTaskTimeout: DagBag import timeout for /opt/airflow/dags/ledger.py after #s."),
            # The task was stopped before Airflow had made its operator.
            Expected("task", "AttributeError: 'DecoratedMappedOperator' object has no attribute 'on_kill'"),
            Expected("airflow-worker-watch", "subprocess.CalledProcessError: Command '['systemctl', 'show', "),
        ),
    ),
)
EXPECTED = tuple(line for cause in CAUSES for line in cause.lines)
