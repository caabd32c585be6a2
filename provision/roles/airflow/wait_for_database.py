#!/opt/airflow/venv/bin/python
"""Managed by provision/roles/airflow: exits once the database answers and has Airflow's tables.

`content.py` records for which locked packages it has migrated the database. Airflow's own check takes seconds of CPU,
and is only needed if this machine has other packages.
"""

import os
import time
from pathlib import Path

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

URL = make_url(Path("/opt/airflow/secrets/sql_alchemy_conn").read_text())
INSTALLED = Path("/var/lib/airflow-lab/environment").read_text().strip()  # a digest of the lock
engine = create_engine(URL.set(database="lab"))
migrated = None
while not migrated:
    try:
        with engine.connect() as connection:
            migrated = connection.execute(text("SELECT digest FROM content WHERE name = 'migration'")).scalar()
        reason = "it is not migrated"
    except SQLAlchemyError as error:
        reason = str(error).strip().splitlines()[0]
    if not migrated:
        print(f"waiting for the database: {reason}", flush=True)
        time.sleep(1)
if migrated != INSTALLED:
    os.execlp("airflow", "airflow", "db", "check-migrations", "--migration-wait-timeout", "600")  # noqa: S606
