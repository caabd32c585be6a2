#!/bin/sh
# empty.sh FILE   removes the file of fill.sh
set -eu
if [ -e "$1" ]; then
  rm "$1"
  echo emptied
fi
