use std::time::Duration;

use super::*;

const PACE: Pace = Pace { poll: Duration::from_secs(30), heartbeat: Duration::from_secs(45) };
const HOLD: Duration = Duration::from_secs(100);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const OWN: &str = "10.0.0.1:8756";

/// A member from `id` or `id=address`.
fn member(text: &str) -> Member {
    let (name, at) = text.split_once('=').unwrap_or((text, OWN));
    let at = address(at);
    Member {
        instance_id: name.parse().unwrap(),
        location: "x".parse().unwrap(),
        ip: at.ip(),
        port: at.port().try_into().unwrap(),
        last_seen: 5,
        registered_at: 1,
        status: (),
    }
}

fn listing(members: Vec<Member>) -> MembersReply {
    MembersReply { members, ..MembersReply::default() }
}

fn full_of(members: Vec<Member>, etag: Option<&str>) -> RosterAnswer {
    RosterAnswer::Full { roster: listing(members), etag: etag.map(str::to_owned), age: Some(Duration::ZERO) }
}

fn full(members: &[&str], etag: &str) -> RosterAnswer {
    full_of(members.iter().map(|text| member(text)).collect(), Some(etag))
}

const UNCHANGED: RosterAnswer = RosterAnswer::Unchanged { age: Some(Duration::ZERO) };

fn registered(known: bool) -> LeaseAnswer {
    LeaseAnswer::Registered { address: address(OWN), known }
}

/// A membership with its clock, which the test moves on.
struct Walk {
    membership: Membership,
    start: Instant,
    now: Instant,
}

impl Walk {
    fn new() -> Self {
        let start = crate::clock::monotonic();
        Self { membership: Membership::new("me".parse().unwrap(), PACE, HOLD, start), start, now: start }
    }

    /// Registered long enough ago, with a roster of itself and `a`, tagged `"1"`.
    fn settled() -> Self {
        let mut walk = Self::new();
        walk.lease(registered(true));
        walk.now += secs(10);
        walk.poll(full(&["me", "a"], "1"));
        walk
    }

    fn begin_lease(&mut self) -> (Ticket, LeaseRequest) {
        loop {
            match self.membership.lease(self.now) {
                Action::Do(ticket, request) => return (ticket, request),
                Action::WaitUntil(at) => self.now = at,
                Action::UnderWay => panic!("a request is under way"),
            }
        }
    }

    fn begin_poll(&mut self) -> (Ticket, Poll) {
        loop {
            match self.membership.poll(self.now) {
                Action::Do(ticket, poll) => return (ticket, poll),
                Action::WaitUntil(at) => self.now = at,
                Action::UnderWay => panic!("a request is under way"),
            }
        }
    }

    fn end_lease(&mut self, ticket: Ticket, answer: LeaseAnswer) -> Option<News> {
        self.membership.on_lease(ticket, answer, self.now, 1.0)
    }

    fn end_poll(&mut self, ticket: Ticket, answer: RosterAnswer) -> Option<News> {
        self.membership.on_roster(ticket, answer, self.now, 1.0)
    }

    /// Makes the next request of the lease lane, which is answered at once.
    fn lease(&mut self, answer: LeaseAnswer) -> News {
        let (ticket, _) = self.begin_lease();
        self.end_lease(ticket, answer).unwrap()
    }

    /// Makes the next request for the roster, which is answered at once.
    fn poll(&mut self, answer: RosterAnswer) -> News {
        let (ticket, _) = self.begin_poll();
        self.end_poll(ticket, answer).unwrap()
    }

    /// The tag that the next request for the roster asks with. That request fails.
    fn asks_with(&mut self) -> Option<String> {
        let (ticket, Poll { etag, .. }) = self.begin_poll();
        self.end_poll(ticket, RosterAnswer::Failed).unwrap();
        etag
    }

    fn peers(&self) -> Vec<&str> {
        self.membership.peers().iter().map(|entry| entry.peer.instance_id.as_str()).collect()
    }
}

#[test]
fn a_roster_is_taken_in_with_its_tag_and_its_time() {
    let mut walk = Walk::new();
    assert_eq!((walk.membership.roster_at(), walk.begin_poll().1), (None, Poll { etag: None, wait: Duration::ZERO }));

    let mut walk = Walk::settled();
    assert_eq!(walk.peers(), ["a"]);
    assert_eq!(walk.membership.roster_at(), Some(walk.now));
    let (ticket, poll) = walk.begin_poll();
    assert_eq!(poll, Poll { etag: Some("1".into()), wait: PACE.poll });
    let news = walk.end_poll(ticket, full(&["me", "b"], "2")).unwrap();
    let change = news.roster.unwrap();
    assert_eq!((change.joined.len(), change.left.len()), (1, 1));
    assert_eq!(walk.asks_with(), Some("2".into()));
}

