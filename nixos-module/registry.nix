# services.netring.registry: the daemon that keeps the roster, and optionally a Redis of its own.
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
    enable = lib.mkEnableOption "the netring registry, which keeps the roster of members";

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
        Content of {file}`/etc/netring/registry.yaml`, with any key of {manpage}`netring.yaml(5)` except passwords. Changes of
        `registry.server`, `registry.redis` and `log.format` restart the registry; all other changes are applied by a reload.
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
      description = "Whether to open the registry's port in the firewall. If it is closed, only members on this host can reach it.";
    };

    redis.createLocally = lib.mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to run a Redis for this registry only, on a unix socket. Without Redis the registry keeps the roster in its state
        directory, which is sufficient for a single registry.
      '';
    };

    redisPasswordFile = lib.mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/netring-redis";
      description = ''
        The file with the password of Redis, on the host and outside the Nix store. systemd reads it as root and passes the
        password as a credential.
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

        # The empty first entry removes the entry of the packaged unit.
        systemd.services.netring-registry.serviceConfig.LoadCredential =
          lib.mkIf (cfg.registry.redisPasswordFile != null)
            [
              ""
              "redis-password:${cfg.registry.redisPasswordFile}"
            ];

        assertions = [
          {
            assertion = redisSettings.password or null == null && redisSettings.password_file or null == null;
            message = "${option}.settings.registry.redis: a password here would be readable by every user in the Nix store, and the daemon cannot read a password_file; set ${option}.redisPasswordFile.";
          }
          {
            assertion = cfg.registry.redis.createLocally -> cfg.registry.redisPasswordFile == null;
            message = "${option}.redisPasswordFile has no effect with ${option}.redis.createLocally, because only the registry can open its socket.";
          }
          {
            assertion = cfg.registry.redis.createLocally -> redisSettings.host or null == redis.unixSocket;
            message = "${option}.settings.registry.redis.host names another Redis than the one of ${option}.redis.createLocally; remove one of the two settings.";
          }
          {
            assertion = cfg.registry.redisPasswordFile != null -> redisSettings != { };
            message = "${option}.redisPasswordFile is set, but ${option}.settings.registry.redis.host does not name a Redis.";
          }
        ];
      }
      (lib.mkIf cfg.registry.redis.createLocally {
        services.redis.servers.netring = {
          enable = true;
          # No TCP port, only the socket.
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
