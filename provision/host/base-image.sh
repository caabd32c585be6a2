#!/bin/sh
# Makes the Docker base image from Debian's own archive, where it is not there yet: no Docker registry is needed.
set -eu
image=airflow-lab/debian:trixie
docker image inspect "$image" >/dev/null 2>&1 && exit 0
echo "==> lab: base image: Debian 13 from Debian's archive (about half a minute)"
sh "$(dirname "$0")/root.sh" - | docker import - "$image" >/dev/null
