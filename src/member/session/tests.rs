use super::*;

const PACE: Pace = Pace { poll: Duration::from_secs(30), heartbeat: Duration::from_secs(45) };

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A session with its clock, which the test moves on.
struct Walk {
    session: Session,
    start: Instant,
    now: Instant,
    /// There is a roster that can be confirmed.
    may_wait: bool,
    jitter: f64,
}

impl Walk {
    fn new() -> Self {
        Self::with(PACE)
    }

    fn with(pace: Pace) -> Self {
        let start = crate::clock::monotonic();
        Self { session: Session::new(pace, start), start, now: start, may_wait: false, jitter: 1.0 }
    }

    /// Registered and in possession of a roster, with nothing under way and nothing due.
    fn settled() -> Self {
        let mut walk = Self::new();
        walk.lease(LeaseReply::Registered { known: true });
        walk.roster(FULL);
        assert_eq!((walk.lease_wait(), walk.roster_wait()), (secs(45), ms(500)));
        walk
    }

    fn at(&mut self, since_start: Duration) {
        assert!(self.start + since_start >= self.now);
        self.now = self.start + since_start;
    }

    /// Makes the request of the lease lane that is due now; panics where there is none.
    fn begin_lease(&mut self) -> (Ticket, LeaseRequest) {
        match self.session.lease(self.now) {
            Action::Do(ticket, request) => (ticket, request),
            other => panic!("no request is due: {other:?}"),
        }
    }

    /// The same of the roster lane.
    fn begin_roster(&mut self) -> (Ticket, Duration) {
        match self.session.roster(self.may_wait, self.now) {
            Action::Do(ticket, wait) => (ticket, wait),
            other => panic!("no request is due: {other:?}"),
        }
    }

    fn end_lease(&mut self, ticket: Ticket, reply: LeaseReply) -> Option<bool> {
        self.session.on_lease(ticket, reply, self.now, self.jitter)
    }

    fn end_roster(&mut self, ticket: Ticket, reply: RosterReply) -> Option<bool> {
        if let RosterReply::Full { tagged, .. } = reply {
            self.may_wait = tagged;
        }
        self.session.on_roster(ticket, reply, self.now, self.jitter)
    }

    /// Makes the request of the lease lane that is due now, which is answered at once.
    fn lease(&mut self, reply: LeaseReply) -> (LeaseRequest, Option<bool>) {
        let (ticket, request) = self.begin_lease();
        (request, self.end_lease(ticket, reply))
    }

    /// The same of the roster lane. Gives back how long the registry might have kept the request.
    fn roster(&mut self, reply: RosterReply) -> (Duration, Option<bool>) {
        let (ticket, wait) = self.begin_roster();
        (wait, self.end_roster(ticket, reply))
    }

    /// How long the lease lane waits from now; panics where it does not.
    fn lease_wait(&mut self) -> Duration {
        match self.session.lease(self.now) {
            Action::WaitUntil(at) => at - self.now,
            other => panic!("it does not wait: {other:?}"),
        }
    }

    fn roster_wait(&mut self) -> Duration {
        match self.session.roster(self.may_wait, self.now) {
            Action::WaitUntil(at) => at - self.now,
            other => panic!("it does not wait: {other:?}"),
        }
    }

    /// Moves on to when the lease lane has something due.
    fn until_lease(&mut self) {
        if let Action::WaitUntil(at) = self.session.clone().lease(self.now) {
            self.now = at;
        }
    }

    fn until_roster(&mut self) {
        if let Action::WaitUntil(at) = self.session.clone().roster(self.may_wait, self.now) {
            self.now = at;
        }
    }
}

const FULL: RosterReply = RosterReply::Full { listed: true, tagged: true };
const UNTAGGED: RosterReply = RosterReply::Full { listed: true, tagged: false };
const WITHOUT_ME: RosterReply = RosterReply::Full { listed: false, tagged: false };

#[test]
fn it_registers_and_asks_for_the_roster_at_once_and_neither_waits_for_the_other() {
    let mut walk = Walk::new();
    let (_lease, request) = walk.begin_lease();
    let (_roster, wait) = walk.begin_roster();
    assert_eq!((request, wait), (LeaseRequest::Register, Duration::ZERO));
    assert_eq!(walk.session.lease(walk.now + secs(3_600)), Action::UnderWay);
    assert_eq!(walk.session.roster(true, walk.now + secs(3_600)), Action::UnderWay);
}

