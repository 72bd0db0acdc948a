//! The member follows its roster through everything that a registry, a gateway in front of it or an operator may do meanwhile:
//! reloads while an answer arrives, registrations that fail in every way while the roster can be had, a lease that ended while
//! the registry was away, and a roster of thousands at the first answer.

pub mod support;

use std::net::SocketAddr;
use std::time::Duration;

use netring::clock::monotonic;
use support::daemon::{Daemon, Member, Registry};
use support::scripted_registry::{Posts, ScriptedRegistry, entry};
use support::{SOON, address, eventually, holds, port, socket};

/// The number of peers at which reading a roster takes long enough to be met by a reload.
const LARGE: usize = 20_000;

/// Peers that nobody probes within the test: a day between two probes, and closed ports on loopback addresses.
fn crowd(size: usize) -> Vec<String> {
    let nobody = port();
    (0..size)
        .map(|n| {
            let ip = std::net::Ipv4Addr::new(127, 9, (n / 250) as u8, (n % 250 + 1) as u8);
            entry(&format!("peer-{n}"), &format!("site-{}", n % 50), SocketAddr::new(ip.into(), nobody))
        })
        .collect()
}

fn newcomer(name: &str) -> String {
    entry(name, "new-site", SocketAddr::new(address(), port()))
}

/// A member that probes each peer once a day by TCP alone and asks for the roster each second.
fn observer(registry: SocketAddr) -> Member {
    Member { check_interval: 86_400, http_endpoints: Vec::new(), ..Member::new("us1", registry) }
}

/// How many peers it knows. Its health is small whatever the size of the ring.
fn known(member: &Daemon) -> u64 {
    member.get("/health").json()["members_count"].as_u64().expect("a number")
}

#[track_caller]
fn wait_for_line(limit: Duration, member: &Daemon, words: &[&str]) {
    eventually(limit, &format!("a line with {words:?}"), || {
        let log = member.log();
        let tail: Vec<&str> = log.lines().rev().take(12).collect();
        holds(!member.log_lines(words).is_empty(), tail)
    });
}

