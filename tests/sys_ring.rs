//! A ring of three booted hosts, installed from the package, on a network that can be cut: what `/metrics`, STATUS and the
//! journal say while it loses a cable, a host, its registry, and that nothing needs a hand to mend.

pub mod support;

use std::time::Duration;

use netring::host::logging::events::{self, KINDS};
use serde_json::Value;
use support::booted::{Booted, MEMBER_PORT, REGISTRY_PORT, System, tells};
use support::fabric::Fabric;
use support::metrics::Metrics;
use support::packages::Packages;
use support::{SOON, eventually, holds};

const REGISTRY: &str = "netring-registry.service";
const MEMBER: &str = "netring-member.service";

const CONFIGURATION: &str = "/etc/netring/member.yaml";

const LOCATIONS: [&str; 3] = ["us1", "eu1", "asia1"];

/// The hosts by their place in [`LOCATIONS`]: us1 has the registry too, asia1 the newer systemd.
const US1: usize = 0;
const EU1: usize = 1;
const ASIA1: usize = 2;

/// What the member of a host says while all is well.
const WELL: &str = "2 peers at 2 locations";

/// How long a member is told unwell after the last trouble, and some time to notice.
const WELL_AGAIN: Duration = Duration::from_secs(90);

struct Ring {
    hosts: Vec<Booted>,
    // Declared after the hosts, so that they go before it.
    fabric: Fabric,
}

impl Ring {
    /// A registry and three members, all well.
    fn start() -> Option<Self> {
        let packages = Packages::build(env!("CARGO_PKG_VERSION"), None)?;
        let fabric = Fabric::new(&LOCATIONS)?;
        let mut hosts = Vec::new();
        for (host, system) in fabric.hosts().iter().zip([System::Bookworm, System::Bookworm, System::Trixie]) {
            let host = Booted::start(host, system)?;
            host.copy(packages.deb(), "/root/netring.deb", 0o644);
            host.run(&["apt-get", "install", "/root/netring.deb"]);
            hosts.push(host);
        }
        hosts[US1].configure_registry();
        hosts[US1].run(&["systemctl", "enable", "--now", REGISTRY]);
        for (host, location) in hosts.iter().zip(LOCATIONS) {
            host.configure_member(location, &hosts[US1].host);
            // Half a second is little on a busy machine that has three hosts to run.
            let yaml = host.read(CONFIGURATION).replace("_timeout: 0.5", "_timeout: 0.9");
            host.write(CONFIGURATION, &yaml);
            host.run(&["systemctl", "enable", "--now", MEMBER]);
        }
        let ring = Self { hosts, fabric };
        ring.wait_until_connected();
        Some(ring)
    }

    /// Waits until the registry lists all and each member reaches the other two in every way.
    #[track_caller]
    fn wait_until_connected(&self) {
        self.hosts[US1].wait_for_property(SOON, REGISTRY, "StatusText", "3 members at 3 locations, store embedded");
        for from in [US1, EU1, ASIA1] {
            for to in others(from) {
                self.wait_until_seen(from, to, true);
            }
        }
    }

    /// Waits until everybody says that all is well, and nothing else.
    #[track_caller]
    fn wait_until_well(&self) {
        self.wait_until_connected();
        for host in &self.hosts {
            host.wait_for_property(WELL_AGAIN, MEMBER, "StatusText", WELL);
            host.wait_for_value(MEMBER_PORT, "netring_local_health", &[], Some(1.0));
            host.wait_for_value(MEMBER_PORT, "netring_registry_up", &[], Some(1.0));
            for unit in [REGISTRY, MEMBER] {
                assert_eq!(host.property(unit, "NRestarts"), "0", "{unit} on {}", host.host.name);
            }
            assert_eq!(host.run(&["systemctl", "is-system-running"]), "running\n");
        }
    }

    /// Waits until every check that one host makes of another succeeds, or until every one fails.
    #[track_caller]
    fn wait_until_seen(&self, from: usize, to: usize, up: bool) {
        let what = format!("{} is {}", LOCATIONS[to], if up { "up" } else { "down" });
        self.hosts[from].wait_for_metrics(SOON, MEMBER_PORT, &what, |metrics| {
            let states = states(metrics, to);
            holds(states == vec![f64::from(u8::from(up)); 3], states)
        });
    }

