# An image of one role: the static binary, the certificates, and nothing else; what packaging/oci makes without Nix.
# `nix build .#member-image && ./result | podman load` brings it into a local store.
#
# Run it with a read-only root: all it writes is the member's identity and roster or the registry's own store, below
# /var/lib/netring, which a volume takes its owner from.
{
  pkgs,
  static,
  role,
}:
let
  about = {
    member = "Probes every other member of the ring and exports what it saw to Prometheus";
    registry = "Knows who is in the ring of netring";
  };
  user = "65532:65532";
  state = "/var/lib/netring";
  seconds = 1000000000;

  root = pkgs.runCommand "netring-${role}-root" { } ''
    install -D --mode=0755 ${pkgs.lib.getExe static} "$out/bin/netring"
    install -D --mode=0644 ${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt "$out/etc/ssl/certs/ca-certificates.crt"
    mkdir -p "$out/etc/netring" "$out/app"
    # The older place of the configuration files.
    ln -s ../etc/netring "$out/app/config"
  '';
in
pkgs.dockerTools.streamLayeredImage {
  name = "netring-${role}";
  tag = static.version;
  # The same bytes from the same sources.
  created = "1970-01-01T00:00:01Z";
  # The files are copied and refer to nothing else, so there is no Nix store below them.
  includeStorePaths = false;
  fakeRootCommands = ''
    cp --recursive --no-preserve=ownership ${root}/. .
    chmod --recursive u+w .
    install --directory --mode=0700 --owner=65532 --group=65532 .${state}
  '';
  config = {
    Entrypoint = [
      "/bin/netring"
      role
    ];
    User = user;
    ExposedPorts."8756/tcp" = { };
    Env = [ "STATE_DIRECTORY=${state}" ];
    Volumes.${state} = { };
    Healthcheck = {
      Test = [
        "CMD"
        "/bin/netring"
        "healthcheck"
        "--${role}"
      ]
      # What replaces unhealthy containers must not replace a registry whose store is away, for that one has the last roster.
      ++ pkgs.lib.optional (role == "registry") "--alive";
      Interval = 30 * seconds;
      Timeout = 5 * seconds;
      StartPeriod = 10 * seconds;
    };
    Labels = {
      "org.opencontainers.image.title" = "netring-${role}";
      "org.opencontainers.image.description" = about.${role};
      "org.opencontainers.image.version" = static.version;
      "org.opencontainers.image.licenses" = "MIT OR Apache-2.0";
    };
  };
}
