//! Detects stalled threads, for the watchdog.
//!
//! Each vital loop, that is a loop that the daemon cannot work without, gets a [`Pulse`] with a time limit and marks it on
//! every turn. The daemon resets the watchdog of the service manager only if [`Vitals::stalled`] finds no stalled loop. So a
//! loop that hangs leads to a restart, and a loop that is merely busy does not. A loop that has ended, for example by a
//! panic, no longer marks its pulse and counts as stalled. Time is measured by the monotonic clock.
//!
//! A loop that is about to make a slow call with its own time limit marks the pulse with that limit ([`Pulse::mark_for`]), so
//! that the limit for its other turns can be short. A loop that is about to wait for something that a restart would not
//! speed up, such as a hanging disk, marks itself as away ([`Pulse::mark_away`]) and is exempt until its next mark. Work done
//! by short-lived threads is recorded as pieces ([`Vitals::pieces`]), each of which must end within the limit.
//!
//! Two threads need no pulse: the one that sends notifications to the service manager and the one that queues them. If
//! either of them stalls, no notification is sent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// The vital loops of one daemon.
#[derive(Clone, Debug)]
pub struct Vitals {
    loops: Arc<Mutex<Vec<Loop>>>,
    pieces: Arc<Mutex<Vec<Pieces>>>,
}

#[derive(Debug)]
struct Loop {
    name: &'static str,
    pulse: Pulse,
}

/// The handle by which a loop reports progress.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// The default time limit of a turn.
    limit: Duration,
    shared: Arc<Mutex<Mark>>,
}

/// The last mark of a loop.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    /// The time until the next mark is due.
    limit: Duration,
    /// Whether the loop has made it; the first mark is made when the loop is added.
    moved: bool,
}

/// One kind of work, each piece of which must end within a time limit.
#[derive(Clone, Debug)]
pub struct Pieces {
    name: &'static str,
    limit: Duration,
    /// When each unfinished piece began, by its number.
    under_way: Arc<Mutex<BTreeMap<u64, Instant>>>,
}

/// A piece of work. It ends when this value is dropped, so the thread that does the work must own it.
#[derive(Debug)]
pub struct Piece {
    number: u64,
    under_way: Arc<Mutex<BTreeMap<u64, Instant>>>,
}

/// A stalled loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// Its name, as given to [`Vitals::add`].
    pub name: &'static str,
    /// The time since it last marked.
    pub silent: Duration,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} has been stalled for {} s", self.name, self.silent.as_secs())
    }
}

impl Vitals {
    /// No loops yet.
    #[must_use]
    pub fn new() -> Self {
        Self { loops: Arc::default(), pieces: Arc::default() }
    }

    /// Adds a loop that must mark at least once every `limit`. Its first limit starts now.
    #[must_use]
    pub fn add(&self, name: &'static str, limit: Duration) -> Pulse {
        self.add_at(name, limit, clock::monotonic())
    }

    fn add_at(&self, name: &'static str, limit: Duration, now: Instant) -> Pulse {
        let pulse = Pulse { limit, shared: Arc::new(Mutex::new(Mark { at: now, limit, moved: false })) };
        lock(&self.loops).push(Loop { name, pulse: pulse.clone() });
        pulse
    }

    /// Adds a kind of work, each piece of which must end within `limit`.
    #[must_use]
    pub fn pieces(&self, name: &'static str, limit: Duration) -> Pieces {
        let pieces = Pieces { name, limit, under_way: Arc::default() };
        lock(&self.pieces).push(pieces.clone());
        pieces
    }

    /// The first loop, in the order they were added, that has not marked within its limit; otherwise the first kind of work
    /// with a piece that has exceeded its limit.
    #[must_use]
    pub fn stalled(&self) -> Option<Stalled> {
        self.stalled_at(clock::monotonic())
    }

    /// Whether every loop has marked since it was added, that is, whether all of them are running.
    #[must_use]
    pub fn all_run(&self) -> bool {
        lock(&self.loops).iter().all(|entry| lock(&entry.pulse.shared).moved)
    }

    /// What [`Vitals::stalled`] would return if no loop marked from now on for this long.
    #[cfg(test)]
    pub(crate) fn stalled_after(&self, later: Duration) -> Option<Stalled> {
        self.stalled_at(clock::monotonic() + later)
    }

    fn stalled_at(&self, now: Instant) -> Option<Stalled> {
        let silent_since = |at: Instant| now.saturating_duration_since(at);
        let of_loops = lock(&self.loops).iter().find_map(|Loop { name, pulse }| {
            let Mark { at, limit, .. } = *lock(&pulse.shared);
            (silent_since(at) > limit).then_some(Stalled { name, silent: silent_since(at) })
        });
        of_loops.or_else(|| {
            lock(&self.pieces).iter().find_map(|Pieces { name, limit, under_way }| {
                let oldest = lock(under_way).values().min().copied()?;
                (silent_since(oldest) > *limit).then_some(Stalled { name, silent: silent_since(oldest) })
            })
        })
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new()
    }
}

impl Pulse {
    /// The loop has made progress.
    pub fn mark(&self) {
        self.mark_at(clock::monotonic());
    }

    /// The loop has made progress, and its next turn may take this much longer than the default limit.
    pub fn mark_for(&self, longer: Duration) {
        self.mark_until(clock::monotonic(), self.limit + longer);
    }

    /// The loop has made progress, and its next turn may take any time: it is exempt until it marks again.
    pub fn mark_away(&self) {
        self.mark_until(clock::monotonic(), Duration::MAX);
    }

