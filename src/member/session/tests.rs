use super::*;

const INTERVALS: Intervals =
    Intervals { poll: Duration::from_secs(30), check: Duration::from_secs(60), heartbeat: Duration::from_secs(45) };

/// A session with its clock: `after` moves time on, `does` asserts what it wants now.
struct Walk {
    session: Session,
    start: Instant,
    now: Instant,
}

impl Walk {
    fn new() -> Self {
        let start = crate::clock::monotonic();
        Self { session: Session::new(INTERVALS, start), start, now: start }
    }

    fn registered() -> Self {
        let mut walk = Self::new();
        walk.reply(Request::Register, Reply::Registered { known: false });
        walk.reply(Request::Poll, Reply::Roster { listed: true });
        walk
    }

    /// The request that is wanted now; panics where the session waits.
    fn wanted(&self) -> Request {
        match self.session.next(self.now) {
            Action::Do(request) => request,
            Action::WaitUntil(at) => panic!("waits {:?} more", at - self.now),
        }
    }

    /// How long the session waits from now; panics where it wants something.
    fn wait(&self) -> Duration {
        match self.session.next(self.now) {
            Action::WaitUntil(at) => at - self.now,
            Action::Do(request) => panic!("wants {request:?}"),
        }
    }

    fn reply(&mut self, request: Request, reply: Reply) -> bool {
        assert_eq!(self.wanted(), request);
        self.session.on_reply(request, reply, self.now, 1.0)
    }

    /// Moves time on to the next request and names it, with the seconds since the start.
    fn on(&mut self) -> (u64, Request) {
        if let Action::WaitUntil(at) = self.session.next(self.now) {
            self.now = at;
        }
        ((self.now - self.start).as_secs(), self.wanted())
    }
}

#[test]
fn it_registers_first_then_asks_for_the_roster_then_keeps_both_rhythms() {
    let mut walk = Walk::new();
    assert_eq!(walk.on(), (0, Request::Register));
    walk.reply(Request::Register, Reply::Registered { known: false });
    assert_eq!(walk.on(), (0, Request::Poll));
    walk.reply(Request::Poll, Reply::Roster { listed: true });
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (at, request) = walk.on();
        seen.push((at, request));
        let reply = if request == Request::Poll { Reply::Roster { listed: true } } else { Reply::Renewed };
        walk.reply(request, reply);
    }
    assert_eq!(
        seen,
        [
            (30, Request::Poll),
            (45, Request::Heartbeat),
            (60, Request::Poll),
            (90, Request::Heartbeat),
            (90, Request::Poll),
            (120, Request::Poll)
        ]
    );
}

#[test]
fn a_slow_answer_does_not_shift_the_rhythm() {
    let mut walk = Walk::registered();
    walk.on();
    walk.now += Duration::from_secs(4);
    walk.session.on_reply(Request::Poll, Reply::Roster { listed: true }, walk.now, 0.0);
    assert_eq!(walk.on(), (45, Request::Heartbeat));
    walk.reply(Request::Heartbeat, Reply::Renewed);
    assert_eq!(walk.on(), (60, Request::Poll));
}

#[test]
fn a_silent_registry_is_tried_after_1_2_4_8_16_30_30_seconds_and_everything_resumes_at_once() {
    let mut walk = Walk::registered();
    walk.on();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let request = walk.wanted();
        walk.reply(request, Reply::Unreachable);
        waits.push(walk.wait().as_secs());
        walk.on();
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    assert!(!walk.session.is_well());
    // Both are overdue; the lease comes first.
    walk.reply(Request::Heartbeat, Reply::Renewed);
    walk.reply(Request::Poll, Reply::Roster { listed: true });
    assert!(walk.session.is_well());
    assert_eq!(walk.wait(), Duration::from_secs(30));
}

#[test]
fn jitter_takes_up_to_half_of_a_wait_and_never_more() {
    for (jitter, expected) in [(0.0, 500), (0.5, 750), (1.0, 1000), (7.0, 1000), (-1.0, 500)] {
        let mut session = Session::new(INTERVALS, crate::clock::monotonic());
        let now = crate::clock::monotonic();
        session.on_reply(Request::Register, Reply::Unreachable, now, jitter);
        assert_eq!(session.next(now), Action::WaitUntil(now + Duration::from_millis(expected)), "jitter {jitter}");
    }
}

#[test]
fn a_short_poll_interval_bounds_the_wait_too_but_not_below_a_second() {
    let now = crate::clock::monotonic();
    for (poll, longest) in [(1, 1), (5, 5), (3600, 30)] {
        let mut session = Session::new(Intervals { poll: Duration::from_secs(poll), ..INTERVALS }, now);
        for _ in 0..40 {
            session.on_reply(Request::Register, Reply::Unreachable, now, 1.0);
        }
        assert_eq!(session.next(now), Action::WaitUntil(now + Duration::from_secs(longest)));
    }
}