    /// Waits until a member knows nothing of another any more: no series of it is left.
    #[track_caller]
    fn wait_until_forgotten(&self, from: usize, to: usize) {
        let what = format!("{} is forgotten", LOCATIONS[to]);
        self.hosts[from].wait_for_metrics(SOON, MEMBER_PORT, &what, |metrics| {
            let left: Vec<_> = metrics
                .names()
                .flat_map(|name| metrics.series(name, &[("target_location", LOCATIONS[to])]))
                .map(|sample| &sample.name)
                .collect();
            holds(left.is_empty(), left)
        });
        let _ = self.wait_for_status(from, "", "1 peer at 1 location");
    }

    /// Waits until a member says of another, and of no other, that this check fails, and gives back with what reason.
    #[track_caller]
    fn wait_for_failing(&self, from: usize, to: usize, check: &str) -> String {
        let begin = format!("{WELL}, 1 failing: {} ({check} ", LOCATIONS[to]);
        self.wait_for_status(from, &begin, ") for under 2 min")
    }

    /// Waits until a member says a status with this beginning and this end, and gives back what is between them. Where the
    /// beginning is nothing, the member may say first that it is itself unwell.
    #[track_caller]
    fn wait_for_status(&self, of: usize, begin: &str, end: &str) -> String {
        eventually(SOON, &format!("{} says {begin}...{end}", LOCATIONS[of]), || {
            let status = self.hosts[of].property(MEMBER, "StatusText");
            let between = status.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
            between.map(str::to_owned).ok_or(status)
        })
    }

    /// The identity of a member.
    fn identity(&self, of: usize) -> Value {
        self.hosts[of].get(MEMBER_PORT, "/health").json()["instance_id"].clone()
    }

    /// When the registry wrote each member down, by its identity, as it stands on the roster.
    fn roster(&self) -> Vec<(String, String)> {
        let members = self.hosts[US1].get(REGISTRY_PORT, "/members").json()["members"].clone();
        let members = members.as_array().expect("a list").iter();
        let mut roster: Vec<_> =
            members.map(|member| (member["instance_id"].to_string(), member["registered_at"].to_string())).collect();
        roster.sort();
        roster
    }

    /// Where each journal ends now: what is told later is told of what happens now.
    fn mark(&self) -> Marks {
        Marks(self.hosts.iter().map(|host| [REGISTRY, MEMBER].map(|unit| host.journal(unit).len())).collect())
    }

    /// What a unit has told since then, where the fields have these values.
    fn told(&self, since: &Marks, on: usize, unit: &str, fields: &[Field]) -> Vec<Value> {
        let entries = self.hosts[on].journal(unit).into_iter().skip(since.0[on][usize::from(unit == MEMBER)]);
        entries.filter(|entry| fields.iter().all(|(field, value)| tells(entry, field, value))).collect()
    }

    /// Waits until a unit has told this so many times since then, and fails where it is more.
    #[track_caller]
    fn wait_until_told(&self, since: &Marks, on: usize, unit: &str, fields: &[Field], times: usize) {
        eventually(SOON, &format!("{} tells {times} times: {fields:?}", LOCATIONS[on]), || {
            let told = self.told(since, on, unit, fields);
            assert!(told.len() <= times, "more than {times} times: {told:#?}");
            holds(told.len() == times, told)
        });
    }

    /// Waits until a member has told of an event of its own once since then.
    #[track_caller]
    fn wait_until_told_once(&self, since: &Marks, on: usize, event: &str) {
        let own = ("NETRING_LOCATION", LOCATIONS[on]);
        self.wait_until_told(since, on, MEMBER, &[kind(event), own], 1);
    }

    /// Waits until a member has told that the three checks of a peer went down, or up again, and fails unless once each.
    #[track_caller]
    fn wait_until_told_of(&self, since: &Marks, on: usize, event: &str, of: usize) {
        for (check, times) in [("tcp", 1), ("http", 2)] {
            let fields = [kind(event), ("NETRING_TARGET_LOCATION", LOCATIONS[of]), ("NETRING_CHECK", check)];
            self.wait_until_told(since, on, MEMBER, &fields, times);
        }
    }

    /// Fails where a member has blamed a peer since then.
    #[track_caller]
    fn assert_nobody_blamed(&self, since: &Marks, by: usize) {
        let told = self.told(since, by, MEMBER, &[kind(events::PEER_DOWN)]);
        assert!(told.is_empty(), "{} blames: {told:#?}", LOCATIONS[by]);
    }

    /// Fails where a member, or the registry beside it, has told of an event worth an alert since then.
    #[track_caller]
    fn assert_quiet(&self, since: &Marks, on: usize, unit: &str) {
        let told = self.told(since, on, unit, &[]);
        let told: Vec<_> = told.iter().filter(|entry| entry.get("MESSAGE_ID").is_some()).collect();
        assert!(told.is_empty(), "{unit} of {}: {told:#?}", LOCATIONS[on]);
    }
}

