//! What is remembered of one target: whether it is up or down, since when, and how long that may be believed.
//!
//! The only memory of up and down that a member has. A plain value: it is told what was found and when.

use std::time::{Duration, Instant};

use crate::probe::{Failure, Timings};

/// What the last probe that says something about a target found.
#[derive(Clone, Debug)]
pub struct State {
    /// Its timings, or why it failed.
    pub result: Result<Timings, Failure>,
    /// When it ended.
    pub at: Instant,
    /// Since when the target has been up or down without a break.
    pub since: Instant,
    /// How many probes have failed since then.
    pub failed: u64,
}

/// A target has gone up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// How long it had been the other way; nothing where that was not known.
    pub lasted: Option<Duration>,
    /// How many probes had failed meanwhile.
    pub failed: u64,
}

/// The memory of one target. See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Option<State>,
}

impl Memory {
    /// Takes in a result that says something about the target. What was known longer ago than `horizon` is not known any more.
    /// Returns whether the target has turned: found down for the first time, or the other way than it was. That a target is up
    /// for the first time is expected and no turn.
    pub fn take_in(&mut self, result: Result<Timings, Failure>, at: Instant, horizon: Duration) -> Option<Turned> {
        let before = self.state.take().filter(|state| at.saturating_duration_since(state.at) <= horizon);
        let was_up = before.as_ref().map(|state| state.result.is_ok());
        let is_up = result.is_ok();
        let since = before.as_ref().filter(|_| was_up == Some(is_up)).map_or(at, |state| state.since);
        let turned = if is_up { was_up == Some(false) } else { was_up != Some(false) };
        let turned = turned.then(|| Turned {
            lasted: before.as_ref().map(|state| at.saturating_duration_since(state.since)),
            failed: before.as_ref().map_or(0, |state| state.failed),
        });
        let failed = if is_up { 0 } else { before.map_or(0, |state| state.failed) + 1 };
        self.state = Some(State { result, at, since, failed });
        turned
    }

    /// Nothing is known of the target any more.
    pub fn forget(&mut self) {
        self.state = None;
    }

    /// What is known at `now`.
    #[must_use]
    pub fn fresh(&self, now: Instant, horizon: Duration) -> Option<&State> {
        self.state.as_ref().filter(|state| now.saturating_duration_since(state.at) <= horizon)
    }

    /// Whether it is known to be down at `now`.
    #[must_use]
    pub fn is_down(&self, now: Instant, horizon: Duration) -> bool {
        self.fresh(now, horizon).is_some_and(|state| state.result.is_err())
    }
}
