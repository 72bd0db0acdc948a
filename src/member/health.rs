//! Whether this member is itself well.
//!
//! A member that was stopped, is starved of processor time, has run out of descriptors or finds no way out of its host sees its
//! peers fail, and none of them is at fault. The prober gives such failures the kind `local`; this file says whether there
//! are so many, or of such a sort, that the member as a whole is not to be trusted, and for what reason.
//!
//! What makes it unwell: a standstill of one second in all within ten; a probe for which the host had no descriptor or no
//! memory, or that a standstill spoilt; as many probes in a row as there are targets that found no way out of the host
//! (one peer without a route is that peer's matter). It is well again when nothing of the sort has happened for a minute,
//! or for one check interval where that is longer: long enough for a scrape to see it, whatever its own interval.
//!
//! A plain value: it is told the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::probe::{Failure, LocalCause, Reason, Timings};

/// Over which time standstills add up.
const WINDOW: Duration = Duration::from_secs(10);

/// How much standstill within [`WINDOW`] is too much.
const STANDSTILL_MAX: Duration = Duration::from_secs(1);

/// How long the last trouble is told at least.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// The health of one member. See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// The standstills that ended within [`WINDOW`] of the last one.
    standstills: VecDeque<(Instant, Duration)>,
    /// The time lost to standstills since the start.
    lost: Duration,
    /// How many probes in a row found no way out of this host.
    no_way: usize,
    /// The last trouble: when, and what.
    trouble: Option<(Instant, String)>,
}

impl Health {
    /// The probe thread woke `lost` later than it wanted to, at `until`.
    pub fn stood_still(&mut self, lost: Duration, until: Instant) {
        self.lost += lost;
        if lost >= STANDSTILL_MAX {
            // Told for itself: with the next short one it would be told again, as another thing than it was.
            self.standstills.clear();
            self.trouble = Some((until, format!("the process stood still for {lost:.1?}")));
            return;
        }
        self.standstills.push_back((until, lost));
        while self.standstills.front().is_some_and(|(at, _)| until.saturating_duration_since(*at) > WINDOW) {
            self.standstills.pop_front();
        }
        let lately: Duration = self.standstills.iter().map(|(_, lost)| *lost).sum();
        if lately >= STANDSTILL_MAX {
            let why = "starved of processor time: it stood still for more than a tenth of it".into();
            self.trouble = Some((until, why));
        }
    }

    /// A probe of one of `targets` ended.
    pub fn probed(&mut self, result: &Result<Timings, Failure>, ended: Instant, targets: usize) {
        let Err(Failure { reason: Reason::Local(cause), detail }) = result else {
            self.no_way = 0;
            return;
        };
        let unwell = match cause {
            LocalCause::Resources | LocalCause::Internal => true,
            // The standstill has been told already, with more to say about it.
            LocalCause::Stalled => {
                self.trouble.as_ref().is_none_or(|(at, _)| ended.saturating_duration_since(*at) > WINDOW)
            }
            LocalCause::NoRoute => {
                self.no_way += 1;
                self.no_way >= targets
            }
        };
        if unwell {
            self.trouble = Some((ended, format!("it cannot probe: {detail}")));
        }
    }

    /// Why the member is not well, where it is not.
    #[must_use]
    pub fn unwell(&self, now: Instant, interval: Duration) -> Option<&str> {
        let (at, why) = self.trouble.as_ref()?;
        (now.saturating_duration_since(*at) <= TOLD_FOR.max(interval)).then_some(why)
    }

