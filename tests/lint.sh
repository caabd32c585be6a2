#!/bin/sh
# lint.sh [--skip-missing] [PART…]   checks the files of the project; without a PART all of them
#
# A check whose command this host lacks is an error; with --skip-missing, it is skipped and listed at the end.
#
# `make test` runs all parts, `make lint` and the hooks of pre-commit too. The flake's checks run all but python: ruff
# and mypy must have the versions of tests/requirements.lock, and nixpkgs has others.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
skip='' skipped=''

# has COMMAND [PACKAGE]   returns 1 if the command is missing and its check is to be skipped. PACKAGE is Debian's; `make
# lint` installs what has none.
has() {
  if command -v "$1" >/dev/null; then return 0; fi
  from=${2:+apt-get install $2}
  if [ -z "$skip" ]; then
    echo "lint.sh: $part: the command $1 is missing. Next: ${from:-make lint}" >&2
    exit 2
  fi
  skipped="$skipped
  $part: $1 is missing (${from:-make lint})"
  return 1
}

# Not those in hidden folders, such as .venv and .lab: they are not ours.
files() { find . -path './.[!.]*' -prune -o -name "$1" -print; }

lint() {
  case $1 in
    python)
      has ruff || return 0
      ruff check .
      ruff format --check .
      mypy
      ;;
    shell)
      has shellcheck shellcheck || return 0
      # shellcheck disable=SC2046 # a list of files
      shellcheck .ci/run bin/lab $(files '*.sh')
      ;;
    ruby)
      # shellcheck disable=SC2046 # a list of files
      set -- Vagrantfile $(files '*.rb')
      if has ruby ruby; then for file; do ruby -c "$file" >/dev/null; done; fi
      if has rubocop rubocop; then rubocop --cache false --format quiet "$@"; fi
      ;;
    nix)
      # Debian has no nixfmt: there, the files are parsed.
      if command -v nixfmt >/dev/null; then
        set -- nixfmt --check
      elif has nix-instantiate nix-bin; then
        set -- nix-instantiate --parse
      else
        return 0
      fi
      # shellcheck disable=SC2046 # a list of files
      "$@" $(files '*.nix') >/dev/null
      ;;
    data)
      if has check-jsonschema; then
        check-jsonschema --check-metaschema config/lab.schema.json
        check-jsonschema --schemafile config/lab.schema.json config/lab.json
      fi
      if has ruby ruby; then
        ruby -r ./provision/host/lab -e 'puts JSON.generate(Lab.new(Dir.pwd).resolved)' |
          python3 -c 'import json, sys; from lab.topology import Topology; Topology.from_document(json.load(sys.stdin))'
      fi
      ;;
    *)
      echo "lint.sh: unknown part $1; allowed: python, shell, ruby, nix, data" >&2
      exit 2
      ;;
  esac
}

if [ "${1-}" = --skip-missing ]; then
  skip=yes
  shift
fi
[ $# -gt 0 ] || set -- python shell ruby nix data
for part in "$@"; do lint "$part"; done
if [ -n "$skipped" ]; then echo "lint.sh: skipped:$skipped" >&2; fi
