use std::collections::BTreeMap;

use super::*;

const TTL: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);

fn start() -> Instant {
    crate::clock::monotonic()
}

fn wall(seconds: u64) -> Wall {
    Wall::from_epoch_seconds(seconds)
}

fn id(n: usize) -> InstanceId {
    format!("m{n}").parse().unwrap()
}

fn candidate(n: usize, location: &str, host: u8) -> Candidate {
    Candidate {
        instance_id: id(n),
        location: location.parse().unwrap(),
        ip: IpAddr::from([10, 0, 0, host]),
        port: crate::wire::DEFAULT_PORT,
    }
}

fn roster(max_members: usize) -> Roster {
    Roster::new(TTL, NonZeroUsize::new(max_members).unwrap())
}

fn live(roster: &Roster, now: Instant) -> Vec<String> {
    let mut ids: Vec<String> = roster.members(now).map(|m| m.instance_id.to_string()).collect();
    ids.sort();
    ids
}

/// Where a member can be, seen from the roster.
#[derive(Clone, Copy, Debug)]
enum Before {
    Unknown,
    Live,
    Over,
    Left,
}

fn prepared(before: Before, t: Instant) -> (Roster, Instant) {
    let mut roster = roster(10);
    if matches!(before, Before::Unknown) {
        return (roster, t);
    }
    roster.register(candidate(1, "us1", 1), t, wall(1000)).unwrap();
    match before {
        Before::Over => return (roster, t + TTL),
        Before::Left => assert!(roster.leave(&id(1), t)),
        Before::Unknown | Before::Live => {}
    }
    (roster, t + SECOND)
}

#[test]
fn registering_does_what_the_table_says() {
    use Admission::{Joined, Moved, Renewed};
    // before, location, host -> admission, revision moves by, registered_at
    let table = [
        (Before::Unknown, "us1", 1, Joined, 1, 2000),
        (Before::Live, "us1", 1, Renewed, 0, 1000),
        (Before::Live, "eu1", 1, Moved, 1, 2000),
        (Before::Live, "us1", 2, Moved, 1, 2000),
        (Before::Over, "us1", 1, Joined, 1, 2000),
        (Before::Left, "us1", 1, Joined, 1, 2000),
    ];
    for (before, location, host, admission, moves, registered_at) in table {
        let (mut roster, now) = prepared(before, start());
        let revision = roster.revision();
        let got = roster.register(candidate(1, location, host), now, wall(2000)).unwrap();
        assert_eq!(got, admission, "{before:?} {location} {host}");
        assert_eq!(roster.revision() - revision, moves, "{before:?} {location} {host}");
        let members: Vec<&Member> = roster.members(now).collect();
        assert_eq!(members.len(), 1, "{before:?} {location} {host}");
        assert_eq!(members[0].registered_at, registered_at, "{before:?} {location} {host}");
        assert_eq!(members[0].last_seen, 2000);
        assert_eq!(roster.next_expiry(), Some(now + TTL));
    }
}

#[test]
fn heartbeats_and_leaving_do_what_the_table_says() {
    for (before, known) in
        [(Before::Unknown, false), (Before::Live, true), (Before::Over, false), (Before::Left, false)]
    {
        let (mut roster, now) = prepared(before, start());
        let revision = roster.revision();
        assert_eq!(roster.renew(&id(1), now, wall(2000)), known, "heartbeat, {before:?}");
        assert_eq!(roster.revision(), revision, "a heartbeat moves no revision, {before:?}");
        if known {
            assert_eq!(roster.next_expiry(), Some(now + TTL));
            assert_eq!(roster.members(now).next().unwrap().last_seen, 2000);
        }
        let (mut roster, now) = prepared(before, start());
        let revision = roster.revision();
        assert_eq!(roster.leave(&id(1), now), known, "leaving, {before:?}");
        assert_eq!(roster.revision() - revision, u64::from(known), "leaving, {before:?}");
        assert!(live(&roster, now).is_empty());
    }
}

#[test]
fn a_heartbeat_at_exactly_the_deadline_is_late() {
    let t = start();
    let mut roster = roster(10);
    roster.register(candidate(1, "us1", 1), t, wall(0)).unwrap();
    let just_in_time = t + TTL - Duration::from_nanos(1);
    assert!(roster.clone().renew(&id(1), just_in_time, wall(0)));
    assert_eq!(roster.expire(just_in_time), None);
    assert!(!roster.renew(&id(1), t + TTL, wall(0)));
    assert!(live(&roster, t + TTL).is_empty(), "not listed even before anyone tidied");
    assert_eq!(roster.expire(t + TTL).unwrap().instance_id, id(1));
    assert_eq!(roster.expire(t + TTL), None);
    assert_eq!(roster.next_expiry(), None);
}

#[test]
fn a_full_ring_takes_back_its_own_and_nobody_else() {
    let t = start();
    let mut roster = roster(2);
    roster.register(candidate(1, "us1", 1), t, wall(0)).unwrap();
    roster.register(candidate(2, "us1", 2), t + SECOND, wall(0)).unwrap();
    assert_eq!(roster.register(candidate(3, "us1", 3), t + SECOND, wall(0)), Err(Full { max_members: 2 }));
    assert_eq!(roster.register(candidate(1, "eu1", 1), t, wall(0)), Ok(Admission::Moved));
    assert_eq!(roster.register(candidate(3, "us1", 3), t + TTL, wall(0)), Ok(Admission::Joined), "a place is free");
}

