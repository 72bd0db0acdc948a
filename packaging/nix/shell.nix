# `nix develop`: the toolchain and the programs that tests/run wants, but for Debian's linters of packages; what wants those is
# skipped.
{
  pkgs,
  craneLib,
  tools,
}:
craneLib.devShell {
  packages = [
    tools.cargo-deb
    tools.cargo-generate-rpm
    pkgs.cargo-deny
    pkgs.cargo-nextest
    pkgs.curl
    pkgs.deadnix
    pkgs.dpkg
    pkgs.fish
    pkgs.groff
    pkgs.iproute2
    pkgs.jq
    pkgs.kubectl
    pkgs.libfaketime
    pkgs.man-db
    pkgs.mmdebstrap
    pkgs.nftables
    pkgs.nixfmt
    pkgs.podman
    pkgs.procps
    pkgs.prometheus
    pkgs.prometheus.cli
    pkgs.python3
    pkgs.redis
    pkgs.rpm
    pkgs.rust-analyzer
    pkgs.shellcheck
    pkgs.systemd
    pkgs.util-linux
    pkgs.zsh
  ];
}
