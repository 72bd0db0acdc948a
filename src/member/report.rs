//! What the prober reports: the outcome of each probe with what was the case on this host meanwhile, and what it noticed of
//! its own trouble.
//!
//! Plain values. The [`prober`](super::prober) makes them, the [`board`](super::board) takes them in.

use std::time::{Duration, Instant};

use crate::host::network::Fault;
use crate::probe::Outcome;
use crate::probe::schedule::{SkipReason, TargetId};

/// What was the case while a probe ran.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// For how long this process stood still.
    pub stalled: Duration,
    /// The probe's time limit.
    pub limit: Duration,
    /// What was wrong with the network of this host, as far as that concerns the target.
    pub network: Option<Fault>,
}

impl Facts {
    /// Whether something of this host's own is broken that concerns more than this target: a link or a gateway.
    #[must_use]
    pub const fn link_is_broken(&self) -> bool {
        matches!(self.network, Some(Fault::NoCarrier { .. } | Fault::DeadGateway { .. }))
    }
}

/// A report of the prober.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every report is of the large kind, and a box for each costs time"
)]
pub enum Report {
    /// A probe was made.
    Probed {
        /// The target.
        id: TargetId,
        /// The result.
        outcome: Outcome,
        /// What was the case on this host during the probe.
        facts: Facts,
        /// When it began.
        began: Instant,
        /// How much later than due it began.
        lag: Duration,
        /// When it ended.
        ended: Instant,
    },
    /// Regular turns of one target were skipped.
    Skipped {
        /// Why.
        reason: SkipReason,
        /// How many turns in a row.
        count: u64,
    },
    /// The thread woke later than planned: the process was stopped, or starved of processor time.
    Stalled {
        /// How much later.
        lost: Duration,
        /// When it woke.
        until: Instant,
    },
    /// The host was suspended. The monotonic clock does not include that time.
    Suspended {
        /// For how long.
        lost: Duration,
        /// When that was noticed.
        until: Instant,
    },
}
