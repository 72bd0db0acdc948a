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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::probe::Reason;

    const HORIZON: Duration = Duration::from_secs(130);

    /// A memory with its clock, in seconds.
    struct Story {
        memory: Memory,
        start: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self { memory: Memory::default(), start: clock::monotonic() }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn take_in(&mut self, result: Result<Timings, Failure>, second: u64) -> Option<Turned> {
            self.memory.take_in(result, self.at(second), HORIZON)
        }

        fn up(&mut self, second: u64) -> Option<Turned> {
            self.take_in(Ok(Timings::default()), second)
        }

        fn down(&mut self, second: u64) -> Option<Turned> {
            self.take_in(Err(Failure { reason: Reason::Timeout, detail: "no answer".into() }), second)
        }

        /// Since when it has been as it is, and how many probes have failed since.
        fn since(&self, now: u64) -> Option<(Duration, u64)> {
            let state = self.memory.fresh(self.at(now), HORIZON)?;
            Some((state.since - self.start, state.failed))
        }
    }

    fn turned(lasted: Option<u64>, failed: u64) -> Option<Turned> {
        Some(Turned { lasted: lasted.map(Duration::from_secs), failed })
    }

    #[test]
    fn up_for_the_first_time_is_no_turn_and_down_for_the_first_time_is_one() {
        let mut story = Story::new();
        assert_eq!(story.up(0), None);
        assert_eq!(story.up(60), None);
        let mut story = Story::new();
        assert_eq!(story.down(0), turned(None, 0));
        assert_eq!(story.down(60), None);
    }

    #[test]
    fn a_turn_says_how_long_the_other_state_lasted_and_how_many_probes_failed_in_it() {
        let mut story = Story::new();
        story.up(0);
        story.up(60);
        assert_eq!(story.down(120), turned(Some(120), 0));
        assert_eq!(story.down(121), None);
        assert_eq!(story.down(180), None);
        assert_eq!(story.since(180), Some((Duration::from_secs(120), 3)));
        assert_eq!(story.up(185), turned(Some(65), 3));
        assert_eq!(story.since(185), Some((Duration::from_secs(185), 0)));
        assert_eq!(story.down(240), turned(Some(55), 0), "the count began anew");
        assert_eq!(story.since(240), Some((Duration::from_secs(240), 1)));
    }

    #[test]
    fn what_was_known_longer_ago_than_the_horizon_is_not_known_any_more() {
        let mut story = Story::new();
        story.down(0);
        assert!(story.memory.is_down(story.at(130), HORIZON));
        assert!(!story.memory.is_down(story.at(131), HORIZON));
        assert_eq!((story.since(130), story.since(131)), (Some((Duration::ZERO, 1)), None));
        assert_eq!(story.down(130), None, "it is still known to be down");
        assert_eq!(story.down(261), turned(None, 0), "it was unknown in between");
        assert_eq!(story.since(261), Some((Duration::from_secs(261), 1)));
        assert_eq!(story.up(392), None, "and again: up for the first time is no turn");
        assert_eq!(story.since(392), Some((Duration::from_secs(392), 0)));
    }

    #[test]
    fn what_is_forgotten_is_unknown() {
        let mut story = Story::new();
        story.down(0);
        story.memory.forget();
        assert!(!story.memory.is_down(story.at(0), HORIZON));
        assert_eq!(story.since(0), None);
        assert_eq!(story.up(1), None);
        story.memory.forget();
        assert_eq!(story.down(2), turned(None, 0));
    }

    #[test]
    fn the_last_result_is_kept_with_its_time() {
        let mut story = Story::new();
        story.down(0);
        story.up(60);
        let state = story.memory.fresh(story.at(61), HORIZON).unwrap();
        assert!(state.result.is_ok());
        assert_eq!(state.at, story.at(60));
        assert!(!story.memory.is_down(story.at(61), HORIZON));
    }
}
