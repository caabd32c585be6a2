#!/bin/sh
# box.sh FOLDER   makes FOLDER/airflow-lab.box, a Debian 13 for vagrant-libvirt, only from Debian's archive
#
# FOLDER is relative to the checkout, like all paths here: mmdebstrap's hooks would split an absolute path at a space.
# The same versions of Debian's packages give the same bytes. The tools that write the disk come from Debian 13 too, in
# a temporary root file system: the host needs only mmdebstrap.
set -eu
cd "$(dirname "$0")/../.."
here=provision/images
folder=$1
arch=$(dpkg --print-architecture)
# Every time stamp in the box: the day on which Debian 13 was released.
export SOURCE_DATE_EPOCH=1754697600
say() { echo "==> lab: box: $*"; }

mkdir -p "$folder"
say "root file system (half a minute)"
sh "$here/root-file-system.sh" "$folder/root.tar"

say "kernel, systemd, sshd, and the packages of every role (two minutes; log: $folder/system.log)"
ruby -r "./provision/host/lab" -e 'puts JSON.generate(Lab.new(Dir.pwd).document(nil))' >"$folder/machine.json"
# shellcheck disable=SC2016 # mmdebstrap gives the hooks the root file system as $1
mmdebstrap --variant=custom --setup-hook="tar --extract --file=$folder/root.tar --directory=\"\$1\"" \
  --include="linux-image-cloud-$arch,initramfs-tools,zstd,systemd-sysv,systemd-timesyncd,dbus,openssh-server,sudo,iproute2,procps,ifupdown,dhcpcd-base,e2fsprogs,udev,kmod" \
  --customize-hook='mkdir "$1/vagrant"' \
  --customize-hook='copy-in provision lab config /vagrant' \
  --customize-hook="copy-in $folder/machine.json $here/box-system.sh /root" \
  --customize-hook='chroot "$1" sh /vagrant/provision/images/guest.sh' \
  --customize-hook='chroot "$1" sh /root/box-system.sh' \
  trixie "$folder/system.tar" >"$folder/system.log" 2>&1 || { tail -n 20 "$folder/system.log" >&2 && exit 1; }

say "disk and boot loader (half a minute)"
# shellcheck disable=SC2016
mmdebstrap --quiet --variant=essential --format=null --include=e2fsprogs,libarchive13t64,fdisk,grub-pc-bin,qemu-utils \
  --customize-hook="copy-in $folder/system.tar $here/box-disk.sh /root" \
  --customize-hook='chroot "$1" sh /root/box-disk.sh' \
  --customize-hook="copy-out /root/airflow-lab.box /root/vmlinuz $folder" \
  trixie
rm "$folder/root.tar" "$folder/system.tar" "$folder/machine.json"
