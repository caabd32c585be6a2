# A stand-in for nixpkgs that is stricter. An attribute is an error unless ./attributes.json lists it; that file also
# gives the place in nixpkgs where it was looked up. A tool that is not a package is an error. A predicate is an error
# if it allows other unfree packages than the one in that list.
{ system, config }:
let
  known = builtins.fromJSON (builtins.readFile ./attributes.json);

  standIn = pname: {
    inherit pname system;
    type = "derivation";
    name = "${pname}-1.0";
    outPath = "/nix/store/stand-in-${pname}";
  };

  # Other unfree packages of nixpkgs.
  others = [
    "consul"
    "nomad"
    "packer"
    "steam"
    "terraform"
    "unrar"
    "vault"
    "vscode"
  ];
  allowed = builtins.filter (pname: config.allowUnfreePredicate (standIn pname)) others;

  package =
    pname: entry:
    if entry.unfree or false && !config.allowUnfreePredicate (standIn pname) then
      throw "${pname} is unfree, and not allowed"
    else
      standIn pname;

  checked =
    tools:
    if builtins.all (tool: tool.type or null == "derivation") tools then
      tools
    else
      throw "a tool is not a package";
in
if builtins.attrNames config != [ "allowUnfreePredicate" ] then
  throw "the configuration of nixpkgs is not only a predicate"
else if allowed != [ ] then
  throw "the predicate allows ${toString allowed}"
else
  builtins.mapAttrs package known.packages
  // {
    stdenv.cc.cc.lib = standIn "gcc-lib";
    mkShellNoCC =
      { packages, ... }@shell:
      shell
      // standIn "nix-shell"
      // {
        tools = checked packages;
      };
    runCommand =
      name:
      { nativeBuildInputs }:
      script:
      standIn name
      // {
        inherit name script;
        tools = checked nativeBuildInputs;
      };
  }