#[test]
fn heartbeats_keep_their_rhythm_whatever_the_answers_take() {
    let mut walk = Walk::settled();
    for turn in 1..=5 {
        walk.until_lease();
        assert_eq!(walk.now - walk.start, PACE.heartbeat * turn);
        let (ticket, request) = walk.begin_lease();
        assert_eq!(request, LeaseRequest::Heartbeat);
        walk.now += secs(4);
        assert_eq!(walk.end_lease(ticket, LeaseReply::Renewed), Some(false));
    }
    // Noticed after several missed turns: one heartbeat now, the next an interval later.
    walk.at(secs(1_000));
    assert_eq!(walk.lease(LeaseReply::Renewed).0, LeaseRequest::Heartbeat);
    assert_eq!(walk.lease_wait(), PACE.heartbeat);
}

#[test]
fn a_request_that_the_registry_keeps_is_followed_by_the_next_at_once_and_a_new_roster_after_a_moment() {
    let mut walk = Walk::settled();
    for _ in 0..5 {
        walk.until_roster();
        let (ticket, wait) = walk.begin_roster();
        assert_eq!(wait, PACE.poll);
        walk.now += wait;
        assert_eq!(walk.end_roster(ticket, RosterReply::Unchanged), Some(false));
        // No moment passes in which nobody listens.
        let (ticket, wait) = walk.begin_roster();
        assert_eq!(wait, PACE.poll);
        walk.now += ms(20);
        walk.end_roster(ticket, FULL);
        assert_eq!(walk.roster_wait(), GATHER);
    }
}

#[test]
fn a_ring_that_changes_all_the_time_is_asked_about_twice_to_four_times_a_second_at_most() {
    for (jitter, wait) in [(0.0, ms(250)), (0.5, ms(375)), (1.0, ms(500)), (7.0, ms(500)), (-1.0, ms(250))] {
        let mut walk = Walk::settled();
        walk.until_roster();
        walk.jitter = jitter;
        walk.roster(FULL);
        assert_eq!(walk.roster_wait(), wait, "jitter {jitter}");
    }
}

#[test]
fn a_registry_is_asked_to_keep_a_request_for_the_poll_interval_but_not_for_more_than_a_minute() {
    for (poll, wait) in [(1, 1), (60, 60), (61, 60), (86_400, 60)] {
        let mut walk = Walk::with(Pace { poll: secs(poll), ..PACE });
        walk.roster(FULL);
        walk.until_roster();
        assert_eq!(walk.begin_roster().1, secs(wait), "poll interval {poll} s");
    }
}

#[test]
fn a_request_that_was_kept_and_then_cut_off_is_asked_again_plainly_and_is_no_failure() {
    let mut walk = Walk::settled();
    walk.until_roster();
    for _ in 0..2 {
        let (ticket, wait) = walk.begin_roster();
        assert_eq!(wait, PACE.poll);
        walk.now += secs(1);
        assert_eq!(walk.end_roster(ticket, RosterReply::Failed), Some(false));
        assert!(walk.session.is_well(), "a proxy has cut it off");
        assert_eq!(walk.roster(RosterReply::Unchanged).0, Duration::ZERO, "asked at once, plainly");
        walk.until_roster();
    }
    // Twice in a row: it is asked plainly for an hour.
    assert_eq!(walk.roster(RosterReply::Unchanged).0, Duration::ZERO);
    assert_eq!(walk.roster_wait(), PACE.poll);

    // Where the plain request fails as well the registry is away.
    let mut walk = Walk::settled();
    walk.until_roster();
    let (ticket, _) = walk.begin_roster();
    walk.now += secs(20);
    walk.end_roster(ticket, RosterReply::Failed);
    walk.roster(RosterReply::Failed);
    assert!(!walk.session.is_well());
    walk.until_roster();
    assert_eq!(walk.roster(RosterReply::Unchanged).0, Duration::ZERO, "so that the answer comes at once");
    assert!(walk.session.is_well());
    walk.until_roster();
    assert_eq!(walk.begin_roster().1, PACE.poll, "and then it is asked to wait again");
}

