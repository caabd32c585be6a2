#!/bin/sh
# Runs in the root file system of a machine that is being made, image or box, once systemd, sudo and sshd are in it:
# what Vagrant expects of any, and the packages of every role. /root/machine.json is a document without a machine's name.
set -eu
useradd --create-home --shell /bin/bash vagrant
chmod 0700 ~vagrant
install -d -m 0700 -o vagrant -g vagrant ~vagrant/.ssh
# Vagrant replaces the key with one of its own at the first `up`.
install -m 0600 -o vagrant -g vagrant /vagrant/provision/images/vagrant.pub ~vagrant/.ssh/authorized_keys
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
printf 'UseDNS no\nPasswordAuthentication no\n' >/etc/ssh/sshd_config.d/lab.conf

sh /vagrant/provision/bootstrap.sh </root/machine.json
# A machine makes its own host keys and identity, and is given a document of its own.
install -d /etc/systemd/system/ssh.service.d
printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' >/etc/systemd/system/ssh.service.d/host-keys.conf
rm -f /etc/ssh/ssh_host_* /etc/airflow-lab/machine.json
: >/etc/machine-id
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.deb
