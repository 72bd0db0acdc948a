"""The test script of ring.nix; the machines are hub, us1, eu1 and asia1."""

import json

MEMBERS = {"us1-dc": us1, "eu1-office": eu1, "asia1-dc": asia1}


def connectivity(machine):
    """What a member says of each site by TCP: {location: value}."""
    seen = {}
    for line in machine.succeed("curl --fail --silent http://localhost:8756/metrics").splitlines():
        if line.startswith("netring_connectivity_tcp{"):
            location = line.split('target_location="')[1].split('"')[0]
            seen[location] = float(line.rsplit(" ", 1)[1])
    return seen


def alerts():
    """The alerts that fire: [(name, labels)]."""
    answer = json.loads(hub.succeed("curl --fail --silent http://localhost:9090/api/v1/alerts"))
    return [
        (alert["labels"]["alertname"], alert["labels"])
        for alert in answer["data"]["alerts"]
        if alert["state"] == "firing"
    ]


def between(labels, one, other):
    return {labels.get("source_location"), labels.get("target_location")} == {one, other}


def wait(what, condition):
    """Waits at most five minutes; the alerts hold back for two."""

    def tried(_last):
        return condition()

    with log.nested(what):
        retry(tried, 300)


start_all()
hub.wait_for_unit("netring-registry.service")
hub.wait_for_unit("prometheus.service")
for member in MEMBERS.values():
    member.wait_for_unit("netring-member.service")

with subtest("every site reaches every other one"):
    for location, member in MEMBERS.items():
        others = {other: 1.0 for other in MEMBERS if other != location}
        wait(f"{location} reaches the others", lambda: connectivity(member) == others)

with subtest("the roster is in Redis, on the socket alone"):
    hub.succeed("test -S /run/redis-netring/redis.sock")
    hub.fail("ss --listening --tcp --numeric | grep :6379")
    hub.succeed("curl --fail --silent http://localhost:8756/health")

with subtest("a cut link is seen at both ends, and alerted"):
    address = us1.succeed("getent ahostsv4 eu1 | awk '{ print $1; exit }'").strip()
    us1.succeed(f"iptables --insert INPUT --source {address} --jump DROP")
    us1.succeed(f"iptables --insert OUTPUT --destination {address} --jump DROP")
    wait("us1 misses eu1", lambda: connectivity(us1).get("eu1-office") == 0.0)
    wait("eu1 misses us1", lambda: connectivity(eu1).get("us1-dc") == 0.0)
    assert connectivity(asia1) == {"us1-dc": 1.0, "eu1-office": 1.0}, "the third site is not concerned"
    wait(
        "the alert fires",
        lambda: any(
            name == "NetringConnectivityDown" and between(labels, "us1-dc", "eu1-office") for name, labels in alerts()
        ),
    )
    assert not any("asia1-dc" in labels.values() for _, labels in alerts()), "nobody else is blamed"

with subtest("the cure is seen"):
    us1.succeed(f"iptables --delete INPUT --source {address} --jump DROP")
    us1.succeed(f"iptables --delete OUTPUT --destination {address} --jump DROP")
    wait("us1 reaches eu1 again", lambda: connectivity(us1).get("eu1-office") == 1.0)
    wait("no alert fires", lambda: not any(name == "NetringConnectivityDown" for name, _ in alerts()))

with subtest("a lost registry stops no check"):
    hub.succeed("systemctl stop netring-registry.service")
    us1.sleep(15)
    assert connectivity(us1) == {"eu1-office": 1.0, "asia1-dc": 1.0}
    hub.succeed("systemctl start netring-registry.service")
    hub.wait_until_succeeds("curl --fail --silent http://localhost:8756/members | grep eu1-office", 60)
