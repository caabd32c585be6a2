# nixosModules.host: the daemons of both providers. The configuration that imports this adds the user to the groups:
# users.users.<name>.extraGroups = [ "docker" "libvirtd" ];
{ pkgs, ... }:
{
  virtualisation.docker.enable = true;
  virtualisation.libvirtd = {
    enable = true;
    # The daemon starts virtiofsd, which serves the shared folders. It does not search a user's PATH.
    qemu.vhostUserPackages = [ pkgs.virtiofsd ];
  };
  # The executables in PyPI's wheels of uv and ruff need /lib64/ld-linux-x86-64.so.2 or its equivalent.
  programs.nix-ld.enable = true;
}
