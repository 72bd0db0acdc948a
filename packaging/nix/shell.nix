# `nix develop`: the toolchain and every program that tests/run wants.
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
    pkgs.nftables
    pkgs.nixfmt
    pkgs.podman
    pkgs.procps
    pkgs.prometheus
    pkgs.prometheus.cli
    pkgs.python3
    pkgs.redis
    pkgs.rust-analyzer
    pkgs.shellcheck
    pkgs.zsh
  ];
}
