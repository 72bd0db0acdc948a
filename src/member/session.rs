//! When a member talks to its registry: register, renew the lease, ask for the roster, back off.
//!
//! The session is a plain value with two lanes that do not wait for each other: the *lease* lane registers and sends
//! heartbeats, the *roster* lane asks for the roster. [`Session::lease`] and [`Session::roster`] say what is due now or until
//! when to wait; the driver makes the request and hands the reply back with the ticket that came with it. A reply whose ticket
//! is not the current one (the registry was changed meanwhile) is ignored. `now` and the jitter are passed in.
//!
//! It promises:
//! * The lease is renewed each `heartbeat` interval for as long as the registry answers.
//! * A registry that does not know this member (404 on a heartbeat, or a roster without it) is registered with at once.
//! * A lane whose requests fail is tried again after 1 s, 2 s, 4 s, ... up to [`RETRY_MAX`] or the poll interval, whichever is
//!   less but never under 1 s, each shortened by up to half at random, so that a thousand members that lost the registry
//!   together do not come back together. The other lane goes on: a member that cannot register still follows the roster.
//! * The roster is followed by long polls: the registry keeps the request until the roster changes or `poll` is over (60 s at
//!   most). A registry that does not keep it, or has no room for another waiting request, is asked plainly each `poll` interval,
//!   and asked to wait again after an hour. One whose rosters have no entity tag is asked each `poll` interval, too.

use std::time::{Duration, Instant};

/// The first wait after a failure.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest wait between two attempts to reach a registry that does not answer.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// How soon after a registration a roster may still not show it: another registry replica may lag by about a second.
pub(super) const REPLICA_LAG: Duration = Duration::from_secs(3);

/// The longest a registry is asked to keep a request for the roster.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The shortest time from one roster to the next request: a ring that changes all the time is followed in steps.
const GATHER: Duration = Duration::from_millis(500);

/// How many requests in a row a registry may answer early before it counts as one that keeps none.
const NOT_KEPT_MAX: u32 = 2;

/// How long a registry that keeps no requests is asked plainly before it is asked to keep one again.
const PLAIN_FOR: Duration = Duration::from_secs(3_600);

/// The same where the registry keeps requests and had no room for this one.
const NO_ROOM_FOR: Duration = Duration::from_secs(300);

/// How often a member does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How often it asks for the roster where the registry keeps no requests; otherwise how long one is kept.
    pub poll: Duration,
    /// How often it renews its lease.
    pub heartbeat: Duration,
}

/// A request of the lease lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRequest {
    /// `POST /register`.
    Register,
    /// `POST /heartbeat`.
    Heartbeat,
}

/// Names one request, so that its reply is known from that of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What to do next on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<R> {
    /// Make this request now, and hand its reply back with the ticket.
    Do(Ticket, R),
    /// Nothing until then.
    WaitUntil(Instant),
    /// Wait for the reply to the request under way.
    UnderWay,
}

/// What came of a request of the lease lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseReply {
    /// The registration was accepted; `known` is false where the registry says that it did not know this member.
    Registered {
        /// As the registry said; an older one does not say and counts as true.
        known: bool,
    },
    /// The lease was renewed.
    Renewed,
    /// The registry does not know this member (404 on a heartbeat).
    Unknown,
    /// The registry did not do what it was asked for, or did not answer.
    Failed,
}

/// What came of a request for the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RosterReply {
    /// The roster in full.
    Full {
        /// Whether this member is on it.
        listed: bool,
        /// Whether it can be confirmed by "unchanged", so that the registry can be asked to wait for another one.
        tagged: bool,
    },
    /// The roster is the one that is known.
    Unchanged,
    /// The registry keeps requests, and had no room for this one.
    NoRoom,
    /// The registry gave no roster, or did not answer.
    Failed,
}

/// Requests of one sort: when the next is due, how often in a row they failed, and the one under way.
#[derive(Clone, Copy, Debug)]
struct Lane {
    due: Instant,
    failures: u32,
    under_way: Option<UnderWay>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    ticket: Ticket,
    began: Instant,
    /// How long the registry was asked to keep it.
    wait: Duration,
}

