//! A registry known by its name, and a name server that hangs, fails, or says something else than before.

pub mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netring::clock::monotonic;
use support::daemon::{Daemon, Member, Registry};
use support::fabric::{Fabric, Host};
use support::metrics::Metrics;
use support::name_server::{NameServer, Says};
use support::{SOON, eventually, holds};

const REGISTRY: u16 = 8756;
const MEMBER: u16 = 8757;
const NAME: &str = "registry.ring.test";
const MEMBER_TTL: u32 = 4;

/// How long a member goes by one answer of its resolver, as `src/member/lookup.rs` has it.
const REFRESH: Duration = Duration::from_secs(30);

/// A resolver that takes two minutes and a half over one question.
const PATIENT: &str = "timeout:30 attempts:5";
/// One that gives up after six seconds.
const BRISK: &str = "timeout:3 attempts:2";

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

fn registry_on(host: &Host) -> Daemon {
    Registry { server: everywhere(REGISTRY), member_ttl: MEMBER_TTL, ..Registry::new() }.start_on(host)
}

/// A member that listens everywhere and so needs the registry's address to find its own.
fn member(location: &str, registry: &Host) -> Member {
    Member { server: everywhere(MEMBER), ..Member::new(location, SocketAddr::new(registry.ip(false), REGISTRY)) }
}

fn by_name(member: Member) -> Member {
    Member { registry_name: Some(NAME.into()), ..member }
}

fn checks(metrics: &Metrics) -> f64 {
    metrics.sum("netring_checks_total", &[])
}

fn wait_until_listed(registry: &Daemon, limit: Duration) {
    eventually(limit, "the registry lists us1", || {
        let roster = registry.get("/members").text();
        holds(roster.contains("us1-id"), roster)
    });
}

/// Ends every connection to the registry, and lets a request meet with nothing where the registry was.
fn lose_for_a_moment(registry: &mut Daemon, member: &Daemon) {
    registry.kill();
    member.wait_for_value("netring_registry_up", &[], 0.0);
    registry.start_again();
    member.wait_for_value("netring_registry_up", &[], 1.0);
}

#[test]
fn a_name_server_that_never_answers_delays_no_start_no_probe_no_other_setting_and_no_stop() {
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    let _registry = registry_on(two);
    let _eu1 = member("eu1", two).start_on(two);
    let _name_server = NameServer::start_on(two, Says::Nothing);
    one.set_name_server(two.ip(false), PATIENT);

    // Listening everywhere it needs the name to find its own address, too; listening on one address only to connect.
    for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), one.ip(false)] {
        let described = Member { server: SocketAddr::new(ip, MEMBER), ..member("us1", two) };
        let mut us1 = described.start_on(one);
        us1.wait_for_value("netring_connectivity_tcp", &[("target_location", "eu1")], 1.0);
        us1.configure(&by_name(described.clone()).yaml());
        us1.start_again();

        let start = monotonic();
        assert_eq!(us1.get("/health").status, 200);
        us1.wait_for("the peer is reached", |metrics| holds(checks(metrics) > 0.0, checks(metrics)));
        // Three targets, four times a second apart.
        us1.wait_for_checks(12.0);
        let took = monotonic() - start;
        assert!(took < Duration::from_secs(9), "five probes a second apart took {took:?}");
        let metrics = us1.metrics();
        assert_eq!(metrics.sum("netring_check_failures_total", &[]), 0.0);
        assert_eq!(metrics.value("netring_registry_up", &[]), Some(0.0), "the name has no answer:\n{}", us1.log());

        // A thread that sat in the resolver would hear of this in two minutes.
        us1.configure(&described.yaml());
        us1.signal(libc::SIGHUP);
        us1.wait_for_value("netring_registry_up", &[], 1.0);
        us1.configure(&by_name(described).yaml());
        us1.signal(libc::SIGHUP);
        us1.wait_for_value("netring_registry_up", &[], 0.0);
        let status = us1.terminate(Duration::from_secs(1));
        assert!(status.success(), "{status}");
    }
}

