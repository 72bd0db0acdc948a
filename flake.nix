{
  description = "netring monitors whether every site can reach every other site, how fast, and why not";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    crane.url = "github:ipetkov/crane";
  };

  outputs =
    {
      self,
      nixpkgs,
      crane,
    }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      # Everything that is compiled; see packaging/nix/.
      build =
        pkgs:
        import ./packaging/nix/build.nix {
          inherit pkgs;
          craneLib = crane.mkLib pkgs;
        };
    in
    {
      packages = forEachSystem (
        pkgs:
        let
          built = build pkgs;
        in
        rec {
          default = netring;
          inherit (built) netring deb rpm;
          registry-image = import ./packaging/nix/image.nix {
            inherit pkgs;
            inherit (built) static;
            role = "registry";
          };
          member-image = import ./packaging/nix/image.nix {
            inherit pkgs;
            inherit (built) static;
            role = "member";
          };
        }
      );

      overlays.default = final: _prev: { inherit (build final) netring; };

      nixosModules.default =
        { lib, pkgs, ... }:
        {
          imports = [ ./nixos-module ];
          services.netring.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.netring;
        };

      checks = forEachSystem (
        pkgs:
        import ./packaging/nix/checks.nix {
          inherit pkgs;
          built = build pkgs;
          packages = self.packages.${pkgs.stdenv.hostPlatform.system};
          devShell = self.devShells.${pkgs.stdenv.hostPlatform.system}.default;
          nixosModule = self.nixosModules.default;
        }
      );

      devShells = forEachSystem (pkgs: {
        default = import ./packaging/nix/shell.nix {
          inherit pkgs;
          inherit (build pkgs) craneLib tools;
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
