rec {
  genAttrs =
    names: f:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  getName = package: package.name;
  makeLibraryPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/lib") packages);
  allUnique = list: builtins.length list == builtins.length (builtins.attrNames (genAttrs list (_: null)));
  assertMsg = condition: message: condition || throw message;
}
