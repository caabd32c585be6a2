#!/bin/sh
# Runs in the root file system of the box that is being made: disk, network and boot.
set -eu
export DEBIAN_FRONTEND=noninteractive
echo airflow-lab >/etc/hostname
printf '127.0.0.1 localhost airflow-lab\n::1 localhost\n' >/etc/hosts
# The file system is as large as its disk in the box; a disk that was enlarged is grown into at boot.
echo 'LABEL=root / ext4 errors=remount-ro,x-systemd.growfs 0 1' >/etc/fstab
printf 'auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n' >/etc/network/interfaces
# Modules of the virtual hardware alone: a kernel with few of them starts faster, most of all under emulation.
echo 'MODULES=list' >/etc/initramfs-tools/conf.d/lab.conf
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod ahci >>/etc/initramfs-tools/modules
update-initramfs -u -k all
# A machine that loses power while packages are installed is made anew: dpkg need not wait for the disk.
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/lab
systemctl enable --quiet serial-getty@ttyS0.service
install -d /boot/grub
cat >/boot/grub/grub.cfg <<'GRUB'
linux /vmlinuz root=LABEL=root ro net.ifnames=0 console=ttyS0 quiet
initrd /initrd.img
boot
GRUB
# Compiled side by side, as at the installation, a few files differ from build to build; in order none does.
PYTHONHASHSEED=0 /opt/airflow/venv/bin/python -m compileall -q -f /opt/airflow/venv/lib
# What is made by chance or by the clock, each machine makes for itself.
pg_dropcluster 17 main
rm -f /var/lib/rabbitmq/.erlang.cookie /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
find /var/log -type f -delete
# Written by whichever of Debian's scripts came first, not by a package.
rm -rf /usr/share/python3/debpython/__pycache__
rm -rf /vagrant/* /root/* /root/.cache /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache
