//! Figures out of many figures.

use crate::support::metrics::Metrics;

/// The value below which `share` of the values lie; 0 where there are none.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(place).copied().unwrap_or_default()
}

/// The middle one; 0 where there are none.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// A histogram of `/metrics`: each bucket's upper bound and how many values fell into it alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    /// The histogram of this name, without labels.
    #[must_use]
    pub fn of(metrics: &Metrics, name: &str) -> Self {
        let mut below = 0.0;
        let buckets = metrics.series(&format!("{name}_bucket"), &[]).into_iter().map(|sample| {
            let alone = sample.value - below;
            below = sample.value;
            let bound = sample.label("le");
            (if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound is a number") }, alone)
        });
        Self(buckets.collect())
    }

    /// What has come in since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        assert_eq!(self.0.len(), earlier.0.len(), "the same histogram");
        Self(self.0.iter().zip(&earlier.0).map(|(now, then)| (now.0, now.1 - then.1)).collect())
    }

    /// How many values it holds.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.0.iter().map(|bucket| bucket.1).sum()
    }

    /// The value below which `share` of the values lie, as if they lay evenly in their bucket. For one beyond the last bound
    /// that bound.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = self.count() * share;
        let (mut below, mut from) = (0.0, 0.0);
        for &(bound, alone) in &self.0 {
            if bound.is_infinite() {
                break;
            }
            if below + alone >= wanted && alone > 0.0 {
                return from + (bound - from) * (wanted - below) / alone;
            }
            below += alone;
            from = bound;
        }
        from
    }
}
