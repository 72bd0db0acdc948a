# Everything that is compiled: the package, the static binary for images, .deb and .rpm, and the artifacts for the checks.
#
# The dependencies are compiled once in both profiles: `dist` for the outputs, `release` for the checks, because
# linking each test with LTO would take longer than the tests. The static binary has its own dependencies.
{ pkgs, craneLib }:
let
  inherit (pkgs) lib;
  root = ../..;
  crate = craneLib.crateNameFromCargoToml { cargoToml = root + "/Cargo.toml"; };

  sourceOf =
    files:
    lib.fileset.toSource {
      inherit root;
      fileset = lib.fileset.unions (map (file: root + "/${file}") files);
    };
  # The sources of the binary and the package only, so that a change of documentation or tests does not rebuild them.
  shipped = [
    "Cargo.lock"
    "Cargo.toml"
    "LICENSE-APACHE"
    "LICENSE-MIT"
    "config"
    "packaging/systemd"
    "src"
  ];
  # Additional sources of the checks.
  checked = shipped ++ [
    ".clippy.toml"
    ".config"
    "deny.toml"
    "packaging"
    "rustfmt.toml"
    "tests"
  ];

  common = {
    inherit (crate) pname version;
    strictDeps = true;
    CARGO_PROFILE = "dist";
    # Unit and integration tests are a separate check, so that the package does not wait for them.
    doCheck = false;
  };
  forShipping = common // {
    src = sourceOf shipped;
  };
  forChecking = common // {
    src = sourceOf checked;
    CARGO_PROFILE = "release";
  };

  cargoArtifacts = craneLib.buildDepsOnly (
    forShipping
    // {
      doCheck = true;
      cargoCheckCommand = "cargo check --release";
      cargoTestCommand = "cargo test --release";
    }
  );

  meta = {
    description = "Monitors whether every site can reach every other site, and how fast";
    longDescription = ''
      One registry keeps the roster of members. One member at each site probes all the others by TCP and HTTP and exports the
      results as Prometheus metrics.
    '';
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = "netring";
    platforms = lib.platforms.linux;
  };

  netring = craneLib.buildPackage (
    forShipping
    // {
      inherit cargoArtifacts meta;
      nativeBuildInputs = [ pkgs.installShellFiles ];
      postInstall = builtins.readFile ./install.sh;
      nativeInstallCheckInputs = [ pkgs.versionCheckHook ];
      doInstallCheck = true;
    }
  );

  # A dynamic binary would refer to its loader in the Nix store. This one runs elsewhere, so it is static.
  forElsewhere = forShipping // {
    pname = "${crate.pname}-static";
    buildInputs = [ pkgs.glibc.static ];
    # With an explicit target, the flags do not apply to procedural macros, which cannot be static.
    CARGO_BUILD_TARGET = pkgs.stdenv.hostPlatform.rust.rustcTarget;
    CARGO_BUILD_RUSTFLAGS = "-C target-feature=+crt-static";
  };
  static = craneLib.buildPackage (
    forElsewhere
    // {
      inherit meta;
      cargoArtifacts = craneLib.buildDepsOnly forElsewhere;
      doInstallCheck = true;
      installCheckPhase = ''
        runHook preInstallCheck
        if $READELF --program-headers --wide "$out/bin/netring" | grep INTERP; then
          echo "netring wants a loader, and an image has none"
          exit 1
        fi
        "$out/bin/netring" --version | grep --fixed-strings "${crate.version}"
        runHook postInstallCheck
      '';
    }
  );

  # The .deb and the .rpm, built by packaging/build from the metadata in Cargo.toml.
  tools = import ./tools.nix { inherit pkgs; };
  linuxPackages = craneLib.mkCargoDerivation (
    common
    // {
      src = sourceOf (
        shipped
        ++ [
          "CHANGELOG.md"
          "LICENSE"
          "README.md"
          "packaging"
        ]
      );
      pnameSuffix = "-packages";
      cargoArtifacts = null;
      doInstallCargoArtifacts = false;
      nativeBuildInputs = [
        pkgs.dpkg
        tools.cargo-deb
        tools.cargo-generate-rpm
      ];
      # The Nix sandbox has no /usr/bin/env. Nothing else is patched, because the files in the packages are for other systems.
      postPatch = ''
        patchShebangs --build packaging/rpm/requires
      '';
      buildPhaseCargoCommand = ''
        HOME=$TMPDIR bash packaging/build --binary ${lib.getExe static} --output "$out"
      '';
    }
  );
  only =
    kind:
    pkgs.runCommand "${crate.pname}-${crate.version}-${kind}" { inherit meta; } ''
      mkdir "$out"
      cp ${linuxPackages}/*.${kind} "$out"
    '';
in
{
  inherit
    craneLib
    tools
    netring
    static
    cargoArtifacts
    forChecking
    ;
  deb = only "deb";
  rpm = only "rpm";
}
