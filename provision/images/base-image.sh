#!/bin/sh
# base-image.sh [sudo]   makes the Docker base image from Debian's archive, unless it exists; needs no Docker registry
#
# With sudo, the root file system is made as root: mmdebstrap needs that on hosts without user namespaces for users. The
# image is imported as the caller: root may use another engine.
set -eu
image=airflow-lab/debian:trixie
docker image inspect "$image" >/dev/null 2>&1 && exit 0
echo "==> lab: base image: Debian 13 from Debian's archive (about half a minute)"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
# Not through a pipe: the shell ignores a failure of the first command, and an incomplete image would keep this name.
"$@" sh "$(dirname "$0")/root-file-system.sh" - >"$folder/root.tar"
docker import "$folder/root.tar" "$image" >/dev/null
