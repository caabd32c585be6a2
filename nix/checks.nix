# What can be checked with nothing but the tree: `nix flake check`.
{
  pkgs,
  lab,
  self,
}:
let
  check =
    name: tools: script:
    pkgs.runCommand "airflow-lab-${name}" { nativeBuildInputs = tools; } ''
      cd ${self}
      ${script}
      touch $out
    '';
  addresses = map (machine: machine.address) (builtins.attrValues lab.machines);
in
{
  format = check "format" [ pkgs.nixfmt ] "nixfmt --check flake.nix nix/*.nix";
  ruby = check "ruby" [ pkgs.ruby ] "for file in Vagrantfile provision/host/*.rb; do ruby -c $file; done";
  shell = check "shell" [ pkgs.shellcheck ] "find . -name '*.sh' -exec shellcheck {} +";
  addresses =
    assert pkgs.lib.assertMsg (pkgs.lib.allUnique addresses) "two machines of config/lab.json have one address";
    check "addresses" [ ] "";
}