#[test]
fn rosters_without_news_are_not_asked_for_over_and_over() {
    // The tag is another one each time, or the registry never lists this member.
    for reply in [FULL, RosterReply::Full { listed: false, tagged: false }] {
        let mut walk = Walk::settled();
        let (mut asked, mut registered) = (0, 0);
        let end = walk.now + secs(600);
        while walk.now < end {
            if let Action::Do(ticket, _) = walk.session.roster(true, walk.now) {
                walk.end_roster(ticket, reply);
                asked += 1;
            }
            if let Action::Do(ticket, request) = walk.session.lease(walk.now) {
                registered += u32::from(request == LeaseRequest::Register);
                let known = LeaseReply::Registered { known: true };
                walk.end_lease(ticket, if request == LeaseRequest::Register { known } else { LeaseReply::Renewed });
            }
            walk.now += ms(50);
        }
        assert!(asked <= 70, "{reply:?}: {asked} rosters in ten minutes");
        assert!(registered <= 21, "{reply:?}: {registered} registrations in ten minutes");
    }
}

#[test]
fn a_large_ring_is_followed_in_longer_steps() {
    let mut walk = Walk::settled();
    walk.until_roster();
    let (ticket, _) = walk.begin_roster();
    walk.end_roster(ticket, FULL);
    walk.session.had_news(10_000);
    walk.until_roster();
    walk.roster(FULL);
    assert_eq!(walk.roster_wait(), ms(10_500));
}

#[test]
fn a_roster_asked_for_before_the_registration_says_nothing_of_the_registrys_memory() {
    let mut walk = Walk::new();
    let (asked, _) = walk.begin_roster();
    walk.now += ms(10);
    walk.lease(LeaseReply::Registered { known: true });
    walk.now += ms(10);
    let without = RosterReply::Full { listed: false, tagged: false };
    assert_eq!(walk.end_roster(asked, without), Some(false), "it was made before this member was on it");
    walk.until_roster();
    assert_eq!(walk.roster(without).1, Some(true));
}

#[test]
fn one_early_answer_is_forgiven_and_two_in_a_row_are_of_a_registry_that_keeps_no_requests() {
    let mut walk = Walk::settled();
    walk.until_roster();
    assert_eq!(walk.roster(RosterReply::Unchanged).0, PACE.poll);
    assert_eq!(walk.roster_wait(), ms(500), "an early answer is not asked for again at once");
    walk.until_roster();
    // A registry that is stopped answers what it keeps before the time. The next one keeps the request.
    for _ in 0..3 {
        let (ticket, wait) = walk.begin_roster();
        assert_eq!(wait, PACE.poll);
        walk.now += secs(1);
        walk.end_roster(ticket, RosterReply::Unchanged);
    }
    assert_eq!(walk.roster(RosterReply::Unchanged).0, PACE.poll, "a second is not early: the count began anew");
    walk.until_roster();
    let (ticket, wait) = walk.begin_roster();
    assert_eq!(wait, PACE.poll);
    walk.now += ms(999);
    walk.end_roster(ticket, RosterReply::Unchanged);
    let plain_since = walk.now;
    // Two in a row: each interval it is asked plainly, for an hour.
    let mut plain = 0;
    loop {
        walk.until_roster();
        let (ticket, wait) = walk.begin_roster();
        walk.end_roster(ticket, RosterReply::Unchanged);
        if !wait.is_zero() {
            break;
        }
        plain += 1;
        assert_eq!(walk.roster_wait(), PACE.poll);
    }
    assert!((PLAIN_FOR..PLAIN_FOR + PACE.poll).contains(&(walk.now - plain_since)));
    assert_eq!(plain, 3_600 / 30, "then it is asked to keep one again");
}

#[test]
fn a_changed_roster_is_never_early_and_an_answer_in_full_does_not_stop_the_long_polls() {
    let mut walk = Walk::settled();
    for _ in 0..10 {
        walk.until_roster();
        assert_eq!(walk.roster(FULL).0, PACE.poll);
    }
    // An early one between two changes is not one of two in a row.
    for reply in [RosterReply::Unchanged, FULL, RosterReply::Unchanged, FULL] {
        walk.until_roster();
        assert_eq!(walk.roster(reply).0, PACE.poll);
    }
}

