//! This member's place in the ring: its lease, the roster it follows, and its peers.
//!
//! Everything that the registry says is taken in here, and everything that is owed to it is decided here, by the [`Session`]
//! (when to ask what) and the [`Peers`] (who they are). A plain value: it is told the time and makes no request; the control
//! thread makes them and hands the replies in. It promises:
//! * A reply counts as a whole or not at all: roster, entity tag and age are taken over together. What came to a request that
//!   does not count any more (the registry was changed meanwhile) changes nothing.
//! * "Unchanged" is only ever asked about a roster that this member is on.
//! * Each tenth roster is asked for in full though nothing changed, so that the registry's word on when a peer was last seen
//!   stays current; in rings of more than a thousand members less often in proportion, so that the registry's work grows with
//!   the ring and not with its square.
//! * Another member with the same identity is reported once for each address it is seen at.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::wire::{InstanceId, Member, MembersReply};

use super::peers::{Change, Peers};
use super::session::{Action, LeaseReply, LeaseRequest, Pace, REPLICA_LAG, RosterReply, Session, Ticket};

/// A full roster is asked for at least each so many requests.
const FULL_EVERY: u32 = 10;

/// In a ring of more than `FULL_EVERY` times this many peers, each (peers / this) requests.
const PEERS_PER_REQUEST: usize = 100;

/// A request for the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The entity tag of the roster that is known; nothing where it is wanted in full.
    pub etag: Option<String>,
    /// How long the registry may keep the request until there is another roster.
    pub wait: Duration,
}

/// What the registry answered to a [`Poll`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterAnswer {
    /// The roster.
    Full {
        /// Its entries.
        roster: MembersReply,
        /// Its entity tag, where it has one.
        etag: Option<String>,
        /// How old it is; unknown where the registry says it in a way that cannot be read.
        age: Option<Duration>,
    },
    /// The roster is the one that was asked with.
    Unchanged {
        /// As above.
        age: Option<Duration>,
    },
    /// It keeps requests and has no room for another one.
    NoRoom,
    /// Something else, or nothing.
    Failed,
}

/// What the registry answered to a [`LeaseRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The member is registered at this address.
    Registered {
        /// Where.
        address: SocketAddr,
        /// Whether the registry knew it before.
        known: bool,
    },
    /// The lease was renewed.
    Renewed,
    /// It does not know this member.
    Unknown,
    /// Something else, or nothing.
    Failed,
}

/// What an answer changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// A roster was taken in, and this came of it.
    pub roster: Option<Change>,
    /// The registry did not know this member, and its roster may lack others: those that are missing are kept for a while.
    pub holds: bool,
    /// This member is now registered at another address than before.
    pub registered: Option<SocketAddr>,
    /// Another member with the identity of this one is on the roster with this address.
    pub duplicate: Option<SocketAddr>,
    /// So many entries of the roster cannot be used, which is another number than before, and why the first of them cannot.
    pub unusable: Option<(usize, Option<String>)>,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Membership {
    me: InstanceId,
    session: Session,
    peers: Peers,
    etag: Option<String>,
    /// Requests for the roster since it last came in full.
    since_full: u32,
    /// When the roster was last known to be true: confirmed by the registry, less the age it gave.
    roster_at: Option<Instant>,
    /// The address of the last registration, and when it was made.
    registered: Option<(SocketAddr, Instant)>,
    duplicate: Option<SocketAddr>,
    /// This member was on the roster, in this run or when the last one ended: that the registry does not know it says
    /// something about the registry.
    was_listed: bool,
    unusable: usize,
}

impl Membership {
    /// Of a member that is not registered and knows nobody. `hold` is for how long peers are kept that a registry without a
    /// memory of this member does not list.
    #[must_use]
    pub fn new(me: InstanceId, pace: Pace, hold: Duration, now: Instant) -> Self {
        Self {
            session: Session::new(pace, now),
            peers: Peers::new(me.clone(), hold),
            me,
            etag: None,
            since_full: 0,
            roster_at: None,
            registered: None,
            duplicate: None,
            was_listed: false,
            unusable: 0,
        }
    }

    /// Begins with the roster of the last run, which may have left the ring in order.
    pub fn recall(&mut self, roster: Vec<Member>, left_in_order: bool, now: Instant) -> Change {
        self.was_listed = !roster.is_empty() && !left_in_order;
        self.peers.apply(roster, now)
    }

    /// What is due on the lease lane.
    pub fn lease(&mut self, now: Instant) -> Action<LeaseRequest> {
        self.session.lease(now)
    }

    /// What is due on the roster lane.
    pub fn poll(&mut self, now: Instant) -> Action<Poll> {
        let full_every = FULL_EVERY.max(u32::try_from(self.peers.len() / PEERS_PER_REQUEST).unwrap_or(u32::MAX));
        let known = self.etag.as_ref().filter(|_| self.since_full + 1 < full_every);
        match self.session.roster(known.is_some(), now) {
            Action::Do(ticket, wait) => {
                self.since_full = self.since_full.saturating_add(1);
                Action::Do(ticket, Poll { etag: known.cloned(), wait })
            }
            Action::WaitUntil(at) => Action::WaitUntil(at),
            Action::UnderWay => Action::UnderWay,
        }
    }

