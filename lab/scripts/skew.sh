#!/bin/sh
# skew.sh SECONDS MARK   sets the clock SECONDS ahead; MARK is the file that says so
set -eu
mkdir -p "$(dirname "$2")"
touch "$2"
systemctl stop systemd-timesyncd
date --set="@$(($(date +%s) + $1))" >/dev/null
