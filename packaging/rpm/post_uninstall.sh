#!/bin/sh
# Runs after the files are gone: $1 is 0 where the package went and 1 where another version took its place.
journalctl --update-catalog >/dev/null 2>&1 || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    # Only what runs is restarted. The sockets stay as they are, so that no connection is refused meanwhile.
    if [ "$1" -ge 1 ]; then
        systemctl try-restart netring-registry.service netring-member.service || :
    fi
fi
if [ "$1" -eq 0 ]; then
    rm -rf -- /run/netring-registry /run/netring-member /run/private/netring-registry /run/private/netring-member
    # The package lists its files, not its directories. What somebody put there stays.
    rmdir /usr/share/netring/grafana /usr/share/netring /usr/share/doc/netring/examples /usr/share/doc/netring \
        /usr/share/licenses/netring /etc/netring 2>/dev/null || :
fi
