use super::*;

const HOLD: Duration = Duration::from_secs(100);

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

/// A member from `id@location:port`.
fn member(text: &str) -> Member {
    let (name, rest) = text.split_once('@').unwrap();
    let (location, port) = rest.split_once(':').unwrap();
    Member {
        instance_id: id(name),
        location: location.parse().unwrap(),
        ip: IpAddr::from([10, 0, 0, 1]),
        port: port.parse().unwrap(),
        last_seen: 5,
        registered_at: 1,
        status: (),
    }
}

fn roster(members: &[&str]) -> Vec<Member> {
    members.iter().map(|text| member(text)).collect()
}

fn names(peers: &[Arc<Peer>]) -> Vec<&str> {
    peers.iter().map(|peer| peer.instance_id.as_str()).collect()
}

/// Peers of `me`, who know `a` and `b`.
fn known() -> (Peers, Instant) {
    let now = crate::clock::monotonic();
    let mut peers = Peers::new(id("me"), HOLD);
    let change = peers.apply(roster(&["me@x:1", "a@x:1", "b@y:1"]), now);
    assert_eq!(names(&change.joined), ["a", "b"]);
    (peers, now)
}

#[test]
fn oneself_is_no_peer_and_an_identity_counts_once() {
    let now = crate::clock::monotonic();
    let mut peers = Peers::new(id("me"), HOLD);
    let change = peers.apply(roster(&["a@x:1", "me@x:1", "a@y:2"]), now);
    assert_eq!(names(&change.joined), ["a"]);
    assert_eq!(peers.len(), 1);
}

#[test]
fn the_same_roster_changes_nothing() {
    let (mut peers, now) = known();
    assert!(peers.apply(roster(&["b@y:1", "me@x:1", "a@x:1"]), now).is_empty());
}

#[test]
fn who_is_missing_leaves_at_once() {
    let (mut peers, now) = known();
    let change = peers.apply(roster(&["me@x:1", "b@y:1"]), now);
    assert_eq!((names(&change.left), change.joined.len()), (vec!["a"], 0));
    assert_eq!(peers.len(), 1);
}

#[test]
fn another_location_or_address_is_a_move() {
    let (mut peers, now) = known();
    let change = peers.apply(roster(&["me@x:1", "a@z:1", "b@y:2"]), now);
    assert_eq!(names(&change.moved), ["a", "b"]);
    assert!(change.joined.is_empty() && change.left.is_empty());
    assert_eq!(change.moved[1].address().to_string(), "10.0.0.1:2");
}

#[test]
fn after_a_lost_memory_nobody_leaves_until_the_hold_is_over() {
    let (mut peers, now) = known();
    peers.registry_forgot(now);
    assert!(peers.apply(roster(&["me@x:1"]), now).is_empty());
    assert_eq!(peers.len(), 2);
    // One comes back while the other stays away.
    assert!(peers.apply(roster(&["me@x:1", "a@x:1"]), now + HOLD / 2).is_empty());
    assert!(peers.settle(now + HOLD - Duration::from_nanos(1)).is_empty());
    let change = peers.settle(now + HOLD);
    assert_eq!(names(&change.left), ["b"]);
    assert_eq!(peers.len(), 1);
    assert!(peers.settle(now + HOLD * 2).is_empty());
}

#[test]
fn losing_the_memory_over_and_over_holds_nobody_for_ever() {
    let (mut peers, mut now) = known();
    for turn in 0..10 * HOLDS_MAX + 5 {
        peers.registry_forgot(now);
        let change = peers.apply(roster(&["me@x:1", "b@y:1"]), now);
        let left = if turn == 10 * HOLDS_MAX { vec!["a"] } else { vec![] };
        assert_eq!(names(&change.left), left, "turn {turn}");
        now += HOLD / 10;
    }
}

#[test]
fn who_comes_back_and_goes_missing_again_is_held_anew() {
    let (mut peers, mut now) = known();
    for turn in 0..10 * HOLDS_MAX {
        peers.registry_forgot(now);
        assert!(peers.apply(roster(&["me@x:1", "b@y:1"]), now).is_empty(), "turn {turn}");
        now += HOLD / 2;
        assert!(peers.apply(roster(&["me@x:1", "b@y:1", "a@x:1"]), now).is_empty(), "turn {turn}");
    }
}

#[test]
fn a_probe_that_would_end_at_oneself_is_known() {
    let peer = |ip: &str, port| Peer {
        location: "x".parse().unwrap(),
        instance_id: id("a"),
        ip: ip.parse().unwrap(),
        port: NonZeroU16::new(port).unwrap(),
    };
    let own = "10.0.0.1:8756".parse().unwrap();
    assert!(peer("127.0.0.1", 9).leads_back(own));
    assert!(peer("::1", 9).leads_back(own));
    assert!(peer("10.0.0.1", 8756).leads_back(own));
    assert!(!peer("10.0.0.1", 8757).leads_back(own), "another member on this host");
    let on_loopback = "127.0.0.1:8757".parse().unwrap();
    assert!(!peer("127.0.0.1", 8758).leads_back(on_loopback), "a ring on one host");
    assert!(peer("127.0.0.1", 8757).leads_back(on_loopback));
}

#[test]
fn a_roster_after_the_hold_lets_go_as_well() {
    let (mut peers, now) = known();
    peers.registry_forgot(now);
    peers.apply(roster(&["me@x:1"]), now);
    let change = peers.apply(roster(&["me@x:1", "a@x:1"]), now + HOLD);
    assert_eq!(names(&change.left), ["b"]);
}

#[test]
fn a_hold_is_news_once_and_only_where_there_is_somebody_to_hold() {
    let (mut peers, now) = known();
    assert!(peers.registry_forgot(now));
    assert!(!peers.registry_forgot(now + HOLD / 2));
    assert!(peers.registry_forgot(now + HOLD * 2));
    let mut alone = Peers::new(id("me"), HOLD);
    assert!(!alone.registry_forgot(now));
    alone.apply(roster(&["me@x:1", "a@x:1"]), now);
    assert_eq!(names(&alone.apply(roster(&["me@x:1"]), now).left), ["a"], "no hold began");
}

#[test]
fn those_who_join_during_a_hold_join() {
    let (mut peers, now) = known();
    peers.registry_forgot(now);
    let change = peers.apply(roster(&["me@x:1", "c@z:1"]), now);
    assert_eq!(names(&change.joined), ["c"]);
    assert_eq!(peers.len(), 3);
}

#[test]
fn a_peer_keeps_its_allocation_while_it_stays_the_same() {
    let (mut peers, now) = known();
    let before: Vec<_> = peers.iter().map(|(peer, _)| Arc::clone(peer)).collect();
    peers.apply(roster(&["a@x:1", "b@y:1"]), now);
    assert!(peers.iter().zip(&before).all(|((now, _), before)| Arc::ptr_eq(now, before)));
}
