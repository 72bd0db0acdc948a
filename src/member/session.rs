//! When a member sends which request to the registry: register, renew the lease, request the roster, retry.
//!
//! The session is a plain value with two lanes that are independent of each other: the *lease* lane registers and sends
//! heartbeats, the *roster* lane requests the roster. [`Session::lease`] and [`Session::roster`] return what is due now or
//! until when to wait. The driver makes the request and passes the reply back with its ticket. A reply whose ticket is no
//! longer valid, because the registry was changed in the meantime, is ignored. `now` and the jitter are arguments.
//!
//! It guarantees:
//! * The lease is renewed each `heartbeat` interval for as long as the registry answers.
//! * A registry that does not know this member (404 on a heartbeat, or a roster without it) is registered with at once.
//! * A lane whose requests fail is tried again after 1 s, 2 s, 4 s, ... up to [`RETRY_MAX`] or the poll interval, whichever is
//!   less but never under 1 s, each shortened by up to half at random, so that a thousand members that lost the registry
//!   together do not come back together. The other lane goes on: a member that cannot register still follows the roster.
//! * The roster is followed by long polls: the registry keeps the request until the roster changes or `poll` is over (60 s at
//!   most). A registry that does not keep it, that has no room for another waiting request, or that is behind a proxy which
//!   cuts such requests off, is asked plainly each `poll` interval, and asked to wait again after an hour. One whose
//!   rosters have no entity tag is asked each `poll` interval, too. A request that was kept for a while and then cut off is no
//!   failure: it is asked again at once, plainly.
//! * Rosters that bring no news are not asked for over and over, whatever the registry answers.

use std::time::{Duration, Instant};

/// The first wait after a failure.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest wait between two attempts to reach a registry that does not answer.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// How soon after a registration a roster may still not show it: another registry replica may lag by about a second.
pub(super) const REPLICA_LAG: Duration = Duration::from_secs(3);

/// The longest time for which the registry is asked to delay its answer.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The time from one roster to the next request: a ring that changes all the time is followed in steps.
const GATHER: Duration = Duration::from_millis(500);

/// How much longer that time is for each peer, because the roster is longer, and more members ask for it.
const GATHER_FOR_EACH: Duration = Duration::from_millis(1);

/// A request that ends sooner was not kept.
const KEPT_MIN: Duration = Duration::from_secs(1);

/// How many rosters without news in a row are taken at the pace of changes.
const NO_NEWS_MAX: u32 = 12;

/// How many requests in a row may be answered early, or cut off, before the registry counts as one that keeps none.
const NOT_KEPT_MAX: u32 = 2;

/// For how long a registry without long polls is not asked to wait.
const PLAIN_FOR: Duration = Duration::from_secs(3_600);

/// The same if the registry supports long polls, but too many requests were waiting.
const NO_ROOM_FOR: Duration = Duration::from_secs(300);

/// The intervals of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How often it requests the roster; with long polls, how long the registry may delay the answer.
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

/// Identifies a request, so that its reply is not mistaken for that of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What to do next on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<R> {
    /// Make this request now, and pass its reply back with the ticket.
    Do(Ticket, R),
    /// Nothing is due until then.
    WaitUntil(Instant),
    /// Wait for the reply to the request in progress.
    UnderWay,
}

/// The reply to a request of the lease lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseReply {
    /// The registration was accepted. `known` is false if the registry says that it did not know this member.
    Registered {
        /// As the registry says; true for an older registry, which does not say it.
        known: bool,
    },
    /// The lease was renewed.
    Renewed,
    /// The registry does not know this member (404 for a heartbeat).
    Unknown,
    /// The registry answered with an error, or did not answer.
    Failed,
}

/// The reply to a request for the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RosterReply {
    /// The complete roster.
    Full {
        /// Whether this member is on it.
        listed: bool,
        /// Whether it has an entity tag that the next request can refer to, so that the registry can wait for a change.
        tagged: bool,
    },
    /// The roster has not changed.
    Unchanged,
    /// The registry supports long polls, but too many requests are waiting there already.
    NoRoom,
    /// The registry answered without a roster, or did not answer.
    Failed,
}

