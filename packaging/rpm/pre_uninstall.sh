#!/bin/sh
# Runs while the files are still there: $1 is 0 where the package goes and 1 where another version takes its place.
if [ "$1" -eq 0 ]; then
    systemctl --no-reload disable netring-registry.service netring-registry.socket \
        netring-member.service netring-member.socket >/dev/null 2>&1 || :
    if [ -d /run/systemd/system ]; then
        systemctl stop netring-registry.socket netring-registry.service \
            netring-member.socket netring-member.service || :
    fi
fi
