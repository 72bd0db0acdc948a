//! Sums over many probes: counts and histograms, without I/O.

use std::time::Duration;

use super::{Outcome, Reason};

/// Upper bounds of the buckets of probe durations, in seconds: within a region, between continents, and slow answers; then
/// connections for which one SYN was sent again, and above the last bound those with two or more. The kernel sends a SYN again
/// after one second and once more after three, so such a connect takes 1 s or 3 s plus the round trip. There are few bounds,
/// because every location has them once for each kind of check.
pub const DURATION_BOUNDS: &[f64] = &[0.025, 0.25, 1.0, 2.0];

/// Upper bounds of the buckets of probe lag, in seconds: the timer's own resolution, a busy host, a starved one.
pub const LAG_BOUNDS: &[f64] = &[0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];

/// Upper bounds of the buckets of probe overhead, in seconds: an idle host, a busy one, a starved one.
pub const OVERHEAD_BOUNDS: &[f64] = &[0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.02, 0.1, 1.0];

/// A histogram with fixed bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// How many fell into each bucket alone; the last entry is for what exceeds every bound.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty one. `bounds` ascend.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts one duration. A value equal to a bound belongs to its bucket, as Prometheus's `le` says.
    pub fn observe(&mut self, value: Duration) {
        let seconds = value.as_secs_f64();
        let bucket = self.bounds.partition_point(|&bound| bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    /// The upper bounds of the buckets.
    #[must_use]
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// How many values fell into each bucket alone, and last how many exceeded every bound.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Their sum, in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// The results of all probes of one kind to one location.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Probes that ended.
    pub probes: u64,
    /// Those that failed, in the order of [`Reason::LABELS`].
    failures: [u64; Reason::LABELS.len()],
    /// How long the successful ones took, without those that were disturbed.
    pub durations: Histogram,
    /// SYN segments sent again.
    pub syn_retransmits: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            probes: 0,
            failures: [0; Reason::LABELS.len()],
            durations: Histogram::new(DURATION_BOUNDS),
            syn_retransmits: 0,
        }
    }
}

impl Tally {
    /// Counts one outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        self.probes += 1;
        self.syn_retransmits += u64::from(outcome.syn_retransmits);
        match &outcome.result {
            Ok(timings) if timings.disturbed => {}
            Ok(timings) => self.durations.observe(timings.total),
            Err(failure) => self.failures[failure.reason.index()] += 1,
        }
    }

    /// How many failed for each reason that has occurred, by its label; for a timeout also zero.
    ///
    /// Prometheus's `increase()` does not see the first of a counter that begins at 1, so the reason by which most outages
    /// begin is there from the start. That costs two series for each location, one for each kind of check; for all reasons it
    /// would be twenty.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let always = Reason::Timeout.label();
        Reason::LABELS.into_iter().zip(self.failures).filter(move |&(label, count)| count > 0 || label == always)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Failure, LocalCause, Timings};

    #[test]
    fn a_value_on_a_bound_belongs_to_its_bucket_and_one_beyond_all_to_the_last() {
        let mut histogram = Histogram::new(&[0.1, 1.0]);
        for millis in [50, 100, 101, 1000, 5000] {
            histogram.observe(Duration::from_millis(millis));
        }
        assert_eq!(histogram.counts(), [2, 2, 1]);
        assert!((histogram.sum() - 6.251).abs() < 1e-9);
    }

    #[test]
    fn a_connection_after_a_lost_syn_is_in_a_bucket_of_its_own() {
        let bucket = |millis| {
            let mut histogram = Histogram::new(DURATION_BOUNDS);
            histogram.observe(Duration::from_millis(millis));
            histogram.counts().iter().position(|&count| count == 1).unwrap()
        };
        let [ordinary, once, twice] =
            [[1, 300, 990], [1_001, 1_020, 1_400], [3_010, 3_400, 7_100]].map(|c| c.map(bucket));
        assert_eq!(once, [3; 3]);
        assert_eq!(twice, [4; 3]);
        assert!(ordinary.iter().all(|bucket| *bucket < 3), "{ordinary:?}");
    }

    #[test]
    fn failures_are_counted_by_reason_and_never_enter_the_durations() {
        let mut tally = Tally::default();
        let add = |tally: &mut Tally, result| {
            tally.add(&Outcome { result, syn_retransmits: 2, source: None, answered_by: None });
        };
        let failed = |reason| Err(Failure { reason, detail: String::new() });
        for reason in [
            Reason::Resolve,
            Reason::Refused,
            Reason::Timeout,
            Reason::Unreachable,
            Reason::Reset,
            Reason::Tls,
            Reason::Status,
            Reason::Body,
            Reason::Identity,
            Reason::Local(LocalCause::NoRoute),
            Reason::Local(LocalCause::Stalled),
        ] {
            add(&mut tally, failed(reason));
        }
        add(&mut tally, Ok(Timings::default()));
        assert_eq!(tally.probes, 12);
        assert_eq!(tally.syn_retransmits, 24);
        assert_eq!(tally.durations.counts().iter().sum::<u64>(), 1);
        let counted: Vec<_> = tally.failures().collect();
        let wanted: Vec<_> =
            Reason::LABELS.into_iter().map(|label| (label, if label == "local" { 2 } else { 1 })).collect();
        assert_eq!(counted, wanted);
    }

    #[test]
    fn a_disturbed_success_is_counted_and_its_duration_is_not() {
        let mut tally = Tally::default();
        let timings = Timings { disturbed: true, ..Timings::default() };
        tally.add(&Outcome { result: Ok(timings), syn_retransmits: 0, source: None, answered_by: None });
        assert_eq!((tally.probes, tally.failures().map(|(_, count)| count).sum::<u64>()), (1, 0));
        assert_eq!(tally.durations.counts().iter().sum::<u64>(), 0);
    }
}
