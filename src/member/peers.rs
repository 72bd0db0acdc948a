//! Who the peers are: from one roster to the next, who joined, left or moved.
//!
//! A plain value: it is handed each roster and `now`, and says what changed. It promises:
//! * This member is never its own peer, and no identity is in the set twice.
//! * A peer that is missing from a roster leaves at once, with one exception.
//! * The exception: a registry that does not know this member any more may have lost its memory (emptied store, restart
//!   without state), and then serves a roster that fills up only as members notice and register again. For some time after
//!   [`Peers::registry_forgot`] the peers that are missing are *held*: they are probed on, and what fails there is unknown and
//!   not down, because they may also have left. Peers that are still missing at the end of that time leave; and where this
//!   happens over and over, none is held for longer than [`HOLDS_MAX`] times that time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::wire::{InstanceId, Location, Member};

/// How many holds a peer may be missing for, however often the registry loses its memory meanwhile.
pub const HOLDS_MAX: u32 = 4;

/// Another member, as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// The site it stands for.
    pub location: Location,
    /// Who it is.
    pub instance_id: InstanceId,
    /// Where it is reached.
    pub ip: IpAddr,
    /// The port that is probed.
    pub port: NonZeroU16,
}

impl Peer {
    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.get())
    }
}

/// What a roster changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Peers that are new.
    pub joined: Vec<Arc<Peer>>,
    /// Peers that are gone.
    pub left: Vec<Arc<Peer>>,
    /// Peers of the same identity at another location or address, as they are now.
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
    /// Who it is and where.
    pub peer: &'a Arc<Peer>,
    /// When the registry last heard of it, in seconds since the epoch; 0 where it did not say.
    pub last_seen: u64,
    /// The roster lacks it, and may do so because the registry lost its memory: it may be alive, or gone.
    pub held: bool,
}

/// What is known of one peer.
#[derive(Clone, Debug)]
struct Known {
    peer: Arc<Peer>,
    last_seen: u64,
    /// Since when it has been missing from the roster, where it is held.
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
    /// No peers yet. `hold` is how long the peers outlast a registry's lost memory: long enough for every living member
    /// to notice (its poll and heartbeat intervals) and to register again.
    #[must_use]
    pub fn new(me: InstanceId, hold: Duration) -> Self {
        Self { me, known: BTreeMap::new(), hold, hold_until: None }
    }

    /// Takes in a roster.
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

    /// Lets go of the peers whose hold is over: to be called also while the roster does not change.
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

    /// Whether a peer that has been missing since then is held.
    fn holds(&self, missing: Instant, now: Instant) -> bool {
        self.hold_until.is_some_and(|until| now < until) && now < missing + self.hold * HOLDS_MAX
    }

    /// The registry seems to have lost its memory: who is missing is held for the length of a hold from now. Returns whether
    /// that is news: there is somebody to hold, and no hold was running.
    pub fn registry_forgot(&mut self, now: Instant) -> bool {
        if self.known.is_empty() {
            return false;
        }
        let running = self.hold_until.is_some_and(|until| now < until);
        self.hold_until = Some(now + self.hold);
        !running
    }

    /// Changes the length of holds to come.
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
