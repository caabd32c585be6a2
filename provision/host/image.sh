#!/bin/sh
# Runs in a container of the base image: makes it the image of all machines. The user vagrant and its key are
# what Vagrant expects of any box; Vagrant replaces the key with one of its own at the first `up`.
set -eu
export DEBIAN_FRONTEND=noninteractive

echo "step: Install systemd and sshd"
apt-get update -q
apt-get install -q -y --no-install-recommends systemd-sysv dbus openssh-server sudo iproute2 procps

useradd --create-home --shell /bin/bash vagrant
chmod 0700 ~vagrant
install -d -m 0700 -o vagrant -g vagrant ~vagrant/.ssh
install -m 0600 -o vagrant -g vagrant /root/vagrant.pub ~vagrant/.ssh/authorized_keys
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
printf 'UseDNS no\nPasswordAuthentication no\n' >/etc/ssh/sshd_config.d/lab.conf

# A container cannot have the user namespaces that Debian's units ask for (they end with status 217/USER), nor
# the kernel's own mounts and logins on a console.
install -d /etc/systemd/system/service.d
printf '[Service]\nPrivateUsers=no\n' >/etc/systemd/system/service.d/container.conf
systemctl mask --quiet systemd-udevd.service systemd-udev-trigger.service systemd-networkd.service \
  getty.target console-getty.service systemd-logind.service

sh /vagrant/provision/bootstrap.sh </root/machine.json
# A machine enables the services of its own roles.
systemctl disable --quiet postgresql redis-server rabbitmq-server epmd.service epmd.socket nginx
# A machine makes its own host keys and identity, and is given a document of its own.
install -d /etc/systemd/system/ssh.service.d
printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' >/etc/systemd/system/ssh.service.d/host-keys.conf
rm -f /etc/ssh/ssh_host_* /etc/airflow-lab/machine.json
: >/etc/machine-id
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.deb
