use std::collections::BTreeSet;

use super::*;
use crate::wire::{InstanceId, Member};

const HOLD: std::time::Duration = std::time::Duration::from_secs(100);

/// A member from `id@location=address`.
fn member(text: &str) -> Member {
    let (name, rest) = text.split_once('@').unwrap();
    let (location, address) = rest.split_once('=').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    Member {
        instance_id: name.parse().unwrap(),
        location: location.parse().unwrap(),
        ip: address.ip(),
        port: address.port().try_into().unwrap(),
        last_seen: 5,
        registered_at: 1,
        status: (),
    }
}

fn roster(members: &[&str]) -> Vec<Member> {
    members.iter().map(|text| member(text)).collect()
}

fn me() -> InstanceId {
    "me".parse().unwrap()
}

fn peers(members: &[&str]) -> Peers {
    let mut peers = Peers::new(me(), HOLD);
    peers.apply(roster(members), crate::clock::monotonic());
    peers
}

fn endpoints(paths: &[&str]) -> Vec<Arc<str>> {
    paths.iter().map(|path| Arc::from(*path)).collect()
}

/// A host that has none of the addresses of the ring.
fn elsewhere() -> Here<'static> {
    let listening = "0.0.0.0:8756".parse().unwrap();
    Here { listening, registered: Some("10.0.0.100:8756".parse().unwrap()), is_own: &|_| false }
}

/// What a plan says of one peer: its ids in the order of its checks.
fn ids(plan: &Plan, peer: &str) -> Vec<u64> {
    let planned = plan.peers.iter().find(|planned| planned.peer.instance_id.as_str() == peer).unwrap();
    planned.targets.iter().map(|(id, _)| id.0).collect()
}

const A: &str = "a@x=10.0.0.1:8756";
const B: &str = "b@y=10.0.0.2:8756";

#[test]
fn each_peer_has_a_target_for_each_check_and_the_prober_is_given_the_same() {
    let mut planner = Planner::default();
    let plan = planner.plan(&peers(&[A, B]), &endpoints(&["/health", "/metrics"]), &elsewhere());
    let http = |path| Check::Http { endpoint: Arc::from(path) };
    for planned in &plan.peers {
        let checks: Vec<Check> = planned.targets.iter().map(|(_, check)| check.clone()).collect();
        assert_eq!(checks, [Check::Tcp, http("/health"), http("/metrics")]);
    }
    let told = plan.probing();
    let expected: Vec<(TargetId, InstanceId, Target)> = plan
        .peers
        .iter()
        .flat_map(|planned| {
            let (peer, address) = (&planned.peer.instance_id, planned.peer.address());
            planned.targets.iter().map(move |(id, check)| (*id, peer.clone(), Target { address, check: check.clone() }))
        })
        .collect();
    assert_eq!(expected.len(), 6);
    assert_eq!(told.into_iter().map(|p| (p.id, p.peer, p.target)).collect::<Vec<_>>(), expected);
}

#[test]
fn a_target_keeps_its_id_while_its_peer_and_its_check_stay() {
    let mut planner = Planner::default();
    let before = planner.plan(&peers(&[A, B]), &endpoints(&["/health"]), &elsewhere());
    let again = planner.plan(&peers(&[A, B]), &endpoints(&["/health"]), &elsewhere());
    assert_eq!(ids(&before, "a"), ids(&again, "a"));
    // Others come and go, and so do endpoints and their order.
    let later = planner.plan(&peers(&[A, B, "c@x=10.0.0.3:8756"]), &endpoints(&["/new", "/health"]), &elsewhere());
    let (old, new) = (ids(&before, "a"), ids(&later, "a"));
    assert_eq!((old[0], old[1]), (new[0], new[2]));
    assert!(!old.contains(&new[1]));
    assert_eq!(ids(&before, "b")[0], ids(&later, "b")[0]);
}

