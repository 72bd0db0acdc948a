# The image of one role: the static binary and the CA certificates, the same as packaging/oci builds without Nix.
# `nix build .#member-image && ./result | podman load` loads it into podman.
#
# It runs with a read-only root: it writes only the state (identity and roster) in /var/lib/netring; a volume mounted there
# inherits the owner.
{
  pkgs,
  static,
  role,
}:
let
  about = {
    member = "Probes every other member of the ring and exports the results as Prometheus metrics";
    registry = "Keeps the roster of the members of a netring";
  };
  user = "65532:65532";
  state = "/var/lib/netring";
  seconds = 1000000000;

  root = pkgs.runCommand "netring-${role}-root" { } ''
    install -D --mode=0755 ${pkgs.lib.getExe static} "$out/bin/netring"
    install -D --mode=0644 ${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt "$out/etc/ssl/certs/ca-certificates.crt"
    mkdir -p "$out/etc/netring" "$out/app"
    # The former directory of the configuration files.
    ln -s ../etc/netring "$out/app/config"
  '';
in
pkgs.dockerTools.streamLayeredImage {
  name = "netring-${role}";
  tag = static.version;
  # A fixed time, so that the image is reproducible.
  created = "1970-01-01T00:00:01Z";
  # The files are copied and have no references, so the image needs no Nix store.
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
      # An orchestrator that replaces unhealthy containers must not replace a registry whose store is unavailable, because that
      # registry still has the last roster.
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
