//! Which target has its turn when.
//!
//! Each target has a [`Phase`], a fixed share of the interval that follows from who probes what. Its regular turns are
//! due at `start + phase * interval + k * interval`, whatever became of the turns before: nothing drifts, nothing bursts,
//! and no target moves another's turns. A turn is started when it is due or not at all. It is skipped, and counted with
//! its reason, when the target's last probe still runs, when as many probes are in flight as may be, or when it is noticed
//! too late ([`TOLERANCE`]), as after this process was stopped. What was missed is never made up for.
//!
//! A target that a regular probe found to have gone up or down ([`Schedule::turned`]) is followed up 1, 2 and 4 seconds after
//! the end of that probe, as far as that is over before the next regular turn. Follow-ups start no further sequence. They are
//! extra looks: one that cannot start is dropped and not counted among the skipped, and a regular turn that is due ends the
//! sequence.
//!
//! Targets whose last probe ran into its time limit may take three quarters of the places for probes in flight at most: each
//! is likely to keep its place for the whole limit again, and the others would find none free, and always the same ones.
//!
//! A plain value: every method is told `now`, none waits. The prober drives it by sleeping until [`Schedule::next_due`].
//! A turn costs the logarithm of the number of targets; a target costs about 150 bytes.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use super::Check;
use crate::wire::InstanceId;

/// How late a turn may start at most; with intervals below twice this, half the interval.
pub const TOLERANCE: Duration = Duration::from_secs(2);

/// When a change of state is looked at again, after the end of the probe that found it.
const FOLLOW_UPS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Names a target. Given by whoever keeps the targets, and never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub u64);

/// A table by target. Looking one up is most of what a turn costs beside its probe, and ids are counted upwards by ourselves: a
/// multiplication spreads them as well as the standard library's hash, which guards against keys from outside.
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

/// A target's place in the interval: a share of it, from none (0) to just not all of it (`u64::MAX`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase(u64);

impl Phase {
    /// The phase at which `prober` probes `peer`. The same in every build and on every run, so that a ring keeps its
    /// even spread over restarts and upgrades: 64-bit FNV-1a over the parts, each ended by a byte that UTF-8 never
    /// holds, then the finishing mix of SplitMix64, because FNV-1a alone leaves the upper bits of similar texts alike
    /// and those decide here.
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
    /// The target's last probe still runs.
    Overlap,
    /// As many probes are in flight as may be.
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

/// One probe to be made now. Given back to [`Schedule::ended`] when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Of which target.
    pub id: TargetId,
    /// When it was due.
    pub due: Instant,
    /// Whether it is an extra look after a change.
    pub follow_up: bool,
    /// Tells this turn from any other of the schedule.
    serial: u64,
}

/// What became of a turn that was due.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It is to be started now.
    Start(Turn),
    /// It is not, nor are the `count - 1` turns of the same target before it.
    Skipped {
        /// Of which target.
        id: TargetId,
        /// Why.
        reason: SkipReason,
        /// How many of its turns in a row.
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
    /// How many of those that are in flight are of targets that are slow.
    slow_in_flight: usize,
    /// The serial of the last turn handed out.
    serial: u64,
    targets: ByTarget<Entry>,
    /// Every target once, at the time its next turn of either sort is due.
    queue: BTreeSet<(Nanos, TargetId)>,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    /// When its next regular turn is due.
    next: Nanos,
    /// The follow-up to come; always before `next`.
    follow_up: Option<FollowUp>,
    /// The turn whose probe runs.
    running: Option<Running>,
    /// Its last probe ran into its time limit.
    slow: bool,
    /// The probe that ended last was a follow-up.
    was_follow_up: bool,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    serial: u64,
    /// Its target was slow at its start.
    slow: bool,
}

/// A look at a change to come: the `step`-th of [`FOLLOW_UPS`] after `end`, which takes `longest` at most.
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

    /// This one, or none if it may not be over before the regular turn due at `next`.
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
    /// A schedule without targets whose intervals are counted from `start`.
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

    /// Adds a target. Its first turn is the first at its phase from `now` on, so that many targets added at once are as
    /// evenly spread as any. A target that is there already stays as it is.
    pub fn add(&mut self, id: TargetId, phase: Phase, now: Instant) {
        if self.targets.contains_key(&id) {
            return;
        }
        let next = self.first_due(phase, self.nanos(now));
        self.targets
            .insert(id, Entry { phase, next, follow_up: None, running: None, slow: false, was_follow_up: false });
        self.queue.insert((next, id));
    }

    /// Takes a target out. Its probe in flight, if there is one, counts no longer.
    pub fn remove(&mut self, id: TargetId) {
        if let Some(entry) = self.targets.remove(&id) {
            self.queue.remove(&(entry.due(), id));
            if let Some(running) = entry.running {
                self.leave_flight(running);
            }
        }
    }

    /// Changes the interval. Every target keeps its share of it as phase and what is known of it; turns that were due
    /// and not yet handed out are given up.
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

    /// Changes how many probes may be in flight at once. Those that are in flight stay.
    pub fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.max_in_flight = max_in_flight;
    }

    /// How many targets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// How many probes are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many probes of slow targets may be in flight at once: one at least, or none would ever be found to answer again.
    fn slow_max(&self) -> usize {
        (self.max_in_flight - self.max_in_flight.div_ceil(4)).max(1)
    }

    /// When to ask for turns next; none while there are no targets.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|&(due, _)| self.instant(due))
    }

    /// What became of the next turn that is due by `now`, the earliest first. To be asked until there is none.
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
                // Of all its turns that have come due by now only the last can still be in time. Where it is, those
                // before it are skipped first and it comes up again.
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

    /// The probe of `turn` has ended, by its time limit or otherwise. Says whether that still matters: not if its target was
    /// taken out meanwhile.
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

    /// A target has gone up or down, as the probe found that ended last, at `ended`; another probe of it may take `longest`.
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
