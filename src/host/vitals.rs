//! Whether the loops that must never stall are running: the internal watchdog.
//!
//! A vital loop gets a [`Pulse`] with a limit and marks it on every turn. The watchdog message to the service manager is sent
//! only while [`Vitals::stalled`] finds nothing, so that a stalled loop leads to a restart and a busy one does not. A loop that
//! has ended, for example by a panic, no longer marks and so counts as stalled. Limits go by the monotonic clock.
//!
//! A loop that is about to wait for something slow with a time limit of its own extends its limit for that turn
//! ([`Pulse::mark_for`]), so that all other turns can have a short limit. A loop that is about to wait for something that a
//! restart would not make faster, such as a disk that hangs, suspends its limit until its next mark ([`Pulse::mark_away`]).
//! Work on short-lived threads is registered piece by piece ([`Vitals::pieces`]): each piece must end within the limit.
//!
//! Two threads are not registered: the one that sends messages to the service manager and the one that gives it the messages.
//! Where one of them stalls, the watchdog messages stop by themselves.

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

/// Through which a loop shows that it runs.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// How long a turn may take, unless the loop extends it.
    limit: Duration,
    shared: Arc<Mutex<Mark>>,
}

/// The last mark of a loop.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    /// How long the next one may take.
    limit: Duration,
    /// The loop itself has marked; `false` for the mark that it is added with.
    moved: bool,
}

/// One kind of work, each piece of which must end in time.
#[derive(Clone, Debug)]
pub struct Pieces {
    name: &'static str,
    limit: Duration,
    /// When each unfinished piece began, by its number.
    under_way: Arc<Mutex<BTreeMap<u64, Instant>>>,
}

/// A piece of work. It ends when this is dropped, so the thread that does the work should own it.
#[derive(Debug)]
pub struct Piece {
    number: u64,
    under_way: Arc<Mutex<BTreeMap<u64, Instant>>>,
}

/// A loop that has stalled, or a piece of work that has not ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// Its name, as given to [`Vitals::add`].
    pub name: &'static str,
    /// The time since it last marked.
    pub silent: Duration,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} has stood still for {} s", self.name, self.silent.as_secs())
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

    /// Adds a kind of work each piece of which must end within `limit`.
    #[must_use]
    pub fn pieces(&self, name: &'static str, limit: Duration) -> Pieces {
        let pieces = Pieces { name, limit, under_way: Arc::default() };
        lock(&self.pieces).push(pieces.clone());
        pieces
    }

    /// The first loop, in the order they were added, that has not marked within its limit; without one, the first kind of work
    /// with a piece that has not ended within its limit.
    #[must_use]
    pub fn stalled(&self) -> Option<Stalled> {
        self.stalled_at(clock::monotonic())
    }

    /// Whether every loop has marked since it was added: all of them run.
    #[must_use]
    pub fn all_run(&self) -> bool {
        lock(&self.loops).iter().all(|entry| lock(&entry.pulse.shared).moved)
    }

    /// What [`Vitals::stalled`] would return if nothing ran from now on for this long.
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
    /// The loop runs.
    pub fn mark(&self) {
        self.mark_at(clock::monotonic());
    }

    /// The loop runs, and its next turn may take this much longer than usual.
    pub fn mark_for(&self, longer: Duration) {
        self.mark_until(clock::monotonic(), self.limit + longer);
    }

    /// The loop runs, and has no limit until it marks again.
    pub fn mark_away(&self) {
        self.mark_until(clock::monotonic(), Duration::MAX);
    }

    /// How long the loop may sleep, with nothing to do, before it marks again.
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
    /// Begins a piece of work.
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
    fn a_silent_loop_is_named_with_its_silence() {
        let vitals = Vitals::new();
        let start = clock::monotonic();
        let accept = vitals.add_at("accept", LIMIT, start);
        let _silent = vitals.add_at("probes", LIMIT, start);
        let now = start + LIMIT + Duration::from_millis(1);
        accept.mark_at(now);
        assert_eq!(vitals.stalled_at(now), Some(Stalled { name: "probes", silent: LIMIT + Duration::from_millis(1) }));
    }

    #[test]
    fn the_first_limit_runs_from_the_moment_a_loop_is_added() {
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
    fn a_longer_limit_is_good_for_one_turn() {
        let vitals = Vitals::new();
        let start = clock::monotonic();
        let pulse = vitals.add_at("control", LIMIT, start);
        pulse.mark_until(start, LIMIT * 4);
        assert_eq!(vitals.stalled_at(start + LIMIT * 4), None);
        assert!(vitals.stalled_at(start + LIMIT * 4 + Duration::from_millis(1)).is_some());
        pulse.mark_at(start + LIMIT * 4);
        assert!(vitals.stalled_at(start + LIMIT * 6).is_some(), "the next turn has the usual one");
        pulse.mark_for(LIMIT * 9);
        assert_eq!(vitals.stalled_at(start + LIMIT * 9), None);
    }

    #[test]
    fn a_loop_that_is_away_is_not_missed_until_it_is_back() {
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
    fn the_oldest_piece_of_work_counts_whatever_else_is_done() {
        let vitals = Vitals::new();
        let start = clock::monotonic();
        let pages = vitals.pieces("metrics text", LIMIT);
        assert_eq!(vitals.stalled_at(start + LIMIT * 100), None, "nothing is to be done");
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