/// A field of the journal with its value.
type Field<'a> = (&'a str, &'a str);

/// The field that marks a kind of event.
fn kind(name: &str) -> Field<'static> {
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("there is such a kind");
    ("MESSAGE_ID", kind.id)
}

/// How long each journal was.
struct Marks(Vec<[usize; 2]>);

fn others(host: usize) -> [usize; 2] {
    [(host + 1) % 3, (host + 2) % 3]
}

/// What a member knows of the checks of a peer: one by TCP, two by HTTP.
fn states(metrics: &Metrics, of: usize) -> Vec<f64> {
    ["netring_connectivity_tcp", "netring_connectivity_http"]
        .iter()
        .flat_map(|name| metrics.series(name, &[("target_location", LOCATIONS[of])]))
        .map(|sample| sample.value)
        .collect()
}

fn failures(metrics: &Metrics, of: usize, reasons: &[&str]) -> f64 {
    let of = ("target_location", LOCATIONS[of]);
    reasons.iter().map(|reason| metrics.sum("netring_check_failures_total", &[of, ("reason", reason)])).sum()
}

#[test]
fn a_cable_is_pulled_and_hosts_stand_still() {
    let Some(ring) = Ring::start() else { return };
    ring.wait_until_well();
    a_cable_is_pulled(&ring);
    a_host_stands_still(&ring);
    a_host_stands_still_for_longer_than_its_lease(&ring);
    ring.wait_until_well();
}

fn a_cable_is_pulled(ring: &Ring) {
    let marks = ring.mark();
    ring.fabric.unplug(&ring.hosts[ASIA1].host);
    for from in [US1, EU1] {
        ring.wait_until_seen(from, ASIA1, false);
        let reason = ring.wait_for_failing(from, ASIA1, "tcp");
        assert!(["timeout", "unreachable"].contains(&&*reason), "{reason}");
        ring.wait_until_told_of(&marks, from, events::PEER_DOWN, ASIA1);
    }
    // For a while nothing changes: whose cable is out has no word against anybody, and the others none against each other.
    std::thread::sleep(Duration::from_secs(4));
    for (from, to) in [(US1, EU1), (EU1, US1)] {
        ring.wait_until_seen(from, to, true);
        ring.wait_for_failing(from, ASIA1, "tcp");
        ring.wait_until_told_of(&marks, from, events::PEER_DOWN, ASIA1);
        let metrics = Metrics::parse(&ring.hosts[from].get(MEMBER_PORT, "/metrics").text()).expect("metrics");
        assert!(failures(&metrics, ASIA1, &["timeout", "unreachable"]) >= 3.0);
        assert_eq!(failures(&metrics, ASIA1, &["local"]), 0.0, "{} takes it on itself", LOCATIONS[from]);
        assert_eq!(metrics.value("netring_local_health", &[]), Some(1.0));
    }
    let asia1 = &ring.hosts[ASIA1];
    asia1.wait_for_value(MEMBER_PORT, "netring_local_health", &[], Some(0.0));
    asia1.wait_for_value(MEMBER_PORT, "netring_registry_up", &[], Some(0.0));
    asia1.wait_for_metrics(SOON, MEMBER_PORT, "what it knew is not known any more", |metrics| {
        let known = others(ASIA1).map(|to| states(metrics, to)).concat();
        holds(known.is_empty(), known)
    });
    ring.wait_for_status(ASIA1, "unwell, it cannot probe ", &format!("; {WELL}, registry away"));
    ring.wait_until_told_once(&marks, ASIA1, events::MEMBER_UNWELL);
    ring.wait_until_told_once(&marks, ASIA1, events::REGISTRY_LOST);
    ring.assert_nobody_blamed(&marks, ASIA1);

    ring.fabric.heal();
    ring.wait_until_connected();
    for from in [US1, EU1] {
        let _ = ring.wait_for_status(from, "", WELL);
        ring.wait_until_told_of(&marks, from, events::PEER_UP, ASIA1);
    }
    ring.wait_until_told_once(&marks, ASIA1, events::REGISTRY_BACK);
    ring.wait_until_told_once(&marks, ASIA1, events::REGISTRY_LOST);
    ring.assert_nobody_blamed(&marks, ASIA1);
    ring.assert_quiet(&marks, US1, REGISTRY);
}