#[test]
fn a_registry_whose_rosters_have_no_tag_is_asked_each_poll_interval() {
    let mut walk = Walk::new();
    walk.lease(LeaseReply::Registered { known: true });
    for turn in 0..5 {
        let (wait, _) = walk.roster(UNTAGGED);
        assert_eq!((walk.now - walk.start, wait), (PACE.poll * turn, Duration::ZERO));
        walk.until_roster();
    }
}

#[test]
fn a_member_that_may_not_register_follows_the_roster_each_poll_interval() {
    let mut walk = Walk::new();
    walk.lease(LeaseReply::Failed);
    for turn in 0..5 {
        assert_eq!(walk.roster(WITHOUT_ME), (Duration::ZERO, Some(false)), "it is on no roster, and nobody forgot it");
        assert_eq!(walk.roster_wait(), PACE.poll, "turn {turn}");
        walk.until_roster();
    }
    assert!(!walk.session.is_well());
}

#[test]
fn a_registry_without_room_is_asked_plainly_at_once_and_then_for_some_minutes() {
    for (jitter, plain_for) in [(0.0, NO_ROOM_FOR / 2), (1.0, NO_ROOM_FOR)] {
        let mut walk = Walk::settled();
        walk.until_roster();
        walk.jitter = jitter;
        assert_eq!(walk.roster(RosterReply::NoRoom), (PACE.poll, Some(false)));
        assert!(walk.session.is_well(), "that is an answer");
        let refused = walk.now;
        assert_eq!(walk.roster(RosterReply::Unchanged).0, Duration::ZERO);
        loop {
            assert_eq!(walk.roster_wait(), PACE.poll);
            walk.until_roster();
            if !walk.roster(RosterReply::Unchanged).0.is_zero() {
                break;
            }
        }
        assert!((plain_for..plain_for + PACE.poll).contains(&(walk.now - refused)), "jitter {jitter}");
    }
}

#[test]
fn a_silent_registry_is_tried_after_1_2_4_8_16_30_30_seconds_on_each_lane() {
    let backs_off = [1, 2, 4, 8, 16, 30, 30];
    let mut walk = Walk::settled();
    walk.until_lease();
    let waits = backs_off.map(|_| {
        assert_eq!(walk.lease(LeaseReply::Failed).1, Some(false));
        let wait = walk.lease_wait();
        walk.now += wait;
        wait.as_secs()
    });
    assert_eq!(waits, backs_off);
    assert_eq!(walk.lease(LeaseReply::Renewed).0, LeaseRequest::Heartbeat, "a lease that may still run is renewed");

    let mut walk = Walk::settled();
    walk.until_roster();
    let waits = backs_off.map(|_| {
        assert_eq!(walk.roster(RosterReply::Failed).1, Some(false));
        let wait = walk.roster_wait();
        walk.now += wait;
        wait.as_secs()
    });
    assert_eq!(waits, backs_off);
    walk.roster(RosterReply::Unchanged);
    walk.until_roster();
    walk.roster(RosterReply::Failed);
    assert_eq!(walk.roster_wait(), secs(1), "an answer ends the back-off");
}

#[test]
fn jitter_takes_up_to_half_of_a_wait_and_never_more() {
    for (jitter, wait) in [(0.0, ms(500)), (0.5, ms(750)), (1.0, ms(1_000)), (7.0, ms(1_000)), (-1.0, ms(500))] {
        let mut walk = Walk::new();
        walk.jitter = jitter;
        walk.lease(LeaseReply::Failed);
        walk.roster(RosterReply::Failed);
        assert_eq!((walk.lease_wait(), walk.roster_wait()), (wait, wait), "jitter {jitter}");
    }
}

#[test]
fn a_short_poll_interval_bounds_the_wait_too_but_not_below_a_second() {
    for (poll, longest) in [(1, 1), (5, 5), (3_600, 30)] {
        let mut walk = Walk::with(Pace { poll: secs(poll), ..PACE });
        for _ in 0..40 {
            walk.lease(LeaseReply::Failed);
            walk.until_lease();
        }
        walk.lease(LeaseReply::Failed);
        assert_eq!(walk.lease_wait(), secs(longest));
    }
}