/// Each round a newcomer joins, and a reload comes a little later after the registry has sent the roster with it: while the
/// roster is read, while it is taken over, and after that.
#[test]
fn a_reload_in_the_moment_of_an_answer_loses_no_change_of_the_roster() {
    let registry = ScriptedRegistry::start();
    let crowd = crowd(LARGE);
    registry.set_entries(&crowd);
    let described = observer(registry.address);
    let member = described.start();
    eventually(SOON * 2, "the whole ring is known", || holds(known(&member) == LARGE as u64, known(&member)));
    // What a reload changes decides what it breaks off: nothing, a time limit of the registry, its pace.
    let plain = described.yaml();
    let with_timeout = plain.replace("  intervals:\n", "    timeout: 6\n  intervals:\n");
    let slower = plain.replace("heartbeat_interval: 1\n", "heartbeat_interval: 2\n");
    assert!(with_timeout != plain && slower != plain, "{plain}");

    let mut entries = crowd;
    for round in 0..12_u32 {
        let before = registry.answered("GET /members", 200);
        let name = format!("newcomer-{round}");
        entries.push(newcomer(&name));
        registry.set_entries(&entries);
        let configuration = [&plain, &with_timeout, &plain, &slower][round as usize % 4];
        member.configure(configuration);
        let start = monotonic();
        while registry.answered("GET /members", 200) == before {
            assert!(monotonic() - start < SOON, "the roster was not asked for; the log:\n{}", member.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(25) * round);
        member.signal(libc::SIGHUP);
        let wanted = entries.len() as u64;
        eventually(SOON, &format!("{name} is known"), || holds(known(&member) == wanted, known(&member)));
        wait_for_line(SOON, &member, &["a peer joined", &name]);
    }
    let reloads = member.log_lines(&["configuration reloaded"]).len();
    assert!(reloads >= 10, "only {reloads} of 12 reloads were carried out:\n{}", member.log());
    assert_eq!(member.log_lines(&["a peer left"]), Vec::<String>::new());
}

#[test]
fn thousands_of_peers_in_the_first_roster_are_one_line_with_their_number() {
    let registry = ScriptedRegistry::start();
    registry.set_entries(&crowd(2_000));
    let member = observer(registry.address).start();
    eventually(SOON, "the whole ring is known", || holds(known(&member) == 2_000, known(&member)));
    wait_for_line(SOON, &member, &["peers joined"]);
    let lines = member.log_lines(&["joined"]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("peers=2000") && lines[0].contains("locations=50"), "{}", lines[0]);
    // A few are named, as they were.
    let more: Vec<String> = crowd(2_000).into_iter().chain([newcomer("newcomer")]).collect();
    registry.set_entries(&more);
    wait_for_line(SOON, &member, &["a peer joined", "newcomer"]);
    assert_eq!(member.log_lines(&["joined"]).len(), 2, "{}", member.log());
}

/// A registry, the member that asks it, and the address that a redirect leads to.
struct Refused {
    registry: ScriptedRegistry,
    member: Daemon,
    to: Option<String>,
}

/// One member for each way in which a registration can fail.
#[test]
fn a_member_that_may_not_register_follows_the_roster_all_the_same() {
    let elsewhere = socket();
    let redirect = |status, to: &str| Posts::Redirect(status, to.to_owned());
    let plain = format!("http://{elsewhere}/ring");
    let ways = [
        Posts::Hang,
        Posts::Reset,
        redirect(301, &format!("{plain}-301/register")),
        redirect(302, &format!("{plain}-302/register")),
        redirect(307, &format!("{plain}-307/register")),
        redirect(308, &format!("{plain}-308/register")),
        redirect(308, "https://registry.example/register"),
    ];
    let all: Vec<Refused> = ways
        .into_iter()
        .map(|posts| {
            let registry = ScriptedRegistry::start();
            registry.set_entries(&[newcomer("first")]);
            registry.script().posts = posts.clone();
            let member = observer(registry.address).start();
            let to = if let Posts::Redirect(_, to) = posts { Some(to) } else { None };
            Refused { registry, member, to }
        })
        .collect();
    for Refused { registry, member, .. } in &all {
        let posts = registry.script().posts.clone();
        wait_for_line(SOON, member, &["a peer joined", "first"]);
        // At least one registration has been tried when the newcomer comes.
        eventually(SOON, "a registration is tried", || holds(registry.posted() >= 1, registry.posted()));
        registry.set_entries(&[newcomer("first"), newcomer("second")]);
        let came = monotonic();
        // A poll is due each second.
        wait_for_line(Duration::from_secs(5), member, &["a peer joined", "second"]);
        println!("{posts:?}: the newcomer was known after {:?}", monotonic() - came);
        member.wait_for_value("netring_registry_up", &[], 0.0);
    }
    for Refused { registry, member, to } in &all {
        let posts = registry.script().posts.clone();
        let patience = if posts == Posts::Hang { 2 } else { 4 };
        eventually(SOON, "more registrations are tried", || holds(registry.posted() >= patience, registry.posted()));
        if let Some(to) = to {
            assert_eq!(member.log_lines(&[to]).len(), 1, "{posts:?}:\n{}", member.log());
            assert_eq!(member.log_lines(&["warn", "redirects", to]).len(), 1, "{posts:?}:\n{}", member.log());
        }
        assert_eq!(member.log_lines(&["registered"]), Vec::<String>::new(), "{posts:?}");
        // It registers as soon as it may.
        registry.script().posts = Posts::Accept;
    }
    for Refused { member, .. } in &all {
        wait_for_line(SOON, member, &["registered"]);
        member.wait_for_value("netring_registry_up", &[], 1.0);
    }
}

/// The registry is stopped for longer than the leases last. One peer leaves meanwhile and cannot say so, the other stays.
#[test]
fn a_peer_that_left_while_the_own_lease_ended_is_unknown_and_not_down() {
    let registry = Registry::new().start();
    let mut passer = Member::new("asia1", registry.server).start();
    let _stayer = Member::new("eu1", registry.server).start();
    let member = Member::new("us1", registry.server).start();
    for location in ["asia1", "eu1"] {
        member.wait_for_value("netring_connectivity_tcp", &[("target_location", location)], 1.0);
    }
    registry.signal(libc::SIGSTOP);
    passer.terminate(SOON);
    member.wait_for_value("netring_connectivity_tcp", &[("target_location", "asia1")], 0.0);
    // Until every lease has ended.
    std::thread::sleep(Duration::from_secs(4));
    let down = member.log_lines(&["peer down", "asia1"]).len();
    registry.signal(libc::SIGCONT);

    let of_passer = [("target_location", "asia1")];
    let state = |metrics: &support::metrics::Metrics| {
        let mut all = metrics.series("netring_connectivity_tcp", &of_passer);
        all.extend(metrics.series("netring_connectivity_http", &of_passer));
        all.iter().map(|sample| sample.value).collect::<Vec<f64>>()
    };
    eventually(Duration::from_secs(8), "what was found of the peer before is not shown", || {
        let metrics = member.metrics();
        holds(state(&metrics).is_empty(), format!("{:?}; the log:\n{}", state(&metrics), member.log()))
    });
    // It is held, and probed, until the hold is over.
    let mut probed = 0;
    let failures = |metrics: &support::metrics::Metrics| metrics.sum("netring_check_failures_total", &of_passer);
    let before = failures(&member.metrics());
    eventually(Duration::from_secs(25), "the peer that left is let go", || {
        let metrics = member.metrics();
        assert!(state(&metrics).is_empty(), "a held peer that fails is unknown: {:?}", state(&metrics));
        let total = metrics.value("netring_members_total", &[]);
        probed += u32::from(total == Some(2.0) && failures(&metrics) > before);
        holds(total == Some(1.0), total)
    });
    assert!(probed > 0, "the peer was not probed while it was held");
    assert_eq!(member.log_lines(&["peer down", "asia1"]).len(), down, "{}", member.log());
    member.wait_for_value("netring_connectivity_tcp", &[("target_location", "eu1")], 1.0);
    assert_eq!(member.log_lines(&["peer down", "eu1"]), Vec::<String>::new());
    let why = ["its lease ended while the registry was out of reach", "may have lost its roster", "unknown"];
    wait_for_line(SOON, &member, &why);
    assert_eq!(member.log_lines(&["lost its memory"]), Vec::<String>::new());
}
