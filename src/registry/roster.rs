//! Which members are alive.
//!
//! A member holds a lease from its registration until `member_ttl` after its last heartbeat. The roster is a plain value:
//! every method takes `now`, none reads a clock, waits, or touches a disk or a network. Leases end by monotonic time, so a
//! jump of the wall clock ends none; wall time is only written down, in `registered_at` and `last_seen`. A heartbeat at
//! exactly the deadline is late. A lease that is over counts as gone in every method, whether [`Roster::expire`] has
//! tidied it away or not.
//!
//! The revision moves when a member joins, leaves or changes location or address, and not on a heartbeat: who has seen a
//! revision need not ask again until it moves.
//!
//! The embedded store keeps one of these. Redis keeps the same rules in its scripts, and one suite tests both.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::{Duration, Instant};

use crate::clock::Wall;
use crate::wire::{InstanceId, Location, Member, Registration};

#[cfg(test)]
mod tests;

/// The longest silence of the registry itself that counts against leases: what a healthy registry, which looks at its
/// leases every second, stays far below. Time beyond it was our outage, not the members'.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// A member that asks for a place on the roster, with the identity it has or was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who it is.
    pub instance_id: InstanceId,
    /// The site it stands for.
    pub location: Location,
    /// Where its peers reach it.
    pub ip: IpAddr,
    /// The port its peers probe.
    pub port: NonZeroU16,
}

impl Candidate {
    /// The candidate of a registration; one that brings no identity gets a new one.
    #[must_use]
    pub fn from_registration(registration: Registration) -> Self {
        let Registration { instance_id, location, ip, port } = registration;
        Self { instance_id: instance_id.unwrap_or_else(InstanceId::random), location, ip, port }
    }

    fn stands_where(&self, member: &Member) -> bool {
        self.location == member.location && self.ip == member.ip && self.port == member.port
    }
}

/// What a registration did to the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A new member.
    Joined,
    /// A known member at another location or address.
    Moved,
    /// A known member where it was; its lease is renewed.
    Renewed,
}

impl Admission {
    /// Whether the roster knew the member before.
    #[must_use]
    pub fn known(self) -> bool {
        self != Self::Joined
    }
}

/// The ring has as many members as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// How many that is.
    pub max_members: usize,
}

/// The live members and when their leases end.
#[derive(Clone, Debug)]
pub struct Roster {
    leases: HashMap<InstanceId, Lease>,
    by_end: BTreeSet<(Instant, InstanceId)>,
    revision: u64,
    ttl: Duration,
    max_members: NonZeroUsize,
}

#[derive(Clone, Debug)]
struct Lease {
    member: Member,
    ends: Instant,
    /// The revision at which the member came to where it stands.
    since: u64,
}

impl Roster {
    /// An empty roster whose leases last `ttl`.
    #[must_use]
    pub fn new(ttl: Duration, max_members: NonZeroUsize) -> Self {
        Self { leases: HashMap::new(), by_end: BTreeSet::new(), revision: 0, ttl, max_members }
    }

    /// A roster as it was at `revision`. The members get one whole lease from `now`: nobody knows how long they could not
    /// reach us.
    #[must_use]
    pub fn restored(
        ttl: Duration,
        max_members: NonZeroUsize,
        revision: u64,
        members: Vec<Member>,
        now: Instant,
    ) -> Self {
        let mut roster = Self { revision, ..Self::new(ttl, max_members) };
        for member in members {
            roster.place(member, now, revision);
        }
        roster
    }

    /// Changes the length of leases from their next renewal on, and how many members there may be from the next that joins.
    pub fn set_limits(&mut self, ttl: Duration, max_members: NonZeroUsize) {
        self.ttl = ttl;
        self.max_members = max_members;
    }

    /// Gives `candidate` a place and a whole lease. `registered_at` stays while location and address stay.
    ///
    /// # Errors
    ///
    /// [`Full`] where a new member would be one too many.
    pub fn register(&mut self, candidate: Candidate, now: Instant, wall: Wall) -> Result<Admission, Full> {
        let seconds = wall.epoch_seconds();
        let held = self.leases.get(&candidate.instance_id).filter(|lease| now < lease.ends);
        let next = self.revision + 1;
        let (admission, registered_at, since) = match held {
            Some(Lease { member, since, .. }) if candidate.stands_where(member) => {
                (Admission::Renewed, member.registered_at, *since)
            }
            Some(_) => (Admission::Moved, seconds, next),
            None => (Admission::Joined, seconds, next),
        };
        if admission == Admission::Joined && self.live(now) >= self.max_members.get() {
            return Err(Full { max_members: self.max_members.get() });
        }
        let Candidate { instance_id, location, ip, port } = candidate;
        self.place(
            Member { instance_id, location, ip, port, last_seen: seconds, registered_at, status: () },
            now,
            since,
        );
        self.revision = self.revision.max(since);
        Ok(admission)
    }

