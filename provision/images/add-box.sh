#!/bin/sh
# Makes libvirt's box of config/lab.json, unless Vagrant has it already, and adds it to Vagrant.
set -eu
name=$(sed -n 's/.*"libvirt": "\(.*\)".*/\1/p' config/lab.json)
case $name in airflow-lab/*) ;; *) exit 0 ;; esac # a public box: Vagrant downloads it
vagrant box list | grep -q "^$name " && [ -e .lab/box/vmlinuz ] && exit 0
if command -v mmdebstrap >/dev/null; then
  sh "$(dirname "$0")/box.sh" .lab/box
elif ! [ -e .lab/box/airflow-lab.box ]; then
  echo "airflow-lab: the box $name is made with mmdebstrap, which this host does not have:" >&2
  echo "call make box on a Debian machine and copy its .lab/box here, or name a public box in config/lab.json: boxes.libvirt" >&2
  exit 1
fi
vagrant box add --force --name "$name" --provider libvirt .lab/box/airflow-lab.box
