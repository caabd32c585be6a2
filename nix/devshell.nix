# The commands that the Makefile, provision/host/, bin/lab and the tests call; on Debian, provision/host/install.sh
# installs them. Not included: the daemons and their helpers (./host.nix), and mmdebstrap, which nixpkgs does not have.
# Without mmdebstrap, Vagrant pulls the base image for Docker, and the box for libvirt is made on a Debian machine.
{ pkgs }:
pkgs.mkShellNoCC {
  packages = [
    pkgs.docker-client
    pkgs.gnumake
    pkgs.libvirt
    pkgs.nixfmt
    pkgs.openssh
    pkgs.python313
    pkgs.qemu
    pkgs.rubocop
    pkgs.ruby
    pkgs.shellcheck
    pkgs.vagrant
  ];
  # What wheels from PyPI are linked against and nixpkgs' Python does not find. Only the Pythons in .venv and .lab/venv read this
  # (./libraries.pth): LD_LIBRARY_PATH would change every program that is started from the shell.
  LAB_LIBRARIES = "${pkgs.stdenv.cc.cc.lib}/lib/libstdc++.so.6 ${pkgs.zlib}/lib/libz.so.1";
}