#[test]
fn a_reply_that_does_not_count_any_more_changes_nothing() {
    let mut walk = Walk::settled();
    let (stale_poll, _) = walk.begin_poll();
    let (stale_lease, _) = walk.begin_lease();
    walk.membership.start_over(walk.now);
    let roster_at = walk.membership.roster_at();
    walk.now += secs(1);
    let late = full(&["me=10.0.0.9:1", "b"], "stale");
    assert_eq!(walk.end_poll(stale_poll, late.clone()), None);
    assert_eq!(walk.end_poll(stale_poll, UNCHANGED), None);
    assert_eq!(walk.end_lease(stale_lease, registered(false)), None);
    assert_eq!(walk.peers(), ["a"], "neither the roster");
    assert_eq!(walk.membership.roster_at(), roster_at, "nor its time");
    assert_eq!(walk.membership.registered(), None, "nor a registration with the last registry");
    // And once more while the request to the new registry is under way.
    let (ticket, poll) = walk.begin_poll();
    assert_eq!(poll.etag, None, "nor its tag is taken over, and that of the last registry is forgotten");
    assert_eq!(walk.end_poll(stale_poll, late), None);
    let news = walk.end_poll(ticket, full(&["me", "c"], "new")).unwrap();
    assert_eq!(news.roster.unwrap().joined.len(), 1);
    assert_eq!(walk.peers(), ["a", "c"], "who was known may be on the way there, and is held");
    assert_eq!(walk.asks_with(), Some("new".into()));
}

#[test]
fn a_failed_request_changes_neither_roster_nor_tag_nor_time() {
    for answer in [RosterAnswer::Failed, RosterAnswer::NoRoom] {
        let mut walk = Walk::settled();
        let before = walk.membership.roster_at();
        assert_eq!(walk.poll(answer), News::default());
        assert_eq!((walk.peers(), walk.membership.roster_at()), (vec!["a"], before));
        assert_eq!(walk.asks_with(), Some("1".into()));
    }
}

#[test]
fn the_tag_of_a_roster_without_this_member_is_not_kept() {
    let mut walk = Walk::settled();
    walk.poll(full(&["a"], "without me"));
    assert_eq!(walk.begin_poll().1, Poll { etag: None, wait: Duration::ZERO });
}

#[test]
fn a_roster_without_a_tag_or_without_this_member_is_asked_for_each_poll_interval() {
    let untagged = || full_of(vec![member("me"), member("a")], None);
    let without_me = || full(&["a"], "1");
    for (what, answer) in [("without a tag", untagged as fn() -> RosterAnswer), ("without this member", without_me)] {
        let mut walk = Walk::new();
        let first = walk.begin_lease();
        walk.end_lease(first.0, if what == "without a tag" { registered(true) } else { LeaseAnswer::Failed });
        walk.poll(answer());
        let start = walk.now;
        for turn in 1..=20 {
            let (ticket, poll) = walk.begin_poll();
            assert_eq!((walk.now - start, poll.etag), (PACE.poll * turn, None), "{what}");
            walk.end_poll(ticket, answer());
        }
    }
}

/// The numbers of the requests, the first one left out, that ask for the roster in full in a ring of so many peers.
fn asked_in_full(peers: usize) -> Vec<usize> {
    let mut walk = Walk::new();
    walk.lease(registered(true));
    let mut members = vec![member("me")];
    members.extend((0..peers).map(|n| member(&format!("peer-{n}"))));
    let mut in_full = Vec::new();
    for n in 0..=60 {
        let (ticket, Poll { etag, wait }) = walk.begin_poll();
        walk.now += wait;
        let answer = if etag.is_some() { UNCHANGED } else { full_of(members.clone(), Some("1")) };
        if etag.is_none() && n > 0 {
            in_full.push(n);
        }
        assert_eq!(etag.is_none(), wait.is_zero(), "there is nothing to wait for where it is wanted in full");
        walk.end_poll(ticket, answer).unwrap();
    }
    in_full
}