/// The requests of one lane: when the next is due, how many in a row have failed, and the one in progress.
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
    /// For how long the registry was asked to delay its answer.
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
    /// Until when the registry is not asked to wait.
    plain_until: Option<Instant>,
    /// How many requests in a row were answered early, although the registry was asked to wait. A registry that stops answers
    /// all waiting requests early, once.
    not_kept: u32,
    /// The last request was kept and then cut off: the next one is plain.
    cut_off: bool,
    /// How many rosters in a row brought no news.
    no_news: u32,
    /// How many peers the roster has.
    peers: u32,
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
            cut_off: false,
            no_news: 0,
            peers: 0,
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

    /// What is due on the roster lane: a request whose answer the registry may delay for this time. `may_wait` is whether there
    /// is a roster with an entity tag.
    pub fn roster(&mut self, may_wait: bool, now: Instant) -> Action<Duration> {
        match (self.roster.under_way, self.roster.due) {
            (Some(_), _) => Action::UnderWay,
            (None, due) if now < due => Action::WaitUntil(due),
            (None, _) => {
                self.plain_until.take_if(|until| *until <= now);
                let wait = self.pace.poll.min(WAIT_MAX);
                // What failed is asked plainly, so that the answer shows at once that the registry is back.
                let plainly = self.plain_until.is_some() || self.cut_off || self.roster.failures > 0;
                let wait = if may_wait && !plainly { wait } else { Duration::ZERO };
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

    /// Processes the reply to a request of the lease lane. `jitter` is a random number from 0 to 1. Returns `None` if the reply
    /// is ignored, and otherwise whether the registry did not know this member, so that its roster may lack living members.
    pub fn on_lease(&mut self, ticket: Ticket, reply: LeaseReply, now: Instant, jitter: f64) -> Option<bool> {
        self.lease.take(ticket)?;
        if reply == LeaseReply::Failed {
            self.lease.failed(self.pace.poll, now, jitter);
            return Some(false);
        }
        if self.lease.failures > 0 && self.roster.failures > 0 {
            // Both lanes had failed and one works again: the other may work, too.
            self.roster.due = self.roster.due.min(now);
        }
        self.lease.failures = 0;
        Some(match reply {
            // A heartbeat becomes a registration if the member's address has changed.
            LeaseReply::Registered { known } => {
                (self.registered, self.registered_at) = (true, Some(now));
                self.lease.due = now + self.pace.heartbeat;
                // The roster has just changed, or there was none: request it now.
                self.roster.due = self.roster.due.min(now);
                !known
            }
            LeaseReply::Unknown => {
                self.register_now(now);
                true
            }
            LeaseReply::Renewed => {
                // From the due time, so that the rhythm does not drift; from now if turns were missed.
                let next = self.lease.due + self.pace.heartbeat;
                self.lease.due = if next > now { next } else { now + self.pace.heartbeat };
                false
            }
            LeaseReply::Failed => unreachable!("handled above"),
        })
    }

    /// Processes the reply to a request for the roster, in the same way as [`Session::on_lease`].
    pub fn on_roster(&mut self, ticket: Ticket, reply: RosterReply, now: Instant, jitter: f64) -> Option<bool> {
        let UnderWay { began, wait, .. } = self.roster.take(ticket)?;
        let took = now.saturating_duration_since(began);
        let (listed, tagged) = match reply {
            RosterReply::Failed if !wait.is_zero() && took >= KEPT_MIN => {
                self.cut_off = true;
                self.was_not_kept(now);
                self.roster.due = now;
                return Some(false);
            }
            RosterReply::Failed => {
                self.roster.failed(self.pace.poll, now, jitter);
                if wait.is_zero() {
                    // The one that answers next may be another one.
                    self.plain_until = None;
                }
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
        let early = reply == RosterReply::Unchanged && took < KEPT_MIN.min(wait / 2);
        if early {
            self.was_not_kept(now);
        } else if !wait.is_zero() {
            self.not_kept = 0;
        }
        self.cut_off = false;
        if self.roster.failures > 0 && self.lease.failures > 0 {
            // Both lanes had failed and one works again: the other may work, too.
            self.lease.due = self.lease.due.min(now);
        }
        self.roster.failures = 0;
        // A request that was sent before the registration was confirmed may have been answered before it arrived.
        let since = self.registered_at.filter(|at| *at <= began);
        let forgotten = !listed && self.registered && since.is_some();
        // Another replica may not show this member yet: its roster is not to be trusted, but all is well.
        let settled = since.is_some_and(|at| now.saturating_duration_since(at) > REPLICA_LAG);
        let lags = !listed && self.registered && !settled;
        // Whoever answers at once, and would do so again, is asked each `poll` interval.
        let plainly = wait.is_zero() && self.plain_until.is_some() || !tagged && !lags;
        self.no_news = if reply == RosterReply::Unchanged { 0 } else { self.no_news.saturating_add(1) };
        let was_kept = !wait.is_zero() && !early;
        self.roster.due = if plainly || self.no_news > NO_NEWS_MAX || (early && self.plain_until.is_some()) {
            let next = self.roster.due + self.pace.poll;
            if next > now { next } else { now + self.pace.poll }
        } else if reply == RosterReply::Unchanged && was_kept {
            now
        } else {
            let gather = GATHER + GATHER_FOR_EACH * self.peers;
            now + gather.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
        };
        if forgotten && settled {
            self.register_now(now);
        }
        Some(forgotten)
    }

    /// A request that the registry was asked to keep was answered early, or cut off.
    fn was_not_kept(&mut self, now: Instant) {
        self.not_kept += 1;
        if self.not_kept >= NOT_KEPT_MAX {
            (self.plain_until, self.not_kept) = (Some(now + PLAIN_FOR), 0);
        }
    }

    /// The roster that was taken in last changed something, and now has so many peers.
    pub fn had_news(&mut self, peers: usize) {
        (self.no_news, self.peers) = (0, u32::try_from(peers).unwrap_or(u32::MAX));
    }

    /// Registers again at once: the address or the location has changed. A reply that is still to come does not count.
    pub fn register_now(&mut self, now: Instant) {
        self.registered = false;
        self.lease = Lane::new(now);
    }

    /// Starts again with another registry: the answers of the last one are forgotten.
    pub fn start_over(&mut self, now: Instant) {
        let tickets = self.tickets;
        *self = Self { tickets, ..Self::new(self.pace, now) };
    }

    /// Requests the roster now, unless a request is in progress: a waiting one is answered as soon as the roster changes.
    pub fn ask_now(&mut self, now: Instant) {
        self.roster.due = self.roster.due.min(now);
    }

    /// Renews the lease now, unless a request is in progress.
    pub fn renew_now(&mut self, now: Instant) {
        self.lease.due = self.lease.due.min(now);
    }

    /// The host has slept: the lease may have ended meanwhile, and the connections of requests under way may be gone. Both
    /// lanes ask anew at once; replies that are still to come do not count.
    pub fn resumed(&mut self, now: Instant) {
        for lane in [&mut self.lease, &mut self.roster] {
            (lane.due, lane.under_way) = (now, None);
        }
    }

    /// Changes the intervals.
    pub fn set_pace(&mut self, pace: Pace, now: Instant) {
        self.pace = pace;
        self.lease.due = self.lease.due.min(now + pace.heartbeat);
        self.roster.due = self.roster.due.min(now + pace.poll);
    }

    /// Whether the last request of each lane succeeded.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.lease.failures + self.roster.failures == 0
    }
}

/// The wait after the `n`th failure in a row: doubled each time, limited, and half of it random.
fn back_off(n: u32, poll_interval: Duration, jitter: f64) -> Duration {
    let longest = poll_interval.clamp(RETRY_MIN, RETRY_MAX);
    let wait = RETRY_MIN.saturating_mul(1 << n.saturating_sub(1).min(16)).min(longest);
    wait.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
