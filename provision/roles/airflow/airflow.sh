#!/bin/sh
# Managed by provision/roles/airflow: the airflow command in the services' environment; root runs it as the user airflow.
set -a
# shellcheck disable=SC1091 # written by provisioning
. /opt/airflow/airflow.env
cd /opt/airflow || exit
[ "$(id -u)" != 0 ] || exec setpriv --reuid=airflow --regid=airflow --init-groups /opt/airflow/venv/bin/airflow "$@"
exec /opt/airflow/venv/bin/airflow "$@"
