#!/bin/sh
# environment.sh FOLDER LOCK [MORE_LOCKS…]   makes FOLDER a Python environment with the packages of LOCK, unless it is
# one already. With more locks, the packages of all of them are installed, and no others; LOCK must have uv.
set -eu
folder=$1 lock=$2
start=$(date +%s)
mkdir -p .lab

say() { echo "==> lab: $*" >&2; } # standard output is the command's: lab status --json
packages() { cat "$@" | grep -o '^[^ ]*==[^ ]*' | sort -u | wc -l; }
fail() {
  echo "airflow-lab: $*" >&2
  exit 1
}
incomplete() { fail "the Python environment $folder is incomplete. Fix what pip or uv says above, then call this again"; }

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "python3 is $(python3 --version 2>&1). The lab needs Python 3.11 or newer as python3"

# One at a time: bin/lab may be called while `make up` does this.
exec 9>.lab/environment.lock
if command -v flock >/dev/null; then flock 9; fi

if [ -z "$(find "$folder/installed" -newer "$lock" 2>/dev/null)" ]; then
  say "installing $(packages "$lock") packages of $lock in $folder (half a minute or less)"
  python3 -m venv --clear "$folder" || incomplete
  cp nix/libraries.pth "$folder"/lib/python3.*/site-packages
  # Twice quiet: pip warns once a package about each index of its configuration that it cannot read.
  "$folder/bin/pip" install --quiet --quiet --disable-pip-version-check --require-hashes --requirement "$lock" || incomplete
  touch "$folder/installed"
fi
if [ $# -gt 2 ]; then
  shift
  say "installing $(packages "$@") packages of $* in $folder (a minute or less)"
  "$folder/bin/uv" pip sync --quiet --require-hashes --python "$folder/bin/python" "$@" || incomplete
fi
say "$folder is complete, after $(($(date +%s) - start)) s"
