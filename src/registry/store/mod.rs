//! Where the roster lives: in this process ([`embedded`]) or in a Redis that several registries share ([`redis`]).
//!
//! Both keep the same promises, and one suite tests both: an acknowledged registration is not lost, a lease ends by the
//! store's own clock and never by a jump of the wall's, an outage of the store or of the registry ends none, and every
//! lease that ends is seen by exactly one registry.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::registry::roster::{Admission, Candidate};
use crate::wire::{InstanceId, Member};

pub mod embedded;
pub mod redis;

#[cfg(test)]
pub(super) mod tests;

/// What a store operation gives back: a future that borrows the store, so that one daemon can hold either store.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The roster's keeper. Operations may run side by side; [`Store::follow`] runs once at a time.
pub trait Store: Send + Sync {
    /// `embedded` or `redis`, as `/health` names it.
    fn name(&self) -> &'static str;

    /// Gives `candidate` a place on the roster and a whole lease. When it answers, the registration is kept.
    fn register(&self, candidate: Candidate) -> Answer<'_, Admission>;

    /// Renews the lease of `id`; false where it holds none.
    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool>;

    /// Ends the lease of `id`; false where it held none.
    fn deregister<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool>;

    /// Ends the leases that are over, and tells where the roster stands; the roster itself where it is not at `known`.
    fn follow<'a>(&'a self, known: Option<&'a Mark>) -> Answer<'a, Followed>;

    /// The `last_seen` of each of `members`, in their order; `None` for one that has gone meanwhile.
    fn last_seen<'a>(&'a self, members: &'a [Member]) -> Answer<'a, Vec<Option<u64>>>;

    /// Takes new limits, from the next registration or heartbeat on.
    fn set_limits(&self, limits: Limits);

    /// Writes down what it holds in memory only; the last call before the process ends.
    fn close(&self) -> Answer<'_, ()>;
}

/// What an operator may change while the store runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The length of a lease.
    pub member_ttl: Duration,
    /// The most members the ring may have.
    pub max_members: std::num::NonZeroUsize,
    /// How often the store looks for what it is not told of: what older programs did in a shared Redis.
    pub cleanup_interval: Duration,
}

/// A state of the roster, such that two equal marks of one store mean the same roster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// How many joins, leaves and moves there have been. Goes back where a store has lost its memory.
    pub revision: u64,
    /// What tells apart two states of one revision, before and after a store has lost its memory.
    pub origin: Arc<str>,
}

/// Where the roster stands.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// The state of the roster.
    pub mark: Mark,
    /// The live members, in no particular order, each identity once; `None` where the caller has them already.
    pub roster: Option<Vec<Member>>,
    /// The shortest time in which a lease could end; `None` where there is no lease.
    pub next_expiry: Option<Duration>,
    /// Leases that this call ended.
    pub expired: Vec<InstanceId>,
    /// Entries of other programs that make no sense and are left out.
    pub unusable: usize,
    /// Why registrations cannot be kept at the moment, where all else goes on.
    pub impaired: Option<String>,
}

/// Why a store did not do what it was asked. The texts hold no secret and fit after "cannot …: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No connection, or it broke.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// It answered that it cannot: wrong password, still loading, read-only, out of memory.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// It answered something that makes no sense.
    #[error("the store's answer makes no sense: {0}")]
    Senseless(String),
    /// The registration cannot be written to disk. Nothing else is affected.
    #[error("the registration cannot be kept: {0}")]
    Unwritable(String),
    /// The ring has as many members as it may have.
    #[error("the ring is full: it has the {0} members that registry.max_members allows")]
    Full(usize),
}

impl StoreError {
    /// Whether the store as a whole is away, so that asking it for something else would fail too.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) | Self::Refused(_) | Self::Senseless(_) => true,
            Self::Unwritable(_) | Self::Full(_) => false,
        }
    }
}
