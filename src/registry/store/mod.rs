//! Where the roster lives: in this process ([`embedded`]) or in a Redis that several registries share ([`redis`]).
//!
//! Both give the same guarantees, and one test suite checks both. An acknowledged registration is not lost. Leases expire by
//! the store's own monotonic clock, so a jump of the wall clock ends none. An outage of the store or of the registry ends
//! none either. Each expired lease is reported to exactly one registry.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::registry::roster::{Admission, Candidate};
use crate::wire::{InstanceId, Member};

pub mod embedded;
pub mod redis;

#[cfg(test)]
pub(super) mod tests;

/// The future of a store operation. It is boxed so that the daemon can hold either store as a trait object.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store of the roster. Operations may run concurrently, except [`Store::follow`], which runs once at a time.
pub trait Store: Send + Sync {
    /// `embedded` or `redis`, as `/health` names it.
    fn name(&self) -> &'static str;

    /// Registers `candidate` with a full lease. When the future resolves, the registration is durable.
    fn register(&self, candidate: Candidate) -> Answer<'_, Admission>;

    /// Renews the lease of `id`. False if it has none.
    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool>;

    /// Ends the lease of `id`. False if it had none.
    fn deregister<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool>;

    /// Ends expired leases and returns the state of the roster, with the members unless the state equals `known`.
    fn follow<'a>(&'a self, known: Option<&'a Mark>) -> Answer<'a, Followed>;

    /// The `last_seen` of each of `members`, in the same order. `None` for a member that has left.
    fn last_seen<'a>(&'a self, members: &'a [Member]) -> Answer<'a, Vec<Option<u64>>>;

    /// Sets new limits, which apply from the next registration or heartbeat.
    fn set_limits(&self, limits: Limits);

    /// Writes state that is only in memory. The last call before the process ends.
    fn close(&self) -> Answer<'_, ()>;
}

/// Settings that can change while the store runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The length of a lease.
    pub member_ttl: Duration,
    /// The most members the ring may have.
    pub max_members: std::num::NonZeroUsize,
    /// How often the store looks for changes made by older programs in a shared Redis.
    pub cleanup_interval: Duration,
}

/// Identifies a state of the roster: two equal marks of one store mean the same roster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The number of joins, leaves and address changes. Starts again if the store loses its data.
    pub revision: u64,
    /// Distinguishes states with the same revision before and after the store lost its data.
    pub origin: Arc<str>,
}

/// The result of [`Store::follow`].
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// The state of the roster.
    pub mark: Mark,
    /// The live members in no particular order, without duplicates. `None` if the caller has them already.
    pub roster: Option<Vec<Member>>,
    /// The time until the first lease can expire; `None` without leases.
    pub next_expiry: Option<Duration>,
    /// The members whose leases this call ended.
    pub expired: Vec<InstanceId>,
    /// The number of invalid entries written by other programs, which are skipped.
    pub unusable: usize,
    /// Why registrations cannot be saved at the moment although everything else works.
    pub write_error: Option<String>,
}

/// Why a store operation failed. The texts contain no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no connection, or it was lost.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// No reply within the time limit.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// The store replied with an error: wrong password, still loading, read-only, out of memory.
    #[error("the store returned an error: {0}")]
    Failed(String),
    /// The store replied with something that this program does not understand.
    #[error("unexpected reply from the store: {0}")]
    UnexpectedReply(String),
    /// The registration cannot be written to disk. Nothing else is affected.
    #[error("the registration cannot be saved: {0}")]
    Unwritable(String),
    /// The ring has the maximum number of members.
    #[error("the ring is full: it has {0} members, the limit set by registry.max_members")]
    Full(usize),
}

impl StoreError {
    /// Whether the whole store is unavailable, so that other operations would fail too.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) | Self::Failed(_) | Self::UnexpectedReply(_) => true,
            Self::Unwritable(_) | Self::Full(_) => false,
        }
    }
}
