//! One packet in five is lost on the way to some peers, at random: the member counts as many lost SYNs and as many failures
//! as follow from that, reports no lost SYN as a round trip, and says nothing but good of the peers whose way is clean.
//!
//! What follows: the kernel sends a SYN at once and again after a second, and what else it would send comes after
//! [`TIME_LIMIT`]. With `loss` the chance that a SYN or its answer is lost, a probe therefore needs a second SYN with the
//! chance `loss`, and fails with the chance `loss²`. The chances are independent, so over n probes each count lies within
//! [`SIGMAS`] standard deviations, the root of n·p·(1 - p), of n·p. A probe that comes because another failed is as
//! independent as any.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netring::clock::monotonic;
use support::daemon::{Daemon, Member, Registry};
use support::fabric::{Fabric, Host};
use support::metrics::Metrics;
use support::{SOON, eventually, holds};

const LOSSY: u8 = 250;
const CLEAN: u8 = 40;
const PORT: u16 = 8756;

const INTERVAL: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(15);

/// Half way between the second SYN, after 1 s, and the third, after 3 s (RFC 6298, section 2 and 5.5), in seconds.
const TIME_LIMIT: f64 = 2.0;

/// A right member is beyond this once in ten thousand runs.
const SIGMAS: f64 = 4.0;

/// No round trip over a virtual cable takes as long, however busy the machine; a lost SYN always does.
const QUIET: f64 = 0.1;

/// Which packets are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lossy {
    /// Those to the peers.
    There,
    /// Those from them as well.
    ThereAndBack,
}

impl Lossy {
    /// The chance that a SYN or its answer is lost.
    fn loss(self) -> f64 {
        match self {
            Self::There => 0.2,
            Self::ThereAndBack => 1.0 - 0.8 * 0.8,
        }
    }
}

/// Has the host answer at every address of a network, with a listener at one port; `from` finds the way.
fn settle(from: &Host, host: &Host, network: &str) -> TcpListener {
    host.run("ip", &["route", "add", "local", network, "dev", "lo"]);
    from.run("ip", &["route", "add", network, "via", &host.v4.to_string()]);
    host.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap())
}

/// Has SYNs sent and answered at the times that the head of this file goes by.
fn set_times(member: &Host, peer: &Host) {
    // The kernel may send the first few a second apart each: then there would be a third one at the time limit.
    let linear = "/proc/sys/net/ipv4/tcp_syn_linear_timeouts";
    if Path::new(linear).exists() {
        member.inside(|| std::fs::write(linear, "0").unwrap());
    }
    // One answer to each SYN, and none that is sent again by itself.
    peer.inside(|| std::fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "0").unwrap());
}

fn lose(on: &Host, network: &str) {
    on.run("nft", &[&format!("add rule inet cut in {network} meta l4proto tcp numgen random mod 100 < 20 drop")]);
}

/// Takes every connection and closes it.
fn welcome(listener: &TcpListener, over: &AtomicBool) {
    // Linux lets accept(2) wait no longer than that.
    socket2::SockRef::from(listener).set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    while !over.load(Ordering::Relaxed) {
        drop(listener.accept());
    }
}

/// The counts of a location, of which probes by TCP are all there is.
#[derive(Clone, Copy, Debug)]
struct Counts {
    probes: f64,
    resent: f64,
    failures: f64,
    timeouts: f64,
    /// Successful probes that took as long as it takes to send a second SYN, or nearly.
    slow: f64,
    successes: f64,
}

impl Counts {
    fn of(metrics: &Metrics, location: &str) -> Self {
        let labels = [("target_location", location), ("check_type", "tcp")];
        let sum = |name: &str, more: &[(&str, &str)]| metrics.sum(name, &[&labels[..], more].concat());
        let successes = sum("netring_check_duration_seconds_count", &[]);
        let buckets = metrics.series("netring_check_duration_seconds_bucket", &labels);
        let in_time = buckets.iter().filter(|s| s.label("le").parse::<f64>().unwrap() < 1.0).map(|s| s.value);
        Self {
            probes: sum("netring_checks_total", &[]),
            resent: metrics.sum("netring_syn_retransmits_total", &labels[..1]),
            failures: sum("netring_check_failures_total", &[]),
            timeouts: sum("netring_check_failures_total", &[("reason", "timeout")]),
            slow: successes - in_time.fold(0.0, f64::max),
            successes,
        }
    }
}

/// What the scrapes showed of round trips to a location.
#[derive(Clone, Debug, Default)]
struct RoundTrips {
    /// As the member says them, in seconds.
    seen: Vec<f64>,
    /// How often a target was up and without one.
    absent: f64,
}

impl RoundTrips {
    fn note(&mut self, metrics: &Metrics, location: &str) {
        let labels = [("target_location", location)];
        let up = metrics.series("netring_connectivity_tcp", &labels).iter().filter(|s| s.value > 0.5).count();
        let seen = metrics.series("netring_rtt_seconds", &labels);
        self.absent += up as f64 - seen.len() as f64;
        self.seen.extend(seen.iter().map(|s| s.value));
    }

    fn median(&mut self) -> f64 {
        self.seen.sort_by(f64::total_cmp);
        self.seen[self.seen.len() / 2]
    }
}

/// That a count is what follows from the chance of each of `n` to be counted.
fn follows(what: &str, count: f64, n: f64, chance: f64) {
    let (expected, sigma) = (n * chance, (n * chance * (1.0 - chance)).sqrt());
    let off = (count - expected) / sigma;
    println!("{what}: {count} of {n}, expected {expected:.0}, {off:+.1} sigma");
    assert!(off.abs() <= SIGMAS, "{what}: {count} of {n}, expected {expected:.0} ± {sigma:.0}");
}

