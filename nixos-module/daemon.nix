# The common part of member and registry: the file in /etc/netring, checked while the system is built, and the drop-in of the
# packaged unit. A changed file reloads the daemon; changed settings that a reload cannot apply restart it.
{
  config,
  lib,
  pkgs,
}:
let
  cfg = config.services.netring;
in
{
  # "member" or "registry": the name of the section, the file and the unit.
  role,
  # The content of the file.
  settings,
  # The part of the settings that netring reads only at the start.
  readAtStart,
}:
let
  plain = (pkgs.formats.yaml { }).generate "netring-${role}.yaml" settings;
  checked = pkgs.runCommand "netring-${role}-checked.yaml" { } ''
    ${lib.getExe cfg.package} check --${role} ${plain}
    cp ${plain} "$out"
  '';
  file = if cfg.checkConfig then checked else plain;
in
{
  environment.etc."netring/${role}.yaml".source = file;

  systemd.services."netring-${role}" = {
    wantedBy = [ "multi-user.target" ];
    reloadTriggers = [ file ];
    # A hash, because the settings may be long and do not belong in a unit file.
    restartTriggers = [ (builtins.hashString "sha256" (builtins.toJSON readAtStart)) ];
    # Restart in one step instead of stopping early in the switch: while the daemon is stopped, the other sites see this one as
    # down.
    stopIfChanged = false;
  };
}
