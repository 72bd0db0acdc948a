"""The test script of life.nix; the machine is site."""

import json

UNITS = ["netring-registry.service", "netring-member.service"]


def health(port):
    return json.loads(site.wait_until_succeeds(f"curl --fail --silent http://localhost:{port}/health", 60))


def pid(unit):
    return int(site.succeed(f"systemctl show --property MainPID --value {unit}"))


def switch(to):
    site.succeed(f"/run/booted-system/specialisation/{to}/bin/switch-to-configuration test")


def back():
    site.succeed("/run/booted-system/bin/switch-to-configuration test")


site.start()
for unit in UNITS:
    site.wait_for_unit(unit)
identity = health(8757)["instance_id"]

with subtest("what a reload can take is reloaded"):
    before = {unit: pid(unit) for unit in UNITS}
    switch("tuned")
    assert {unit: pid(unit) for unit in UNITS} == before, "nothing was restarted"
    site.succeed("journalctl --unit netring-member.service --grep 'configuration reloaded'")
    site.fail("journalctl --unit netring-registry.service --grep 'configuration reloaded'")
    back()

with subtest("a new port restarts the member alone"):
    before = {unit: pid(unit) for unit in UNITS}
    switch("moved")
    assert health(9757)["instance_id"] == identity
    assert pid("netring-registry.service") == before["netring-registry.service"]
    assert pid("netring-member.service") != before["netring-member.service"]
    back()

with subtest("an upgrade keeps the identity"):
    before = {unit: pid(unit) for unit in UNITS}
    switch("upgraded")
    assert health(8757)["instance_id"] == identity
    assert all(pid(unit) != before[unit] for unit in UNITS), "both run the new program"
    site.succeed("readlink /proc/$(systemctl show --property MainPID --value netring-member.service)/exe | grep upgraded")
    back()

with subtest("a crash is mended and keeps the identity"):
    site.succeed("systemctl kill --signal=KILL netring-member.service")
    site.wait_until_succeeds("systemctl show --property NRestarts --value netring-member.service | grep --line-regexp 1", 60)
    assert health(8757)["instance_id"] == identity

with subtest("the daemons are fenced in"):
    for unit in UNITS:
        site.succeed(f"systemd-analyze security --threshold=15 {unit}")
        status = site.succeed(f"cat /proc/{pid(unit)}/status")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        assert int(fields["CapEff"], 16) == 0, fields["CapEff"]
        assert int(fields["CapBnd"], 16) == 0, fields["CapBnd"]
        assert fields["NoNewPrivs"].strip() == "1"
        assert fields["Seccomp"].strip() == "2"
        assert int(fields["Uid"].split()[0]) >= 61184, "a dynamic user"
        name = unit.removesuffix(".service")
        site.succeed(f"test $(stat --format=%a /var/lib/private/{name}) = 700")

with subtest("nothing listens but the two ports"):
    listening = site.succeed("ss --listening --tcp --numeric --no-header --processes | grep netring || true")
    ports = {line.split()[3].rsplit(":", 1)[1] for line in listening.splitlines()}
    assert ports == {"8756", "8757"}, ports
