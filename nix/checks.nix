# `nix flake check`: the parts of `make lint` that do not need Python packages of tests/requirements.lock.
{ pkgs, self }:
let
  lint =
    part: tools:
    pkgs.runCommand "airflow-lab-lint-${part}" { nativeBuildInputs = tools; } ''
      sh ${self}/tests/lint.sh ${part}
      touch $out
    '';
in
builtins.mapAttrs lint {
  shell = [ pkgs.shellcheck ];
  ruby = [
    pkgs.rubocop
    pkgs.ruby
  ];
  nix = [ pkgs.nixfmt ];
  data = [
    pkgs.check-jsonschema
    pkgs.python313
    pkgs.ruby
  ];
}
