# `nix develop`: the toolchain and the programs that tests/run uses. Missing are Debian's package linters, whose checks are skipped
# without them, and the keys of Debian's archive, which mmdebstrap takes from the host.
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
    (pkgs.python3.withPackages (python: [ python.pip ]))
    pkgs.redis
    pkgs.rpm
    pkgs.rust-analyzer
    pkgs.shellcheck
    pkgs.systemd
    pkgs.util-linux
    pkgs.zsh
  ];
}
