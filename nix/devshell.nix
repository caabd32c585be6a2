# The tools that `make up`, `make test` and `make lint` call; on Debian, provision/host/install.sh installs the same.
{ pkgs }:
pkgs.mkShellNoCC {
  packages = [
    pkgs.docker-client
    pkgs.git
    pkgs.gnumake
    pkgs.libvirt
    pkgs.mmdebstrap
    pkgs.nixfmt
    pkgs.openssh
    pkgs.python313
    pkgs.qemu
    pkgs.ruby
    pkgs.shellcheck
    pkgs.vagrant
    pkgs.virtiofsd
  ];
  # Wheels from PyPI are linked against these.
  LD_LIBRARY_PATH = pkgs.lib.makeLibraryPath [
    pkgs.stdenv.cc.cc.lib
    pkgs.zlib
  ];
}
