//! The schedule of all probes: which target is probed when.
//!
//! Each target has a [`Phase`], a fixed share of the interval, computed from the prober, the peer and the check. Its regular
//! turns are due at `start + phase * interval + k * interval`, whatever happened to the turns before. So the rhythm does not
//! drift, there are no bursts, and no target delays another. A turn starts when it is due or not at all. It is skipped and
//! counted with its reason if the target's last probe is still running, if the maximum number of probes is in flight, or if it
//! is noticed too late ([`TOLERANCE`]), for example after this process was stopped. Skipped turns are not made up for.
//!
//! If a regular probe finds that a target has changed between up and down ([`Schedule::turned`]), the target is probed again 1,
//! 2 and 4 seconds after the end of that probe, as far as these follow-ups end before the next regular turn. A follow-up does
//! not start another sequence. One that cannot start is dropped and not counted as skipped, and a regular turn that is due ends
//! the sequence.
//!
//! Targets whose last probe timed out may take at most three quarters of the places for probes in flight. Each of them probably
//! takes its place for the whole time limit again, and without this rule the same other targets would always find no place.
//!
//! A plain value: every method gets `now` as an argument, none waits. The prober sleeps until [`Schedule::next_due`] and asks
//! it for turns. The time for a turn grows with the logarithm of the number of targets; a target takes about 150 bytes.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use super::Check;
use crate::wire::InstanceId;

/// How late a turn may start; with intervals shorter than twice this, half the interval.
pub const TOLERANCE: Duration = Duration::from_secs(2);

/// When a target is probed again after a change of its state, from the end of the probe that found it.
const FOLLOW_UPS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Identifies a target. Assigned by the owner of the targets, and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub u64);

/// A table by target. The look-up is the largest part of the cost of a turn, besides the probe. Ids are assigned in ascending
/// order and do not come from outside, so a multiplication spreads them well enough, and the standard library's hash is not
/// needed.
pub type ByTarget<V> = HashMap<TargetId, V, BuildHasherDefault<Spread>>;

/// The hash of a [`TargetId`]: Knuth's multiplicative one, by the golden ratio.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The position of a target in the interval: a share of it, from 0 (its start) to `u64::MAX` (just before its end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase(u64);

impl Phase {
    /// The phase at which `prober` probes `peer`. It is the same in every build and every run, so that restarts and upgrades do
    /// not change the even spread of a ring. Computed by 64-bit FNV-1a over the parts, each followed by a byte that does not
    /// occur in UTF-8, and then the final mix of SplitMix64, because FNV-1a alone gives similar texts similar upper bits, which
    /// count here.
    #[must_use]
    pub fn of(prober: &InstanceId, peer: &InstanceId, check: &Check) -> Self {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        const END: u8 = 0xff;

        let endpoint = match check {
            Check::Tcp => "",
            Check::Http { endpoint } => endpoint,
        };
        let mut hash = OFFSET_BASIS;
        for part in [prober.as_str(), peer.as_str(), check.check_type().label(), endpoint] {
            for byte in part.bytes().chain([END]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
            }
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(hash ^ (hash >> 31))
    }

    /// The share as a time from the start of the interval.
    fn of_interval(self, interval: Nanos) -> Nanos {
        ((u128::from(self.0) * u128::from(interval)) >> 64) as Nanos
    }
}

/// Why a regular turn was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SkipReason {
    /// The target's last probe is still running.
    Overlap,
    /// The maximum number of probes is in flight.
    Limit,
    /// It was noticed too late: this process was stopped or starved.
    Late,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Overlap, Self::Limit, Self::Late];

    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Overlap => "overlap",
            Self::Limit => "limit",
            Self::Late => "late",
        }
    }
}

/// One probe to be made now. Passed back to [`Schedule::ended`] when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The target.
    pub id: TargetId,
    /// When it was due.
    pub due: Instant,
    /// Whether it is a follow-up after a change.
    pub follow_up: bool,
    /// Distinguishes this turn from all others of the schedule.
    serial: u64,
}

/// The result for a turn that was due.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The turn is to be started now.
    Start(Turn),
    /// The turn is skipped, and so are the `count - 1` turns of the same target before it.
    Skipped {
        /// The target.
        id: TargetId,
        /// Why.
        reason: SkipReason,
        /// How many turns in a row.
        count: u64,
    },
}

