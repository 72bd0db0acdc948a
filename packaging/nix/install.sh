# shellcheck shell=bash disable=SC2154
# Installs the files of the package other than its binary. It runs after the binary is installed in "$out/bin".

# Units, which NixOS uses from here, and the journal catalog, which NixOS does not use.
install -D --mode=0444 --target-directory="$out/lib/systemd/system" packaging/systemd/*.service packaging/systemd/*.socket
for unit in "$out"/lib/systemd/system/*.service; do
    substituteInPlace "$unit" --replace-fail /usr/bin/netring "$out/bin/netring"
done
for catalog in packaging/systemd/*.catalog; do
    [[ ! -e $catalog ]] || install -D --mode=0444 --target-directory="$out/lib/systemd/catalog" "$catalog"
done

# Manual pages and completions, which the binary prints.
mkdir manual
"$out/bin/netring" man --dir manual
installManPage manual/*
for shell in bash fish zsh; do
    "$out/bin/netring" completions "$shell" >"netring.$shell"
    installShellCompletion --cmd netring "--$shell" "netring.$shell"
done

# Files for Prometheus and Grafana, and the sample configurations.
install -D --mode=0444 --target-directory="$out/share/netring" config/alerts.yml config/prometheus.yml
install -D --mode=0444 --target-directory="$out/share/doc/netring" config/member.yaml config/registry.yaml
if [[ -d config/grafana ]]; then
    install -D --mode=0444 --target-directory="$out/share/netring/grafana" config/grafana/*.json
fi
install -D --mode=0444 --target-directory="$out/share/licenses/netring" LICENSE-APACHE LICENSE-MIT
