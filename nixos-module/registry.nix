# services.netring.registry: the daemon that knows who is in the ring, and a Redis of its own where that is wanted.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) types;
  cfg = config.services.netring;
  inherit (cfg.registry) settings;
  option = "services.netring.registry";
  redis = config.services.redis.servers.netring;
  redisSettings = if settings.registry.redis or null == null then { } else settings.registry.redis;
in
{
  options.services.netring.registry = {
    enable = lib.mkEnableOption "the netring registry, which knows who is in the ring";

    settings = lib.mkOption {
      default = { };
      example = lib.literalExpression ''
        {
          registry = {
            redis.host = "redis.us1.example.com";
            member_ttl = "5m";
            allowed_networks = [ "10.0.0.0/8" ];
          };
        }
      '';
      description = ''
        {file}`/etc/netring/registry.yaml`, as an attribute set: every key that {manpage}`netring.yaml(5)` describes may stand
        here, but no password. All but `registry.server`, `registry.redis` and `log.format` takes effect by a reload.
      '';
      type = types.submodule {
        freeformType = (pkgs.formats.yaml { }).type;
        options.registry.server.port = lib.mkOption {
          type = types.port;
          default = 8756;
          example = 8756;
          description = "The port to listen on.";
        };
      };
    };

    openFirewall = lib.mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to open the registry's port in the firewall. Without it only members on this host can reach it.";
    };

    redis.createLocally = lib.mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to run a Redis for this registry alone, on a unix socket. Without Redis the registry keeps the roster in its
        state directory, which is all that a single registry needs.
      '';
    };

    redisPasswordFile = lib.mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/netring-redis";
      description = ''
        The file with the password of Redis, on the host and outside the Nix store. systemd reads it as root and hands it over
        as a credential.
      '';
    };
  };

  config = lib.mkIf cfg.registry.enable (
    lib.mkMerge [
      (import ./daemon.nix { inherit config lib pkgs; } {
        role = "registry";
        inherit settings;
        readAtStart = {
          inherit (settings.registry) server;
          redis = redisSettings;
          log_format = settings.log.format or null;
        };
      })
      {
        networking.firewall.allowedTCPPorts = lib.mkIf cfg.registry.openFirewall [
          settings.registry.server.port
        ];

        # The first, empty one forgets the packaged place of the password.
        systemd.services.netring-registry.serviceConfig.LoadCredential =
          lib.mkIf (cfg.registry.redisPasswordFile != null)
            [
              ""
              "redis-password:${cfg.registry.redisPasswordFile}"
            ];

        assertions = [
          {
            assertion = redisSettings.password or null == null && redisSettings.password_file or null == null;
            message = "${option}.settings.registry.redis: a password here would be readable for everyone in the Nix store, and a password_file is out of the daemon's reach; set ${option}.redisPasswordFile.";
          }
          {
            assertion = cfg.registry.redis.createLocally -> cfg.registry.redisPasswordFile == null;
            message = "${option}.redisPasswordFile has no use with ${option}.redis.createLocally: its socket is for the registry alone.";
          }
          {
            assertion = cfg.registry.redis.createLocally -> redisSettings.host or null == redis.unixSocket;
            message = "${option}.settings.registry.redis.host names another Redis than ${option}.redis.createLocally makes; take one of them away.";
          }
          {
            assertion = cfg.registry.redisPasswordFile != null -> redisSettings != { };
            message = "${option}.redisPasswordFile is set, but ${option}.settings.registry.redis.host names no Redis.";
          }
        ];
      }
      (lib.mkIf cfg.registry.redis.createLocally {
        services.redis.servers.netring = {
          enable = true;
          # No TCP port: the socket alone.
          port = 0;
        };
        services.netring.registry.settings.registry.redis.host = lib.mkDefault redis.unixSocket;
        systemd.services.netring-registry = {
          wants = [ "redis-netring.service" ];
          after = [ "redis-netring.service" ];
          serviceConfig.SupplementaryGroups = [ redis.group ];
        };
      })
    ]
  );
}