/// Nanoseconds since the start of the schedule, or a length of time in nanoseconds. Half the size of `Instant`, and
/// enough for 584 years.
type Nanos = u64;

/// The turns of all targets.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    interval: Nanos,
    max_in_flight: usize,
    in_flight: usize,
    /// How many of the probes in flight are of slow targets.
    slow_in_flight: usize,
    /// The serial of the last turn.
    serial: u64,
    targets: ByTarget<Entry>,
    /// Every target once, with the time when its next turn, regular or follow-up, is due.
    queue: BTreeSet<(Nanos, TargetId)>,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    /// When its next regular turn is due.
    next: Nanos,
    /// The next follow-up; always before `next`.
    follow_up: Option<FollowUp>,
    /// The turn whose probe is running.
    running: Option<Running>,
    /// Its last probe timed out.
    slow: bool,
    /// The last probe that ended was a follow-up.
    was_follow_up: bool,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    serial: u64,
    /// Its target was slow when it started.
    slow: bool,
}

/// A future follow-up: the `step`-th of [`FOLLOW_UPS`] after `end`. Its probe takes at most `longest`.
#[derive(Clone, Copy, Debug)]
struct FollowUp {
    end: Nanos,
    step: usize,
    longest: Nanos,
}

impl FollowUp {
    fn due(self) -> Nanos {
        self.end + nanos(FOLLOW_UPS[self.step])
    }

    /// This follow-up, or `None` if it may not end before the regular turn due at `next`.
    fn before(self, next: Nanos) -> Option<Self> {
        (self.due().saturating_add(self.longest) < next).then_some(self)
    }

    fn following(self, next: Nanos) -> Option<Self> {
        let following = Self { step: self.step + 1, ..self };
        if following.step < FOLLOW_UPS.len() { following.before(next) } else { None }
    }
}

impl Entry {
    fn due(&self) -> Nanos {
        self.follow_up.map_or(self.next, FollowUp::due)
    }
}

impl Schedule {
    /// A schedule without targets. Intervals are counted from `start`.
    #[must_use]
    pub fn new(start: Instant, interval: Duration, max_in_flight: usize) -> Self {
        Self {
            start,
            interval: nanos(interval).max(1),
            max_in_flight,
            in_flight: 0,
            slow_in_flight: 0,
            serial: 0,
            targets: ByTarget::default(),
            queue: BTreeSet::new(),
        }
    }

    /// Adds a target. Its first turn is the first one at its phase from `now` on, so that many targets added at once are evenly
    /// spread. A target that exists already is not changed.
    pub fn add(&mut self, id: TargetId, phase: Phase, now: Instant) {
        if self.targets.contains_key(&id) {
            return;
        }
        let next = self.first_due(phase, self.nanos(now));
        self.targets
            .insert(id, Entry { phase, next, follow_up: None, running: None, slow: false, was_follow_up: false });
        self.queue.insert((next, id));
    }

    /// Removes a target. The result of its probe in flight, if there is one, is no longer used.
    pub fn remove(&mut self, id: TargetId) {
        if let Some(entry) = self.targets.remove(&id) {
            self.queue.remove(&(entry.due(), id));
            if let Some(running) = entry.running {
                self.leave_flight(running);
            }
        }
    }

    /// Changes the interval. Every target keeps its phase as a share of the interval, and its other state; turns that were due
    /// and not yet returned are dropped.
    pub fn set_interval(&mut self, interval: Duration, now: Instant) {
        let interval = nanos(interval).max(1);
        if interval == self.interval {
            return;
        }
        self.interval = interval;
        let now = self.nanos(now);
        let mut targets = std::mem::take(&mut self.targets);
        for entry in targets.values_mut() {
            entry.next = self.first_due(entry.phase, now);
            entry.follow_up = entry.follow_up.and_then(|follow_up| follow_up.before(entry.next));
        }
        self.queue = targets.iter().map(|(&id, entry)| (entry.due(), id)).collect();
        self.targets = targets;
    }

