//! Time: the one place that reads a clock.
//!
//! Two clocks, kept apart by type. [`monotonic`] never jumps: every interval, lease, time limit and schedule goes by it.
//! [`wall`] is what people read: it stands in `last_seen`, `registered_at` and `timestamp` and decides nothing, because an
//! administrator or NTP may move it at any time. The pure parts of the house read neither: they are told `now`.

use std::time::{Duration, Instant, SystemTime};

/// Now, on the clock that only moves forward (`CLOCK_MONOTONIC`, see clock_gettime(2)).
#[must_use]
pub fn monotonic() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    Instant::now()
}

/// Now, on the clock on the wall.
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

/// PLACEHOLDER
#[must_use]
pub fn suspended() -> Duration {
    Duration::ZERO
}
