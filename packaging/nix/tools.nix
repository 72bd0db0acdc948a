# The tools of packaging/build, in the versions that it requires. `hash` is that of the unpacked crate, `cargoHash` that of its
# dependencies; after a change of the version, `nix build` prints both.
{ pkgs }:
let
  crate =
    {
      pname,
      version,
      hash,
      cargoHash,
    }:
    pkgs.rustPlatform.buildRustPackage {
      inherit pname version cargoHash;
      src = pkgs.fetchCrate { inherit pname version hash; };
      # Their tests expect the file layout of another distribution.
      doCheck = false;
      meta.mainProgram = pname;
    };
in
{
  cargo-deb = crate {
    pname = "cargo-deb";
    version = "3.8.0";
    hash = "sha256-+H/heFrFUlvV+Wj8L9ZYBkHYUYYtZsduMaK5+OaaeaA=";
    cargoHash = "sha256-lw8jV+FUTPmRBcuVzugRxKbq6CbauFgbEFfeu1+Qqfg=";
  };
  cargo-generate-rpm = crate {
    pname = "cargo-generate-rpm";
    version = "0.21.1";
    hash = "sha256-WabKEwW8EOVouMnf2YYhXdbitcGYwBKmPjTtJvNhyyE=";
    cargoHash = "sha256-i7jky9i+OQvFPFH7Qs+Agzj17g5sA8Dba8m3vy+gjIw=";
  };
}
