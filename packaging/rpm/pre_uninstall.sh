#!/bin/sh
# Runs before the files are removed: $1 is 0 for a removal and 1 for an upgrade.
if [ "$1" -eq 0 ]; then
    systemctl --no-reload disable netring-registry.service netring-registry.socket \
        netring-member.service netring-member.socket >/dev/null 2>&1 || :
    if [ -d /run/systemd/system ]; then
        systemctl stop netring-registry.socket netring-registry.service \
            netring-member.socket netring-member.service || :
    fi
fi
