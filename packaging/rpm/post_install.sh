#!/bin/sh
# Runs after the files are installed: $1 is 1 for an installation and 2 for an upgrade.
journalctl --update-catalog >/dev/null 2>&1 || :
if [ "$1" -eq 1 ]; then
    systemctl --no-reload preset netring-registry.service netring-registry.socket \
        netring-member.service netring-member.socket >/dev/null 2>&1 || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
