# Stands in for nixpkgs where there is none: every package that the flake names, and no other, so that a name that is not here
# is an error. Nothing of it can be built. tests/nix/run puts minilib.nix beside it.
{
  outputs =
    { self }:
    let
      mini = import ./minilib.nix;
      lib = mini // {
        licenses = {
          mit.spdxId = "MIT";
          asl20.spdxId = "Apache-2.0";
        };
        platforms.linux = [
          "x86_64-linux"
          "aarch64-linux"
        ];
        trivial.release = "26.05";
        # Files that are not there are an error, as with the real one.
        fileset = {
          unions =
            files:
            assert builtins.all (file: builtins.pathExists file || throw "there is no ${toString file}") files;
            files;
          toSource = { root, fileset }: builtins.seq (builtins.length fileset) root;
        };
      };

      names = [
        "cacert"
        "cargo-deb"
        "cargo-deny"
        "cargo-nextest"
        "curl"
        "deadnix"
        "dpkg"
        "fish"
        "groff"
        "installShellFiles"
        "iproute2"
        "jq"
        "kubectl"
        "libfaketime"
        "man-db"
        "mmdebstrap"
        "nftables"
        "nixfmt"
        "nixfmt-tree"
        "podman"
        "procps"
        "redis"
        "rpm"
        "rust-analyzer"
        "shellcheck"
        "systemd"
        "util-linux"
        "versionCheckHook"
        "zsh"
      ];

      pkgsFor =
        system:
        let
          # All that it is made of is looked at, as it would be for a build.
          make =
            name: rest:
            builtins.deepSeq rest derivation {
              inherit name system;
              builder = "/bin/sh";
            }
            // rest;
          machine =
            module:
            mini.evalModules {
              modules = [
                {
                  options = {
                    defaults = mini.mkOption { type = mini.types.raw; };
                    name = mini.mkOption { type = mini.types.str; };
                    nodes = mini.mkOption { type = mini.types.attrsOf mini.types.raw; };
                    testScript = mini.mkOption { type = mini.types.str; };
                  };
                }
                module
              ];
            };
        in
        mini.genAttrs names (name: make name { })
        // {
          inherit lib;
          crane = make;
          stdenv.hostPlatform = {
            inherit system;
            rust.rustcTarget = builtins.replaceStrings [ "-linux" ] [ "-unknown-linux-gnu" ] system;
          };
          glibc = make "glibc" { static = make "glibc-static" { }; };
          prometheus = make "prometheus" { cli = make "prometheus-cli" { }; };
          python3.withPackages = chosen: make "python3-env" { packages = chosen { pip = make "pip" { }; }; };
          python3Packages.kubernetes-validate = make "kubernetes-validate" { };
          dockerTools.streamLayeredImage = image: make image.name { inherit image; };
          fetchCrate =
            {
              pname,
              version,
              hash,
            }:
            make "${pname}-${version}.crate" { inherit hash; };
          rustPlatform.buildRustPackage = { pname, version, ... }@args: make "${pname}-${version}" args;
          runCommand =
            name: args: script:
            make name { inherit args script; };
          nixos = _: { config.system.build.toplevel = make "nixos" { }; };
          testers.runNixOSTest = test: make "vm-test-${(machine test).config.name}" { };
        };
    in
    {
      inherit lib;
      legacyPackages = mini.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] pkgsFor;
    };
}