#[test]
fn a_404_on_a_heartbeat_registers_at_once_and_tells_that_the_registry_forgot() {
    let mut walk = Walk::registered();
    walk.on();
    walk.reply(Request::Poll, Reply::Roster { listed: true });
    walk.on();
    assert!(walk.reply(Request::Heartbeat, Reply::Unknown));
    assert!(walk.reply(Request::Register, Reply::Registered { known: false }));
    assert!(!walk.reply(Request::Poll, Reply::Roster { listed: true }));
    assert!(walk.session.is_well());
}

#[test]
fn a_roster_without_this_member_registers_at_once_except_while_a_replica_may_lag() {
    let mut walk = Walk::new();
    walk.reply(Request::Register, Reply::Registered { known: false });
    assert!(walk.reply(Request::Poll, Reply::Roster { listed: false }), "it may lack others, too");
    assert_eq!(walk.on(), (30, Request::Poll), "but another replica may lag");
    assert!(walk.reply(Request::Poll, Reply::Roster { listed: false }));
    assert_eq!(walk.wanted(), Request::Register);
}

#[test]
fn a_registration_that_the_registry_had_not_heard_of_tells_that_it_may_have_forgotten_others() {
    let mut walk = Walk::new();
    assert!(walk.reply(Request::Register, Reply::Registered { known: false }), "also the first after a restart");
    walk.session.register_now(walk.now);
    assert!(!walk.reply(Request::Register, Reply::Registered { known: true }), "it moved");
    walk.session.register_now(walk.now);
    assert!(walk.reply(Request::Register, Reply::Registered { known: false }), "it was forgotten in between");
}

#[test]
fn a_member_that_may_not_register_still_follows_the_roster() {
    let mut walk = Walk::new();
    walk.reply(Request::Register, Reply::Refused);
    assert_eq!(walk.wanted(), Request::Poll);
    walk.reply(Request::Poll, Reply::Roster { listed: false });
    assert_eq!(walk.on(), (1, Request::Register));
    walk.reply(Request::Register, Reply::Refused);
    assert_eq!(walk.on(), (3, Request::Register));
    assert!(!walk.session.is_well());
}

#[test]
fn a_refused_heartbeat_backs_off_without_delaying_the_roster() {
    let mut walk = Walk::registered();
    walk.on();
    walk.reply(Request::Poll, Reply::Roster { listed: true });
    assert_eq!(walk.on(), (45, Request::Heartbeat));
    walk.reply(Request::Heartbeat, Reply::Refused);
    assert!(!walk.session.is_well());
    assert_eq!(walk.on(), (46, Request::Heartbeat));
    walk.reply(Request::Heartbeat, Reply::Renewed);
    assert!(walk.session.is_well());
    assert_eq!(walk.on(), (60, Request::Poll));
}

#[test]
fn a_heartbeat_that_became_a_registration_counts_as_one() {
    let mut walk = Walk::registered();
    walk.on();
    walk.reply(Request::Poll, Reply::Roster { listed: true });
    walk.on();
    assert!(!walk.reply(Request::Heartbeat, Reply::Registered { known: true }));
    assert_eq!(walk.on(), (45, Request::Poll), "the roster has just changed");
}

#[test]
fn shorter_intervals_take_effect_at_once_and_longer_ones_after_the_next_turn() {
    let mut walk = Walk::registered();
    let quick = Intervals { poll: Duration::from_secs(2), heartbeat: Duration::from_secs(3), ..INTERVALS };
    walk.session.set_intervals(quick, walk.now);
    assert_eq!(walk.on(), (2, Request::Poll));
    walk.session.set_intervals(INTERVALS, walk.now);
    walk.reply(Request::Poll, Reply::Roster { listed: true });
    assert_eq!(walk.on(), (3, Request::Heartbeat));
    walk.reply(Request::Heartbeat, Reply::Renewed);
    assert_eq!(walk.on(), (32, Request::Poll));
}

#[test]
fn another_registry_is_asked_at_once_whatever_the_last_one_did() {
    let mut walk = Walk::registered();
    walk.on();
    for _ in 0..10 {
        let request = walk.wanted();
        walk.reply(request, Reply::Unreachable);
        walk.on();
    }
    walk.reply(walk.wanted(), Reply::Unreachable);
    walk.session.start_over(walk.now);
    assert_eq!(walk.wanted(), Request::Register);
    walk.reply(Request::Register, Reply::Registered { known: false });
    assert_eq!(walk.wanted(), Request::Poll);
}
