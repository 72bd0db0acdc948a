//! The member's `/metrics`: a snapshot of the board in the Prometheus text format, and the families of the process.
//!
//! The families that grow with the ring are written directly from the snapshot, because their series appear and disappear with
//! peers, and because a registry of gauges takes ten times as long. The `prometheus` crate keeps the few families that describe
//! this process. The five families with the oldest names come first; dashboards and alerts depend on their names and labels.
//!
//! The text is generated at most four times a second, however many clients scrape: all that ask within [`VALID_FOR`] get the
//! same page, which is compressed once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus::process_collector::ProcessCollector;
use prometheus::{Gauge, Opts, Registry, TextEncoder};

use crate::clock;
use crate::host::reload::Reloads;
use crate::probe::stats::Histogram;
use crate::probe::{Check, CheckType, Timings};
use crate::serve::text::{Exposition, Kind, Labels, Page};
use crate::wire::Location;

use super::board::Board;
use super::lock;
use super::prober::Prober;
use super::snapshot::{Seen, Snapshot};

/// How long a page is valid: clients that ask within this time get the same page.
const VALID_FOR: Duration = Duration::from_millis(250);

/// Generates the pages and keeps the last one.
pub(super) struct Exporter {
    board: Arc<Mutex<Board>>,
    prober: Arc<Prober>,
    process: ProcessMetrics,
    last: Mutex<Last>,
}

/// The last page and its length.
#[derive(Default)]
struct Last {
    page: Option<(Instant, Arc<Page>)>,
    /// The length of the last page, as an estimate for the next one.
    length: usize,
}

impl Exporter {
    pub(super) fn new(board: Arc<Mutex<Board>>, prober: Arc<Prober>, reloads: Reloads) -> Self {
        Self { board, prober, process: ProcessMetrics::new(reloads), last: Mutex::default() }
    }

    /// The current page, or the last one if it is still valid. Takes tens of milliseconds with many peers, so it must not be
    /// called by a thread that others wait for. A caller that asks while a page is being generated waits for that page.
    pub(super) fn page(&self) -> Arc<Page> {
        let mut last = lock(&self.last);
        let now = clock::monotonic();
        if let Some((_, page)) = last.page.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < VALID_FOR) {
            return Arc::clone(page);
        }
        // Dropped before the next one is generated, so that there are not two in memory.
        last.page = None;
        let snapshot = Snapshot::of(&lock(&self.board), now, clock::wall());
        let mut out = Exposition::with_capacity(last.length + last.length / 8);
        write(&mut out, &snapshot, &self.process, self.prober.dropped_reports());
        let page = Arc::new(Page::new(out.finish()));
        last.length = page.len();
        last.page = Some((clock::monotonic(), Arc::clone(&page)));
        page
    }

    /// Drops a page that is no longer valid.
    pub(super) fn tidy(&self) {
        let now = clock::monotonic();
        // If it is locked, a new page is being generated.
        if let Ok(mut last) = self.last.try_lock() {
            last.page.take_if(|(at, _)| now.saturating_duration_since(*at) >= VALID_FOR);
        }
    }
}

/// The families of the process.
pub(super) struct ProcessMetrics {
    registry: Registry,
}

