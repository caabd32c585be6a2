#!/bin/sh
# install.sh [no-box]   installs what the lab's provider needs on a Debian host, and starts the provider
#
# With no-box, libvirt's box is not made. If nothing is missing, nothing is installed. Without apt-get, the script only
# prints what is missing.
set -eu
here=$(dirname "$0")

say() { echo "==> lab: $*"; }
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
fail() {
  echo "airflow-lab: $*" >&2
  exit 1
}
# The user's engine first: root may use another engine, or none (Docker Desktop, rootless Docker, DOCKER_HOST).
own_engine() { docker version >/dev/null 2>&1; }
engine() { own_engine || root docker version >/dev/null 2>&1; }
PATH=$PATH:/usr/sbin # not on every user's PATH
lacks() { ! command -v "$1" >/dev/null; }
nixos() { [ -e /etc/NIXOS ]; }
# On NixOS, systemctl enable and usermod fail.
configure() {
  echo "airflow-lab: $1. On NixOS, this is set in the configuration: add $2 (nixosModules.host of this flake sets up the daemons), then call nixos-rebuild switch" >&2
  exit 1
}
# Whether the command belongs to a package that apt-get would remove to install docker.io. A command without a package
# stays where it is.
foreign() {
  owner=$(dpkg --search "$(readlink -f "$(command -v "$1")")" 2>/dev/null) || return 1
  ! echo "$owner" | grep -qE '^docker(\.io|-cli):'
}

# From the environment, from an earlier choice, or from config/lab.json.
provider=${PROVIDER:-$(cat .lab/choices.json config/lab.json 2>/dev/null | sed -n 's/.*"provider": "\([a-z]*\)".*/\1/p' | head -n 1)}