fn a_fifth_is_lost(which: Lossy) {
    let Some(fabric) = Fabric::new(&["us1", "lossy", "clean"]) else { return };
    let [us1, lossy, clean] = fabric.hosts() else { panic!("three hosts") };
    let listeners = [settle(us1, lossy, "10.78.0.0/24"), settle(us1, clean, "10.79.0.0/24")];
    set_times(us1, lossy);
    lose(lossy, "ip daddr 10.78.0.0/24");
    if which == Lossy::ThereAndBack {
        lose(us1, "ip saddr 10.78.0.0/24");
    }
    let registry = Registry { server: SocketAddr::new(us1.v4.into(), 8756), member_ttl: 300, ..Registry::new() };
    let registry = registry.start_on(us1);
    for (location, network, count) in [("lossy", 78, LOSSY), ("clean", 79, CLEAN)] {
        for n in 1..=count {
            let address = SocketAddr::new(Ipv4Addr::new(10, network, 0, n).into(), PORT);
            registry.register(&format!("{location}-{n}"), location, address);
        }
    }

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| welcome(listener, &over));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch(us1, &registry, which)));
        over.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Runs the member for [`WINDOW`] and holds it to what follows from the loss.
fn watch(us1: &Host, registry: &Daemon, which: Lossy) {
    let described = Member {
        server: SocketAddr::new(us1.v4.into(), 8757),
        check_interval: u32::try_from(INTERVAL.as_secs()).unwrap(),
        timeout: TIME_LIMIT,
        http_endpoints: Vec::new(),
        ..Member::new("us1", registry.server)
    };
    let member = described.start_on(us1);
    eventually(SOON, "every target has been probed", || {
        let known = member.metrics().series("netring_connectivity_tcp", &[]).len();
        holds(known == usize::from(LOSSY) + usize::from(CLEAN), known)
    });
    let (mut far, mut near) = (RoundTrips::default(), RoundTrips::default());
    let (start, before) = (monotonic(), Counts::of(&member.metrics(), "clean"));
    while monotonic() - start < WINDOW {
        std::thread::sleep(INTERVAL / 2);
        let metrics = member.metrics();
        far.note(&metrics, "lossy");
        near.note(&metrics, "clean");
    }

    let (untouched, seconds) = (Counts::of(&member.metrics(), "clean"), (monotonic() - start).as_secs_f64());
    // Those under way when one looks are mostly slow ones: what is counted must be all that were begun.
    member.configure(&Member { check_interval: 3600, ..described }.yaml());
    member.signal(libc::SIGHUP);
    let metrics = settled(&member);
    let (loss, counts) = (which.loss(), Counts::of(&metrics, "lossy"));
    println!("{counts:?}");
    follows("second SYNs", counts.resent, counts.probes, loss);
    follows("failures", counts.failures, counts.probes, loss * loss);
    assert_eq!(counts.timeouts, counts.failures, "a lost SYN is a time-out");
    // Each failure had its second SYN, too; every other one made a success late.
    assert_eq!(counts.slow, counts.resent - counts.failures, "{counts:?}");
    assert_eq!(counts.successes, counts.probes - counts.failures, "{counts:?}");

    let (far_median, near_median) = (far.median(), near.median());
    println!("round trips: {far_median:.6} s where packets are lost, {near_median:.6} s where none is, in the middle");
    assert!(far.seen.iter().all(|seen| *seen < QUIET), "a lost SYN is no round trip: {:?}", far.seen.last());
    assert!(far_median < near_median * 3.0 + 1e-4, "{far_median} instead of {near_median}");
    // A target shows its last probe that has ended, and a late success is not the last for as long as it takes: for
    // a third of the interval its place is its predecessor's. So there are fewer than would follow.
    let without = far.absent / (far.absent + far.seen.len() as f64);
    let late = loss * (1.0 - loss) / (1.0 - loss * loss);
    println!("up without a round trip: {without:.3}, late successes {late:.3}");
    assert!((late / 3.0..late * 1.2).contains(&without), "{without:.3} are up without a round trip, {late:.3} late");

    assert_eq!((untouched.failures, untouched.resent, untouched.slow), (0.0, 0.0, 0.0), "{untouched:?}");
    assert_eq!(near.absent, 0.0, "every target with a clean way has its round trip");
    let (made, turns) = (untouched.probes - before.probes, seconds / INTERVAL.as_secs_f64());
    let in_turn = f64::from(CLEAN) * turns;
    assert!((made - in_turn).abs() < 0.4 * f64::from(CLEAN), "{made} probes of clean ways, {in_turn:.0} turns");
    for reason in ["overlap", "limit", "late"] {
        assert_eq!(metrics.sum("netring_checks_skipped_total", &[("reason", reason)]), 0.0, "skipped: {reason}");
    }
}

/// What a member shows once no probe has ended for longer than one may take.
fn settled(member: &Daemon) -> Metrics {
    let (mut last, mut since) = (member.metrics(), monotonic());
    eventually(SOON, "no probe is under way", || {
        let now = member.metrics();
        let (before, count) = (Counts::of(&last, "lossy").probes, Counts::of(&now, "lossy").probes);
        if count > before {
            (last, since) = (now, monotonic());
        }
        holds(monotonic() - since > Duration::from_secs_f64(TIME_LIMIT * 1.25), count)
    });
    last
}

#[test]
fn a_fifth_of_the_packets_lost_on_the_way_there_shows_as_that_many_second_syns_and_failures() {
    a_fifth_is_lost(Lossy::There);
}

#[test]
fn a_fifth_of_the_packets_lost_each_way_shows_as_that_many_second_syns_and_failures() {
    a_fifth_is_lost(Lossy::ThereAndBack);
}
