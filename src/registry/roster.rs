//! Which members are alive.
//!
//! A member has a lease from its registration until `member_ttl` after its last heartbeat. The roster is a plain value: every
//! method takes `now`; none reads a clock, waits, or uses a disk or a network. Leases expire by monotonic time, so a jump of
//! the wall clock ends none. Wall time is only recorded, in `registered_at` and `last_seen`. A heartbeat exactly at the
//! deadline is late. All methods treat an expired lease as ended, even if [`Roster::expire`] has not removed it yet.
//!
//! The revision increases when a member joins, leaves, or changes its location or address. Heartbeats do not change it. A
//! client that knows a revision needs no new roster until the revision changes.
//!
//! The embedded store contains a `Roster`. The scripts of the Redis store follow the same rules, and one suite tests both.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::{Duration, Instant};

use crate::clock::Wall;
use crate::wire::{InstanceId, Location, Member, Registration};

#[cfg(test)]
mod tests;

/// The longest time between two calls of [`RingTime::at`] that counts towards the expiry of leases. A working registry checks
/// its leases every second and stays far below. A longer gap means that the registry itself did not run.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// A member that registers, with the identity that it sent or was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity.
    pub instance_id: InstanceId,
    /// Its location.
    pub location: Location,
    /// The address at which its peers reach it.
    pub ip: IpAddr,
    /// The port its peers probe.
    pub port: NonZeroU16,
}

impl Candidate {
    /// Makes a candidate from a registration. One without an identity gets a new one.
    #[must_use]
    pub fn from_registration(registration: Registration) -> Self {
        let Registration { instance_id, location, ip, port } = registration;
        Self { instance_id: instance_id.unwrap_or_else(InstanceId::random), location, ip, port }
    }

    fn is_unchanged_from(&self, member: &Member) -> bool {
        self.location == member.location && self.ip == member.ip && self.port == member.port
    }
}

/// The effect of a registration on the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A new member.
    Joined,
    /// A known member at another location or address.
    Moved,
    /// A known member without changes; its lease is renewed.
    Renewed,
}

impl Admission {
    /// Whether the member was on the roster before.
    #[must_use]
    pub fn known(self) -> bool {
        self != Self::Joined
    }
}

/// The ring has the maximum number of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// The maximum.
    pub max_members: usize,
}

/// The live members and their leases.
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
    /// The revision at which the member got its current location and address.
    since: u64,
}

impl Roster {
    /// An empty roster whose leases last `ttl`.
    #[must_use]
    pub fn new(ttl: Duration, max_members: NonZeroUsize) -> Self {
        Self { leases: HashMap::new(), by_end: BTreeSet::new(), revision: 0, ttl, max_members }
    }

    /// Restores the roster of `revision`. The members get a full lease from `now`, because the registry cannot know how long
    /// they were unable to reach it.
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
            roster.insert(member, now, revision);
        }
        roster
    }

    /// Changes the limits. The length of a lease changes at its next renewal.
    pub fn set_limits(&mut self, ttl: Duration, max_members: NonZeroUsize) {
        self.ttl = ttl;
        self.max_members = max_members;
    }

    /// Registers `candidate` with a full lease. `registered_at` is kept if location and address are unchanged.
    ///
    /// # Errors
    ///
    /// [`Full`] if a new member would exceed the limit.
    pub fn register(&mut self, candidate: Candidate, now: Instant, wall: Wall) -> Result<Admission, Full> {
        let seconds = wall.epoch_seconds();
        let held = self.leases.get(&candidate.instance_id).filter(|lease| now < lease.ends);
        let next = self.revision + 1;
        let (admission, registered_at, since) = match held {
            Some(Lease { member, since, .. }) if candidate.is_unchanged_from(member) => {
                (Admission::Renewed, member.registered_at, *since)
            }
            Some(_) => (Admission::Moved, seconds, next),
            None => (Admission::Joined, seconds, next),
        };
        if admission == Admission::Joined && self.live(now) >= self.max_members.get() {
            return Err(Full { max_members: self.max_members.get() });
        }
        let Candidate { instance_id, location, ip, port } = candidate;
        self.insert(
            Member { instance_id, location, ip, port, last_seen: seconds, registered_at, status: () },
            now,
            since,
        );
        self.revision = self.revision.max(since);
        Ok(admission)
    }

    /// Renews the lease of `id`. False if it has none.
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

    /// Ends the lease of `id` because the member leaves. False if it has none.
    pub fn leave(&mut self, id: &InstanceId, now: Instant) -> bool {
        if self.leases.get(id).is_none_or(|lease| lease.ends <= now) {
            return false;
        }
        self.remove(id);
        self.revision += 1;
        true
    }

    /// Removes one member whose lease has expired. The caller repeats this until it returns `None`.
    pub fn expire(&mut self, now: Instant) -> Option<Member> {
        let (ends, id) = self.by_end.first()?;
        if now < *ends {
            return None;
        }
        let id = id.clone();
        self.revision += 1;
        self.remove(&id)
    }

    /// When the first lease expires unless it is renewed.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.by_end.first().map(|(ends, _)| *ends)
    }

    /// The members with valid leases, in no particular order.
    pub fn members(&self, now: Instant) -> impl Iterator<Item = &Member> {
        self.leases.values().filter(move |lease| now < lease.ends).map(|lease| &lease.member)
    }

    /// The member `id`, even if its lease has expired.
    #[must_use]
    pub fn member(&self, id: &InstanceId) -> Option<&Member> {
        self.leases.get(id).map(|lease| &lease.member)
    }

    /// The revision at which the member got the location and address of `candidate`. `None` if registering `candidate` would
    /// change the roster.
    #[must_use]
    pub fn unchanged_since(&self, candidate: &Candidate, now: Instant) -> Option<u64> {
        let lease = self.leases.get(&candidate.instance_id).filter(|lease| now < lease.ends)?;
        candidate.is_unchanged_from(&lease.member).then_some(lease.since)
    }

    /// The number of joins, leaves and address changes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn live(&self, now: Instant) -> usize {
        self.leases.len() - self.by_end.iter().take_while(|(ends, _)| *ends <= now).count()
    }

    fn insert(&mut self, member: Member, now: Instant, since: u64) {
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

/// Monotonic time without the registry's own outages. A process that was stopped for an hour has received no heartbeats during
/// that hour, so the hour must not expire any lease. The time between two calls of [`RingTime::at`] counts for at most
/// [`LONGEST_SILENCE`].
#[derive(Clone, Copy, Debug)]
pub struct RingTime {
    looked: Instant,
    lost: Duration,
}

impl RingTime {
    /// Ring time that starts at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { looked: now, lost: Duration::ZERO }
    }

    /// The ring time at monotonic time `now`.
    pub fn at(&mut self, now: Instant) -> Instant {
        let silence = now.saturating_duration_since(self.looked);
        self.lost += silence.saturating_sub(LONGEST_SILENCE);
        self.looked = self.looked.max(now);
        self.looked - self.lost
    }
}
