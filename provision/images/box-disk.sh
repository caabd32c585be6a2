#!/bin/sh
# Runs in a temporary Debian 13: writes /root/system.tar to a bootable disk, and packs that as /root/airflow-lab.box.
set -eu
cd /root
id=a1f10b00-5eed-4000-8000-000000000013 # of the file system; a random one would differ between builds
start=2048
sectors=41943040 # 20 GiB; the file contains only used blocks

truncate --size=$((sectors * 512)) disk.raw
printf 'label-id: 0xa1f10b00\n%s,,L,*\n' "$start" | sfdisk --quiet --label dos disk.raw
mke2fs -q -t ext4 -L root -U "$id" -E "hash_seed=$id,offset=$((start * 512))" -d system.tar disk.raw $(((sectors - start) / 2))k

# Not with GRUB's installer, which needs a mounted disk. The boot sector loads the core from the next sector.
grub-mkimage --format i386-pc --output core.img --prefix '(hd0,msdos1)/boot/grub' biosdisk part_msdos ext2 normal linux
dd if=/usr/lib/grub/i386-pc/boot.img of=disk.raw bs=440 count=1 conv=notrunc status=none
dd if=core.img of=disk.raw bs=512 seek=1 conv=notrunc status=none

qemu-img convert -m 1 -c -O qcow2 disk.raw box.img
rm disk.raw
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 20}' >metadata.json
: >Vagrantfile
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --create --file=airflow-lab.box Vagrantfile box.img metadata.json

# install.sh tests KVM with this kernel.
tar --extract --to-stdout --wildcards --file=system.tar './boot/vmlinuz-*' >vmlinuz
