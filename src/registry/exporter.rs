//! The registry's own figures, in Prometheus's text format.
//!
//! What the registry counts as it goes stands in families of the `prometheus` crate; members and revision are taken from
//! the view when someone asks, so that the series of a location goes with its last member.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::view::View;
use crate::host::reload::Reloads;

/// Seconds; a request to the embedded store takes far less than a millisecond, a Redis a few.
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
    /// All families, at zero; those of the configuration from `reloads`.
    #[must_use]
    pub fn new(reloads: Reloads) -> Self {
        let gauge = |name, help| IntGauge::new(name, help).expect("names and texts below are valid");
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            HistogramVec::new(opts, labels).expect("names and texts below are valid")
        };
        let members = Opts::new("netring_registry_members", "Number of live members on the roster, at each location.");
        let requests = Opts::new(
            "netring_registry_requests_total",
            "Number of HTTP requests answered, by route (other: no route of the registry) and status code.",
        );
        let expirations = IntCounter::new(
            "netring_registry_expirations_total",
            "Number of leases that this registry saw end because no heartbeat came in time.",
        );
        let build = Opts::new("netring_build_info", "Always 1; the label says which version of netring runs.");
        let build = IntGaugeVec::new(build, &["version"]).expect("names and texts below are valid");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let exporter = Self {
            registry: Registry::new(),
            members: Mutex::new(IntGaugeVec::new(members, &["location"]).expect("the texts above are valid")),
            revision: gauge(
                "netring_registry_revision",
                "Number of joins, leaves and moves that led to the roster as it is served; starts again where a store lost its memory.",
            ),
            requests: IntCounterVec::new(requests, &["route", "status"]).expect("the texts above are valid"),
            request_duration: histogram(
                "netring_registry_request_duration_seconds",
                "Time from the head of a request to the head of its answer, in seconds, by route; requests that are allowed to wait are left out.",
                &["route"],
            ),
            polls_waiting: gauge(
                "netring_registry_polls_waiting",
                "Number of requests that wait for the roster to change at the moment.",
            ),
            store_operation_duration: histogram(
                "netring_registry_store_operation_duration_seconds",
                "Time the store took for one operation, failed ones included, in seconds.",
                &["operation"],
            ),
            store_up: gauge(
                "netring_registry_store_up",
                "Whether the store takes registrations at the moment: 1 if so, 0 if not.",
            ),
            expirations: expirations.expect("the texts above are valid"),
            unusable: gauge(
                "netring_registry_foreign_entries_skipped",
                "Number of entries of other programs in the store that make no sense and are left out at the moment.",
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
            self.registry.register(family).expect("no name stands twice above");
        }
    }

    /// Notes a request that has been answered; `took` is none for one that asked to wait.
    pub fn request(&self, route: &str, status: u16, took: Option<Duration>) {
        self.requests.with_label_values(&[route, &status.to_string()]).inc();
        if let Some(took) = took {
            self.request_duration.with_label_values(&[route]).observe(took.as_secs_f64());
        }
    }

    /// Notes an operation on the store.
    pub fn store_operation(&self, operation: &str, took: Duration) {
        self.store_operation_duration.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// Notes whether the store takes registrations.
    pub fn store_up(&self, up: bool) {
        self.store_up.set(i64::from(up));
    }

    /// Notes leases that ended.
    pub fn expired(&self, leases: usize) {
        self.expirations.inc_by(leases as u64);
    }

    /// Notes how many entries of other programs make no sense.
    pub fn unusable(&self, entries: usize) {
        self.unusable.set(entries as i64);
    }

    /// Counts a request among those that wait, until dropped.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.polls_waiting.inc();
        Waiting(self.polls_waiting.clone())
    }

    /// All families as text; those of the roster from `view`.
    #[must_use]
    pub fn text(&self, view: Option<&View>) -> String {
        // Held until the text is made: two scrapes at once must not see each other's half-filled family.
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

/// A request that waits.
#[derive(Debug)]
pub struct Waiting(IntGauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