impl ProcessMetrics {
    /// Registers `process_*`, `netring_build_info` and the metrics about the configuration.
    pub(super) fn new(reloads: Reloads) -> Self {
        let registry = Registry::new();
        let build = Gauge::with_opts(
            Opts::new("netring_build_info", "Always 1. The label is the running version of netring.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )
        .expect("the name and the label are valid");
        build.set(1.0);
        registry.register(Box::new(build)).expect("the name is registered once");
        registry.register(Box::new(reloads)).expect("the names are registered once");
        registry.register(Box::new(ProcessCollector::for_self())).expect("the names are registered once");
        Self { registry }
    }

    fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Writes all families, in the order of the documentation.
fn write(out: &mut Exposition, snapshot: &Snapshot, process: &ProcessMetrics, dropped_reports: u64) {
    let peers = Peers::of(snapshot);
    connectivity(out, snapshot, &peers);
    durations(out, snapshot);
    members(out, snapshot);
    checks(out, snapshot);
    round_trips(out, snapshot, &peers);
    identity(out, snapshot);
    own_health(out, snapshot, dropped_reports);
    out.append(&process.text());
}

/// The labels of targets, each formatted once.
struct Peers {
    /// The labels of each peer.
    peers: Vec<Labels>,
    /// The endpoints; there are only a few.
    endpoints: Vec<(Arc<str>, Labels)>,
    none: Labels,
}

impl Peers {
    fn of(snapshot: &Snapshot) -> Self {
        let peers = snapshot.peers.iter().map(|(peer, _)| {
            Labels::new(&[
                ("source_location", snapshot.location.as_str()),
                ("source_instance", snapshot.instance_id.as_str()),
                ("target_location", peer.location.as_str()),
                ("target_instance", peer.instance_id.as_str()),
                ("target_ip", &peer.ip.to_string()),
            ])
        });
        let mut endpoints: Vec<(Arc<str>, Labels)> = Vec::new();
        for seen in &snapshot.targets {
            if let Check::Http { endpoint } = &seen.check
                && !endpoints.iter().any(|(known, _)| known == endpoint)
            {
                endpoints.push((Arc::clone(endpoint), Labels::new(&[("endpoint", endpoint)])));
            }
        }
        Self { peers: peers.collect(), endpoints, none: Labels::default() }
    }

    /// The labels of a target: those of its peer, and the endpoint for HTTP.
    fn labels(&self, seen: &Seen) -> [&Labels; 2] {
        let endpoint = match &seen.check {
            Check::Tcp => None,
            Check::Http { endpoint } => self.endpoints.iter().find(|(known, _)| known == endpoint),
        };
        [&self.peers[seen.peer], endpoint.map_or(&self.none, |(_, labels)| labels)]
    }
}

fn connectivity(out: &mut Exposition, snapshot: &Snapshot, peers: &Peers) {
    let families = [
        (
            CheckType::Tcp,
            "netring_connectivity_tcp",
            "1 if the newest TCP probe of the target connected, 0 if it failed. Probes that failed for a reason of this host \
             (local) are not considered. Absent while there is no recent result.",
        ),
        (
            CheckType::Http,
            "netring_connectivity_http",
            "1 if the newest HTTP probe of the endpoint got an answer that counts as connected, 0 if not. Probes that failed \
             for a reason of this host (local) are not considered. Absent while there is no recent result.",
        ),
    ];
    for (kind, name, help) in families {
        out.family(name, Kind::Gauge, help);
        for seen in snapshot.targets_of(kind) {
            if let Some(up) = seen.up {
                out.sample_with(name, &peers.labels(seen), one_if(up));
            }
        }
    }
}

fn one_if(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

fn durations(out: &mut Exposition, snapshot: &Snapshot) {
    out.family(
        "netring_check_duration_seconds",
        Kind::Histogram,
        "Duration of successful probes in seconds, from start to end, by kind of check and location of the target, without \
         those during which this member was stalled. A connection for which one SYN was sent again takes between 1 and 2 \
         seconds.",
    );
    for (location, check_type, tally) in &snapshot.tallies {
        histogram(out, "netring_check_duration_seconds", &of_location(location, *check_type), &tally.durations);
    }
}

fn of_location(location: &Location, check_type: CheckType) -> Labels {
    Labels::new(&[("check_type", check_type.label()), ("target_location", location.as_str())])
}

fn histogram(out: &mut Exposition, name: &str, labels: &Labels, histogram: &Histogram) {
    out.histogram(name, labels, histogram.bounds(), histogram.counts(), histogram.sum());
}

fn members(out: &mut Exposition, snapshot: &Snapshot) {
    out.family("netring_members_total", Kind::Gauge, "Number of other members that this member knows.");
    out.sample("netring_members_total", &[], snapshot.peers.len() as f64);
    out.family(
        "netring_member_last_seen_timestamp",
        Kind::Gauge,
        "When the member was last seen, in seconds since the epoch: the newer of this member's own last successful probe and \
         the last heartbeat that the registry received, as of the last full roster (at least each tenth poll, in rings of more \
         than a thousand members less often in proportion).",
    );
    for (peer, last_seen) in &snapshot.peers {
        let labels = [("location", peer.location.as_str()), ("instance_id", peer.instance_id.as_str())];
        if let Some(last_seen) = last_seen {
            out.sample("netring_member_last_seen_timestamp", &labels, last_seen.epoch_seconds() as f64);
        }
    }
}

fn checks(out: &mut Exposition, snapshot: &Snapshot) {
    out.family(
        "netring_checks_total",
        Kind::Counter,
        "Number of probes that have ended, by kind of check and location of the target.",
    );
    for (location, check_type, tally) in &snapshot.tallies {
        out.sample_with("netring_checks_total", &[&of_location(location, *check_type)], tally.probes as f64);
    }
    out.family(
        "netring_check_failures_total",
        Kind::Counter,
        "Number of probes that have failed, by kind of check, location of the target and reason. The reason local means that \
         this host caused the failure, which says nothing about the target. The reason timeout is there from the start, so that \
         increase() sees the first one; others appear with their first failure.",
    );
    for (location, check_type, tally) in &snapshot.tallies {
        for (reason, count) in tally.failures() {
            let labels = [&of_location(location, *check_type), &Labels::new(&[("reason", reason)])];
            out.sample_with("netring_check_failures_total", &labels, count as f64);
        }
    }
    out.family(
        "netring_syn_retransmits_total",
        Kind::Counter,
        "Number of SYN segments that the kernel sent again for probes because no answer came in time, by location of the \
         target: the SYN or its answer was lost or dropped, or nothing answers at the address.",
    );
    for of_one_location in snapshot.tallies.chunk_by(|(one, ..), (other, ..)| one == other) {
        let retransmits: u64 = of_one_location.iter().map(|(.., tally)| tally.syn_retransmits).sum();
        let labels = [("target_location", of_one_location[0].0.as_str())];
        out.sample("netring_syn_retransmits_total", &labels, retransmits as f64);
    }
    out.family(
        "netring_checks_skipped_total",
        Kind::Counter,
        "Number of probes that were skipped, by reason: overlap, the previous probe of the target was still running; limit, \
         too many probes were in flight; late, the probe was due too long ago.",
    );
    for (reason, count) in &snapshot.skipped {
        out.sample("netring_checks_skipped_total", &[("reason", reason.label())], *count as f64);
    }
}

fn round_trips(out: &mut Exposition, snapshot: &Snapshot, peers: &Peers) {
    out.family(
        "netring_rtt_seconds",
        Kind::Gauge,
        "Round-trip time of the newest TCP probe with a result in seconds, from SYN to SYN-ACK as the kernel measured it. \
         Absent if that probe failed, a SYN was sent again, or the kernel has no valid measurement.",
    );
    for seen in snapshot.targets_of(CheckType::Tcp) {
        if let Some(rtt) = seen.timings.and_then(|timings| timings.rtt) {
            out.sample_with("netring_rtt_seconds", &peers.labels(seen), rtt.as_secs_f64());
        }
    }
    out.family(
        "netring_http_phase_seconds",
        Kind::Gauge,
        "Duration of each phase of the newest HTTP probe with a result in seconds: connect, first_byte (request sent to \
         first byte of the answer) and transfer (first byte to the end of the answer or the limit on its size). Absent where \
         that probe failed, or this member was stalled while it ran.",
    );
    let named = PHASES.map(|phase| Labels::new(&[("phase", phase)]));
    for seen in snapshot.targets_of(CheckType::Http) {
        let [peer, endpoint] = peers.labels(seen);
        let Some(timings) = seen.timings.filter(|timings| !timings.disturbed) else { continue };
        for (phase, time) in named.iter().zip(phases(&timings)) {
            if let Some(time) = time {
                out.sample_with("netring_http_phase_seconds", &[peer, endpoint, phase], time.as_secs_f64());
            }
        }
    }
}

/// The phases of an HTTP probe, as values of the label `phase`.
const PHASES: [&str; 3] = ["connect", "first_byte", "transfer"];

/// The times of [`PHASES`]. Names are not resolved, because targets are addresses.
fn phases(timings: &Timings) -> [Option<Duration>; PHASES.len()] {
    [Some(timings.connect), timings.first_byte, timings.transfer]
}

fn identity(out: &mut Exposition, snapshot: &Snapshot) {
    out.family("netring_member_info", Kind::Gauge, "Always 1. The labels name this member.");
    let labels = [("location", snapshot.location.as_str()), ("instance_id", snapshot.instance_id.as_str())];
    out.sample("netring_member_info", &labels, 1.0);
}

fn own_health(out: &mut Exposition, snapshot: &Snapshot, dropped_reports: u64) {
    out.family(
        "netring_local_health",
        Kind::Gauge,
        "1 if this member can trust its own probes, 0 if not: it was stopped or suspended, starved of processor time, out of \
         file descriptors, without a working link or gateway, or isolated. Failures caused by that are counted with the reason \
         local and do not set any connectivity metric to 0.",
    );
    out.sample("netring_local_health", &[], one_if(snapshot.well));
    out.family(
        "netring_standstill_seconds_total",
        Kind::Counter,
        "Time in seconds for which the probe thread was stalled: the process was stopped or waited for processor time. Stalls \
         of 50 milliseconds or less are not counted.",
    );
    out.sample("netring_standstill_seconds_total", &[], snapshot.lost.as_secs_f64());
    out.family(
        "netring_probe_overhead_seconds",
        Kind::Histogram,
        "Time in seconds that this member added to the connect times of probes: the connect time that it measured less the \
         kernel's round-trip time. High values mean that this host is busy.",
    );
    histogram(out, "netring_probe_overhead_seconds", &Labels::default(), &snapshot.overhead);
    out.family(
        "netring_coverage_ratio",
        Kind::Gauge,
        "Share of targets with a recent result, from 0 to 1. A peer that is not probed because its address leads back to this \
         member counts as one target without a result. Absent while there are no targets.",
    );
    if let Some(coverage) = snapshot.coverage {
        out.sample("netring_coverage_ratio", &[], coverage);
    }
    out.family(
        "netring_peers_not_probed",
        Kind::Gauge,
        "Number of peers that are not probed, by reason: leads_back, the address leads back to this member; no_route, this host \
         has no route to the address, or no address of that family.",
    );
    for (reason, count) in &snapshot.not_probed {
        out.sample("netring_peers_not_probed", &[("reason", reason.label())], *count as f64);
    }
    out.family(
        "netring_registry_up",
        Kind::Gauge,
        "1 if the registry answered this member's newest requests as expected, 0 if not.",
    );
    out.sample("netring_registry_up", &[], one_if(snapshot.registry_up));
    out.family(
        "netring_roster_age_seconds",
        Kind::Gauge,
        "Time in seconds since the registry last confirmed the roster that this member uses. Absent before the first time.",
    );
    if let Some(age) = snapshot.roster_age {
        out.sample("netring_roster_age_seconds", &[], age.as_secs_f64());
    }
    out.family(
        "netring_probe_lag_seconds",
        Kind::Histogram,
        "Time in seconds by which probes started later than they were due. High values mean that this host is busy.",
    );
    histogram(out, "netring_probe_lag_seconds", &Labels::default(), &snapshot.lag);
    out.family(
        "netring_reports_dropped_total",
        Kind::Counter,
        "Number of probe results that this member lost because it was too busy to process them.",
    );
    out.sample("netring_reports_dropped_total", &[], dropped_reports as f64);
}

#[cfg(test)]
mod tests;
