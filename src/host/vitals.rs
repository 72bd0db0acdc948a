//! Whether the loops that must never stand still are moving.
//!
//! A vital loop gets a [`Pulse`] with a limit and marks it on every turn. Whoever tells the service manager that all is well
//! asks [`Vitals::stalled`] first, so that a stuck loop ends in a restart and a busy one does not. A loop that has ended, by a
//! panic for one, marks no more and so counts as stalled. Limits go by the monotonic clock.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// The vital loops of one daemon.
#[derive(Clone, Debug)]
pub struct Vitals {
    start: Instant,
    loops: Arc<Mutex<Vec<Loop>>>,
}

#[derive(Debug)]
struct Loop {
    name: &'static str,
    limit: Duration,
    pulse: Pulse,
}

/// How one loop says that it moves.
#[derive(Clone, Debug)]
pub struct Pulse {
    start: Instant,
    /// Nanoseconds from `start` to the last mark.
    last: Arc<AtomicU64>,
}

/// A loop that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// Its name, as given to [`Vitals::add`].
    pub name: &'static str,
    /// The time since it last marked.
    pub silent: Duration,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} loop has stood still for {} s", self.name, self.silent.as_secs())
    }
}

impl Vitals {
    /// No loops yet.
    #[must_use]
    pub fn new() -> Self {
        Self { start: clock::monotonic(), loops: Arc::default() }
    }

    /// Adds a loop that must mark at least once every `limit`. Its first limit starts now.
    #[must_use]
    pub fn add(&self, name: &'static str, limit: Duration) -> Pulse {
        self.add_at(name, limit, clock::monotonic())
    }

    fn add_at(&self, name: &'static str, limit: Duration, now: Instant) -> Pulse {
        let pulse = Pulse { start: self.start, last: Arc::default() };
        pulse.mark_at(now);
        let entry = Loop { name, limit, pulse: pulse.clone() };
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        pulse
    }

    /// The first loop, in the order they were added, that has not marked within its limit.
    #[must_use]
    pub fn stalled(&self) -> Option<Stalled> {
        self.stalled_at(clock::monotonic())
    }

    fn stalled_at(&self, now: Instant) -> Option<Stalled> {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.iter().find_map(|entry| {
            let silent = now.saturating_duration_since(entry.pulse.last());
            (silent > entry.limit).then_some(Stalled { name: entry.name, silent })
        })
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new()
    }
}

impl Pulse {
    /// The loop has moved.
    pub fn mark(&self) {
        self.mark_at(clock::monotonic());
    }

    fn mark_at(&self, now: Instant) {
        let since_start = now.saturating_duration_since(self.start).as_nanos();
        self.last.store(u64::try_from(since_start).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn a_loop_that_marks_within_its_limit_is_never_stalled() {
        let vitals = Vitals::new();
        let start = vitals.start;
        let pulse = vitals.add_at("probes", LIMIT, start);
        for turn in 1..100 {
            let now = start + LIMIT * turn;
            assert_eq!(vitals.stalled_at(now), None, "turn {turn}");
            pulse.mark_at(now);
        }
    }

    #[test]
    fn a_silent_loop_is_named_with_its_silence() {
        let vitals = Vitals::new();
        let start = vitals.start;
        let accept = vitals.add_at("accept", LIMIT, start);
        let _silent = vitals.add_at("probes", LIMIT, start);
        let now = start + LIMIT + Duration::from_millis(1);
        accept.mark_at(now);
        assert_eq!(vitals.stalled_at(now), Some(Stalled { name: "probes", silent: LIMIT + Duration::from_millis(1) }));
    }

    #[test]
    fn the_first_limit_runs_from_the_moment_a_loop_is_added() {
        let vitals = Vitals::new();
        let late = vitals.start + Duration::from_secs(3600);
        let _pulse = vitals.add_at("late", LIMIT, late);
        assert_eq!(vitals.stalled_at(late + LIMIT), None);
    }

    #[test]
    fn a_recovered_loop_is_no_longer_stalled() {
        let vitals = Vitals::new();
        let pulse = vitals.add_at("probes", LIMIT, vitals.start);
        let late = vitals.start + LIMIT * 3;
        assert!(vitals.stalled_at(late).is_some());
        pulse.clone().mark_at(late);
        assert_eq!(vitals.stalled_at(late), None);
    }

    #[test]
    fn a_loop_that_ended_counts_as_stalled() {
        let vitals = Vitals::new();
        drop(vitals.add_at("gone", LIMIT, vitals.start));
        assert_eq!(vitals.stalled_at(vitals.start + LIMIT * 2).map(|s| s.name), Some("gone"));
    }
}
