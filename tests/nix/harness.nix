# Evaluates the module on the hosts of cases.nix, and says of each what NixOS would make of it: the drop-ins as text, the files
# in /etc, the commands that check them while the system is built. tests/nix/run does the rest with the real programs.
{
  # Directory or file with a `lib`: that of nixpkgs, or minilib.nix.
  libPath,
  # The sources under test.
  root,
  # Where tests/nix/run will put generated files, and where the package is.
  scratch,
  package,
  # A host as the manual page tells to write it.
  manual,
  # Which of the refusals is asked for, by its name.
  refusal ? "",
}:
let
  lib = import libPath;

  # What is only named here, and made by tests/nix/run.
  named =
    name: path: rest:
    rest
    // {
      inherit name;
      type = "derivation";
      outPath = path;
    };
  netring = named "netring" package { meta.mainProgram = "netring"; };
  # Content has its hash in the name, as in the Nix store, so that another content is another file.
  generate =
    name: value:
    named name "${scratch}/generated/${builtins.hashString "sha256" (builtins.toJSON value)}-${name}"
      { };

  yamlValue =
    lib.types.nullOr (
      lib.types.oneOf [
        lib.types.bool
        lib.types.int
        lib.types.float
        lib.types.str
        lib.types.path
        (lib.types.attrsOf yamlValue)
        (lib.types.listOf yamlValue)
      ]
    )
    // {
      name = "YAML value";
      description = "YAML value";
    };

  pkgs = {
    inherit netring;
    formats.yaml = _: {
      type = yamlValue;
      inherit generate;
    };
    runCommand =
      name: _: script:
      named name "${scratch}/built/${builtins.hashString "sha256" script}-${name}" { inherit script; };
    symlinkJoin = { name, meta, ... }: named name package { inherit meta; };
    stdenv = {
      hostPlatform.system = "x86_64-linux";
      buildPlatform.canExecute = _: true;
    };
  };

  evaluate =
    module:
    lib.evalModules {
      modules = [
        ./nixos.nix
        (root + "/nixos-module")
        module
      ];
      specialArgs = { inherit pkgs; };
    };

  # A test of whole machines: each of them, and each of its other configurations.
  machine =
    file:
    let
      test =
        (lib.evalModules {
          modules = [
            {
              options = {
                name = lib.mkOption { type = lib.types.str; };
                nodes = lib.mkOption { type = lib.types.attrsOf lib.types.raw; };
                testScript = lib.mkOption { type = lib.types.str; };
              };
            }
            file
          ];
        }).config;
    in
    {
      inherit (test) name testScript;
      nodes = lib.mapAttrs (
        _: node:
        let
          evaluated = evaluate node;
        in
        {
          itself = describe evaluated;
          specialisations = lib.mapAttrs (
            _: specialisation:
            describe (evaluate {
              imports = [
                node
                specialisation.configuration
              ];
            })
          ) evaluated.config.specialisation;
        }
      ) test.nodes;
    };

  # A drop-in, as NixOS writes it.
  text =
    value:
    if value == true then
      "true"
    else if value == false then
      "false"
    else
      toString value;
  section =
    directives:
    lib.concatMapStrings (
      name:
      let
        value = directives.${name};
      in
      lib.concatMapStrings (one: "${name}=${text one}\n") (
        if builtins.isList value then value else [ value ]
      )
    ) (builtins.attrNames directives);
  words = name: values: lib.optionalAttrs (values != [ ]) { ${name} = toString values; };
  dropIn =
    service:
    "[Unit]\n"
    + section (
      words "After" service.after
      // words "Requires" service.requires
      // words "Wants" service.wants
      // words "X-Reload-Triggers" service.reloadTriggers
      // words "X-Restart-Triggers" service.restartTriggers
      // service.unitConfig
    )
    + "\n[Service]\n"
    + section (
      lib.optionalAttrs (!service.stopIfChanged) { X-StopIfChanged = false; } // service.serviceConfig
    );

  describe =
    evaluated:
    let
      inherit (evaluated) config;
      cfg = config.services.netring;
      units = lib.filterAttrs (name: _: lib.hasPrefix "netring-" name) config.systemd.services;
      roles = lib.optional cfg.enable "member" ++ lib.optional cfg.registry.enable "registry";
    in
    {
      units = lib.mapAttrs (_: dropIn) units;
      inherit (config) warnings;
      assertions = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
      ports = config.networking.firewall.allowedTCPPorts;
      packages = map toString config.systemd.packages;
      wanted = lib.mapAttrs (_: unit: unit.wantedBy) units;
      generated = map (role: {
        path = toString (generate "netring-${role}.yaml" cfg.${role}.settings);
        value = cfg.${role}.settings;
      }) roles;
      etc = lib.mapAttrs (_: file: {
        path = toString file.source;
        script = file.source.script or null;
      }) config.environment.etc;
    };

  # The options of the project without a description, also those inside of others.
  undocumented =
    prefix: options:
    lib.concatMap (
      name:
      let
        option = options.${name};
        here = "${prefix}.${name}";
      in
      if lib.hasPrefix "_" name then
        [ ]
      else if option._type or null != "option" then
        undocumented here option
      else
        lib.optional (option.description or "" == "") here
        ++ undocumented here ((option.type.getSubOptions or (_: { })) [ here ])
    ) (builtins.attrNames options);

  cases = import ./cases.nix { inherit lib; };
  hosts = lib.mapAttrs (_: evaluate) (cases.hosts // { manual = manual; });
in
{
  all = {
    hosts = lib.mapAttrs (_: describe) hosts;
    sentences = cases.sentences (
      lib.mapAttrs (
        _: host:
        describe host
        // {
          inherit (host) config;
          service = host.config.systemd.services;
        }
      ) hosts
    );
    undocumented = undocumented "services.netring" (evaluate { }).options.services.netring;
    refusals = lib.mapAttrs (_: refused: refused.message) cases.refusals;
    faults = lib.mapAttrs (
      _: fault: describe (evaluate fault.host) // { inherit (fault) message; }
    ) cases.faults;
    machines = {
      ring = machine (root + "/tests/nix/vm/ring.nix");
      life = machine (root + "/tests/nix/vm/life.nix");
    };
  };

  # Evaluated one by one, for each must fail, if only by an assertion.
  refused =
    let
      described = describe (evaluate cases.refusals.${refusal}.host);
    in
    builtins.deepSeq described described.assertions;
}
