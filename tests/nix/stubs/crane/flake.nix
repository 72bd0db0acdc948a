# Stands in for crane: its functions that the flake calls, which keep what they were given.
{
  outputs =
    { self }:
    {
      mkLib =
        pkgs:
        let
          make = suffix: { pname, version, ... }@args: pkgs.crane "${pname}${suffix}-${version}" args;
          withArtifacts = suffix: { cargoArtifacts, ... }@args: make suffix args;
        in
        {
          crateNameFromCargoToml =
            { cargoToml }:
            let
              inherit (builtins.fromTOML (builtins.readFile cargoToml)) package;
            in
            {
              pname = package.name;
              inherit (package) version;
            };
          buildDepsOnly = make "-deps";
          buildPackage = withArtifacts "";
          cargoClippy = withArtifacts "-clippy";
          cargoDeny = make "-deny";
          cargoDoc = withArtifacts "-doc";
          cargoFmt = make "-fmt";
          cargoNextest = withArtifacts "-nextest";
          mkCargoDerivation = withArtifacts "";
          devShell = { packages }: pkgs.crane "devshell" { inherit packages; };
        };
    };
}
