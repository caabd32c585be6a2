#!/opt/airflow/venv/bin/python
"""Managed by provision/roles/airflow: exits once the database answers and has Airflow's tables.

It first tries to connect, which is cheap: Airflow's own check takes seconds of CPU.
"""

import os
import time
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

engine = create_engine(Path("/opt/airflow/secrets/sql_alchemy_conn").read_text())
while True:
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT version_num FROM alembic_version"))
        break
    except SQLAlchemyError as error:
        print(f"waiting for the database: {str(error).strip().splitlines()[0]}", flush=True)
        time.sleep(1)
os.execlp("airflow", "airflow", "db", "check-migrations", "--migration-wait-timeout", "600")  # noqa: S606
