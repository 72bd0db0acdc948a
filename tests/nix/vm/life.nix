# One machine with both daemons: what a switch to another configuration or version does to them, and how they are fenced in.
{
  name = "netring-life";

  nodes.site =
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
      services.netring = {
        enable = true;
        registry.enable = true;
        member.settings.member = {
          location = "us1-dc";
          server.advertise_ip = "192.0.2.1";
        };
      };

      specialisation = {
        # Taken by a reload.
        tuned.configuration.services.netring.member.settings.member.intervals.check_interval = "30s";
        # Wants a restart.
        moved.configuration.services.netring.member.settings.member.server.port = 9757;
        # Another program, as an upgrade brings it.
        upgraded.configuration.services.netring.package = lib.mkForce (
          pkgs.symlinkJoin {
            name = "netring-upgraded";
            paths = [ cfg.package ];
            inherit (cfg.package) meta;
            postBuild = ''
              rm "$out"/lib/systemd/system/*.service "$out"/bin/netring
              cp ${cfg.package}/bin/netring "$out/bin/netring"
              for unit in ${cfg.package}/lib/systemd/system/*.service; do
                  substitute "$unit" "$out/lib/systemd/system/''${unit##*/}" --replace-fail ${cfg.package} "$out"
              done
            '';
          }
        );
      };
    };

  testScript = builtins.readFile ./life.py;
}
