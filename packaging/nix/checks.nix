# The checks of `nix flake check`: all outputs of the flake for this system, the checks of tests/run that need neither root nor
# network namespaces, the module with its build-time check of the configuration, and virtual machines.
{
  pkgs,
  built,
  # The outputs of the flake for this system.
  packages,
  devShell,
  nixosModule,
}:
let
  inherit (pkgs) lib;
  inherit (built) craneLib cargoArtifacts forChecking;
  withArtifacts = forChecking // {
    inherit cargoArtifacts;
  };
  inherit (forChecking) src;

  # Runs a command in the source tree, with these packages in PATH.
  check =
    name: tools: command:
    pkgs.runCommand "netring-${name}" { nativeBuildInputs = tools; } ''
      cd ${src}
      ${command}
      touch "$out"
    '';

  # The image output is a script that writes the image, so the check runs it.
  image =
    role:
    pkgs.runCommand "netring-${role}-image-streamed" { } ''
      ${packages."${role}-image"} >image.tar
      tar --list --file image.tar manifest.json >"$out"
    '';

  machines =
    test:
    pkgs.testers.runNixOSTest {
      imports = [ test ];
      defaults.imports = [ nixosModule ];
    };
in
{
  package = built.netring;
  inherit (built) static deb rpm;
  registry-image = image "registry";
  member-image = image "member";
  dev-shell = devShell;
  clippy = craneLib.cargoClippy (
    withArtifacts // { cargoClippyExtraArgs = "--all-targets -- --deny warnings"; }
  );
  doc = craneLib.cargoDoc (withArtifacts // { env.RUSTDOCFLAGS = "--deny warnings"; });
  fmt = craneLib.cargoFmt { inherit (forChecking) pname version src; };
  deny = craneLib.cargoDeny { inherit (forChecking) pname version src; };
  nextest = craneLib.cargoNextest (
    withArtifacts
    // {
      doCheck = true;
      nativeCheckInputs = [
        pkgs.curl
        pkgs.redis
      ];
      # Tests that need root or servers are run by tests/run and by the virtual machines below.
      cargoNextestExtraArgs = "--locked --filterset 'not binary(/^sys_/)'";
    }
  );

  promtool = check "promtool" [ pkgs.prometheus.cli ] ''
    promtool check config --syntax-only config/prometheus.yml
    promtool check rules config/alerts.yml
    promtool test rules tests/prometheus/*.yml
  '';
  manifests = check "manifests" [ pkgs.kubectl pkgs.python3Packages.kubernetes-validate ] (
    builtins.readFile ./manifests.sh
  );

  # The module in the real NixOS, without booting: the units of a host with both daemons, and their configuration, checked by
  # `netring check`.
  module =
    (pkgs.nixos {
      imports = [ nixosModule ];
      boot.isContainer = true;
      system.stateVersion = lib.trivial.release;
      services.netring = {
        enable = true;
        registry.enable = true;
        registry.redis.createLocally = true;
        member.settings.member.server.advertise_ip = "192.0.2.1";
      };
    }).config.system.build.toplevel;

  machines-ring = machines ../../tests/nix/vm/ring.nix;
  machines-life = machines ../../tests/nix/vm/life.nix;
}
