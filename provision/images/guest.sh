#!/bin/sh
# Runs in the root file system of an image or box while it is made, after the installation of systemd, sudo and sshd.
# Configures what Vagrant expects, and installs the packages of every role. /root/machine.json is a document without a
# machine's name.
set -eu
useradd --create-home --shell /bin/bash vagrant
chmod 0700 ~vagrant
install -d -m 0700 -o vagrant -g vagrant ~vagrant/.ssh
# Vagrant replaces this key with a new one at the first `up`.
install -m 0600 -o vagrant -g vagrant /vagrant/provision/images/vagrant.pub ~vagrant/.ssh/authorized_keys
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
printf 'UseDNS no\nPasswordAuthentication no\n' >/etc/ssh/sshd_config.d/lab.conf

sh /vagrant/provision/bootstrap.sh </root/machine.json
# Each machine makes its own host keys and machine-id, and gets its own document.
install -d /etc/systemd/system/ssh.service.d
printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' >/etc/systemd/system/ssh.service.d/host-keys.conf
rm -f /etc/ssh/ssh_host_* /etc/airflow-lab/machine.json
: >/etc/machine-id
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.deb