#[test]
fn no_id_is_used_again() {
    let mut planner = Planner::default();
    let mut given = BTreeSet::new();
    let (both, none) = (endpoints(&["/health"]), endpoints(&[]));
    let here = elsewhere();
    let step = |planner: &mut Planner, members: &[&str], endpoints: &[Arc<str>]| {
        ids_of_all(&planner.plan(&peers(members), endpoints, &here))
    };
    let mut fresh = |ids: Vec<u64>, what: &str| {
        for id in ids {
            assert!(given.insert(id), "{what}: {id}");
        }
    };
    fresh(step(&mut planner, &[A], &both), "the first");
    fresh(step(&mut planner, &["a@x=10.0.0.1:8757"], &both), "another port");
    fresh(step(&mut planner, &["a@x=10.0.0.9:8757"], &both), "another address");
    fresh(step(&mut planner, &["a@z=10.0.0.9:8757"], &both), "another location");
    step(&mut planner, &[], &both);
    fresh(step(&mut planner, &["a@z=10.0.0.9:8757"], &both), "gone and back");
    step(&mut planner, &["a@z=10.0.0.9:8757"], &none);
    let back = step(&mut planner, &["a@z=10.0.0.9:8757"], &both);
    fresh(back[1..].to_vec(), "an endpoint that was gone and is back");
}

fn ids_of_all(plan: &Plan) -> Vec<u64> {
    plan.probing().iter().map(|probing| probing.id.0).collect()
}

#[test]
fn a_peer_that_leads_back_for_a_while_gets_new_ids() {
    let mut planner = Planner::default();
    let known = peers(&[A]);
    let before = ids(&planner.plan(&known, &[], &elsewhere()), "a");
    let mine = Here { registered: Some("10.0.0.1:8756".parse().unwrap()), ..elsewhere() };
    let plan = planner.plan(&known, &endpoints(&["/health"]), &mine);
    assert!(plan.peers[0].leads_back && plan.peers[0].targets.is_empty() && plan.probing().is_empty());
    let after = ids(&planner.plan(&known, &[], &elsewhere()), "a");
    assert!(after[0] > before[0]);
}

#[test]
fn peers_are_in_the_order_of_location_and_identity() {
    let members = ["d@x=10.0.0.1:1", "a@y=10.0.0.2:1", "c@x=10.0.0.3:1", "b@w=10.0.0.4:1"];
    let plan = Planner::default().plan(&peers(&members), &[], &elsewhere());
    let order: Vec<&str> = plan.peers.iter().map(|planned| planned.peer.instance_id.as_str()).collect();
    assert_eq!(order, ["b", "c", "d", "a"]);
}

#[test]
fn what_the_roster_says_of_a_peer_is_passed_on_and_a_held_peer_is_still_probed() {
    let now = crate::clock::monotonic();
    let mut peers = Peers::new(me(), HOLD);
    peers.apply(roster(&[A, B]), now);
    peers.registry_forgot(now);
    peers.apply(roster(&[A]), now);
    let plan = Planner::default().plan(&peers, &[], &elsewhere());
    let said: Vec<(bool, u64, usize)> =
        plan.peers.iter().map(|planned| (planned.held, planned.last_seen, planned.targets.len())).collect();
    assert_eq!(said, [(false, 5, 1), (true, 5, 1)]);
}

/// A member on a host: where it listens, where it is registered, and the addresses of the host.
struct Host(&'static str, Option<&'static str>, &'static [&'static str]);

impl Host {
    /// Whether a peer at this address leads back to the member, and whether it is on this host, in a ring with a peer on another
    /// host.
    fn sees(&self, peer: &str) -> (bool, bool) {
        self.sees_among(peer, &["z@z=192.0.2.1:8756"])
    }

