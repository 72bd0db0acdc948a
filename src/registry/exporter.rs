//! The registry's metrics, in the Prometheus text format.
//!
//! Counters, gauges and histograms that change with events are families of the `prometheus` crate. Members and revision are
//! computed from the view at each scrape, so that the series of a location disappears with its last member.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::view::View;
use crate::host::reload::Reloads;

/// Bucket bounds in seconds. A request to the embedded store takes far less than a millisecond, one to Redis a few.
const BUCKETS: [f64; 7] = [0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0];

/// The registry's metric families.
pub struct Exporter {
    registry: Registry,
    members: Mutex<IntGaugeVec>,
    revision: IntGauge,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    polls_waiting: IntGauge,
    store_operation_duration: HistogramVec,
    store_up: IntGauge,
    expirations: IntCounter,
    unusable: IntGauge,
}

impl Exporter {
    /// All families, at zero. The metrics about the configuration come from `reloads`.
    #[must_use]
    pub fn new(reloads: Reloads) -> Self {
        let gauge = |name, help| IntGauge::new(name, help).expect("valid name and help");
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            HistogramVec::new(opts, labels).expect("valid name and help")
        };
        let members = Opts::new("netring_registry_members", "Number of live members on the roster, by location.");
        let requests = Opts::new(
            "netring_registry_requests_total",
            "Number of HTTP requests answered, by route (\"other\" for unknown paths) and status code.",
        );
        let expirations = IntCounter::new(
            "netring_registry_expirations_total",
            "Number of leases that this registry ended because no heartbeat arrived within member_ttl.",
        );
        let build = Opts::new("netring_build_info", "Always 1. The label is the running version of netring.");
        let build = IntGaugeVec::new(build, &["version"]).expect("valid name and help");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let exporter = Self {
            registry: Registry::new(),
            members: Mutex::new(IntGaugeVec::new(members, &["location"]).expect("valid name and help")),
            revision: gauge(
                "netring_registry_revision",
                "Revision of the roster that is being served: the number of joins, leaves and address changes. Starts again if the store loses its data.",
            ),
            requests: IntCounterVec::new(requests, &["route", "status"]).expect("valid name and help"),
            request_duration: histogram(
                "netring_registry_request_duration_seconds",
                "Time from the head of a request to the head of its answer in seconds, by route, without requests that are allowed to wait.",
                &["route"],
            ),
            polls_waiting: gauge(
                "netring_registry_polls_waiting",
                "Number of requests that are currently waiting for the roster to change.",
            ),
            store_operation_duration: histogram(
                "netring_registry_store_operation_duration_seconds",
                "Duration of one store operation in seconds, by operation, including failed ones.",
                &["operation"],
            ),
            store_up: gauge(
                "netring_registry_store_up",
                "Whether the store currently accepts registrations (1) or not (0).",
            ),
            expirations: expirations.expect("valid name and help"),
            unusable: gauge(
                "netring_registry_foreign_entries_skipped",
                "Number of invalid entries in the store, written by other programs, that are currently skipped.",
            ),
        };
        exporter.register_all(build, reloads);
        exporter
    }

    fn register_all(&self, build: IntGaugeVec, reloads: Reloads) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let families: [Box<dyn prometheus::core::Collector>; 12] = [
            Box::new(members),
            Box::new(build),
            Box::new(reloads),
            Box::new(self.revision.clone()),
            Box::new(self.requests.clone()),
            Box::new(self.request_duration.clone()),
            Box::new(self.polls_waiting.clone()),
            Box::new(self.store_operation_duration.clone()),
            Box::new(self.store_up.clone()),
            Box::new(self.expirations.clone()),
            Box::new(self.unusable.clone()),
            Box::new(ProcessCollector::for_self()),
        ];
        for family in families {
            self.registry.register(family).expect("names are unique");
        }
    }

    /// Counts an answered request. `took` is `None` for a request that was allowed to wait.
    pub fn request(&self, route: &str, status: u16, took: Option<Duration>) {
        self.requests.with_label_values(&[route, &status.to_string()]).inc();
        if let Some(took) = took {
            self.request_duration.with_label_values(&[route]).observe(took.as_secs_f64());
        }
    }

    /// Records the duration of a store operation.
    pub fn store_operation(&self, operation: &str, took: Duration) {
        self.store_operation_duration.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// Sets whether the store accepts registrations.
    pub fn store_up(&self, up: bool) {
        self.store_up.set(i64::from(up));
    }

    /// Counts leases that ended.
    pub fn expired(&self, leases: usize) {
        self.expirations.inc_by(leases as u64);
    }

    /// Sets how many entries of the store are invalid.
    pub fn unusable(&self, entries: usize) {
        self.unusable.set(entries as i64);
    }

    /// Counts a waiting request until the returned value is dropped.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.polls_waiting.inc();
        Waiting(self.polls_waiting.clone())
    }

    /// All metrics as text, with those about the roster from `view`.
    #[must_use]
    pub fn text(&self, view: Option<&View>) -> String {
        // Locked until the text is complete, because two concurrent scrapes would see each other's half-filled family.
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.reset();
        if let Some(view) = view {
            for (location, count) in &view.locations {
                members.with_label_values(&[location.as_str()]).set(*count as i64);
            }
            self.revision.set(i64::try_from(view.revision()).unwrap_or(i64::MAX));
        }
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("families have names and values")
    }
}

impl Default for Exporter {
    fn default() -> Self {
        Self::new(Reloads::default())
    }
}

/// A waiting request.
#[derive(Debug)]
pub struct Waiting(IntGauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
