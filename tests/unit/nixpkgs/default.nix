# A stand-in for nixpkgs with only the attributes that the flake may use: any other is an error.
{ system, config }:
let
  lib = import ./lib.nix;
  package = name: {
    inherit name;
    outPath = "/nix/store/stand-in-${name}";
  };
  free = [
    "docker-client"
    "git"
    "gnumake"
    "libvirt"
    "mmdebstrap"
    "nixfmt"
    "openssh"
    "python313"
    "qemu"
    "ruby"
    "shellcheck"
    "virtiofsd"
    "zlib"
  ];
in
lib.genAttrs free package
// {
  inherit lib system;
  vagrant =
    if config.allowUnfreePredicate (package "vagrant") then package "vagrant" else throw "vagrant is unfree";
  stdenv.cc.cc.lib = package "libstdc++";
  mkShellNoCC = shell: shell // package "shell";
  runCommand = name: environment: script: environment // package name // { inherit script; };
}