missing=
lacks vagrant && missing="$missing vagrant"
lacks ssh && missing="$missing openssh-client"
# Required only with apt-get: not every other distribution has it. Without it, Vagrant pulls the base image for Docker;
# for libvirt, add-box.sh says what to do.
lacks mmdebstrap && ! lacks apt-get && missing="$missing mmdebstrap"
lacks shellcheck && missing="$missing shellcheck"
lacks rubocop && missing="$missing rubocop"
lacks nix-instantiate && missing="$missing nix-bin"
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
case $provider in
  docker)
    if [ -n "${DOCKER_HOST:-}" ] && ! own_engine; then
      fail "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST. Start it, or \`unset DOCKER_HOST\` to use one on this host"
    fi
    if ! engine && { lacks docker || lacks dockerd; }; then
      for command in docker dockerd; do
        if foreign "$command"; then
          fail "$(command -v "$command") is not from Debian's package docker.io, and no Docker engine answers. Start its engine" \
            "(Docker Desktop: \`systemctl --user start docker-desktop\`), install what is missing (docker-ce: \`sudo apt-get install" \
            "docker-ce docker-ce-cli\`), or remove it; then \`make up\`"
        fi
      done
      missing="$missing docker.io"
    fi
    ;;
  libvirt)
    lacks virsh && missing="$missing libvirt-clients"
    lacks libvirtd && missing="$missing libvirt-daemon-system libvirt-daemon-driver-qemu dnsmasq-base iptables"
    # The last path is where NixOS installs it for the daemon.
    shares=$(command -v virtiofsd || ls -d /usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd \
      /var/lib/qemu/vhost-user/*virtiofsd.json 2>/dev/null || true)
    { lacks qemu-system-x86_64 || [ -z "$shares" ]; } && missing="$missing qemu-system-x86"
    lacks qemu-img && missing="$missing qemu-utils"
    vagrant plugin list 2>/dev/null | grep -q libvirt || missing="$missing vagrant-libvirt"
    [ -d /run/systemd/system ] || ! lacks tini || missing="$missing tini"
    ;;
esac
if [ -n "$missing" ]; then
  if lacks apt-get; then
    echo "airflow-lab: this host does not have apt-get. Missing, by Debian's package names:$missing" >&2
    if nixos; then
      echo "Import nixosModules.host of this flake (nix/host.nix) into the configuration, and call make inside nix develop." >&2
    else
      echo "Install them, then call make again." >&2
    fi
    exit 1
  fi
  say "installing$missing (a minute or so)"
  root apt-get update -qq
  # Debian 13 has a part of each in a separate package.
  for pair in docker.io:docker-cli qemu-system-x86:virtiofsd; do
    case "$missing " in
      *" ${pair%:*} "*) if apt-cache show "${pair#*:}" >/dev/null 2>&1; then missing="$missing ${pair#*:}"; fi ;;
    esac
  done
  # shellcheck disable=SC2086 # a list of packages
  root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-remove --no-install-recommends $missing >/dev/null
fi

join() {
  if [ "$(id -u)" != 0 ] && ! id -nG "$(id -un)" | grep -qw "$1"; then
    if nixos; then configure "$(id -un) is not in the group $1" "users.users.$(id -un).extraGroups = [ \"$1\" ];"; fi
    say "adding $(id -un) to the group $1: log in again (or: newgrp $1) before you call vagrant yourself"
    root usermod --append --groups "$1" "$(id -un)"
  fi
}

start_docker() {
  if ! engine; then
    if nixos; then configure "the Docker engine does not run" "virtualisation.docker.enable = true;"; fi
    say "starting the Docker engine"
    if [ -d /run/systemd/system ]; then
      root systemctl enable --now docker
    else
      # A killed engine leaves its PID file. If another process has that PID now, the next engine refuses to start.
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

  own_engine || join docker
}

start_libvirt() {
  if ! root virsh --connect qemu:///system uri >/dev/null 2>&1; then
    if nixos; then configure "libvirt does not run" "virtualisation.libvirtd.enable = true;"; fi
    say "starting libvirt"
    if [ -d /run/systemd/system ]; then
      root systemctl enable --now virtlogd.socket libvirtd
    else
      # As udev does. Without this, libvirt's user may not open /dev/kvm, and libvirt probes for KVM at every step.
      if [ -e /dev/kvm ]; then root chgrp kvm /dev/kvm && root chmod 0660 /dev/kvm; fi
      # A killed libvirt leaves its bridge, and the next libvirt does not recognize it as its own.
      for bridge in /sys/class/net/virbr*/brif; do
        if [ -d "$bridge" ] && [ -z "$(ls "$bridge")" ]; then root ip link delete "$(basename "${bridge%/brif}")"; fi
      done
      # libvirt waits until its ended machines and probes are reaped. Without systemd, tini reaps them.
      root sh -c 'virtlogd --daemon; setsid tini -s -- libvirtd >/var/log/libvirt/libvirtd.log 2>&1 </dev/null &'
    fi
    for _ in $(seq 60); do
      if root virsh --connect qemu:///system uri >/dev/null 2>&1; then break; fi
      sleep 1
    done
  fi
  if ! root virsh --connect qemu:///system uri >/dev/null; then
    echo "airflow-lab: libvirt does not start" >&2
    exit 1
  fi
  # On NixOS the group is libvirtd.
  group=$(getent group libvirt libvirtd | head -n 1 | cut -d : -f 1)
  join "${group:-libvirt}"
}

# Boots a kernel to test KVM: a host that is virtual itself may have /dev/kvm and still not run a kernel.
try_kvm() {
  rm -f .lab/kvm
  [ -e /dev/kvm ] || return 0
  # The kernel of our box; without a box, the host's.
  kernel=$(root find .lab/box/vmlinuz /boot -name 'vmlinuz*' -type f 2>/dev/null | head -n 1)
  # On NixOS, /boot does not have a kernel of that name.
  [ -n "$kernel" ] || ! nixos || kernel=/run/current-system/kernel
  [ -n "$kernel" ] || return 0
  if root timeout 20 qemu-system-x86_64 -accel kvm -m 256 -display none -serial stdio -no-reboot -kernel "$kernel" \
    -append 'console=ttyS0 panic=-1' 2>/dev/null | grep -q 'Linux version'; then mkdir -p .lab && touch .lab/kvm; fi
}

case $provider in
  docker)
    start_docker
    if ! lacks mmdebstrap; then
      if own_engine && [ "$(id -u)" != 0 ]; then sh "$here/../images/base-image.sh" sudo; else root sh "$here/../images/base-image.sh"; fi
    fi
    ;;
  libvirt)
    start_libvirt
    [ "${1:-}" = no-box ] || sh "$here/../images/add-box.sh"
    try_kvm
    ;;
esac