fn a_host_stands_still(ring: &Ring) {
    let marks = ring.mark();
    let eu1 = &ring.hosts[EU1];
    eu1.freeze();
    for from in [US1, ASIA1] {
        // Its kernel takes connections as before; nobody answers.
        ring.hosts[from].wait_for_metrics(SOON, MEMBER_PORT, "eu1 does not answer", |metrics| {
            let states = states(metrics, EU1);
            holds(states == [1.0, 0.0, 0.0], states)
        });
    }
    assert_eq!(ring.wait_for_failing(US1, EU1, "http"), "timeout");
    std::thread::sleep(Duration::from_secs(3));
    eu1.thaw();
    eu1.wait_for_value(MEMBER_PORT, "netring_local_health", &[], Some(0.0));
    ring.wait_until_connected();
    ring.wait_for_status(EU1, "unwell, the process stood still for ", &format!("; {WELL}"));
    for from in [US1, ASIA1] {
        let eu1 = [("NETRING_TARGET_LOCATION", "eu1"), ("NETRING_CHECK", "http")];
        let down = [&[kind(events::PEER_DOWN), ("NETRING_REASON", "timeout")][..], &eu1].concat();
        ring.wait_until_told(&marks, from, MEMBER, &down, 2);
        ring.wait_until_told(&marks, from, MEMBER, &[&[kind(events::PEER_UP)][..], &eu1].concat(), 2);
        ring.wait_until_told(&marks, from, MEMBER, &[kind(events::PEER_DOWN)], 2);
    }
    let _ = ring.wait_for_status(US1, "", WELL);
    ring.assert_nobody_blamed(&marks, EU1);
    ring.wait_until_told_once(&marks, EU1, events::MEMBER_UNWELL);
    // Its lease was long enough.
    ring.assert_quiet(&marks, US1, REGISTRY);
}

fn a_host_stands_still_for_longer_than_its_lease(ring: &Ring) {
    let (us1, asia1) = (&ring.hosts[US1], &ring.hosts[ASIA1]);
    let yaml = us1.read("/etc/netring/registry.yaml").replace("member_ttl: 60", "member_ttl: 5");
    us1.write("/etc/netring/registry.yaml", &yaml);
    us1.run(&["systemctl", "reload", REGISTRY]);
    // Leases that were renewed before have the length of then.
    let last_seen = |id: &Value| {
        let members = us1.get(REGISTRY_PORT, "/members").json()["members"].clone();
        let members = members.as_array().expect("a list").clone();
        members.into_iter().find(|member| member["instance_id"] == *id).map(|member| member["last_seen"].as_u64())
    };
    let before = last_seen(&ring.identity(ASIA1));
    eventually(SOON, "the lease of asia1 is renewed", || {
        let now = last_seen(&ring.identity(ASIA1));
        holds(now > before, now)
    });
    let (marks, id, roster) = (ring.mark(), ring.identity(ASIA1), ring.roster());
    asia1.freeze();
    for from in [US1, EU1] {
        ring.wait_until_forgotten(from, ASIA1);
    }
    us1.wait_for_property(SOON, REGISTRY, "StatusText", "2 members at 2 locations, store embedded");
    let instance = ("NETRING_INSTANCE", id.as_str().expect("a text"));
    ring.wait_until_told(&marks, US1, REGISTRY, &[kind(events::LEASE_ENDED), instance], 1);

    asia1.thaw();
    ring.wait_until_connected();
    assert_eq!(ring.identity(ASIA1), id);
    ring.wait_until_told(&marks, US1, REGISTRY, &[("MESSAGE", "member joined the ring"), instance], 1);
    ring.assert_nobody_blamed(&marks, ASIA1);
    let kept = ring.roster().into_iter().filter(|member| roster.contains(member)).count();
    assert_eq!(kept, 2, "the others were never away");
}

#[test]
fn hosts_and_the_registry_lose_their_power() {
    let Some(mut ring) = Ring::start() else { return };
    ring.wait_until_well();
    a_host_is_shut_down_and_boots_again(&mut ring);
    a_host_loses_its_power_and_boots_again(&mut ring);
    the_host_of_the_registry_reboots(&mut ring);
    ring.wait_until_well();
}

