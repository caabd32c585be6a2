#!/bin/sh
# root-file-system.sh TAR   makes the root file system of the Docker base image and of the box, only from Debian's archive
set -eu
export SOURCE_DATE_EPOCH=1754697600 # the day on which Debian 13 was released
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv trixie "$1"