#[test]
fn a_lease_lane_that_hangs_or_fails_does_not_delay_the_roster() {
    let mut walk = Walk::settled();
    walk.until_lease();
    let (hangs, _) = walk.begin_lease();
    let mut polls = 0;
    while walk.now < walk.start + secs(600) {
        walk.until_roster();
        let (ticket, wait) = walk.begin_roster();
        walk.now += wait;
        walk.end_roster(ticket, RosterReply::Unchanged);
        polls += 1;
    }
    assert_eq!(polls, 19, "one each 30 s");
    assert_eq!(walk.session.lease(walk.now), Action::UnderWay);
    walk.end_lease(hangs, LeaseReply::Failed);
    assert_eq!(
        walk.begin_roster().1,
        PACE.poll,
        "a connection that was reset is no reason to stop following the roster"
    );
    let mut walk = Walk::settled();
    walk.until_lease();
    walk.lease(LeaseReply::Failed);
    walk.roster(FULL);
    assert_eq!(walk.lease_wait(), secs(1), "and the roster's answers do not end the other lane's back-off");
}

#[test]
fn a_roster_lane_that_fails_does_not_delay_the_lease_and_is_not_hurried_by_it() {
    let mut walk = Walk::with(Pace { heartbeat: secs(1), ..PACE });
    walk.lease(LeaseReply::Registered { known: true });
    let mut asked = Vec::new();
    for turn in 1..=40 {
        walk.fail_roster_if_due(&mut asked);
        walk.at(secs(turn));
        assert_eq!(walk.lease(LeaseReply::Renewed), (LeaseRequest::Heartbeat, Some(false)), "second {turn}");
    }
    assert_eq!(asked, [0, 1, 3, 7, 15, 31], "after 1, 2, 4, 8 and 16 seconds");
}

impl Walk {
    /// Lets a request for the roster fail, if one is due now, and notes when.
    fn fail_roster_if_due(&mut self, asked: &mut Vec<u64>) {
        if let Action::Do(ticket, _) = self.session.roster(self.may_wait, self.now) {
            asked.push((self.now - self.start).as_secs());
            self.end_roster(ticket, RosterReply::Failed);
        }
    }
}

/// Both lanes have failed so often that they wait for half a minute.
fn lost() -> Walk {
    let mut walk = Walk::settled();
    walk.until_lease();
    for _ in 0..8 {
        walk.lease(LeaseReply::Failed);
        walk.until_lease();
    }
    walk.until_roster();
    for _ in 0..8 {
        walk.roster(RosterReply::Failed);
        walk.until_roster();
    }
    assert!(!walk.session.is_well());
    walk
}

#[test]
fn whichever_lane_is_answered_first_after_an_outage_brings_the_other_one_back_at_once() {
    let mut walk = lost();
    walk.roster(RosterReply::Failed);
    assert_eq!(walk.roster_wait(), secs(30));
    walk.lease(LeaseReply::Renewed);
    assert_eq!(walk.roster(RosterReply::Unchanged).1, Some(false), "it is asked for now");
    assert!(walk.session.is_well());

    let mut walk = lost();
    walk.lease(LeaseReply::Failed);
    assert_eq!(walk.lease_wait(), secs(30));
    walk.roster(RosterReply::Unchanged);
    assert_eq!(walk.lease(LeaseReply::Renewed).0, LeaseRequest::Heartbeat);
    assert!(walk.session.is_well());
}

#[test]
fn what_the_registry_did_not_know_of_this_member_is_passed_on() {
    let mut walk = Walk::new();
    let first = walk.lease(LeaseReply::Registered { known: false });
    assert_eq!(first, (LeaseRequest::Register, Some(true)), "also the first after a restart");
    walk.session.register_now(walk.now);
    assert_eq!(walk.lease(LeaseReply::Registered { known: true }).1, Some(false), "it moved");
    walk.session.register_now(walk.now);
    assert_eq!(walk.lease(LeaseReply::Registered { known: false }).1, Some(true), "it was forgotten in between");
}