#[test]
fn each_tenth_roster_is_asked_for_in_full_and_in_a_large_ring_less_often_in_proportion() {
    assert_eq!(asked_in_full(1), [10, 20, 30, 40, 50, 60]);
    assert_eq!(asked_in_full(1_000), [10, 20, 30, 40, 50, 60]);
    assert_eq!(asked_in_full(2_000), [20, 40, 60]);
    assert_eq!(asked_in_full(3_000), [30, 60]);
}

#[test]
fn a_roster_in_full_that_nobody_asked_for_counts_as_one() {
    let mut walk = Walk::settled();
    for _ in 0..5 {
        walk.poll(UNCHANGED);
    }
    walk.poll(full(&["me", "a"], "2"));
    for turn in 0..9 {
        let (ticket, poll) = walk.begin_poll();
        assert_eq!(poll.etag.as_deref(), Some("2"), "turn {turn}");
        walk.end_poll(ticket, UNCHANGED);
    }
    assert_eq!(walk.begin_poll().1.etag, None);
}

#[test]
fn a_full_roster_that_failed_is_asked_for_until_it_comes() {
    let mut walk = Walk::settled();
    for _ in 0..9 {
        walk.poll(UNCHANGED);
    }
    assert_eq!((walk.asks_with(), walk.asks_with()), (None, None));
    walk.poll(full(&["me", "a"], "2"));
    assert_eq!(walk.asks_with(), Some("2".into()));
}

#[test]
fn another_member_with_this_identity_is_reported_once_for_each_address() {
    let mut walk = Walk::settled();
    let mut seen = |at: &str| walk.poll(full(&[&format!("me={at}"), "a"], at)).duplicate;
    assert_eq!(seen(OWN), None);
    assert_eq!(seen("10.0.0.9:1"), Some(address("10.0.0.9:1")));
    assert_eq!(seen("10.0.0.9:1"), None);
    assert_eq!(seen("10.0.0.9:2"), Some(address("10.0.0.9:2")), "another port is another address");
    assert_eq!(seen(OWN), None, "it went away");
    assert_eq!(seen("10.0.0.9:2"), Some(address("10.0.0.9:2")), "and came back");
}

#[test]
fn a_roster_that_shows_where_this_member_was_before_is_no_other_member_while_a_replica_may_lag() {
    let mut walk = Walk::settled();
    walk.membership.register_again(walk.now);
    let moved = address("10.0.0.2:8756");
    assert_eq!(walk.lease(LeaseAnswer::Registered { address: moved, known: true }).registered, Some(moved));
    let at = walk.now;
    walk.poll(full(&["me=10.0.0.2:8756", "a"], "2"));
    let (ticket, _) = walk.begin_poll();
    walk.now = at + REPLICA_LAG;
    assert_eq!(walk.end_poll(ticket, full(&["me", "a"], "3")).unwrap().duplicate, None);
    let (ticket, _) = walk.begin_poll();
    walk.now = at + REPLICA_LAG + Duration::from_millis(501);
    assert_eq!(walk.end_poll(ticket, full(&["me", "a"], "4")).unwrap().duplicate, Some(address(OWN)));
}

#[test]
fn before_any_registration_an_entry_of_this_identity_is_that_of_the_last_run() {
    let mut walk = Walk::new();
    let news = walk.poll(full(&["me=10.0.0.9:1", "a"], "1"));
    assert_eq!((news.duplicate, news.holds), (None, false));
}

#[test]
fn a_404_on_a_heartbeat_holds_who_is_missing_from_then_on() {
    let mut walk = Walk::settled();
    assert_eq!(walk.lease(LeaseAnswer::Renewed), News::default());
    assert!(walk.lease(LeaseAnswer::Unknown).holds);
    assert!(!walk.lease(registered(false)).holds, "one hold is news once");
    let news = walk.poll(full(&["me"], "2"));
    assert!(news.roster.unwrap().is_empty());
    let held: Vec<bool> = walk.membership.peers().iter().map(|entry| entry.held).collect();
    assert_eq!(held, [true]);
    let over = walk.now + HOLD;
    assert_eq!(walk.membership.settle(over).left.len(), 1, "until the hold is over");
}

#[test]
fn a_registration_of_an_unknown_member_holds_who_is_missing() {
    let mut walk = Walk::new();
    walk.membership.recall(vec![member("a")], false, walk.now);
    assert!(walk.lease(registered(false)).holds);
    assert!(walk.poll(full(&["me"], "1")).roster.unwrap().is_empty());
    assert_eq!(walk.peers(), ["a"]);
}

