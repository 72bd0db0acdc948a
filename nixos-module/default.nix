# netring on NixOS: `services.netring.enable` runs a member, `services.netring.registry.enable` the registry.
#
# The units are those of the package, which are those of packaging/systemd; what is set here becomes a drop-in beside them.
# The package comes with this module where it is taken from the flake.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.netring;
in
{
  imports = [
    ./member.nix
    ./registry.nix
  ];

  options.services.netring = {
    enable = lib.mkEnableOption "the netring member, which probes all the others";

    package = lib.mkPackageOption pkgs "netring" { };

    checkConfig = lib.mkOption {
      type = lib.types.bool;
      default = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
      defaultText = lib.literalMD "`true`, but for a system that the building one cannot execute";
      example = false;
      description = ''
        Whether {command}`netring check` reads the generated configuration while the system is built, so that a fault stops the
        build and not the daemon. Set it to false where the configuration names what is only known on the host, as
        `advertise_ip = "env:POD_IP"` does.
      '';
    };
  };

  config = lib.mkIf (cfg.enable || cfg.registry.enable) {
    environment.systemPackages = [ cfg.package ];
    systemd.packages = [ cfg.package ];
  };
}
