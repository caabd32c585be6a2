# What the flake uses of nixpkgs' lib; see ./attributes.json.
{
  genAttrs =
    names: f:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  getName =
    package:
    if builtins.isString package then (builtins.parseDrvName package).name else package.pname;
}
