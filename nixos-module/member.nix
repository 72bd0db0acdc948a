# services.netring.enable and services.netring.member: the daemon that probes the other sites.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) types;
  cfg = config.services.netring;
  inherit (cfg.member) settings;
  option = "services.netring.member.settings.member";
  registryPort = cfg.registry.settings.registry.server.port;
  besideRegistry = cfg.registry.enable && registryPort == 8756;
  localRegistry = "http://localhost:${toString registryPort}";
in
{
  options.services.netring.member = {
    settings = lib.mkOption {
      default = { };
      example = lib.literalExpression ''
        {
          member = {
            location = "eu1-office";
            registry.url = "http://registry.us1.example.com:8756";
            intervals.check_interval = "30s";
          };
          log.level = "info";
        }
      '';
      description = ''
        Content of {file}`/etc/netring/member.yaml`, with any key of {manpage}`netring.yaml(5)`. Changes of `member.server`,
        `member.instance_id` and `log.format` restart the member; all other changes are applied by a reload.
      '';
      type = types.submodule {
        freeformType = (pkgs.formats.yaml { }).type;
        options.member = {
          location = lib.mkOption {
            type = types.nonEmptyStr;
            default = config.networking.hostName;
            defaultText = lib.literalExpression "config.networking.hostName";
            example = "eu1-office";
            description = "The site that this member represents, used in the labels of all metrics.";
          };
          registry.url = lib.mkOption {
            type = types.nullOr types.nonEmptyStr;
            default = if cfg.registry.enable then localRegistry else null;
            defaultText = lib.literalMD "the registry of this host, if it is enabled";
            example = "http://registry.us1.example.com:8756";
            description = "The base URL of the registry.";
          };
          server.port = lib.mkOption {
            type = types.port;
            default = if besideRegistry then 8757 else 8756;
            defaultText = lib.literalMD "8756, or 8757 if a registry on this host uses port 8756";
            example = 8757;
            description = "The port to listen on, which the other members probe.";
          };
        };
      };
    };

    openFirewall = lib.mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to open the member's port in the firewall. If it is closed, the other members see this one as down.";
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      (import ./daemon.nix { inherit config lib pkgs; } {
        role = "member";
        inherit settings;
        readAtStart = {
          inherit (settings.member) server;
          instance_id = settings.member.instance_id or null;
          log_format = settings.log.format or null;
        };
      })
      {
        networking.firewall.allowedTCPPorts = lib.mkIf cfg.member.openFirewall [
          settings.member.server.port
        ];

        assertions = [
          {
            assertion = settings.member.registry.url != null;
            message = "${option}.registry.url must name the registry, such as http://registry.us1.example.com:8756.";
          }
          {
            assertion = !(cfg.registry.enable && settings.member.server.port == registryPort);
            message = "${option}.server.port and the port of the registry on this host are both ${toString registryPort}; they must differ.";
          }
          {
            assertion = settings.member.registry.redis_password or null == null;
            message = "${option}.registry.redis_password would be readable by every user in the Nix store, and a member does not use Redis; remove it.";
          }
        ];

        warnings =
          lib.optional
            (settings.member.registry.url == localRegistry && !(settings.member.server ? advertise_ip))
            ''
              ${option}.server.advertise_ip is not set. The registry URL of this member is localhost, so the member would register
              a loopback address, which no other host can reach. Set it to the address that the other sites can reach.'';
      }
    ]
  );
}
