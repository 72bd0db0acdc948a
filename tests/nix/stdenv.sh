# shellcheck shell=bash disable=SC2154
# The functions of nixpkgs that packaging/nix/install.sh calls, as its manual describes them.

substituteInPlace() { # FILE --replace-fail OLD NEW
    [[ $2 == --replace-fail ]] || return 1
    grep --quiet --fixed-strings "$3" "$1" || { echo "$1: has no $3"; return 1; }
    chmod u+w "$1"
    sed -i "s|$3|$4|g" "$1"
}

installManPage() { # FILE...
    local page
    for page in "$@"; do install -D --mode=0644 "$page" "$out/share/man/man${page##*.}/${page##*/}"; done
}

installShellCompletion() { # --cmd NAME --SHELL FILE
    [[ $1 == --cmd ]] || return 1
    install -D --mode=0644 "$4" "$out/share/completions/$2${3/--/.}"
}
