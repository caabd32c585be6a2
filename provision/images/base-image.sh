#!/bin/sh
# base-image.sh [sudo]   makes the Docker base image from Debian's own archive, where it is not there yet: no Docker
# registry is needed. With sudo the root file system is made as root, which mmdebstrap needs where users have no
# namespaces; the image is the caller's, whose engine may be another than root's.
set -eu
image=airflow-lab/debian:trixie
docker image inspect "$image" >/dev/null 2>&1 && exit 0
echo "==> lab: base image: Debian 13 from Debian's archive (about half a minute)"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
# Not through a pipe: the shell asks how its right end went, and an empty image would keep the name for good.
"$@" sh "$(dirname "$0")/root-file-system.sh" - >"$folder/root.tar"
docker import "$folder/root.tar" "$image" >/dev/null
