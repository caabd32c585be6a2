{
  description = "The tools to run and test airflow-lab, and a module for its NixOS hosts";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      each =
        f:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system:
          f (
            import nixpkgs {
              inherit system;
              # The licence of Vagrant (BUSL) is unfree in nixpkgs. No other unfree package is allowed.
              config.allowUnfreePredicate = package: lib.getName package == "vagrant";
            }
          )
        );
    in
    {
      devShells = each (pkgs: {
        default = import ./nix/devshell.nix { inherit pkgs; };
      });
      # `nix fmt` passes no file. nixfmt-tree then formats the tree; nixfmt would read standard input.
      formatter = each (pkgs: pkgs.nixfmt-tree);
      checks = each (pkgs: import ./nix/checks.nix { inherit pkgs self; });
      nixosModules.host = ./nix/host.nix;
    };
}
