# What is compiled: the package, the static binary that leaves the Nix world (images, deb, rpm), and what the checks compile.
#
# The dependencies are compiled once, in both profiles: `dist` for what is shipped, `release` for what is only checked, where
# linking each test with LTO would take longer than the tests. The static binary is another program and has its own.
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
  # What the binary and its package are made of, so that a new page of the manual or another test builds nothing anew.
  shipped = [
    "Cargo.lock"
    "Cargo.toml"
    "LICENSE-APACHE"
    "LICENSE-MIT"
    "config"
    "packaging/systemd"
    "src"
  ];
  # And what the checks read besides.
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
    # Unit and integration tests are a check of their own, so that a package does not wait for them.
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
    description = "Tells, from every site, whether every other site can be reached, how fast, and whose fault it is";
    longDescription = ''
      One registry knows who is in the ring. One member at each site checks all the others by TCP and HTTP and exports what it
      saw as Prometheus metrics.
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

  # A binary from the Nix store names its loader there. What runs elsewhere must not, so this one has none.
  forElsewhere = forShipping // {
    pname = "${crate.pname}-static";
    buildInputs = [ pkgs.glibc.static ];
    # With a target named, the flags are kept from procedural macros, which cannot be static.
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

  # The .deb and the .rpm, by the script that makes them elsewhere too, from the metadata in Cargo.toml.
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
      # Where Nix builds, there is no /usr/bin/env. Nothing else is patched: what the packages bring is for elsewhere.
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
