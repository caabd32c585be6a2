#!/bin/sh
# ha.sh [PYTEST ARGUMENTS]   tests the layout `ha` in a copy of this checkout, while the machines of this one are halted
#
# The copy is in .lab/ha. It uses the environments of this checkout, and its machines the same addresses.
set -eu
copy=.lab/ha
running=$(vagrant status --machine-readable | grep -c ',state,running' || true)
mkdir -p "$copy/.lab"
find "$copy" -mindepth 1 -maxdepth 1 ! -name .lab -exec rm -rf {} +
# With their times: a lock that is newer than the environments would have them made again.
git ls-files -z | xargs -0 cp --archive --parents --target-directory "$copy"
ln -sfn "$PWD/.venv" "$copy/.venv"
ln -sfn "$PWD/.lab/venv" "$copy/.lab/venv"
[ "$running" = 0 ] || vagrant halt
finish() {
  status=$?
  (cd "$copy" && vagrant destroy --force) || status=1
  [ "$running" = 0 ] || vagrant up || status=1
  exit $status
}
trap finish EXIT
# As testpaths, not as arguments: a test that is named is never left out by draw.
(
  cd "$copy"
  LAYOUT=ha vagrant up
  .venv/bin/pytest "$@" --override-ini \
    testpaths="tests/ha tests/test_machines.py tests/test_services.py tests/test_cluster.py tests/test_drills.py"
)
