# nixosModules.host: the daemons of both providers. The user's groups are for the configuration that imports this:
# users.users.<name>.extraGroups = [ "docker" "libvirtd" ];
{ pkgs, ... }:
{
  virtualisation.docker.enable = true;
  virtualisation.libvirtd = {
    enable = true;
    # The daemon starts virtiofsd, which serves the shared folders: on a user's PATH it would not be found.
    qemu.vhostUserPackages = [ pkgs.virtiofsd ];
  };
  # The executables in PyPI's wheels of uv and ruff ask for /lib64/ld-linux-x86-64.so.2 or its like.
  programs.nix-ld.enable = true;
}
