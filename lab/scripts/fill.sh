#!/bin/sh
# fill.sh FILE   creates FILE as large as the free space of its disk
set -eu
mkdir -p "$(dirname "$1")"
fallocate --length "$(df --output=avail --block-size=1 "$(dirname "$1")" | tail -1)" "$1"
