#!/bin/sh
# Removes everything that the lab put on this host, except the packages that `make up` installed.
set -eu
virsh="virsh --connect qemu:///system"
machines_of() { for id in .vagrant/machines/*/"$1"/id; do [ ! -e "$id" ] || basename "${id%/*/id}"; done | xargs; }
# Machines first, each with the provider that created it. If a provider does not answer, nothing is deleted: its
# machines would be left without an owner.
for provider in docker libvirt virtualbox; do
  case $provider in
    docker) answers="docker version" start="start its engine (sudo systemctl start docker, or PROVIDER=docker make host)" ;;
    libvirt) answers="$virsh uri" start="start it (sudo systemctl start libvirtd, or PROVIDER=libvirt make host)" ;;
    virtualbox) answers="VBoxManage --version" start="install it, so that VBoxManage --version answers" ;;
  esac
  machines=$(machines_of $provider)
  if [ -n "$machines" ] && ! $answers >/dev/null 2>&1; then
    echo "airflow-lab: nothing was deleted: the machines $machines belong to $provider, which does not answer. Fix: $start, then call make clean again" >&2
    exit 1
  fi
done
# An interrupted `make test-ha` has left its machines.
if [ -d .lab/ha/.vagrant ]; then (cd .lab/ha && vagrant destroy --force); fi
for provider in docker libvirt virtualbox; do
  machines=$(machines_of $provider)
  # shellcheck disable=SC2086 # a list of names
  [ -z "$machines" ] || PROVIDER=$provider vagrant destroy --force $machines
done
# The task logs belong to Airflow's user on the machines: only root may remove them.
if [ -d logs ]; then
  rm -rf logs 2>/dev/null || docker run --rm --pull never --volume "$PWD:/checkout" airflow-lab/debian:trixie rm -rf /checkout/logs || sudo rm -rf logs
fi
if docker version >/dev/null 2>&1; then
  # Machine images first: Docker does not remove an image that another image or a container uses.
  for images in 'airflow-lab/machine' 'airflow-lab/*'; do
    docker image ls --quiet --filter reference="$images" | sort -u | xargs --no-run-if-empty docker image rm >/dev/null 2>&1 || true
  done
  if [ -n "$(docker image ls --quiet --filter reference='airflow-lab/*')" ]; then
    echo "==> lab: kept the images that machines of another checkout use"
  fi
fi
# Our box, and the volumes that libvirt made from it, except those that another checkout's machines use.
if $virsh uri >/dev/null 2>&1; then
  vagrant box remove airflow-lab/debian-13 --all --force >/dev/null 2>&1 || true
  disks=$($virsh vol-list default 2>/dev/null | awk '$2 ~ "^/" {print $1}')
  bases=$(for disk in $disks; do $virsh vol-dumpxml "$disk" default | sed -n '/<backingStore>/,$ s/.*<path>\(.*\)<\/path>/\1/p'; done)
  for disk in $disks; do
    case $disk in airflow-lab-VAGRANTSLASH-*) ;; *) continue ;; esac
    case $bases in
      *"/$disk"*) echo "==> lab: kept the volume $disk: machines of another checkout use it" ;;
      *) $virsh vol-delete "$disk" default >/dev/null ;;
    esac
  done
fi
rm -rf .lab .vagrant .venv .pytest_cache .mypy_cache .ruff_cache
echo "==> lab: everything is removed. Next: make up"