#[test]
fn restored_members_have_one_lease_to_come_back() {
    let t = start();
    let mut old = roster(10);
    old.register(candidate(1, "us1", 1), t, wall(7)).unwrap();
    let members: Vec<Member> = old.members(t).cloned().collect();
    let later = t + TTL * 3;
    let mut roster = Roster::restored(TTL, NonZeroUsize::new(10).unwrap(), old.revision(), members, later);
    assert_eq!(roster.revision(), 1);
    assert_eq!(roster.next_expiry(), Some(later + TTL));
    assert_eq!(roster.register(candidate(1, "us1", 1), later, wall(99)), Ok(Admission::Renewed));
    assert_eq!(roster.member(&id(1)).unwrap().registered_at, 7);
}

#[test]
fn a_silence_of_the_registry_itself_ends_no_lease() {
    let t = start();
    let mut ring = RingTime::new(t);
    assert_eq!(ring.at(t + SECOND), t + SECOND);
    assert_eq!(ring.at(t + SECOND), t + SECOND);
    assert_eq!(ring.at(t + SECOND * 3601), t + SECOND + LONGEST_SILENCE);
    assert_eq!(ring.at(t + SECOND * 3602), t + SECOND * 2 + LONGEST_SILENCE);
    assert_eq!(ring.at(t), t + SECOND * 2 + LONGEST_SILENCE, "never backwards");
}

#[test]
fn a_heartbeat_costs_the_same_in_a_ring_of_ten_thousand() {
    let t = start();
    let mut roster = roster(10_000);
    for n in 0..10_000 {
        roster.register(candidate(n, "us1", 1), t + SECOND * (n as u32 % 200), wall(0)).unwrap();
    }
    let began = start();
    for n in 0..10_000 {
        assert!(roster.renew(&id(n), t + SECOND * 250, wall(1)));
    }
    let took = start() - began;
    assert!(took < SECOND, "10,000 heartbeats took {took:?}");
    assert_eq!(roster.by_end.len(), roster.leases.len());
}

/// A model that is too simple to be wrong: who is there, where, since when, until when.
#[derive(Default)]
struct Model {
    members: BTreeMap<usize, (String, u8, u64, Duration)>,
    revision: u64,
}

impl Model {
    fn drop_over(&mut self, now: Duration) {
        let before = self.members.len();
        self.members.retain(|_, (_, _, _, ends)| *ends > now);
        self.revision += (before - self.members.len()) as u64;
    }
}

#[test]
fn the_roster_agrees_with_a_simple_model_whatever_happens() {
    const MAX: usize = 6;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let t = start();
        let mut roster = roster(MAX);
        let mut model = Model::default();
        let mut now = Duration::ZERO;
        for _ in 0..200 {
            now += SECOND * random.u32(0..60);
            // The wall clock jumps about and must not matter.
            let seconds = random.u64(0..1 << 40);
            while roster.expire(t + now).is_some() {}
            model.drop_over(now);
            let n = random.usize(0..9);
            match random.u8(0..4) {
                0 => {
                    let (location, host) = (["us1", "eu1"][random.usize(0..2)], random.u8(1..3));
                    let got = roster.register(candidate(n, location, host), t + now, wall(seconds));
                    let held = model.members.get(&n).cloned();
                    let expected = match &held {
                        Some((l, h, _, _)) if l == location && *h == host => Ok(Admission::Renewed),
                        Some(_) => Ok(Admission::Moved),
                        None if model.members.len() == MAX => Err(Full { max_members: MAX }),
                        None => Ok(Admission::Joined),
                    };
                    assert_eq!(got, expected);
                    if let Ok(admission) = expected {
                        let renewed = admission == Admission::Renewed;
                        let since = held.filter(|_| renewed).map_or(seconds, |h| h.2);
                        model.members.insert(n, (location.into(), host, since, now + TTL));
                        model.revision += u64::from(!renewed);
                    }
                }
                1 | 2 => {
                    assert_eq!(roster.renew(&id(n), t + now, wall(seconds)), model.members.contains_key(&n));
                    if let Some(member) = model.members.get_mut(&n) {
                        member.3 = now + TTL;
                    }
                }
                _ => {
                    let there = model.members.remove(&n).is_some();
                    assert_eq!(roster.leave(&id(n), t + now), there);
                    model.revision += u64::from(there);
                }
            }
            assert_eq!(roster.revision(), model.revision);
            assert_eq!(roster.next_expiry(), model.members.values().map(|m| t + m.3).min());
            let mut listed: Vec<_> =
                roster.members(t + now).map(|m| (m.instance_id.clone(), m.ip, m.registered_at)).collect();
            listed.sort();
            let expected: Vec<_> =
                model.members.iter().map(|(n, m)| (id(*n), IpAddr::from([10, 0, 0, m.1]), m.2)).collect();
            assert_eq!(listed, expected);
        }
    }
}