fn a_host_is_shut_down_and_boots_again(ring: &mut Ring) {
    let (marks, id) = (ring.mark(), ring.identity(EU1));
    ring.hosts[EU1].power_off();
    for from in [US1, ASIA1] {
        ring.wait_until_forgotten(from, EU1);
        // It is forgotten within a poll. Who probed it just before that found its port closed, and no more.
        ring.wait_until_told(
            &marks,
            from,
            MEMBER,
            &[("MESSAGE", "a peer left"), ("NETRING_TARGET_LOCATION", "eu1")],
            1,
        );
        let told = ring.told(&marks, from, MEMBER, &[]);
        let (last, before) = told.split_last().expect("that it left");
        assert!(tells(last, "MESSAGE", "a peer left"), "{last:#?}");
        assert!(before.iter().all(|entry| entry["NETRING_REASON"] == "refused"), "{before:#?}");
    }
    let instance = ("NETRING_INSTANCE", id.as_str().expect("a text"));
    ring.wait_until_told(&marks, US1, REGISTRY, &[("MESSAGE", "member left the ring: it deregistered"), instance], 1);

    ring.hosts[EU1].boot();
    ring.wait_until_connected();
    assert_eq!(ring.identity(EU1), id);
    ring.wait_until_told(&marks, US1, REGISTRY, &[("MESSAGE", "member joined the ring"), instance], 1);
    ring.assert_quiet(&marks, US1, REGISTRY);
    for of in [US1, EU1, ASIA1] {
        let _ = ring.wait_for_status(of, "", WELL);
    }
}

fn a_host_loses_its_power_and_boots_again(ring: &mut Ring) {
    let (marks, id) = (ring.mark(), ring.identity(ASIA1));
    ring.fabric.unplug(&ring.hosts[ASIA1].host);
    ring.hosts[ASIA1].power_cut();
    for from in [US1, EU1] {
        ring.wait_until_seen(from, ASIA1, false);
        let reason = ring.wait_for_failing(from, ASIA1, "tcp");
        assert!(["timeout", "unreachable"].contains(&&*reason), "{reason}");
        ring.wait_until_told_of(&marks, from, events::PEER_DOWN, ASIA1);
        for entry in ring.told(&marks, from, MEMBER, &[kind(events::PEER_DOWN)]) {
            assert_eq!((&entry["PRIORITY"], &entry["NETRING_TARGET"]), (&"4".into(), &id), "{entry}");
        }
    }

    ring.fabric.heal();
    ring.hosts[ASIA1].boot();
    ring.wait_until_connected();
    assert_eq!(ring.identity(ASIA1), id);
    for from in [US1, EU1] {
        let _ = ring.wait_for_status(from, "", WELL);
        ring.wait_until_told_of(&marks, from, events::PEER_UP, ASIA1);
    }
    // Its lease was long enough.
    ring.assert_quiet(&marks, US1, REGISTRY);
}

fn the_host_of_the_registry_reboots(ring: &mut Ring) {
    let (marks, id, roster) = (ring.mark(), ring.identity(US1), ring.roster());
    let own = id.to_string();
    let probes = |ring: &Ring, from: usize, to: usize| {
        let metrics = Metrics::parse(&ring.hosts[from].get(MEMBER_PORT, "/metrics").text()).expect("metrics");
        metrics.sum("netring_checks_total", &[("target_location", LOCATIONS[to])])
    };
    ring.hosts[US1].power_off();
    for (from, to) in [(EU1, ASIA1), (ASIA1, EU1)] {
        let host = &ring.hosts[from];
        host.wait_for_value(MEMBER_PORT, "netring_registry_up", &[], Some(0.0));
        let before = probes(ring, from, to);
        host.wait_for_metrics(SOON, MEMBER_PORT, "it goes on probing", |metrics| {
            let now = metrics.sum("netring_checks_total", &[("target_location", LOCATIONS[to])]);
            holds(now >= before + 9.0, format!("{before}, {now}"))
        });
        ring.wait_until_seen(from, to, true);
        ring.wait_for_status(from, &format!("{WELL}, 1 failing: us1 ("), " refused) for under 2 min, registry away");
    }

    ring.hosts[US1].boot();
    ring.wait_until_connected();
    assert_eq!(ring.identity(US1), id);
    // Its own member has left and come back; the others were never away.
    let kept =
        |roster: Vec<(String, String)>| roster.into_iter().filter(|(member, _)| *member != own).collect::<Vec<_>>();
    assert_eq!(kept(ring.roster()), kept(roster));
    for (from, to) in [(EU1, ASIA1), (ASIA1, EU1)] {
        let _ = ring.wait_for_status(from, "", WELL);
        ring.wait_until_told_once(&marks, from, events::REGISTRY_BACK);
        ring.wait_until_told_once(&marks, from, events::REGISTRY_LOST);
        let of_each_other = [("NETRING_TARGET_LOCATION", LOCATIONS[to])];
        assert_eq!(ring.told(&marks, from, MEMBER, &of_each_other), [Value::Null; 0], "nothing to tell");
    }
}
