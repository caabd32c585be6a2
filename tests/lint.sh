#!/bin/sh
# lint.sh [PART…]   checks the tree with the tools on PATH; without a PART, all parts
#
# `make lint` runs all parts. The flake's checks run all parts except python: ruff and mypy must have the versions
# of tests/requirements.lock, and nixpkgs has other versions.
set -eu
cd "$(dirname "$0")/.."

# Not those in hidden folders, such as .venv and .lab: they are not ours.
files() { find . -path './.[!.]*' -prune -o -name "$1" -print; }

lint() {
  case $1 in
    python)
      ruff check .
      ruff format --check .
      mypy
      ;;
    shell)
      # shellcheck disable=SC2046 # a list of files
      shellcheck .ci/run bin/lab $(files '*.sh')
      ;;
    ruby) for file in Vagrantfile $(files '*.rb'); do ruby -c "$file" >/dev/null; done ;;
    nix)
      # Debian does not have nixfmt: without it, the files are only parsed.
      if command -v nixfmt >/dev/null; then set -- nixfmt --check; else set -- nix-instantiate --parse; fi
      # shellcheck disable=SC2046 # a list of files
      "$@" $(files '*.nix') >/dev/null
      ;;
    data)
      check-jsonschema --check-metaschema config/lab.schema.json
      check-jsonschema --schemafile config/lab.schema.json config/lab.json
      ruby -r ./provision/host/lab -e 'Lab.new(Dir.pwd)'
      python3 -c 'from lab.topology import Topology; Topology.load()'
      ;;
    *)
      echo "lint.sh: unknown part $1; allowed: python, shell, ruby, nix, data" >&2
      exit 2
      ;;
  esac
}

[ $# -gt 0 ] || set -- python shell ruby nix data
for part in "$@"; do lint "$part"; done
