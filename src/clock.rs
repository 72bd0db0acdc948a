//! Time: the one module that reads a clock.
//!
//! Two clocks, kept apart by type. [`monotonic`] never jumps: every interval, lease, time limit and schedule goes by it.
//! [`wall`] is for people: it stands in `last_seen`, `registered_at` and `timestamp` and decides nothing, because an
//! administrator or NTP may change it at any time. The pure modules read neither; they are given the time.
//!
//! The monotonic clock stops while the host is suspended. [`suspended`] says for how long that was.

use std::time::{Duration, Instant, SystemTime};

/// Now, on the clock that only moves forward (`CLOCK_MONOTONIC`, see clock_gettime(2)).
#[must_use]
pub fn monotonic() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    Instant::now()
}

/// For how long the host has been suspended since it booted, in all: `CLOCK_BOOTTIME`, which goes on meanwhile, less
/// `CLOCK_MONOTONIC` (clock_gettime(2)). Two readings differ by the time suspended between them, give or take some
/// microseconds. In a time namespace (time_namespaces(7)) a constant is added. Where the kernel has no such clock this stays zero.
#[must_use]
pub fn suspended() -> Duration {
    /// Two readings of a clock this close together, in nanoseconds, are as good as one.
    const CLOSE: i128 = 1_000;
    /// How often a closer pair is tried for. Something may come between two readings at any time.
    const TRIES: usize = 5;
    let mut best: Option<(i128, i128)> = None;
    for _ in 0..TRIES {
        let (before, boot, after) =
            (read(libc::CLOCK_MONOTONIC), read(libc::CLOCK_BOOTTIME), read(libc::CLOCK_MONOTONIC));
        let (Some(before), Some(boot), Some(after)) = (before, boot, after) else { return Duration::ZERO };
        let apart = after - before;
        if best.is_none_or(|(closest, _)| apart < closest) {
            best = Some((apart, boot - before - apart / 2));
        }
        if apart <= CLOSE {
            break;
        }
    }
    let nanoseconds = best.map_or(0, |(_, surplus)| surplus);
    // Without a suspend the surplus is zero, or as much below as the readings are apart.
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

/// A clock's time in nanoseconds.
fn read(clock: libc::clockid_t) -> Option<i128> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) writes to `time` alone, which is valid for that.
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
    read.then(|| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
}

/// Now, on the wall clock.
#[must_use]
pub fn wall() -> Wall {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Wall(since_epoch.unwrap_or_default())
}

/// A point of wall-clock time: the time since 1970-01-01 00:00 UTC. A clock set before that reads as that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall(Duration);

impl Wall {
    /// The moment `seconds` after the epoch.
    #[must_use]
    pub const fn from_epoch_seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole seconds since the epoch, as the wire carries them.
    #[must_use]
    pub const fn epoch_seconds(self) -> u64 {
        self.0.as_secs()
    }

    /// Seconds since the epoch with their fraction, as metrics and `timestamp` carry them.
    #[must_use]
    pub fn epoch_seconds_f64(self) -> f64 {
        self.0.as_secs_f64()
    }

    /// This moment moved back by `age`; never before the epoch.
    #[must_use]
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_not_suspended_meanwhile_reads_the_same_to_microseconds() {
        let first = suspended();
        for _ in 0..1_000 {
            assert!(suspended().abs_diff(first) < Duration::from_millis(1), "{first:?}");
        }
    }
}