    /// Renews the lease of `id`; false where it holds none.
    #[must_use]
    pub fn renew(&mut self, id: &InstanceId, now: Instant, wall: Wall) -> bool {
        let Some(lease) = self.leases.get_mut(id).filter(|lease| now < lease.ends) else { return false };
        let ended = std::mem::replace(&mut lease.ends, now + self.ttl);
        lease.member.last_seen = wall.epoch_seconds();
        let renewed = (lease.ends, lease.member.instance_id.clone());
        self.by_end.remove(&(ended, renewed.1.clone()));
        self.by_end.insert(renewed);
        true
    }

    /// Ends the lease of `id` at its own wish; false where it holds none.
    pub fn leave(&mut self, id: &InstanceId, now: Instant) -> bool {
        if self.leases.get(id).is_none_or(|lease| lease.ends <= now) {
            return false;
        }
        self.remove(id);
        self.revision += 1;
        true
    }

    /// Removes one member whose lease is over. A driver calls it until it gives `None`.
    pub fn expire(&mut self, now: Instant) -> Option<Member> {
        let (ends, id) = self.by_end.first()?;
        if now < *ends {
            return None;
        }
        let id = id.clone();
        self.revision += 1;
        self.remove(&id)
    }

    /// When the first lease ends unless it is renewed.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.by_end.first().map(|(ends, _)| *ends)
    }

    /// The members whose leases run, in no particular order.
    pub fn members(&self, now: Instant) -> impl Iterator<Item = &Member> {
        self.leases.values().filter(move |lease| now < lease.ends).map(|lease| &lease.member)
    }

    /// The member `id`, whether its lease runs or not.
    #[must_use]
    pub fn member(&self, id: &InstanceId) -> Option<&Member> {
        self.leases.get(id).map(|lease| &lease.member)
    }

    /// The revision at which a member came to where `candidate` stands; `None` where to register it would change the
    /// roster.
    #[must_use]
    pub fn stands_since(&self, candidate: &Candidate, now: Instant) -> Option<u64> {
        let lease = self.leases.get(&candidate.instance_id).filter(|lease| now < lease.ends)?;
        candidate.stands_where(&lease.member).then_some(lease.since)
    }

    /// How many joins, leaves and moves there have been.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn live(&self, now: Instant) -> usize {
        self.leases.len() - self.by_end.iter().take_while(|(ends, _)| *ends <= now).count()
    }

    fn place(&mut self, member: Member, now: Instant, since: u64) {
        let id = member.instance_id.clone();
        let ends = now + self.ttl;
        if let Some(old) = self.leases.insert(id.clone(), Lease { member, ends, since }) {
            self.by_end.remove(&(old.ends, id.clone()));
        }
        self.by_end.insert((ends, id));
    }

    fn remove(&mut self, id: &InstanceId) -> Option<Member> {
        let lease = self.leases.remove(id)?;
        self.by_end.remove(&(lease.ends, id.clone()));
        Some(lease.member)
    }
}

/// Monotonic time less the registry's own outages: a process that was stopped for an hour has not been told of anyone's
/// heartbeat meanwhile, so that hour ends no lease. Each look at it counts for [`LONGEST_SILENCE`] at most.
#[derive(Clone, Copy, Debug)]
pub struct RingTime {
    looked: Instant,
    lost: Duration,
}

impl RingTime {
    /// Ring time that begins `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { looked: now, lost: Duration::ZERO }
    }

    /// The ring's time at the machine's time `now`.
    pub fn at(&mut self, now: Instant) -> Instant {
        let silence = now.saturating_duration_since(self.looked);
        self.lost += silence.saturating_sub(LONGEST_SILENCE);
        self.looked = self.looked.max(now);
        self.looked - self.lost
    }
}