#[test]
fn a_name_server_that_hangs_or_fails_after_the_start_costs_no_lease_and_no_probe() {
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    let mut registry = registry_on(two);
    let eu1 = member("eu1", two).start_on(two);
    let name_server = NameServer::start_on(two, Says::Address(two.v4));
    one.set_name_server(two.ip(false), BRISK);
    let us1 = by_name(member("us1", two)).start_on(one);
    for (member, other) in [(&us1, "eu1"), (&eu1, "us1")] {
        member.wait_for_value("netring_connectivity_tcp", &[("target_location", other)], 1.0);
    }

    for unwell in [Says::Nothing, Says::Failure] {
        name_server.say(unwell);
        let asked = name_server.asked();
        lose_for_a_moment(&mut registry, &us1);
        eventually(SOON, "the name is looked up again", || holds(name_server.asked() > asked, name_server.asked()));

        let (start, before) = (monotonic(), us1.metrics());
        let window = Duration::from_secs(u64::from(MEMBER_TTL) * 2 + 1);
        while monotonic() - start < window {
            let metrics = us1.metrics();
            assert_eq!(metrics.value("netring_registry_up", &[]), Some(1.0), "{unwell:?}:\n{}", us1.log());
            assert!(registry.get("/members").text().contains("us1-id"), "{unwell:?}:\n{}", us1.log());
            assert_eq!(eu1.metrics().value("netring_members_total", &[]), Some(1.0), "{unwell:?}");
            std::thread::sleep(Duration::from_millis(250));
        }
        let (after, seconds) = (us1.metrics(), (monotonic() - start).as_secs_f64());
        // Three targets once a second; at either end of the window each may have had its turn or not.
        let made = checks(&after) - checks(&before);
        assert!((made - 3.0 * seconds).abs() <= 3.5, "{made} checks in {seconds:.1} s");
        assert_eq!(after.sum("netring_check_failures_total", &[]), 0.0);
        assert_eq!(after.sum("netring_checks_skipped_total", &[]), 0.0);
        // Two questions a look-up and two attempts at each, and one look-up at a time whoever asks how often.
        let asked = name_server.asked() - asked;
        assert!(asked <= 8 || unwell == Says::Failure, "asked {asked} times in {seconds:.1} s");
    }
    assert!(eu1.log_lines(&["a peer left"]).is_empty(), "{}", eu1.log());
    let warned = us1.log_lines(&["warn", NAME, "cannot resolve"]);
    assert_eq!(warned.len(), 1, "it is said once:\n{}", us1.log());
    name_server.say(Says::Address(two.v4));
    lose_for_a_moment(&mut registry, &us1);
    let back = || holds(us1.log_lines(&["info", NAME, "can be resolved again"]).len() == 1, us1.log());
    eventually(SOON, "the end of it is said", back);
}

#[test]
fn a_registry_that_ends_and_comes_up_elsewhere_under_its_name_is_found_at_once() {
    let Some(fabric) = Fabric::new(&["one", "two", "three"]) else { return };
    let [one, two, three] = fabric.hosts() else { panic!("three hosts") };
    let mut old = registry_on(two);
    let name_server = NameServer::start_on(three, Says::Address(two.v4));
    one.set_name_server(three.ip(false), BRISK);
    let us1 = by_name(member("us1", two)).start_on(one);
    wait_until_listed(&old, SOON);

    name_server.say(Says::Address(three.v4));
    let new = registry_on(three);
    old.kill();
    // Half of the schedule: it is the failure that makes it look again.
    wait_until_listed(&new, REFRESH / 2);
    us1.wait_for_value("netring_registry_up", &[], 1.0);
}

#[test]
fn a_name_that_comes_to_mean_another_registry_is_followed_though_the_old_one_still_answers() {
    let Some(fabric) = Fabric::new(&["one", "two", "three"]) else { return };
    let [one, two, three] = fabric.hosts() else { panic!("three hosts") };
    let (old, new) = (registry_on(two), registry_on(three));
    let name_server = NameServer::start_on(three, Says::Address(two.v4));
    one.set_name_server(three.ip(false), BRISK);
    let us1 = by_name(member("us1", two)).start_on(one);
    wait_until_listed(&old, SOON);

    // Its heartbeats, a second apart, would keep the connection to the old one open for ever.
    name_server.say(Says::Address(three.v4));
    wait_until_listed(&new, REFRESH + Duration::from_secs(5));
    us1.wait_for_value("netring_registry_up", &[], 1.0);
    assert!(us1.log_lines(&["registry lost"]).is_empty(), "{}", us1.log());
}

