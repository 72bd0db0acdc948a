#!/bin/sh
# Runs after the files are removed: $1 is 0 for a removal and 1 for an upgrade.
journalctl --update-catalog >/dev/null 2>&1 || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    # Restarts only running services. The sockets are left alone, so that no connection is refused in the meantime.
    if [ "$1" -ge 1 ]; then
        systemctl try-restart netring-registry.service netring-member.service || :
    fi
fi
if [ "$1" -eq 0 ]; then
    rm -rf -- /run/netring-registry /run/netring-member /run/private/netring-registry /run/private/netring-member
    # The package contains files only, not their directories. Directories that contain other files are kept.
    rmdir /usr/share/netring/grafana /usr/share/netring /usr/share/doc/netring/examples /usr/share/doc/netring \
        /usr/share/licenses/netring /etc/netring 2>/dev/null || :
fi
