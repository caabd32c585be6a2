{
  description = "What a host needs to run airflow-lab with every provider, and to test it";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      lab = builtins.fromJSON (builtins.readFile ./config/lab.json);
      each =
        f:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system:
          f (
            import nixpkgs {
              inherit system;
              # Vagrant's licence (BUSL) is not free in the sense of nixpkgs: it is allowed by name, and nothing else is.
              config.allowUnfreePredicate = package: lib.getName package == "vagrant";
            }
          )
        );
    in
    {
      devShells = each (pkgs: {
        default = import ./nix/devshell.nix { inherit pkgs; };
      });
      formatter = each (pkgs: pkgs.nixfmt);
      checks = each (pkgs: import ./nix/checks.nix { inherit pkgs lab self; });
    };
}
