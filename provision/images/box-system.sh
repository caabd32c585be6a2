#!/bin/sh
# Runs in the root file system of the box while it is made: configures disk, network and boot.
set -eu
export DEBIAN_FRONTEND=noninteractive
echo airflow-lab >/etc/hostname
printf '127.0.0.1 localhost airflow-lab\n::1 localhost\n' >/etc/hosts
# The file system fills the disk of the box. If the disk was enlarged, the file system grows at boot.
echo 'LABEL=root / ext4 errors=remount-ro,x-systemd.growfs 0 1' >/etc/fstab
printf 'auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n' >/etc/network/interfaces
# Only the modules of the virtual hardware: the machine boots faster with few modules, above all under emulation.
echo 'MODULES=list' >/etc/initramfs-tools/conf.d/lab.conf
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod ahci >>/etc/initramfs-tools/modules
update-initramfs -u -k all
# dpkg need not wait for the disk: a machine that loses power during an installation is made again from scratch.
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/lab
systemctl enable --quiet serial-getty@ttyS0.service
install -d /boot/grub
cat >/boot/grub/grub.cfg <<'GRUB'
linux /vmlinuz root=LABEL=root ro net.ifnames=0 console=ttyS0 quiet
initrd /initrd.img
boot
GRUB
# The installation compiles in parallel, and a few files differ between builds. Compiled in order, they are the same.
PYTHONHASHSEED=0 /opt/airflow/venv/bin/python -m compileall -q -f /opt/airflow/venv/lib
# Each machine makes its own version of what is random or depends on the clock.
pg_dropcluster 17 main
rm -f /var/lib/rabbitmq/.erlang.cookie /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
find /var/log -type f -delete
# Not from a package: the first of Debian's scripts that runs writes it.
rm -rf /usr/share/python3/debpython/__pycache__
rm -rf /vagrant/* /root/* /root/.cache /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache
