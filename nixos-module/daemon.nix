# What member and registry have in common: the file in /etc/netring, checked while the system is built, and the drop-in that
# starts the packaged unit, reloads it for what a reload can take, and restarts it for the rest.
{
  config,
  lib,
  pkgs,
}:
let
  cfg = config.services.netring;
in
{
  # "member" or "registry": the name of section, file and unit.
  role,
  # The whole file.
  settings,
  # The part of it that netring reads only when it starts.
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
    # A hash, for a unit file is no place for what may be a page of settings.
    restartTriggers = [ (builtins.hashString "sha256" (builtins.toJSON readAtStart)) ];
    # Stopped only when the new one can start at once: while it is away, the other sites see this one as down.
    stopIfChanged = false;
  };
}
