//! The time limits of probes against the interval between them.

pub mod support;

use std::net::{Ipv4Addr, SocketAddr};

use support::daemon::{Member, Registry};
use support::fabric::{Cut, Fabric};

/// Seconds between two probes of one target.
const INTERVAL: u32 = 2;

/// A host that answers nothing takes each probe to its time limit. With the default limits, and with a limit that is set
/// above the interval, every probe must have ended when the next one is due.
#[test]
fn a_target_that_never_answers_is_probed_at_every_turn() {
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    let everywhere = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let registry = Registry { server: everywhere(9000), member_ttl: 300, ..Registry::new() }.start_on(one);
    fabric.cut(one, two, Cut::Drop);
    registry.register("silent", "eu1", SocketAddr::new(two.v4.into(), 8756));

    let found_at = SocketAddr::new(one.v4.into(), 9000);
    let member = Member { server: everywhere(8757), check_interval: INTERVAL, ..Member::new("us1", found_at) };
    let yaml = member.yaml().replace("    tcp_timeout: 0.5\n", "").replace("http_timeout: 0.5", "http_timeout: 10");
    assert!(!yaml.contains("0.5"), "{yaml}");
    let mut us1 = member.start_on(one);
    us1.configure(&yaml);
    us1.start_again();
    let warned = us1.log_lines(&["warn", "http_timeout", "10s", "1.8s"]);
    assert_eq!(warned.len(), 1, "{}", us1.log());

    // Of each of the three checks four turns.
    us1.wait_for_checks(12.0);
    let metrics = us1.metrics();
    assert_eq!(metrics.sum("netring_checks_skipped_total", &[]).to_bits(), 0.0_f64.to_bits(), "{metrics:?}");
    assert!(metrics.sum("netring_check_failures_total", &[("reason", "timeout")]) >= 12.0, "{metrics:?}");
}