#[test]
fn a_404_on_a_heartbeat_registers_at_once_and_asks_for_the_roster_afterwards() {
    let mut walk = Walk::settled();
    walk.until_roster();
    let (kept, _) = walk.begin_roster();
    walk.until_lease();
    assert_eq!(walk.lease(LeaseReply::Unknown), (LeaseRequest::Heartbeat, Some(true)));
    assert_eq!(walk.lease(LeaseReply::Registered { known: false }), (LeaseRequest::Register, Some(true)));
    assert_eq!(walk.lease_wait(), PACE.heartbeat);
    // The kept request is answered as the roster has changed.
    assert_eq!(walk.end_roster(kept, FULL), Some(false));
    assert!(walk.session.is_well());
}

#[test]
fn the_roster_is_asked_for_at_once_after_a_registration_unless_a_request_is_under_way() {
    let mut walk = Walk::settled();
    walk.session.register_now(walk.now);
    walk.lease(LeaseReply::Registered { known: true });
    walk.roster(FULL);
    walk.until_roster();
    let (_kept, _) = walk.begin_roster();
    walk.session.register_now(walk.now);
    walk.lease(LeaseReply::Registered { known: true });
    assert_eq!(walk.session.roster(true, walk.now), Action::UnderWay);
}

#[test]
fn a_heartbeat_that_became_a_registration_counts_as_one() {
    let mut walk = Walk::settled();
    walk.until_lease();
    walk.now += secs(2);
    assert_eq!(walk.lease(LeaseReply::Registered { known: true }), (LeaseRequest::Heartbeat, Some(false)));
    assert_eq!(walk.lease_wait(), PACE.heartbeat, "the lease began anew");
}

#[test]
fn a_roster_without_this_member_registers_it_at_once_except_while_a_replica_may_lag() {
    let mut walk = Walk::settled();
    walk.until_roster();
    walk.at(REPLICA_LAG);
    assert_eq!(walk.roster(WITHOUT_ME).1, Some(true), "the roster may lack others, too");
    assert_eq!(walk.lease_wait(), PACE.heartbeat - REPLICA_LAG, "but another replica may lag");
    assert_eq!(walk.roster_wait(), GATHER, "which is looked at again soon");
    walk.until_roster();
    assert_eq!(walk.roster(WITHOUT_ME).1, Some(true));
    assert_eq!(walk.begin_lease().1, LeaseRequest::Register);
    assert_eq!(walk.roster_wait(), PACE.poll);
}

#[test]
fn a_stale_ticket_changes_nothing() {
    let mut walk = Walk::settled();
    walk.until_roster();
    let (old_roster, _) = walk.begin_roster();
    walk.until_lease();
    let (old_lease, _) = walk.begin_lease();
    walk.session.start_over(walk.now);
    let before = walk.session.clone();
    for reply in [LeaseReply::Registered { known: false }, LeaseReply::Renewed, LeaseReply::Unknown, LeaseReply::Failed]
    {
        assert_eq!(walk.end_lease(old_lease, reply), None);
    }
    for reply in [FULL, WITHOUT_ME, RosterReply::Unchanged, RosterReply::NoRoom, RosterReply::Failed] {
        assert_eq!(walk.end_roster(old_roster, reply), None);
    }
    assert_eq!(format!("{:?}", walk.session), format!("{before:?}"));
    // Nor while another request is under way: tickets of the last registry are not used again.
    let (lease, request) = walk.begin_lease();
    let (roster, _) = walk.begin_roster();
    assert_eq!(request, LeaseRequest::Register);
    assert_eq!(walk.end_lease(old_lease, LeaseReply::Renewed), None);
    assert_eq!(walk.end_roster(old_roster, FULL), None);
    assert_eq!(walk.session.lease(walk.now), Action::UnderWay);
    assert!(old_roster < old_lease && old_lease < lease && lease < roster);
    // A ticket is good for one reply.
    assert_eq!(walk.end_lease(lease, LeaseReply::Registered { known: true }), Some(false));
    assert_eq!(walk.end_lease(lease, LeaseReply::Unknown), None);
}