    /// Changes the maximum number of probes in flight. Probes in flight continue.
    pub fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.max_in_flight = max_in_flight;
    }

    /// The number of targets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are no targets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The number of probes in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The maximum number of probes of slow targets in flight: at least one, or no slow target could ever recover.
    fn slow_max(&self) -> usize {
        (self.max_in_flight - self.max_in_flight.div_ceil(4)).max(1)
    }

    /// When to ask for turns next; `None` while there are no targets.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|&(due, _)| self.instant(due))
    }

    /// The next turn that is due by `now`, the earliest first. To be called until it returns `None`.
    pub fn due(&mut self, now: Instant) -> Option<Event> {
        let tolerance = nanos(TOLERANCE).min(self.interval / 2);
        let now = self.nanos(now);
        let slow_max = self.slow_max();
        loop {
            let &(due, id) = self.queue.first().filter(|&&(due, _)| due <= now)?;
            self.queue.pop_first();
            let entry = self.targets.get_mut(&id).expect("every target in the queue is in the table");
            let lag = now - due;
            let in_the_way = if entry.running.is_some() {
                Some(SkipReason::Overlap)
            } else if self.in_flight >= self.max_in_flight || (entry.slow && self.slow_in_flight >= slow_max) {
                Some(SkipReason::Limit)
            } else {
                None
            };
            let follow_up = entry.follow_up.is_some();
            if let Some(this) = entry.follow_up {
                entry.follow_up = this.following(entry.next);
                self.queue.insert((entry.due(), id));
                if lag > tolerance || in_the_way.is_some() || entry.next <= now {
                    continue;
                }
            } else {
                // Of all turns of the target that are due by now, only the last one can still be in time. If it is, the ones
                // before it are reported as skipped first, and it is returned by a later call.
                let passed = lag / self.interval;
                let missed = passed + u64::from(lag % self.interval > tolerance);
                entry.next += self.interval * missed.max(1);
                self.queue.insert((entry.due(), id));
                if missed > 0 {
                    return Some(Event::Skipped { id, reason: SkipReason::Late, count: missed });
                }
                if let Some(reason) = in_the_way {
                    return Some(Event::Skipped { id, reason, count: 1 });
                }
            }
            self.serial += 1;
            self.in_flight += 1;
            self.slow_in_flight += usize::from(entry.slow);
            entry.running = Some(Running { serial: self.serial, slow: entry.slow });
            return Some(Event::Start(Turn { id, due: self.instant(due), follow_up, serial: self.serial }));
        }
    }

    /// The probe of `turn` has ended, by its time limit or otherwise. Returns whether its result is used: not if the target has
    /// been removed.
    pub fn ended(&mut self, turn: Turn, timed_out: bool) -> bool {
        let Some(entry) = self.targets.get_mut(&turn.id) else { return false };
        let Some(running) = entry.running.take_if(|running| running.serial == turn.serial) else { return false };
        (entry.was_follow_up, entry.slow) = (turn.follow_up, timed_out);
        self.leave_flight(running);
        true
    }

    fn leave_flight(&mut self, running: Running) {
        self.in_flight -= 1;
        self.slow_in_flight -= usize::from(running.slow);
    }

    /// A target has changed between up and down, as found by its last probe, which ended at `ended`. Another probe of it takes
    /// at most `longest`.
    pub fn turned(&mut self, id: TargetId, ended: Instant, longest: Duration) {
        let end = self.nanos(ended);
        let Some(entry) = self.targets.get_mut(&id) else { return };
        if !entry.was_follow_up {
            self.queue.remove(&(entry.due(), id));
            entry.follow_up = FollowUp { end, step: 0, longest: nanos(longest) }.before(entry.next);
            self.queue.insert((entry.due(), id));
        }
    }

    /// The first regular turn at `phase` that is due at `now` or later.
    fn first_due(&self, phase: Phase, now: Nanos) -> Nanos {
        let first = phase.of_interval(self.interval);
        first + now.saturating_sub(first).div_ceil(self.interval) * self.interval
    }

    fn nanos(&self, at: Instant) -> Nanos {
        nanos(at.saturating_duration_since(self.start))
    }

    fn instant(&self, at: Nanos) -> Instant {
        self.start + Duration::from_nanos(at)
    }
}

fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests;
