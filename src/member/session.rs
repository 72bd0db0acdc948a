//! What a member owes the registry, and when: register, renew, ask for the roster, back off.
//!
//! The session is a plain value. [`Session::next`] says what to do now or until when to wait; the driver
//! (the control thread) does it and hands back what came of it with [`Session::on_reply`]. It reads no clock and
//! no random source: `now` and the jitter are passed in.
//!
//! It promises:
//! * The lease is renewed each `heartbeat` interval for as long as the registry answers.
//! * A registry that forgot this member (404 on a heartbeat, or a roster without it) is registered with at once.
//! * A registry that does not answer is tried again after 1 s, 2 s, 4 s, ... up to [`RETRY_MAX`] or the poll interval,
//!   whichever is less but never under 1 s, each moved by up to half at random, so that a thousand members that lost it
//!   together do not come back together.
//! * An answer that refuses one kind of request delays that kind alone: a member that may not register still follows the
//!   roster.

use std::time::{Duration, Instant};

use crate::config::Intervals;

/// The first wait after a failure.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest wait between two attempts to reach a registry that does not answer.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// How soon after a registration a roster may still not show it: another registry replica may lag by about a second.
pub(super) const REPLICA_LAG: Duration = Duration::from_secs(3);

/// One kind of request to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `POST /register`.
    Register,
    /// `POST /heartbeat`.
    Heartbeat,
    /// `GET /members`.
    Poll,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this request now.
    Do(Request),
    /// Nothing until then.
    WaitUntil(Instant),
}

/// What came of a [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The registration was accepted; `known` is false where the registry says that it had never heard of this member.
    Registered {
        /// As the registry said; an older one does not say and counts as true.
        known: bool,
    },
    /// The lease was renewed.
    Renewed,
    /// The registry does not know this member (404 on a heartbeat).
    Unknown,
    /// The roster, or word that it has not changed.
    Roster {
        /// Whether this member stands on it.
        listed: bool,
    },
    /// The registry answered, but did not do what it was asked for.
    Refused,
    /// The registry did not answer.
    Unreachable,
}

/// One kind of request: when it is due, and how often in a row it was refused.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    due: Instant,
    refusals: u32,
}

impl Exchange {
    fn done(&mut self, next: Instant) {
        *self = Self { due: next, refusals: 0 };
    }
}

/// The member's side of its lease. See the module's head.
#[derive(Clone, Debug)]
pub struct Session {
    intervals: Intervals,
    /// Absent while registered.
    register: Option<Exchange>,
    heartbeat: Exchange,
    poll: Exchange,
    registered_at: Option<Instant>,
    /// Attempts in a row that got no answer, and until when to leave the registry alone for it.
    silent: u32,
    silent_until: Instant,
}

impl Session {
    /// A session that registers and asks for the roster at once.
    #[must_use]
    pub fn new(intervals: Intervals, now: Instant) -> Self {
        let due = Exchange { due: now, refusals: 0 };
        Self {
            intervals,
            register: Some(due),
            heartbeat: due,
            poll: due,
            registered_at: None,
            silent: 0,
            silent_until: now,
        }
    }

    /// What to do at `now`.
    #[must_use]
    pub fn next(&self, now: Instant) -> Action {
        if now < self.silent_until {
            return Action::WaitUntil(self.silent_until);
        }
        let renewal = match self.register {
            Some(register) => (register.due, Request::Register),
            None => (self.heartbeat.due, Request::Heartbeat),
        };
        let poll = (self.poll.due, Request::Poll);
        let (due, request) = if renewal.0 <= now || renewal.0 <= poll.0 { renewal } else { poll };
        if due <= now { Action::Do(request) } else { Action::WaitUntil(due) }
    }

    /// Takes in what came of `request`. `jitter` is a random number from 0 to 1.
    ///
    /// Returns whether the registry seems to have lost its memory of this member, so that its roster may lack others that
    /// live.
    pub fn on_reply(&mut self, request: Request, reply: Reply, now: Instant, jitter: f64) -> bool {
        if reply == Reply::Unreachable {
            self.silent = self.silent.saturating_add(1);
            self.silent_until = now + back_off(self.silent, self.intervals.poll, jitter);
            return false;
        }
        self.silent = 0;
        self.silent_until = now;
        match (request, reply) {
            // A heartbeat turns into a registration where the member's address has changed.
            (Request::Register | Request::Heartbeat, Reply::Registered { known }) => {
                self.register = None;
                self.registered_at = Some(now);
                self.heartbeat.done(now + self.intervals.heartbeat);
                // The registry has just changed its roster or had lost it: look now.
                self.poll.due = self.poll.due.min(now);
                !known
            }
            (Request::Heartbeat, Reply::Renewed) => {
                // From the due time, so that the rhythm does not drift; from now where turns were missed.
                let next = self.heartbeat.due + self.intervals.heartbeat;
                self.heartbeat.done(if next > now { next } else { now + self.intervals.heartbeat });
                false
            }
            (Request::Heartbeat, Reply::Unknown) => {
                self.register_now(now);
                true
            }
            (Request::Poll, Reply::Roster { listed }) => {
                let next = self.poll.due + self.intervals.poll;
                self.poll.done(if next > now { next } else { now + self.intervals.poll });
                let forgotten = !listed && self.register.is_none();
                // Another replica may not show this member yet: its roster is not to be trusted, but all is well.
                let settled = self.registered_at.is_some_and(|at| now.saturating_duration_since(at) > REPLICA_LAG);
                if forgotten && settled {
                    self.register_now(now);
                }
                forgotten
            }
            _ => {
                self.refused(request, now, jitter);
                false
            }
        }
    }

    /// Registers again at once: the address or the location has changed.
    pub fn register_now(&mut self, now: Instant) {
        self.register = Some(Exchange { due: now, refusals: 0 });
    }

    /// Begins anew with another registry: what the last one said or did not say counts no more.
    pub fn start_over(&mut self, now: Instant) {
        *self = Self::new(self.intervals, now);
    }

    /// Takes other intervals from now on.
    pub fn set_intervals(&mut self, intervals: Intervals, now: Instant) {
        self.intervals = intervals;
        self.heartbeat.due = self.heartbeat.due.min(now + intervals.heartbeat);
        self.poll.due = self.poll.due.min(now + intervals.poll);
    }

    /// Whether every kind of request was answered as it should be the last time it was made.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let register_refusals = self.register.map_or(0, |register| register.refusals);
        self.silent + register_refusals + self.heartbeat.refusals + self.poll.refusals == 0
    }

    fn refused(&mut self, request: Request, now: Instant, jitter: f64) {
        let exchange = match request {
            Request::Register => self.register.get_or_insert(Exchange { due: now, refusals: 0 }),
            Request::Heartbeat => &mut self.heartbeat,
            Request::Poll => &mut self.poll,
        };
        exchange.refusals = exchange.refusals.saturating_add(1);
        exchange.due = now + back_off(exchange.refusals, self.intervals.poll, jitter);
    }
}

/// The wait after the `n`th failure in a row: doubling, bounded, the second half of it random.
fn back_off(n: u32, poll_interval: Duration, jitter: f64) -> Duration {
    let longest = poll_interval.clamp(RETRY_MIN, RETRY_MAX);
    let wait = RETRY_MIN.saturating_mul(1 << n.saturating_sub(1).min(16)).min(longest);
    wait.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