    /// For how long the probe thread has stood still since its start, in all.
    #[must_use]
    pub fn lost(&self) -> Duration {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const INTERVAL: Duration = Duration::from_secs(20);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn local(cause: LocalCause) -> Result<Timings, Failure> {
        Err(Failure { reason: Reason::Local(cause), detail: "too many open files".into() })
    }

    #[test]
    fn a_long_stop_is_told_for_a_minute_or_an_interval() {
        let start = clock::monotonic();
        let mut health = Health::default();
        assert_eq!(health.unwell(start, INTERVAL), None);
        health.stood_still(ms(9_900), start);
        assert_eq!(health.unwell(start, INTERVAL), Some("the process stood still for 9.9s"));
        assert!(health.unwell(start + TOLD_FOR, INTERVAL).is_some());
        assert_eq!(health.unwell(start + TOLD_FOR + ms(1), INTERVAL), None);
        assert!(health.unwell(start + TOLD_FOR + ms(1), TOLD_FOR * 2).is_some());
        assert_eq!(health.lost(), ms(9_900));
    }

    #[test]
    fn many_short_stops_are_starvation_and_a_few_are_nothing() {
        let start = clock::monotonic();
        let mut health = Health::default();
        for second in 0..60 {
            health.stood_still(ms(90), start + Duration::from_secs(second));
        }
        assert_eq!(health.unwell(start, INTERVAL), None, "0.9 s in 10 s is a busy host");
        for tick in 0..20 {
            health.stood_still(ms(95), start + Duration::from_secs(100) + ms(100) * tick);
        }
        let why = health.unwell(start + Duration::from_secs(102), INTERVAL).unwrap();
        assert_eq!(why, "starved of processor time: it stood still for more than a tenth of it");
        assert!(health.standstills.len() <= 20);
    }

    #[test]
    fn a_long_stop_is_not_told_again_with_the_next_short_one() {
        let start = clock::monotonic();
        let mut health = Health::default();
        health.stood_still(ms(9_900), start);
        health.stood_still(ms(60), start + ms(5_000));
        assert_eq!(health.unwell(start + TOLD_FOR, INTERVAL), Some("the process stood still for 9.9s"));
        assert_eq!(health.unwell(start + TOLD_FOR + ms(1), INTERVAL), None);
    }

    #[test]
    fn one_probe_without_a_descriptor_is_enough() {
        let now = clock::monotonic();
        let mut health = Health::default();
        health.probed(&Ok(Timings::default()), now, 100);
        health.probed(&local(LocalCause::Resources), now, 100);
        health.probed(&Ok(Timings::default()), now, 100);
        assert_eq!(health.unwell(now, INTERVAL), Some("it cannot probe: too many open files"));
    }

    #[test]
    fn one_peer_without_a_route_is_its_own_matter_and_all_of_them_are_ours() {
        let now = clock::monotonic();
        let mut health = Health::default();
        for _ in 0..100 {
            health.probed(&Ok(Timings::default()), now, 9);
            for _ in 0..3 {
                health.probed(&local(LocalCause::NoRoute), now, 9);
            }
        }
        for _ in 0..5 {
            health.probed(&local(LocalCause::NoRoute), now, 9);
        }
        assert_eq!(health.unwell(now, INTERVAL), None);
        health.probed(&local(LocalCause::NoRoute), now, 9);
        assert!(health.unwell(now, INTERVAL).is_some());
    }

    #[test]
    fn a_failure_of_the_peer_says_nothing_about_us() {
        let now = clock::monotonic();
        let mut health = Health::default();
        let refused = Err(Failure { reason: Reason::Refused, detail: "connection refused".into() });
        (0..100).for_each(|_| health.probed(&refused, now, 1));
        assert_eq!(health.unwell(now, INTERVAL), None);
    }

    #[test]
    fn a_probe_that_a_standstill_spoilt_does_not_talk_over_it() {
        let now = clock::monotonic();
        let mut health = Health::default();
        health.stood_still(ms(9_900), now);
        health.probed(&local(LocalCause::Stalled), now, 1);
        assert_eq!(health.unwell(now, INTERVAL), Some("the process stood still for 9.9s"));
        let mut health = Health::default();
        health.stood_still(ms(400), now);
        health.probed(&local(LocalCause::Stalled), now, 1);
        assert!(health.unwell(now, INTERVAL).is_some(), "short limits are spoilt by short stops");
    }
}