    /// How long an idle loop may sleep before it must mark again.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.limit / 3
    }

    fn mark_at(&self, now: Instant) {
        self.mark_until(now, self.limit);
    }

    fn mark_until(&self, now: Instant, limit: Duration) {
        *lock(&self.shared) = Mark { at: now, limit, moved: true };
    }
}

impl Pieces {
    /// Records the start of a piece of work.
    #[must_use]
    pub fn begin(&self) -> Piece {
        self.begin_at(clock::monotonic())
    }

    fn begin_at(&self, now: Instant) -> Piece {
        let mut under_way = lock(&self.under_way);
        let number = under_way.last_key_value().map_or(0, |(last, _)| last + 1);
        under_way.insert(number, now);
        Piece { number, under_way: Arc::clone(&self.under_way) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn a_loop_that_marks_within_its_limit_is_never_stalled() {
        let vitals = Vitals::new();
        let start = clock::monotonic();
        let pulse = vitals.add_at("probes", LIMIT, start);
        for turn in 1..100 {
            let now = start + LIMIT * turn;
            assert_eq!(vitals.stalled_at(now), None, "turn {turn}");
            pulse.mark_at(now);
        }
    }

    #[test]
    fn a_stalled_loop_is_named_with_the_time_since_its_last_mark() {
        let vitals = Vitals::new();
        let start = clock::monotonic();
        let accept = vitals.add_at("accept", LIMIT, start);
        let _silent = vitals.add_at("probes", LIMIT, start);
        let now = start + LIMIT + Duration::from_millis(1);
        accept.mark_at(now);
        assert_eq!(vitals.stalled_at(now), Some(Stalled { name: "probes", silent: LIMIT + Duration::from_millis(1) }));
    }

    #[test]
    fn the_first_limit_starts_when_a_loop_is_added() {
        let vitals = Vitals::new();
        let late = clock::monotonic() + Duration::from_secs(3600);
        let _pulse = vitals.add_at("late", LIMIT, late);
        assert_eq!(vitals.stalled_at(late + LIMIT), None);
    }

    #[test]
    fn loops_run_once_each_has_marked() {
        let vitals = Vitals::new();
        let (one, other) = (vitals.add("one", LIMIT), vitals.add("other", LIMIT));
        assert!(!vitals.all_run());
        one.mark();
        assert!(!vitals.all_run());
        other.mark_away();
        assert!(vitals.all_run());
    }

    #[test]
    fn a_recovered_loop_is_no_longer_stalled() {
        let vitals = Vitals::new();
        let start = clock::monotonic();
        let pulse = vitals.add_at("probes", LIMIT, start);
        let late = start + LIMIT * 3;
        assert!(vitals.stalled_at(late).is_some());
        pulse.clone().mark_at(late);
        assert_eq!(vitals.stalled_at(late), None);
    }

    #[test]
    fn a_loop_that_ended_counts_as_stalled() {
        let vitals = Vitals::new();
        drop(vitals.add_at("gone", LIMIT, clock::monotonic()));
        assert_eq!(vitals.stalled_at(clock::monotonic() + LIMIT * 2).map(|s| s.name), Some("gone"));
    }

    #[test]
    fn a_longer_limit_applies_to_one_turn() {
        let vitals = Vitals::new();
        let start = clock::monotonic();
        let pulse = vitals.add_at("control", LIMIT, start);
        pulse.mark_until(start, LIMIT * 4);
        assert_eq!(vitals.stalled_at(start + LIMIT * 4), None);
        assert!(vitals.stalled_at(start + LIMIT * 4 + Duration::from_millis(1)).is_some());
        pulse.mark_at(start + LIMIT * 4);
        assert!(vitals.stalled_at(start + LIMIT * 6).is_some(), "the next turn has the default limit");
        pulse.mark_for(LIMIT * 9);
        assert_eq!(vitals.stalled_at(start + LIMIT * 9), None);
    }

    #[test]
    fn a_loop_marked_as_away_is_exempt_until_its_next_mark() {
        let vitals = Vitals::new();
        let pulse = vitals.add("journal", LIMIT);
        pulse.mark_away();
        let late = clock::monotonic() + LIMIT * 1000;
        assert_eq!(vitals.stalled_at(late), None);
        pulse.mark_at(late);
        assert_eq!(vitals.stalled_at(late + LIMIT), None);
        assert!(vitals.stalled_at(late + LIMIT + Duration::from_millis(1)).is_some());
    }

    #[test]
    fn the_oldest_piece_of_work_counts_even_if_others_end() {
        let vitals = Vitals::new();
        let start = clock::monotonic();
        let pages = vitals.pieces("metrics text", LIMIT);
        assert_eq!(vitals.stalled_at(start + LIMIT * 100), None, "there is no work");
        let stuck = pages.begin_at(start);
        for turn in 0..10 {
            drop(pages.begin_at(start + LIMIT * turn));
        }
        let fresh = pages.begin_at(start + LIMIT);
        assert_eq!(vitals.stalled_at(start + LIMIT), None);
        let silent = LIMIT + Duration::from_millis(1);
        assert_eq!(vitals.stalled_at(start + silent), Some(Stalled { name: "metrics text", silent }));
        drop(stuck);
        assert_eq!(vitals.stalled_at(start + LIMIT * 2), None);
        assert!(vitals.stalled_at(start + LIMIT * 3).is_some());
        drop(fresh);
        assert_eq!(vitals.stalled_at(start + LIMIT * 3), None);
    }
}
