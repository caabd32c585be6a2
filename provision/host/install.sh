#!/bin/sh
# Gives a Debian host what it lacks to run the lab, and starts the Docker engine. Does nothing where all is there.
set -eu

say() { echo "==> lab: $*"; }
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
engine() { root docker version >/dev/null 2>&1; }
lacks() { ! command -v "$1" >/dev/null; }

missing=
lacks vagrant && missing="$missing vagrant"
lacks ssh && missing="$missing openssh-client"
lacks mmdebstrap && missing="$missing mmdebstrap"
lacks shellcheck && missing="$missing shellcheck"
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
if ! engine && { lacks docker || lacks dockerd; }; then
  missing="$missing docker.io"
fi
if [ -n "$missing" ]; then
  if lacks apt-get; then
    echo "airflow-lab: this host is no Debian: install$missing yourself, then run vagrant up" >&2
    exit 1
  fi
  say "installing$missing (a minute or so)"
  root apt-get update -qq
  # On Debian 13 docker.io leaves the client in a package of its own.
  case $missing in
    *docker.io*) if apt-cache show docker-cli >/dev/null 2>&1; then missing="$missing docker-cli"; fi ;;
  esac
  # shellcheck disable=SC2086 # a list of packages
  root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $missing >/dev/null
fi

if ! engine; then
  say "starting the Docker engine"
  if [ -d /run/systemd/system ]; then
    root systemctl enable --now docker
  else
    # What an engine that was killed left behind: with the number of a living process in it, the next one refuses to start.
    for pid in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
      if root test -e "$pid" && ! grep -qE '^(dockerd|containerd)$' "/proc/$(root cat "$pid")/comm" 2>/dev/null; then root rm -f "$pid"; fi
    done
    log=/var/log/dockerd.log
    root sh -c "setsid dockerd >>$log 2>&1 </dev/null &"
  fi
  for _ in $(seq 60); do
    if engine; then break; fi
    sleep 1
  done
  if ! engine; then
    echo "airflow-lab: the Docker engine does not start; the end of its log:" >&2
    if [ -d /run/systemd/system ]; then root journalctl --unit docker --lines 15 --no-pager >&2; else root tail -n 15 "$log" >&2; fi
    exit 1
  fi
fi

if ! docker version >/dev/null 2>&1 && ! id -nG "$(id -un)" | grep -qw docker; then
  say "adding $(id -un) to the group docker: log in anew (or: newgrp docker) before you call vagrant yourself"
  root usermod --append --groups docker "$(id -un)"
fi

root sh "$(dirname "$0")/base-image.sh"