impl Lane {
    fn new(due: Instant) -> Self {
        Self { due, failures: 0, under_way: None }
    }

    fn take(&mut self, ticket: Ticket) -> Option<UnderWay> {
        self.under_way.take_if(|under_way| under_way.ticket == ticket)
    }

    fn failed(&mut self, longest: Duration, now: Instant, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.due = now + back_off(self.failures, longest, jitter);
    }
}

/// The member's side of lease and roster. See the module's head.
#[derive(Clone, Debug)]
pub struct Session {
    pace: Pace,
    lease: Lane,
    roster: Lane,
    /// The next request of the lease lane is a heartbeat.
    registered: bool,
    registered_at: Option<Instant>,
    /// Until when the registry is not asked to keep requests.
    plain_until: Option<Instant>,
    /// How many requests in a row it did not keep, though asked to. One that stops answers what it keeps early, once.
    not_kept: u32,
    tickets: u64,
}

impl Session {
    /// A session that registers and asks for the roster at once.
    #[must_use]
    pub fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            lease: Lane::new(now),
            roster: Lane::new(now),
            registered: false,
            registered_at: None,
            plain_until: None,
            not_kept: 0,
            tickets: 0,
        }
    }

    /// What is due on the lease lane.
    pub fn lease(&mut self, now: Instant) -> Action<LeaseRequest> {
        let request = if self.registered { LeaseRequest::Heartbeat } else { LeaseRequest::Register };
        match (self.lease.under_way, self.lease.due) {
            (Some(_), _) => Action::UnderWay,
            (None, due) if now < due => Action::WaitUntil(due),
            (None, _) => Action::Do(self.begin(|session| &mut session.lease, Duration::ZERO, now), request),
        }
    }

    /// What is due on the roster lane: a request that the registry may keep for this long. `may_wait` says whether there is a
    /// roster that can be confirmed.
    pub fn roster(&mut self, may_wait: bool, now: Instant) -> Action<Duration> {
        match (self.roster.under_way, self.roster.due) {
            (Some(_), _) => Action::UnderWay,
            (None, due) if now < due => Action::WaitUntil(due),
            (None, _) => {
                self.plain_until.take_if(|until| *until <= now);
                let wait = self.pace.poll.min(WAIT_MAX);
                let wait = if may_wait && self.plain_until.is_none() { wait } else { Duration::ZERO };
                Action::Do(self.begin(|session| &mut session.roster, wait, now), wait)
            }
        }
    }

    fn begin(&mut self, lane: impl FnOnce(&mut Self) -> &mut Lane, wait: Duration, now: Instant) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        lane(self).under_way = Some(UnderWay { ticket, began: now, wait });
        ticket
    }

    /// Takes in the reply to a request of the lease lane. `jitter` is a random number from 0 to 1. Returns whether the reply
    /// counts, and if so whether the registry did not know this member, so that its roster may lack others that live.
    pub fn on_lease(&mut self, ticket: Ticket, reply: LeaseReply, now: Instant, jitter: f64) -> Option<bool> {
        self.lease.take(ticket)?;
        if reply == LeaseReply::Failed {
            self.lease.failed(self.pace.poll, now, jitter);
            return Some(false);
        }
        if self.lease.failures > 0 && self.roster.failures > 0 {
            // Both were lost and one is back: so may the other be.
            self.roster.due = self.roster.due.min(now);
        }
        self.lease.failures = 0;
        Some(match reply {
            // A heartbeat turns into a registration where the member's address has changed.
            LeaseReply::Registered { known } => {
                (self.registered, self.registered_at) = (true, Some(now));
                self.lease.due = now + self.pace.heartbeat;
                // The registry has just changed its roster, or does not have one: look now.
                self.roster.due = self.roster.due.min(now);
                !known
            }
            LeaseReply::Unknown => {
                self.register_now(now);
                true
            }
            LeaseReply::Renewed => {
                // From the due time, so that the rhythm does not drift; from now where turns were missed.
                let next = self.lease.due + self.pace.heartbeat;
                self.lease.due = if next > now { next } else { now + self.pace.heartbeat };
                false
            }
            LeaseReply::Failed => unreachable!("handled above"),
        })
    }

    /// Takes in the reply to a request for the roster, as [`Session::on_lease`] does for the lease.
    pub fn on_roster(&mut self, ticket: Ticket, reply: RosterReply, now: Instant, jitter: f64) -> Option<bool> {
        let UnderWay { began, wait, .. } = self.roster.take(ticket)?;
        let (listed, tagged) = match reply {
            RosterReply::Failed => {
                self.roster.failed(self.pace.poll, now, jitter);
                // Whoever answers next may keep requests, or may not any more.
                (self.plain_until, self.not_kept) = (None, 0);
                return Some(false);
            }
            RosterReply::NoRoom => {
                self.plain_until = Some(now + NO_ROOM_FOR.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0)));
                self.roster.due = now;
                return Some(false);
            }
            RosterReply::Full { listed, tagged } => (listed, tagged),
            RosterReply::Unchanged => (true, true),
        };
        let early = reply == RosterReply::Unchanged && now.saturating_duration_since(began) < wait / 2;
        self.not_kept = if early { self.not_kept + 1 } else { 0 };
        if self.not_kept >= NOT_KEPT_MAX {
            (self.plain_until, self.not_kept) = (Some(now + PLAIN_FOR), 0);
        }
        if self.roster.failures > 0 && self.lease.failures > 0 {
            // Both were lost and one is back: so may the other be.
            self.lease.due = self.lease.due.min(now);
        }
        self.roster.failures = 0;
        let forgotten = !listed && self.registered;
        // Another replica may not show this member yet: its roster is not to be trusted, but all is well.
        let settled = self.registered_at.is_some_and(|at| now.saturating_duration_since(at) > REPLICA_LAG);
        let lags = forgotten && !settled;
        // Whoever answers at once, and would do so again, is asked each `poll` interval.
        let plainly = wait.is_zero() && self.plain_until.is_some() || !tagged && !lags;
        self.roster.due = if early || plainly {
            let next = self.roster.due + self.pace.poll;
            if next > now { next } else { now + self.pace.poll }
        } else if reply == RosterReply::Unchanged {
            now
        } else {
            now + GATHER.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
        };
        if forgotten && settled {
            self.register_now(now);
        }
        Some(forgotten)
    }

    /// Registers again at once: the address or the location has changed. A reply that is still to come does not count.
    pub fn register_now(&mut self, now: Instant) {
        self.registered = false;
        self.lease = Lane::new(now);
    }

    /// Begins anew with another registry: what the last one said or did not say counts no more.
    pub fn start_over(&mut self, now: Instant) {
        let tickets = self.tickets;
        *self = Self { tickets, ..Self::new(self.pace, now) };
    }

    /// Asks for the roster now, unless a request is under way: one that is kept is answered as soon as there is news.
    pub fn ask_now(&mut self, now: Instant) {
        self.roster.due = self.roster.due.min(now);
    }

    /// Renews the lease now, unless a request is under way.
    pub fn renew_now(&mut self, now: Instant) {
        self.lease.due = self.lease.due.min(now);
    }

    /// The host has slept: the lease may have ended meanwhile, and a kept request may have been cut off.
    pub fn resumed(&mut self, now: Instant) {
        self.lease.due = self.lease.due.min(now);
        self.roster.due = self.roster.due.min(now);
    }

    /// Takes another pace from now on.
    pub fn set_pace(&mut self, pace: Pace, now: Instant) {
        self.pace = pace;
        self.lease.due = self.lease.due.min(now + pace.heartbeat);
        self.roster.due = self.roster.due.min(now + pace.poll);
    }

    /// Whether the last request of each lane was answered as it should be.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.lease.failures + self.roster.failures == 0
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