    /// Takes in the answer to a request of the lease lane; nothing where that does not count any more. `jitter` is a random
    /// number from 0 to 1.
    pub fn on_lease(&mut self, ticket: Ticket, answer: LeaseAnswer, now: Instant, jitter: f64) -> Option<News> {
        let reply = match answer {
            LeaseAnswer::Registered { known, .. } => LeaseReply::Registered { known: known || !self.was_listed },
            LeaseAnswer::Renewed => LeaseReply::Renewed,
            LeaseAnswer::Unknown => LeaseReply::Unknown,
            LeaseAnswer::Failed => LeaseReply::Failed,
        };
        let forgotten = self.session.on_lease(ticket, reply, now, jitter)?;
        let mut news = News { holds: forgotten && self.peers.registry_forgot(now), ..News::default() };
        if let LeaseAnswer::Registered { address, .. } = answer {
            self.was_listed = true;
            let before = self.registered.replace((address, now));
            news.registered = Some(address).filter(|_| before.is_none_or(|(before, _)| before != address));
        }
        Some(news)
    }

    /// Takes in the answer to a request for the roster, as [`Membership::on_lease`] does for the lease.
    pub fn on_roster(&mut self, ticket: Ticket, answer: RosterAnswer, now: Instant, jitter: f64) -> Option<News> {
        let entry = match &answer {
            RosterAnswer::Full { roster, .. } => roster.members.iter().find(|member| member.instance_id == self.me),
            _ => None,
        };
        let entry = entry.map(|member| SocketAddr::new(member.ip, member.port.get()));
        let listed = entry.is_some();
        let reply = match answer {
            // A roster without this member is not one to be confirmed by "unchanged".
            RosterAnswer::Full { ref etag, .. } => RosterReply::Full { listed, tagged: listed && etag.is_some() },
            RosterAnswer::Unchanged { .. } => RosterReply::Unchanged,
            RosterAnswer::NoRoom => RosterReply::NoRoom,
            RosterAnswer::Failed => RosterReply::Failed,
        };
        // First what the answer says of the registry's memory, then the roster: whoever it lacks may be alive.
        let forgotten = self.session.on_roster(ticket, reply, now, jitter)?;
        let mut news = News { holds: forgotten && self.peers.registry_forgot(now), ..News::default() };
        let (RosterAnswer::Full { age, .. } | RosterAnswer::Unchanged { age }) = answer else { return Some(news) };
        if let Some(age) = age {
            self.roster_at = now.checked_sub(age);
        }
        if let RosterAnswer::Full { roster, etag, .. } = answer {
            self.since_full = 0;
            self.etag = etag.filter(|_| listed);
            news.duplicate = self.duplicate_at(entry, now);
            if std::mem::replace(&mut self.unusable, roster.unusable) != roster.unusable {
                news.unusable = Some((roster.unusable, roster.first_unusable));
            }
            let change = self.peers.apply(roster.members, now);
            if !change.is_empty() {
                self.session.had_news(self.peers.len());
            }
            news.roster = Some(change);
        }
        Some(news)
    }

    /// Two members with one identity hide each other: the roster shows whichever registered last.
    fn duplicate_at(&mut self, listed: Option<SocketAddr>, now: Instant) -> Option<SocketAddr> {
        let duplicate = listed.filter(|&address| {
            // Another registry replica may still show where this member was before.
            self.registered.is_some_and(|(own, at)| own != address && now.saturating_duration_since(at) > REPLICA_LAG)
        });
        let before = std::mem::replace(&mut self.duplicate, duplicate);
        duplicate.filter(|_| duplicate != before)
    }

    /// Lets go of peers that were kept for long enough: to be called also while the registry is silent.
    pub fn settle(&mut self, now: Instant) -> Change {
        self.peers.settle(now)
    }

    /// Registers again at once: location or address have changed.
    pub fn register_again(&mut self, now: Instant) {
        self.registered = None;
        self.session.register_now(now);
    }

    /// Begins anew with another registry. The peers may be on their way there, too.
    pub fn start_over(&mut self, now: Instant) {
        (self.registered, self.duplicate, self.etag) = (None, None, None);
        self.peers.registry_forgot(now);
        self.session.start_over(now);
    }

    /// Asks for the roster at once, unless a request is kept by the registry, which is answered as soon as there is news.
    pub fn ask_now(&mut self, now: Instant) {
        self.session.ask_now(now);
    }

    /// Asks the registry for a sign of life at once.
    pub fn renew_now(&mut self, now: Instant) {
        self.session.renew_now(now);
    }

    /// The host has slept.
    pub fn resumed(&mut self, now: Instant) {
        self.session.resumed(now);
    }

    /// Takes another pace, and another length of holds to come.
    pub fn set_pace(&mut self, pace: Pace, hold: Duration, now: Instant) {
        self.session.set_pace(pace, now);
        self.peers.set_hold(hold);
    }

    /// The peers.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Where this member is registered.
    #[must_use]
    pub fn registered(&self) -> Option<SocketAddr> {
        self.registered.map(|(address, _)| address)
    }

    /// When the roster was last known to be true; nothing while it is that of the last run.
    #[must_use]
    pub fn roster_at(&self) -> Option<Instant> {
        self.roster_at
    }

    /// Whether the last request of each sort was answered as it should be.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.session.is_well()
    }
}

#[cfg(test)]
mod tests;
