#!/bin/sh
# query.sh CONNECTION SQL RUN   prints, as JSON, the rows of a query over a connection of Airflow; %(run_id)s in it is RUN
set -eu
set -a
# shellcheck disable=SC1091 # written by provisioning
. /opt/airflow/airflow.env
cd /opt/airflow
exec setpriv --reuid=airflow --regid=airflow --init-groups /opt/airflow/venv/bin/python - "$@" <<'END'
import json
import os
import sys

from airflow.models.connection import Connection
from airflow.utils.session import create_session
from sqlalchemy import select

name, sql, run = sys.argv[1:]
with create_session() as session:
    connection = session.scalar(select(Connection).where(Connection.conn_id == name))
    if connection is None:
        sys.exit(f"Airflow has no connection {name!r}")
    # Outside a task, a hook finds only connections in the environment.
    os.environ[f"AIRFLOW_CONN_{name.upper()}"] = connection.get_uri()
    hook = connection.get_hook()
rows = hook.get_records(sql, parameters={"run_id": run})
print("rows: " + json.dumps([list(row) for row in rows], default=str))
END
