"""Airflow imports this file by its name when a process starts."""

import primary_proof

__all__: list[str] = []  # no setting of Airflow is replaced
primary_proof.require()
