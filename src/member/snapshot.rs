//! A copy of the board at one moment, from which a scrape is answered.
//!
//! A snapshot copies figures and shares the rest, so the board is locked for only a few milliseconds, even with 10,000 peers.
//! The text, which takes several times as long, is generated from the snapshot without a lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Wall;
use crate::probe::schedule::SkipReason;
use crate::probe::stats::{Histogram, Tally};
use crate::probe::{Check, CheckType, Timings};
use crate::wire::{InstanceId, Location};

use super::board::{Board, NotProbed};
use super::peers::Peer;

/// The board at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) location: Location,
    pub(super) instance_id: InstanceId,
    /// The peers by location and identity, each with when it was last seen.
    pub(super) peers: Vec<(Arc<Peer>, Option<Wall>)>,
    /// The targets in the order of their peers.
    pub(super) targets: Vec<Seen>,
    pub(super) tallies: Vec<(Location, CheckType, Tally)>,
    pub(super) lag: Histogram,
    pub(super) overhead: Histogram,
    pub(super) skipped: Vec<(SkipReason, u64)>,
    /// How many peers are not probed, by reason.
    pub(super) not_probed: Vec<(NotProbed, usize)>,
    pub(super) coverage: Option<f64>,
    pub(super) well: bool,
    /// For how long the probe thread was stalled, including suspends of the host.
    pub(super) lost: Duration,
    pub(super) registry_up: bool,
    pub(super) roster_age: Option<Duration>,
}

/// A target and its state.
#[derive(Debug)]
pub(super) struct Seen {
    /// The index of its peer in [`Snapshot::peers`].
    pub(super) peer: usize,
    pub(super) check: Check,
    /// Whether it is up; `None` if that is unknown.
    pub(super) up: Option<bool>,
    /// The times of its last probe if it succeeded.
    pub(super) timings: Option<Timings>,
}

impl Snapshot {
    pub(super) fn of(board: &Board, now: Instant, wall: Wall) -> Self {
        let mut peers = Vec::with_capacity(board.peer_count());
        let mut targets = Vec::with_capacity(board.target_count());
        for (peer, last_seen, of_peer) in board.peers(now, wall) {
            targets.extend(of_peer.map(|(watched, state)| Seen {
                peer: peers.len(),
                check: watched.check.clone(),
                up: state.map(|state| state.result.is_ok()),
                timings: state.and_then(|state| state.result.as_ref().ok().copied()),
            }));
            peers.push((Arc::clone(peer), last_seen));
        }
        Self {
            location: board.location.clone(),
            instance_id: board.instance_id.clone(),
            peers,
            targets,
            tallies: board.tallies().map(|(location, kind, tally)| (location.clone(), kind, tally.clone())).collect(),
            lag: board.lag().clone(),
            overhead: board.overhead().clone(),
            skipped: board.skipped().collect(),
            not_probed: board.not_probed().collect(),
            coverage: board.coverage(now),
            well: board.unwell(now).is_none(),
            lost: board.lost(),
            registry_up: board.registry().up,
            roster_age: board.registry().roster_at.map(|at| now.saturating_duration_since(at)),
        }
    }

    /// The targets of one kind of check.
    pub(super) fn targets_of(&self, kind: CheckType) -> impl Iterator<Item = &Seen> {
        self.targets.iter().filter(move |seen| seen.check.check_type() == kind)
    }
}