#[test]
fn a_roster_without_this_member_holds_who_is_missing_from_the_same_roster() {
    let mut walk = Walk::settled();
    let news = walk.poll(full(&["b"], "2"));
    assert!(news.holds);
    assert!(news.roster.unwrap().left.is_empty());
    assert_eq!(walk.peers(), ["a", "b"]);
    assert_eq!(walk.begin_lease().1, LeaseRequest::Register);
}

#[test]
fn after_leaving_in_order_it_is_no_wonder_that_the_registry_does_not_know_this_member_but_only_once() {
    let mut walk = Walk::new();
    walk.membership.recall(vec![member("a"), member("b")], true, walk.now);
    assert!(!walk.lease(registered(false)).holds);
    assert_eq!(walk.poll(full(&["me", "a"], "1")).roster.unwrap().left.len(), 1, "b has left in the meantime");
    walk.membership.register_again(walk.now);
    assert!(walk.lease(registered(false)).holds, "the next time it was forgotten");

    let mut walk = Walk::new();
    walk.membership.recall(vec![member("a")], true, walk.now);
    walk.membership.start_over(walk.now);
    walk.membership.settle(walk.now + HOLD);
    walk.membership.recall(vec![member("a")], false, walk.now + HOLD);
    walk.now += HOLD;
    assert!(walk.lease(registered(false)).holds, "another registry was not left in order");
}

#[test]
fn a_registration_is_news_where_the_address_is_another_one() {
    let mut walk = Walk::new();
    let at = |text| LeaseAnswer::Registered { address: address(text), known: true };
    assert_eq!(walk.lease(at(OWN)).registered, Some(address(OWN)));
    assert_eq!(walk.membership.registered(), Some(address(OWN)));
    assert_eq!(walk.lease(at(OWN)).registered, None, "a heartbeat that became a registration");
    assert_eq!(walk.lease(at("10.0.0.2:8756")).registered, Some(address("10.0.0.2:8756")));
    assert_eq!(walk.lease(LeaseAnswer::Failed).registered, None);
    assert_eq!(walk.membership.registered(), Some(address("10.0.0.2:8756")), "the lease may still run");
    walk.membership.register_again(walk.now);
    assert_eq!(
        walk.lease(at("10.0.0.2:8756")).registered,
        Some(address("10.0.0.2:8756")),
        "perhaps at another location"
    );
}

#[test]
fn the_time_of_the_roster_is_that_of_its_confirmation_less_the_age_that_the_registry_gives() {
    let mut walk = Walk::settled();
    let unchanged = |age| RosterAnswer::Unchanged { age };
    walk.poll(unchanged(Some(Duration::ZERO)));
    assert_eq!(walk.membership.roster_at(), Some(walk.now));
    walk.poll(unchanged(Some(secs(7))));
    assert_eq!(walk.membership.roster_at(), Some(walk.now - secs(7)));
    let before = walk.membership.roster_at();
    walk.poll(unchanged(None));
    assert_eq!(walk.membership.roster_at(), before, "an age that cannot be read confirms nothing");
    let roster = listing(vec![member("me")]);
    walk.poll(RosterAnswer::Full { roster, etag: None, age: Some(secs(60)) });
    assert_eq!(walk.membership.roster_at(), Some(walk.now - secs(60)));
    let mut walk = Walk::new();
    walk.membership.recall(vec![member("a")], false, walk.start);
    assert_eq!(walk.membership.roster_at(), None, "that of the last run is confirmed by nobody");
}

#[test]
fn entries_that_cannot_be_used_are_news_where_their_number_is_another_one() {
    let mut walk = Walk::settled();
    let mut news = |unusable| {
        let roster = MembersReply { unusable, ..listing(vec![member("me")]) };
        walk.poll(RosterAnswer::Full { roster, etag: Some("1".into()), age: None }).unusable.is_some()
    };
    let said = [0, 2, 2, 3, 0, 0].map(&mut news);
    assert_eq!(said, [false, true, false, true, true, false]);
}

#[test]
fn it_is_well_while_the_last_request_of_each_lane_was_answered() {
    let mut walk = Walk::settled();
    assert!(walk.membership.is_well());
    walk.poll(RosterAnswer::Failed);
    assert!(!walk.membership.is_well());
    walk.lease(LeaseAnswer::Renewed);
    assert!(!walk.membership.is_well());
    walk.poll(UNCHANGED);
    assert!(walk.membership.is_well());
    walk.lease(LeaseAnswer::Failed);
    assert!(!walk.membership.is_well());
}
