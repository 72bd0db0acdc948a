# Stand-ins for the options of NixOS that the module writes and reads, as the NixOS manual describes them. No option takes what
# it does not declare, so that a misspelt one is an error here as it is there.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  texts = option (types.listOf types.str) [ ];
  atom = types.oneOf [
    types.bool
    types.int
    types.str
    types.path
  ];
  directives = option (types.attrsOf (types.either atom (types.listOf atom))) { };

  service.options = {
    after = texts;
    before = texts;
    bindsTo = texts;
    description = option types.str "";
    documentation = texts;
    environment = option (types.attrsOf (types.nullOr types.str)) { };
    partOf = texts;
    path = option (types.listOf types.package) [ ];
    reloadIfChanged = option types.bool false;
    reloadTriggers = option (types.listOf (types.either types.str types.package)) [ ];
    requires = texts;
    restartIfChanged = option types.bool true;
    restartTriggers = option (types.listOf (types.either types.str types.package)) [ ];
    serviceConfig = directives;
    stopIfChanged = option types.bool true;
    unitConfig = directives;
    wantedBy = texts;
    wants = texts;
  };

  redisServer =
    { name, config, ... }:
    {
      options = {
        enable = option types.bool false;
        group = option types.str config.user;
        port = option types.port 6379;
        unixSocket = option (types.nullOr types.path) "/run/redis-${name}/redis.sock";
        unixSocketPerm = option types.int 660;
        user = option types.str "redis-${name}";
      };
    };
in
{
  options = {
    assertions = option (types.listOf types.raw) [ ];
    environment.etc = option (types.attrsOf (
      types.submodule {
        options = {
          source = mkOption { type = types.path; };
          mode = option types.str "symlink";
        };
      }
    )) { };
    environment.systemPackages = option (types.listOf types.package) [ ];
    networking.firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
    networking.hostName = option types.str "nixos";
    services.prometheus = {
      enable = option types.bool false;
      globalConfig = {
        evaluation_interval = mkOption { type = types.str; };
        scrape_interval = mkOption { type = types.str; };
      };
      ruleFiles = option (types.listOf types.path) [ ];
      scrapeConfigs = option (types.listOf (types.attrsOf types.anything)) [ ];
    };
    services.redis.servers = option (types.attrsOf (types.submodule redisServer)) { };
    specialisation = option (types.attrsOf (
      types.submodule { options.configuration = mkOption { type = types.raw; }; }
    )) { };
    systemd.packages = option (types.listOf types.package) [ ];
    systemd.services = option (types.attrsOf (types.submodule service)) { };
    warnings = texts;
  };
}
