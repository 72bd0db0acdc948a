# netring on NixOS: `services.netring.enable` runs a member, `services.netring.registry.enable` the registry.
#
# The units are those of the package, from packaging/systemd; this module only adds drop-ins. The module of the flake also sets
# the default of the option package.
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
    enable = lib.mkEnableOption "the netring member, which probes all other members";

    package = lib.mkPackageOption pkgs "netring" { };

    checkConfig = lib.mkOption {
      type = lib.types.bool;
      default = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
      defaultText = lib.literalMD "`true`, unless the build system cannot execute programs of the host system";
      example = false;
      description = ''
        Whether to check the generated configuration with {command}`netring check` while the system is built, so that an error
        fails the build and not the daemon. Set this to false if the configuration refers to values that are only known on the
        host, such as `advertise_ip = "env:POD_IP"`.
      '';
    };
  };

  config = lib.mkIf (cfg.enable || cfg.registry.enable) {
    environment.systemPackages = [ cfg.package ];
    systemd.packages = [ cfg.package ];
  };
}