#[test]
fn registering_now_does_not_wait_for_a_request_under_way_whose_reply_does_not_count_any_more() {
    let mut walk = Walk::settled();
    walk.until_lease();
    let (old, _) = walk.begin_lease();
    walk.session.register_now(walk.now);
    let (new, request) = walk.begin_lease();
    assert_eq!(request, LeaseRequest::Register);
    assert_eq!(walk.end_lease(old, LeaseReply::Renewed), None, "it renewed the lease of the old address");
    assert_eq!(walk.session.lease(walk.now), Action::UnderWay);
    assert_eq!(walk.end_lease(new, LeaseReply::Registered { known: true }), Some(false));
    assert_eq!(walk.lease_wait(), PACE.heartbeat);
}

#[test]
fn another_registry_is_asked_at_once_whatever_the_last_one_did() {
    let mut walk = lost();
    walk.lease(LeaseReply::Failed);
    walk.roster(RosterReply::Failed);
    walk.session.start_over(walk.now);
    assert!(walk.session.is_well());
    assert_eq!(walk.begin_lease().1, LeaseRequest::Register);
    walk.may_wait = false;
    walk.roster(FULL);
    walk.until_roster();
    assert_eq!(walk.begin_roster().1, PACE.poll, "it may keep requests");

    let mut walk = Walk::settled();
    walk.until_roster();
    walk.roster(RosterReply::NoRoom);
    walk.session.start_over(walk.now);
    assert_eq!(walk.begin_roster().1, PACE.poll, "that the last one had no room says nothing of this one");
}

#[test]
fn a_shorter_pace_takes_effect_at_once_and_a_longer_one_after_the_next_turn() {
    let mut walk = Walk::settled();
    walk.may_wait = false;
    walk.until_roster();
    walk.roster(UNTAGGED);
    let quick = Pace { poll: secs(2), heartbeat: secs(3) };
    walk.session.set_pace(quick, walk.now);
    assert_eq!((walk.lease_wait(), walk.roster_wait()), (secs(3), secs(2)));
    walk.session.set_pace(PACE, walk.now);
    assert_eq!((walk.lease_wait(), walk.roster_wait()), (secs(3), secs(2)));
    walk.until_roster();
    walk.roster(UNTAGGED);
    assert_eq!(walk.roster_wait(), PACE.poll);
    walk.until_lease();
    walk.lease(LeaseReply::Renewed);
    assert_eq!(walk.lease_wait(), PACE.heartbeat);
}

#[test]
fn after_a_suspend_both_are_asked_for_at_once_and_what_was_under_way_counts_no_more() {
    let mut walk = Walk::settled();
    walk.session.resumed(walk.now);
    assert_eq!(walk.lease(LeaseReply::Renewed).0, LeaseRequest::Heartbeat);
    walk.roster(FULL);
    walk.until_roster();
    let (cut_off, _) = walk.begin_roster();
    walk.session.resumed(walk.now);
    let (anew, _) = walk.begin_roster();
    assert_eq!(walk.session.on_roster(cut_off, RosterReply::Failed, walk.now, 1.0), None, "its connection may be gone");
    assert!(walk.session.is_well());
    walk.end_roster(anew, FULL);
}

#[test]
fn either_lane_can_be_hurried_and_a_request_under_way_is_not_repeated() {
    let mut walk = Walk::settled();
    walk.session.ask_now(walk.now);
    assert!(matches!(walk.session.lease(walk.now), Action::WaitUntil(_)), "only the roster is asked for");
    let (kept, _) = walk.begin_roster();
    walk.session.ask_now(walk.now);
    assert_eq!(walk.session.roster(true, walk.now), Action::UnderWay);
    walk.now += PACE.poll;
    walk.end_roster(kept, RosterReply::Unchanged);
    walk.session.renew_now(walk.now);
    let (ticket, request) = walk.begin_lease();
    assert_eq!(request, LeaseRequest::Heartbeat);
    walk.session.renew_now(walk.now);
    assert_eq!(walk.session.lease(walk.now), Action::UnderWay);
    walk.end_lease(ticket, LeaseReply::Renewed);
    assert_eq!(walk.lease_wait(), PACE.heartbeat);
}
