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

/// Every peer as `id`, or as `id?` where it is held.
fn states(peers: &Peers) -> Vec<String> {
    peers.iter().map(|entry| format!("{}{}", entry.peer.instance_id, if entry.held { "?" } else { "" })).collect()
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
    let before: Vec<_> = peers.iter().map(|entry| Arc::clone(entry.peer)).collect();
    peers.apply(roster(&["a@x:1", "b@y:1"]), now);
    assert!(peers.iter().zip(&before).all(|(now, before)| Arc::ptr_eq(now.peer, before)));
}

#[test]
fn a_peer_is_held_while_it_is_missing_and_no_more_when_it_is_back() {
    let (mut peers, now) = known();
    peers.registry_forgot(now);
    assert_eq!(states(&peers), ["a", "b"], "nobody is missing yet");
    peers.apply(roster(&["me@x:1", "b@y:1", "c@z:1"]), now);
    assert_eq!(states(&peers), ["a?", "b", "c"]);
    peers.apply(roster(&["me@x:1", "b@y:1"]), now + HOLD / 4);
    assert_eq!(states(&peers), ["a?", "b", "c?"]);
    peers.apply(roster(&["me@x:1", "a@x:2", "b@y:1"]), now + HOLD / 2);
    assert_eq!(states(&peers), ["a", "b", "c?"], "also where it is back at another address");
    peers.settle(now + HOLD);
    assert_eq!(states(&peers), ["a", "b"]);
}

#[test]
fn a_peer_is_held_with_what_was_last_known_of_it() {
    let (mut peers, now) = known();
    let seen = |peers: &Peers| peers.iter().map(|entry| entry.last_seen).collect::<Vec<_>>();
    let later = |text: &str| Member { last_seen: 9, ..member(text) };
    assert_eq!(seen(&peers), [5, 5]);
    peers.apply(vec![later("a@x:1"), later("b@y:1")], now);
    assert_eq!(seen(&peers), [9, 9], "a roster that changes nothing else says when a peer was last heard of");
    peers.registry_forgot(now);
    peers.apply(vec![member("b@y:1")], now);
    assert_eq!((seen(&peers), states(&peers)), (vec![9, 5], vec!["a?".to_owned(), "b".to_owned()]));
}

#[test]
fn another_length_counts_for_holds_that_begin_afterwards() {
    let (mut peers, now) = known();
    peers.registry_forgot(now);
    peers.apply(Vec::new(), now);
    peers.set_hold(HOLD * 2);
    assert_eq!(names(&peers.settle(now + HOLD).left), ["a", "b"], "this one had begun");
    peers.apply(roster(&["a@x:1"]), now + HOLD);
    peers.registry_forgot(now + HOLD);
    peers.apply(Vec::new(), now + HOLD);
    assert!(peers.settle(now + HOLD * 2).is_empty());
    assert_eq!(names(&peers.settle(now + HOLD * 3).left), ["a"]);
}
