//! The member's `/metrics`: the board as Prometheus text, with the process's own families beside it.
//!
//! The families that grow with the ring are written straight from the board, because they come and go with peers; the
//! `prometheus` crate keeps the few that describe this process. The seed's five families come first, with the names and
//! labels that dashboards and alerts already use.

use std::time::Instant;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Gauge, Opts, Registry, TextEncoder};

use crate::clock::Wall;
use crate::probe::stats::Histogram;
use crate::probe::{Check, CheckType, Timings};
use crate::serve::text::{Exposition, Kind, Labels};
use crate::wire::Location;

use super::board::{Board, State, Watched};

/// The process's own families.
pub(super) struct ProcessMetrics {
    registry: Registry,
}

impl ProcessMetrics {
    /// Registers `process_*` and `netring_build_info`.
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let build = Gauge::with_opts(
            Opts::new("netring_build_info", "Always 1; the label says which version of netring this is.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )
        .expect("the name and the label are valid");
        build.set(1.0);
        registry.register(Box::new(build)).expect("the name is registered once");
        registry.register(Box::new(ProcessCollector::for_self())).expect("the names are registered once");
        Self { registry }
    }

    fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// What a scrape shows beside the board.
pub(super) struct Extras {
    /// Reports of the prober that were dropped because nobody took them.
    pub(super) dropped_reports: u64,
}

/// A target as several families show it: its state, where that is fresh, and its labels.
struct Row<'a> {
    watched: &'a Watched,
    state: Option<&'a State>,
    labels: Labels,
}

/// The whole text of one scrape.
pub(super) fn text(board: &Board, process: &ProcessMetrics, extras: &Extras, now: Instant, wall: Wall) -> String {
    let rows: Vec<Row> =
        board.targets(now).map(|(watched, state)| Row { watched, state, labels: labels(board, watched) }).collect();
    let mut out = Exposition::new();
    connectivity(&mut out, &rows);
    durations(&mut out, board);
    members(&mut out, board, now, wall);
    checks(&mut out, board);
    round_trips(&mut out, &rows);
    own_health(&mut out, board, extras, now);
    out.append(&process.text());
    out.finish()
}

/// The seed's labels of a target, and the endpoint of an HTTP one.
fn labels(board: &Board, watched: &Watched) -> Labels {
    let ip = watched.peer.ip.to_string();
    let mut labels = vec![
        ("source_location", board.location.as_str()),
        ("source_instance", board.instance_id.as_str()),
        ("target_location", watched.peer.location.as_str()),
        ("target_instance", watched.peer.instance_id.as_str()),
        ("target_ip", ip.as_str()),
    ];
    if let Check::Http { endpoint } = &watched.check {
        labels.push(("endpoint", endpoint));
    }
    Labels::new(&labels)
}

fn connectivity(out: &mut Exposition, rows: &[Row]) {
    let families = [
        (
            CheckType::Tcp,
            "netring_connectivity_tcp",
            "Whether the last TCP probe of the target connected (1) or failed (0); absent while that is unknown.",
        ),
        (
            CheckType::Http,
            "netring_connectivity_http",
            "Whether the last HTTP probe of the endpoint got an answer that counts as connected (1) or not (0); absent \
             while that is unknown.",
        ),
    ];
    for (check_type, name, help) in families {
        out.family(name, Kind::Gauge, help);
        for row in rows.iter().filter(|row| row.watched.check.check_type() == check_type) {
            if let Some(state) = row.state {
                out.sample_with(name, &row.labels, one_if(state.result.is_ok()));
            }
        }
    }
}

fn one_if(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

fn durations(out: &mut Exposition, board: &Board) {
    out.family(
        "netring_check_duration_seconds",
        Kind::Histogram,
        "How long successful probes took in seconds, from start to end, by kind of check and location of the target.",
    );
    for (location, check_type, tally) in board.tallies() {
        histogram(out, "netring_check_duration_seconds", &of_location(location, check_type), &tally.durations);
    }
}

fn of_location(location: &Location, check_type: CheckType) -> Labels {
    Labels::new(&[("check_type", check_type.label()), ("target_location", location.as_str())])
}

fn histogram(out: &mut Exposition, name: &str, labels: &Labels, histogram: &Histogram) {
    out.histogram(name, labels, histogram.bounds(), histogram.counts(), histogram.sum());
}

fn members(out: &mut Exposition, board: &Board, now: Instant, wall: Wall) {
    out.family("netring_members_total", Kind::Gauge, "How many other members this one knows, itself not counted.");
    out.sample("netring_members_total", &[], board.peer_count() as f64);
    out.family(
        "netring_member_last_seen_timestamp",
        Kind::Gauge,
        "When the member was last seen, in seconds since the epoch: the newer of the registry's word and this member's \
         own last successful probe.",
    );
    for (peer, last_seen) in board.peers(now, wall) {
        let labels = [("location", peer.location.as_str()), ("instance_id", peer.instance_id.as_str())];
        if let Some(last_seen) = last_seen {
            out.sample("netring_member_last_seen_timestamp", &labels, last_seen.epoch_seconds() as f64);
        }
    }
}

fn checks(out: &mut Exposition, board: &Board) {
    out.family(
        "netring_checks_total",
        Kind::Counter,
        "How many probes have ended, by kind of check and location of the target.",
    );
    for (location, check_type, tally) in board.tallies() {
        out.sample_with("netring_checks_total", &of_location(location, check_type), tally.probes as f64);
    }
    out.family(
        "netring_check_failures_total",
        Kind::Counter,
        "How many probes have failed, by kind of check, location of the target and reason; local means that this host \
         could not probe and says nothing about the target.",
    );
    for (location, check_type, tally) in board.tallies() {
        for (reason, count) in tally.failures() {
            let labels = of_location(location, check_type).and("reason", reason.label());
            out.sample_with("netring_check_failures_total", &labels, count as f64);
        }
    }
    out.family(
        "netring_syn_retransmits_total",
        Kind::Counter,
        "How many SYN segments the kernel had to send again in probes, by location of the target: packets lost on the way \
         there or back.",
    );
    for (location, check_type, tally) in board.tallies() {
        let labels = of_location(location, check_type);
        out.sample_with("netring_syn_retransmits_total", &labels, tally.syn_retransmits as f64);
    }
    out.family(
        "netring_checks_skipped_total",
        Kind::Counter,
        "How many turns were skipped: overlap, the last probe was still running; limit, too many probes were in flight; \
         late, the turn came too late to keep the rhythm.",
    );
    for (reason, count) in board.skipped() {
        out.sample("netring_checks_skipped_total", &[("reason", reason.label())], count as f64);
    }
}

fn round_trips(out: &mut Exposition, rows: &[Row]) {
    let reached = |row: &Row| row.state.and_then(|state| state.result.as_ref().ok().copied());
    out.family(
        "netring_rtt_seconds",
        Kind::Gauge,
        "Round-trip time of the last TCP probe in seconds, from SYN to SYN-ACK as the kernel measured it; absent where \
         the probe failed or a SYN had to be sent again.",
    );
    for row in rows.iter().filter(|row| row.watched.check.check_type() == CheckType::Tcp) {
        if let Some(rtt) = reached(row).and_then(|timings| timings.rtt) {
            out.sample_with("netring_rtt_seconds", &row.labels, rtt.as_secs_f64());
        }
    }
    out.family(
        "netring_http_phase_seconds",
        Kind::Gauge,
        "How long each phase of the last HTTP probe took in seconds: connect, first_byte (request sent to first byte of \
         the answer) and transfer; absent where the probe failed.",
    );
    for row in rows.iter().filter(|row| row.watched.check.check_type() == CheckType::Http) {
        for (phase, time) in reached(row).iter().flat_map(phases) {
            out.sample_with("netring_http_phase_seconds", &row.labels.and("phase", phase), time);
        }
    }
}

/// The phases that took place, in seconds.
fn phases(timings: &Timings) -> impl Iterator<Item = (&'static str, f64)> + use<> {
    [
        ("resolve", timings.resolve),
        ("connect", Some(timings.connect)),
        ("first_byte", timings.first_byte),
        ("transfer", timings.transfer),
    ]
    .into_iter()
    .filter_map(|(phase, time)| Some((phase, time?.as_secs_f64())))
}

fn own_health(out: &mut Exposition, board: &Board, extras: &Extras, now: Instant) {
    out.family(
        "netring_coverage_ratio",
        Kind::Gauge,
        "The share of targets with a recent outcome, from 0 to 1; absent while there are no targets.",
    );
    if let Some(coverage) = board.coverage(now) {
        out.sample("netring_coverage_ratio", &[], coverage);
    }
    out.family(
        "netring_registry_up",
        Kind::Gauge,
        "Whether the registry answered this member's last requests as it should (1) or not (0).",
    );
    out.sample("netring_registry_up", &[], one_if(board.registry.up));
    out.family(
        "netring_roster_age_seconds",
        Kind::Gauge,
        "How long ago the registry last confirmed the roster that this member goes by, in seconds; absent until it has.",
    );
    if let Some(confirmed) = board.registry.roster_at {
        out.sample("netring_roster_age_seconds", &[], now.saturating_duration_since(confirmed).as_secs_f64());
    }
    out.family(
        "netring_probe_lag_seconds",
        Kind::Histogram,
        "How late probes started after they were due, in seconds: the member's own health.",
    );
    histogram(out, "netring_probe_lag_seconds", &Labels::default(), board.lag());
    out.family(
        "netring_reports_dropped_total",
        Kind::Counter,
        "How many outcomes of probes were lost inside this member because it was too busy to take them in.",
    );
    out.sample("netring_reports_dropped_total", &[], extras.dropped_reports as f64);
}

#[cfg(test)]
mod tests;