    fn sees_among(&self, peer: &str, others: &[&str]) -> (bool, bool) {
        let Self(listening, registered, own) = *self;
        let is_own = |ip: IpAddr| own.iter().any(|own| own.parse() == Ok(ip));
        let here = Here {
            listening: listening.parse().unwrap(),
            registered: registered.map(|address| address.parse().unwrap()),
            is_own: &is_own,
        };
        let peer = format!("a@x={peer}");
        let plan = Planner::default().plan(&peers(&[&[&*peer], others].concat()), &[], &here);
        let planned = &plan.peers[0];
        assert_eq!(planned.targets.is_empty(), planned.leads_back);
        (planned.leads_back, planned.on_this_host)
    }
}

#[test]
fn a_peer_whose_address_leads_back_to_this_member_is_known_by_its_address() {
    const BACK: (bool, bool) = (true, true);
    const NEIGHBOUR: (bool, bool) = (false, true);
    const AWAY: (bool, bool) = (false, false);
    /// It is what this member is registered with, and no interface of this host has it.
    const MINE_OUTSIDE: (bool, bool) = (true, false);

    let plain = Host("0.0.0.0:8756", Some("10.0.0.1:8756"), &["10.0.0.1", "10.0.0.2"]);
    let behind_nat = Host("0.0.0.0:8756", Some("203.0.113.5:8756"), &["192.168.1.10"]);
    let mapped_port = Host("0.0.0.0:8756", Some("203.0.113.5:9000"), &["192.168.1.10"]);
    let container = Host("0.0.0.0:8756", Some("172.17.0.2:8756"), &["172.17.0.2"]);
    let container_published = Host("0.0.0.0:8756", Some("10.0.0.1:8756"), &["172.17.0.2"]);
    let unregistered = Host("0.0.0.0:8756", None, &["10.0.0.1"]);
    let one_address = Host("10.0.0.1:8756", Some("10.0.0.1:8756"), &["10.0.0.1", "10.0.0.2"]);
    let demo = Host("127.0.0.1:8757", Some("127.0.0.1:8757"), &[]);
    let demo_unregistered = Host("127.0.0.1:8757", None, &[]);
    let one_host = Host("0.0.0.0:8757", Some("127.0.0.1:8757"), &["10.0.0.1"]);
    let v4_of_both = Host("0.0.0.0:8756", Some("10.0.0.1:8756"), &["10.0.0.1", "fd00::1"]);
    let v6 = Host("[::]:8756", Some("[fd00::1]:8756"), &["fd00::1", "fd00::2", "10.0.0.1"]);
    let v6_one_address = Host("[fd00::1]:8756", Some("[fd00::1]:8756"), &["fd00::1", "fd00::2"]);
    let v6_demo = Host("[::1]:8757", Some("[::1]:8757"), &[]);

    let table = [
        (&plain, "10.0.0.1:8756", BACK, "the address of this member"),
        (&plain, "10.0.0.2:8756", BACK, "another address of this host: it listens there, too"),
        (&plain, "10.0.0.1:8757", NEIGHBOUR, "another member on this host"),
        (&plain, "10.0.0.3:8756", AWAY, "another host"),
        (&plain, "127.0.0.1:8756", BACK, "loopback in a ring of more hosts"),
        (&plain, "127.0.0.1:9", BACK, "the loopback of somebody else, at any port"),
        (&plain, "127.8.7.6:9", BACK, "loopback is a whole network"),
        (&behind_nat, "203.0.113.5:8756", MINE_OUTSIDE, "the public address of this member"),
        (&behind_nat, "203.0.113.5:8757", AWAY, "another member behind the same NAT"),
        (
            &behind_nat,
            "192.168.1.10:8756",
            BACK,
            "a peer behind its own NAT that is registered with my private address",
        ),
        (&behind_nat, "192.168.1.10:8757", NEIGHBOUR, "another member on this host"),
        (&behind_nat, "192.168.1.11:8756", AWAY, "another host of this network"),
        (&mapped_port, "203.0.113.5:9000", MINE_OUTSIDE, "the public address of this member"),
        (&mapped_port, "203.0.113.5:8756", AWAY, "another mapping of the same NAT"),
        (&mapped_port, "192.168.1.10:8756", BACK, "the port that counts is the one it listens on"),
        (&mapped_port, "192.168.1.10:9000", NEIGHBOUR, "and not the one it is registered with"),
        (&container, "172.17.0.2:8756", BACK, "a container on another Docker host has the same address and port"),
        (&container_published, "172.17.0.2:8756", BACK, "also where only that one is registered with it"),
        (&container_published, "10.0.0.1:8756", MINE_OUTSIDE, "the published address of this member"),
        (&unregistered, "10.0.0.1:8756", BACK, "a kept roster before any registration: an own address"),
        (&unregistered, "127.0.0.1:9", BACK, "a kept roster before any registration: loopback"),
        (&unregistered, "10.0.0.2:8756", AWAY, "a kept roster before any registration: another host"),
        (&one_address, "10.0.0.1:8756", BACK, "the one address it listens on"),
        (&one_address, "10.0.0.2:8756", NEIGHBOUR, "another member on another address of this host"),
        (&one_address, "127.0.0.1:8756", BACK, "the loopback of somebody else"),
        (&demo, "127.0.0.1:8757", BACK, "a ring on one host: this member"),
        (&demo, "127.0.0.1:8758", NEIGHBOUR, "a ring on one host: another member"),
        (&demo, "127.0.0.2:8757", NEIGHBOUR, "a ring on one host: another address"),
        (&demo_unregistered, "127.0.0.1:8757", BACK, "a ring on one host before any registration"),
        (&demo_unregistered, "127.0.0.1:8758", NEIGHBOUR, "a ring on one host before any registration"),
        (&one_host, "127.0.0.1:8757", BACK, "registered with loopback"),
        (&one_host, "127.0.0.1:8758", NEIGHBOUR, "registered with loopback: another member"),
        (&one_host, "10.0.0.1:8757", BACK, "registered with loopback: the address of the host"),
        (&v6, "[fd00::1]:8756", BACK, "IPv6: the address of this member"),
        (&v6, "[fd00::2]:8756", BACK, "IPv6: another address of this host"),
        (&v6, "[fd00::2]:8757", NEIGHBOUR, "IPv6: another member on this host"),
        (&v6, "[fd00::3]:8756", AWAY, "IPv6: another host"),
        (&v6, "[::1]:9", BACK, "IPv6: the loopback of somebody else"),
        (&v6, "10.0.0.1:8756", BACK, "it listens for both families"),
        (&v4_of_both, "10.0.0.1:8756", BACK, "it listens on every IPv4 address"),
        (&v4_of_both, "[fd00::1]:8756", NEIGHBOUR, "it listens on no IPv6 address: another process may"),
        (&v6_one_address, "[fd00::1]:8756", BACK, "IPv6: the one address it listens on"),
        (&v6_one_address, "[fd00::2]:8756", NEIGHBOUR, "IPv6: another address of this host"),
        (&v6_demo, "[::1]:8758", NEIGHBOUR, "IPv6: a ring on one host"),
        (&v6_demo, "[::1]:8757", BACK, "IPv6: a ring on one host, this member"),
    ];
    for (host, peer, expected, why) in table {
        assert_eq!(host.sees(peer), expected, "{peer}: {why}");
    }
}

#[test]
fn a_ring_on_one_host_is_known_before_any_registration_by_its_addresses() {
    let host = Host("[::]:8757", None, &["10.0.0.1"]);
    let others = ["b@y=127.0.0.1:8759", "c@z=[::1]:8760"];
    assert_eq!(host.sees_among("127.0.0.1:8758", &others), (false, true), "another member");
    assert_eq!(host.sees_among("127.0.0.1:8757", &others), (true, true), "this member");
    let registered = Host("[::]:8757", Some("10.0.0.1:8757"), &["10.0.0.1"]);
    assert_eq!(registered.sees_among("127.0.0.1:8758", &others), (true, true), "it is no ring on one host");
}
