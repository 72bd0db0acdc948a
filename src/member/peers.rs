//! The list of peers: who joined, left or moved from one roster to the next.
//!
//! A plain value: it gets each roster and `now`, and returns what changed. It guarantees:
//! * This member is never its own peer, and no identity is listed twice.
//! * A peer that is missing from a roster leaves at once, with one exception.
//! * The exception: a registry that does not know this member any more may have lost its data (an emptied store, a restart
//!   without state). Its roster is then incomplete until all members have registered again. For some time after
//!   [`Peers::registry_forgot`], missing peers are *held*: they are still probed, but a failure makes them unknown and not
//!   down, because they may have left. Peers that are still missing at the end of that time leave. If the registry loses its
//!   data repeatedly, a peer is held for at most [`HOLDS_MAX`] times that time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::wire::{InstanceId, Location, Member};

/// How long a peer may be held, in lengths of a hold, however often the registry loses its data.
pub const HOLDS_MAX: u32 = 4;

/// Another member, as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// The name of its site.
    pub location: Location,
    /// Its identity.
    pub instance_id: InstanceId,
    /// Its address.
    pub ip: IpAddr,
    /// The port that is probed.
    pub port: NonZeroU16,
}

impl Peer {
    /// The address and port to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.get())
    }
}

/// The difference between two rosters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New peers.
    pub joined: Vec<Arc<Peer>>,
    /// Peers that left.
    pub left: Vec<Arc<Peer>>,
    /// Peers with another location or address than before, in their new form.
    pub moved: Vec<Arc<Peer>>,
}

impl Change {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.left.is_empty() && self.moved.is_empty()
    }
}

/// One of the peers.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The peer.
    pub peer: &'a Arc<Peer>,
    /// When the registry last received a heartbeat from it, in seconds since the epoch; 0 if the registry did not say.
    pub last_seen: u64,
    /// It is missing from the roster, but the registry may have lost its data: the peer may be alive or have left.
    pub held: bool,
}

/// What is known of one peer.
#[derive(Clone, Debug)]
struct Known {
    peer: Arc<Peer>,
    last_seen: u64,
    /// Since when it has been missing from the roster, if it is held.
    missing: Option<Instant>,
}

/// The peers of one member. See the module's head.
#[derive(Clone, Debug)]
pub struct Peers {
    me: InstanceId,
    known: BTreeMap<InstanceId, Known>,
    hold: Duration,
    hold_until: Option<Instant>,
}

impl Peers {
    /// No peers yet. `hold` is for how long missing peers are held after the registry has lost its data: long enough for every
    /// living member to notice it (its poll and heartbeat intervals) and to register again.
    #[must_use]
    pub fn new(me: InstanceId, hold: Duration) -> Self {
        Self { me, known: BTreeMap::new(), hold, hold_until: None }
    }

    /// Replaces the roster.
    pub fn apply(&mut self, roster: Vec<Member>, now: Instant) -> Change {
        let mut change = Change::default();
        let mut before = std::mem::take(&mut self.known);
        for member in roster {
            if member.instance_id == self.me || self.known.contains_key(&member.instance_id) {
                continue;
            }
            let peer = Peer {
                location: member.location,
                instance_id: member.instance_id.clone(),
                ip: member.ip,
                port: member.port,
            };
            let peer = match before.remove(&member.instance_id) {
                Some(known) if *known.peer == peer => known.peer,
                Some(_) => {
                    let peer = Arc::new(peer);
                    change.moved.push(Arc::clone(&peer));
                    peer
                }
                None => {
                    let peer = Arc::new(peer);
                    change.joined.push(Arc::clone(&peer));
                    peer
                }
            };
            self.known.insert(member.instance_id, Known { peer, last_seen: member.last_seen, missing: None });
        }
        for (id, known) in before {
            let missing = known.missing.unwrap_or(now);
            if self.holds(missing, now) {
                self.known.insert(id, Known { missing: Some(missing), ..known });
            } else {
                change.left.push(known.peer);
            }
        }
        change
    }

    /// Removes the peers whose hold has ended. To be called regularly, even if the roster does not change.
    pub fn settle(&mut self, now: Instant) -> Change {
        let mut change = Change::default();
        let over: Vec<InstanceId> = self
            .known
            .iter()
            .filter(|(_, known)| known.missing.is_some_and(|missing| !self.holds(missing, now)))
            .map(|(id, _)| id.clone())
            .collect();
        change.left.extend(over.iter().filter_map(|id| self.known.remove(id)).map(|known| known.peer));
        change
    }

    /// Whether a peer that has been missing since `missing` is held.
    fn holds(&self, missing: Instant, now: Instant) -> bool {
        self.hold_until.is_some_and(|until| now < until) && now < missing + self.hold * HOLDS_MAX
    }

    /// The registry seems to have lost its data: missing peers are held for the length of a hold from now. Returns whether a
    /// hold begins: there are peers, and no hold was in effect.
    pub fn registry_forgot(&mut self, now: Instant) -> bool {
        if self.known.is_empty() {
            return false;
        }
        let running = self.hold_until.is_some_and(|until| now < until);
        self.hold_until = Some(now + self.hold);
        !running
    }

    /// Changes the length of future holds.
    pub fn set_hold(&mut self, hold: Duration) {
        self.hold = hold;
    }

    /// The peers, in the order of their identities.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.known.values().map(|known| Entry {
            peer: &known.peer,
            last_seen: known.last_seen,
            held: known.missing.is_some(),
        })
    }

    /// How many peers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests;
