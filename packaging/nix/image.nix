# An image of one role: the static binary, the certificates, and nothing else; what packaging/oci/Containerfile makes without
# Nix. `nix build .#member-image && ./result | podman load` brings it into a local store.
#
# It needs no writable file of its own: run it with a read-only root. Who wants a member to keep its identity mounts a volume
# that user 65532 may write and names it by STATE_DIRECTORY.
{
  pkgs,
  static,
  role,
}:
let
  # One file, and no Nix store below it: the layer is the binary alone.
  root = pkgs.runCommand "netring-${role}-root" { } ''
    install -D --mode=0555 ${pkgs.lib.getExe static} "$out/bin/netring"
    install -D --mode=0444 ${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt "$out/etc/ssl/certs/ca-certificates.crt"
    mkdir -p "$out/etc/netring"
  '';
in
pkgs.dockerTools.streamLayeredImage {
  name = "netring-${role}";
  tag = static.version;
  # The same bytes from the same sources.
  created = "1970-01-01T00:00:01Z";
  # What is in `root` is copied, and refers to nothing else.
  includeStorePaths = false;
  extraCommands = "cp --recursive --no-preserve=ownership ${root}/. .";
  config = {
    Entrypoint = [
      "/bin/netring"
      role
    ];
    User = "65532:65532";
    ExposedPorts."8756/tcp" = { };
    WorkingDir = "/";
    Env = [ "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" ];
    Labels = {
      "org.opencontainers.image.title" = "netring-${role}";
      "org.opencontainers.image.description" = static.meta.description;
      "org.opencontainers.image.version" = static.version;
      "org.opencontainers.image.licenses" = "MIT OR Apache-2.0";
    };
  };
}
