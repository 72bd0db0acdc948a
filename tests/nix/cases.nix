# Hosts, what must be true of them, and what the module must refuse.
{ lib }:
let
  url = "http://registry.us1.example.com:8756";
  member = settings: {
    services.netring.enable = true;
    services.netring.member.settings = lib.mkMerge [
      { member.registry.url = lib.mkDefault url; }
      settings
    ];
  };
  registry = settings: {
    services.netring.registry.enable = true;
    services.netring.registry.settings = settings;
  };
  both = {
    services.netring.enable = true;
    services.netring.registry.enable = true;
    services.netring.member.settings.member.server.advertise_ip = "192.0.2.1";
  };
  withPassword = {
    services.netring.registry = {
      enable = true;
      settings.registry.redis.host = "redis.example.com";
      redisPasswordFile = "/run/secrets/redis";
    };
  };
in
{
  # Each is evaluated; its units are verified, its configuration is read by the real netring.
  hosts = {
    nothing = { };
    member = member { };
    tuned = member {
      member.location = "eu1-office";
      member.intervals.check_interval = "30s";
      member.checks.http_endpoints = [ "/health" ];
      log.level = "debug";
    };
    moved = member { member.server.port = 9000; };
    renamed = member { member.instance_id = "b2f5ff47-0b5e-4b2c-9d0e-1f3c6a7d8e90"; };
    otherLog = member { log.format = "json"; };
    registry = registry { };
    shorter = registry { registry.member_ttl = "2m"; };
    registryMoved = registry { registry.server.port = 9756; };
    elsewhere = registry { registry.redis.host = "redis.example.com"; };
    registryOtherLog = registry { log.format = "json"; };
    both = both;
    alone = {
      services.netring.enable = true;
      services.netring.registry.enable = true;
    };
    open.imports = [
      both
      {
        services.netring.registry.openFirewall = true;
        services.netring.member.openFirewall = true;
      }
    ];
    shut = {
      services.netring.registry.openFirewall = true;
      services.netring.member.openFirewall = true;
    };
    redis = {
      services.netring.registry.enable = true;
      services.netring.registry.redis.createLocally = true;
    };
    password = withPassword;
    unchecked.imports = [
      (member { member.server.advertise_ip = "env:POD_IP"; })
      { services.netring.checkConfig = false; }
    ];
  };

  sentences =
    host:
    let
      restart = name: host.${name}.service;
      triggers = unit: name: {
        restart = (restart name).${unit}.restartTriggers;
        reload = (restart name).${unit}.reloadTriggers;
      };
      member = triggers "netring-member";
      registry = triggers "netring-registry";
      reloads = a: b: a.restart == b.restart && a.reload != b.reload;
      restarts = a: b: a.restart != b.restart;
      unit = name: service: host.${name}.units.${service};
      has = text: line: builtins.match "(.*\n)?${line}\n.*" text != null;
      settings = name: role: host.${name}.config.services.netring.${role}.settings.${role};
      names = builtins.attrNames;
      file = name: role: host.${name}.etc."netring/${role}.yaml".path;
    in
    {
      "a host without netring has nothing of it" =
        host.nothing.units == { } && host.nothing.etc == { } && host.nothing.packages == [ ];
      "enable and the URL of a registry make a member" =
        names host.member.units == [ "netring-member" ]
        && names host.member.etc == [ "netring/member.yaml" ];
      "a member's location is the name of its host" = (settings "member" "member").location == "nixos";
      "a member listens on 8756" = (settings "member" "member").server.port == 8756;
      "settings of all kinds are in the file" =
        host.tuned.config.services.netring.member.settings == {
          member = {
            location = "eu1-office";
            registry = { inherit url; };
            intervals.check_interval = "30s";
            checks.http_endpoints = [ "/health" ];
            server.port = 8756;
          };
          log.level = "debug";
        };
      "a registry alone is no member" =
        names host.registry.units == [ "netring-registry" ]
        && names host.registry.etc == [ "netring/registry.yaml" ];
      "both on one host have ports and files of their own" =
        (settings "both" "member").server.port == 8757
        && (settings "both" "registry").server.port == 8756
        &&
          names host.both.units == [
            "netring-member"
            "netring-registry"
          ];
      "a member beside a registry finds it" =
        (settings "both" "member").registry.url == "http://localhost:8756";
      "the units are the package's, and start with the system" = builtins.all (
        name:
        builtins.length host.${name}.packages == 1
        && builtins.all (targets: targets == [ "multi-user.target" ]) (
          builtins.attrValues host.${name}.wanted
        )
      ) (builtins.filter (name: host.${name}.units != { }) (names host));
      "a drop-in says when to reload, and nothing else where nothing else is asked for" = builtins.all (
        service:
        service.serviceConfig == { }
        && service.unitConfig == { }
        && service.wants == [ ]
        && service.environment == { }
      ) (builtins.attrValues host.both.service);
      "no port is opened unasked" = host.both.ports == [ ];
      "ports are opened when asked" =
        lib.unique host.open.ports == host.open.ports
        && builtins.length host.open.ports == 2
        && builtins.all (port: builtins.elem port host.open.ports) [
          8756
          8757
        ];
      "no port is opened for what is not enabled" = host.shut.ports == [ ];
      "probing and log levels are reloaded" = reloads (member "member") (member "tuned");
      "a member's port, identity and log format want a restart" =
        restarts (member "member") (member "moved")
        && restarts (member "member") (member "renamed")
        && restarts (member "member") (member "otherLog");
      "a registry's limits are reloaded" = reloads (registry "registry") (registry "shorter");
      "a registry's port, store and log format want a restart" =
        restarts (registry "registry") (registry "registryMoved")
        && restarts (registry "registry") (registry "elsewhere")
        && restarts (registry "registry") (registry "registryOtherLog");
      "the file in force is the one that triggers" =
        (member "tuned").reload == [ host.tuned.config.environment.etc."netring/member.yaml".source ];
      "a restart does not wait for the whole switch" =
        !(restart "both").netring-member.stopIfChanged && !(restart "both").netring-registry.stopIfChanged;
      "the generated configuration is checked before it is used" =
        builtins.match ".*/built/.*" (file "member" "member") != null
        && builtins.match ".*/generated/.*" (file "unchecked" "member") != null;
      "Redis is brought on a socket alone, ordered before the registry, and open to it" =
        host.redis.config.services.redis.servers.netring.enable
        && host.redis.config.services.redis.servers.netring.port == 0
        && (settings "redis" "registry").redis.host == "/run/redis-netring/redis.sock"
        && has (unit "redis" "netring-registry") "After=redis-netring.service"
        && has (unit "redis" "netring-registry") "Wants=redis-netring.service"
        && has (unit "redis" "netring-registry") "SupplementaryGroups=redis-netring";
      "without createLocally there is no Redis" = host.elsewhere.config.services.redis.servers == { };
      "the password is a credential and replaces the packaged place" =
        has (unit "password" "netring-registry") "LoadCredential=\nLoadCredential=redis-password:/run/secrets/redis";
      "the password's place is not in the configuration" =
        (settings "password" "registry").redis == { host = "redis.example.com"; };
      "a member that would register a loopback address is warned of" =
        builtins.length host.alone.warnings == 1
        && builtins.match ".*advertise_ip is not set.*" (builtins.head host.alone.warnings) != null;
      "nobody else is warned" = builtins.all (name: name == "alone" || host.${name}.warnings == [ ]) (
        names host
      );
      "the manual page makes a registry with a Redis elsewhere, and alerts" =
        host.manual.ports == [ 8756 ]
        && (settings "manual" "registry").redis.host == "redis.us1.example.com"
        && (settings "manual" "registry").allowed_networks == [ "10.0.0.0/8" ]
        && builtins.length host.manual.config.services.prometheus.ruleFiles == 1;
      "no assertion fails on a good host" = builtins.all (name: host.${name}.assertions == [ ]) (
        names host
      );
    };

  # What must not pass, by an error or an assertion that says this.
  refusals = {
    "a member without a registry" = {
      host.services.netring.enable = true;
      message = "settings.member.registry.url must name the registry";
    };
    "two daemons on one port" = {
      host.imports = [
        both
        { services.netring.member.settings.member.server.port = 8756; }
      ];
      message = "are both 8756; they must differ";
    };
    "a password in the settings" = {
      host = registry { registry.redis.password = "hunter2"; };
      message = "set services.netring.registry.redisPasswordFile";
    };
    "a password file in the settings" = {
      host = registry { registry.redis.password_file = "/run/secrets/redis"; };
      message = "set services.netring.registry.redisPasswordFile";
    };
    "a password of Redis at a member" = {
      host = member { member.registry.redis_password = "hunter2"; };
      message = "a member does not use Redis; remove it";
    };
    "a password from the Nix store" = {
      host.imports = [
        withPassword
        {
          services.netring.registry.redisPasswordFile = lib.mkForce "${builtins.storeDir}/x6cvb5pd5rx4ps0i5nfkd3hz0ky1hcq0-password";
        }
      ];
      message = "redisPasswordFile' is not of type";
    };
    "a password file by a relative path" = {
      host.imports = [
        withPassword
        { services.netring.registry.redisPasswordFile = lib.mkForce "secrets/redis"; }
      ];
      message = "redisPasswordFile' is not of type";
    };
    "a password for the Redis on a socket" = {
      host.services.netring.registry = {
        enable = true;
        redis.createLocally = true;
        redisPasswordFile = "/run/secrets/redis";
      };
      message = "redisPasswordFile has no effect with";
    };
    "a password without a Redis" = {
      host.services.netring.registry = {
        enable = true;
        redisPasswordFile = "/run/secrets/redis";
      };
      message = "does not name a Redis";
    };
    "a Redis of one's own beside another one" = {
      host.services.netring.registry = {
        enable = true;
        redis.createLocally = true;
        settings.registry.redis.host = "redis.example.com";
      };
      message = "names another Redis than";
    };
    "a port that is a text" = {
      host = member { member.server.port = "8756"; };
      message = "server.port' is not of type";
    };
    "an empty location" = {
      host = member { member.location = ""; };
      message = "location' is not of type";
    };
    "an option that is not there" = {
      host.services.netring.registery.enable = true;
      message = "registery' does not exist";
    };
  };

  # What evaluates, and netring itself must refuse while the system is built.
  faults = {
    "a key that is not there" = {
      host = member { member.intervals.chek_interval = 30; };
      message = "check_interval";
    };
    "a value out of its range" = {
      host = member { member.intervals.check_interval = 0; };
      message = "member.intervals.check_interval";
    };
    "a key at the top that is not there" = {
      host = registry { logs.level = "debug"; };
      message = "logs";
    };
  };
}