/// The order in which a program on this host is given the addresses of the name.
fn resolved(host: &Host) -> Vec<IpAddr> {
    let output = host.command("getent").args(["ahosts", NAME]).output().expect("the C library's getent is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let streams = text.lines().filter(|line| line.contains("STREAM"));
    streams.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// The address at which the registry lists us1.
fn listed_address(registry: &Daemon) -> Option<IpAddr> {
    let roster = registry.get("/members").json();
    let members = roster["members"].as_array()?;
    let us1 = members.iter().find(|member| member["instance_id"] == "us1-id")?;
    us1["ip"].as_str()?.parse().ok()
}

#[test]
fn a_member_with_two_addresses_stays_at_one_while_a_name_server_turns_the_addresses_of_the_registry_round() {
    if !support::installed(&["getent"]) {
        return;
    }
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    // Both hosts are on a second network, too.
    let second = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];
    for (host, ip) in fabric.hosts().iter().zip(second) {
        host.run("ip", &["addr", "add", &format!("{ip}/24"), "dev", "eth0"]);
    }
    let registry = Registry { server: everywhere(REGISTRY), member_ttl: 300, ..Registry::new() }.start_on(two);
    let name_server = NameServer::start_on(two, Says::Turning([two.v4, second[1]]));
    one.set_name_server(two.ip(false), BRISK);
    let turns = (0..4).map(|_| resolved(one).first().copied()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(turns, [Some(two.ip(false)), Some(second[1].into())].into(), "the order reaches who asks");

    let us1 = by_name(member("us1", two)).start_on(one);
    wait_until_listed(&registry, SOON);
    let address = listed_address(&registry);
    let revision = |registry: &Daemon| registry.metrics().value("netring_registry_revision", &[]);
    let before = revision(&registry);
    for _ in 0..5 {
        // A connection that is reset has the name looked up again.
        let asked = name_server.asked();
        two.run("nft", &[&format!("add rule inet cut in tcp dport {REGISTRY} reject with tcp reset")]);
        us1.wait_for_value("netring_registry_up", &[], 0.0);
        eventually(SOON, "the name is looked up again", || holds(name_server.asked() > asked, name_server.asked()));
        fabric.heal();
        us1.wait_for_value("netring_registry_up", &[], 1.0);
        // Two heartbeats.
        std::thread::sleep(Duration::from_millis(2_100));
        assert_eq!(listed_address(&registry), address, "{}", us1.log());
    }
    assert_eq!(revision(&registry), before, "{}", us1.log());
    assert_eq!(us1.log_lines(&["registered"]).len(), 1, "{}", us1.log());
}

#[test]
fn a_member_registers_the_family_by_which_it_reaches_the_registry_though_a_dead_ipv6_address_comes_first() {
    if !support::installed(&["getent"]) {
        return;
    }
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    let registry = registry_on(two);
    // What is sent there is lost without a word.
    let dead = two.v6;
    two.run("nft", &["add rule inet cut in meta nfproto ipv6 meta l4proto tcp drop"]);
    let _name_server = NameServer::start_on(two, Says::Both(two.v4, dead));
    one.set_name_server(two.ip(false), BRISK);
    assert_eq!(resolved(one), [IpAddr::from(dead), two.ip(false)], "the dead one comes first");

    let eu1 = member("eu1", two).start_on(two);
    let both = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), MEMBER);
    let us1 = Member { server: both, ..by_name(member("us1", two)) }.start_on(one);
    eventually(SOON, "us1 is registered", || {
        let listed = listed_address(&registry);
        holds(listed == Some(one.ip(false)), (listed, us1.log()))
    });
    eu1.wait_for_value("netring_connectivity_tcp", &[("target_location", "us1")], 1.0);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(listed_address(&registry), Some(one.ip(false)), "and it stays so: {}", us1.log());
    assert_eq!(us1.log_lines(&["registered"]).len(), 1, "{}", us1.log());
}
