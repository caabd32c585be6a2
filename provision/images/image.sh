#!/bin/sh
# Runs in a container of the base image, and turns it into the image of all machines.
set -eu
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC1091 # docker.rb writes it: the settings of the host's proxy
. /root/environment

echo "step: Install systemd and sshd"
apt-get update -q
apt-get install -q -y --no-install-recommends systemd-sysv dbus openssh-server sudo iproute2 procps

# A container does not allow the user namespaces that some of Debian's units ask for: these units end with status
# 217/USER. The units for devices, networks and console logins do not work in it either.
install -d /etc/systemd/system/service.d
printf '[Service]\nPrivateUsers=no\n' >/etc/systemd/system/service.d/container.conf
systemctl mask --quiet systemd-udevd.service systemd-udev-trigger.service systemd-networkd.service \
  getty.target console-getty.service systemd-logind.service

sh /vagrant/provision/images/guest.sh
