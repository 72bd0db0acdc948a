# Four machines: a registry with a Redis of its own and Prometheus with the packaged alerts, and a member at each of three
# sites. A link between two sites is cut, the alert must fire and name the two, and be quiet again when the link is back.
let
  site = location: {
    services.netring = {
      enable = true;
      member.openFirewall = true;
      member.settings.member = {
        inherit location;
        registry.url = "http://hub:8756";
        intervals = {
          poll_interval = 5;
          check_interval = 5;
          heartbeat_interval = 5;
        };
      };
    };
  };
in
{
  name = "netring-ring";

  nodes = {
    hub =
      { config, ... }:
      {
        services.netring.registry = {
          enable = true;
          openFirewall = true;
          redis.createLocally = true;
          settings.registry.member_ttl = 30;
        };
        services.prometheus = {
          enable = true;
          globalConfig.scrape_interval = "5s";
          globalConfig.evaluation_interval = "5s";
          ruleFiles = [ "${config.services.netring.package}/share/netring/alerts.yml" ];
          scrapeConfigs = [
            {
              job_name = "netring";
              http_sd_configs = [
                {
                  url = "http://localhost:8756/prometheus/targets";
                  refresh_interval = "5s";
                }
              ];
            }
          ];
        };
      };
    us1 = site "us1-dc";
    eu1 = site "eu1-office";
    asia1 = site "asia1-dc";
  };

  testScript = builtins.readFile ./ring.py;
}
