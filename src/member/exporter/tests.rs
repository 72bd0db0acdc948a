use std::collections::HashSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::clock::Wall;
use crate::member::board::{Freshness, RegistrySight};
use crate::member::peers::Peers;
use crate::member::plan::{Here, Planner, Probing};
use crate::member::report::{Facts, Report};
use crate::probe::schedule::SkipReason;
use crate::probe::{Failure, LocalCause, Outcome, Reason};
use crate::wire::{Member, Registration};

/// A board with a bit of everything: two instances at one location behind one address, a peer with IPv6, one that fails
/// both checks, one that nobody has probed, names that need escapes, a SYN sent twice, a failure of this host.
fn scrape() -> String {
    let start = clock::monotonic();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let me = "uuid-me".parse::<crate::wire::InstanceId>().unwrap();
    let freshness = Freshness { interval: Duration::from_secs(60), time_limit: Duration::from_secs(10) };
    let mut board = Board::new("us1-k8s".parse().unwrap(), me.clone(), freshness);
    board.note_registry(RegistrySight { up: true, roster_at: Some(start) }, Some(true), start);

    let mut peers = Peers::new(me, Duration::from_secs(90));
    let roster = [
        ("uuid-456", "eu1-k8s", "10.1.2.3", 8756),
        ("uuid-457", "eu1-k8s", "10.1.2.3", 8757),
        ("uuid-six", "asia1-docker", "2001:db8::6", 8756),
        ("uuid-new", "sa1-dc", "10.9.9.9", 8756),
        ("uuid-bad", r#"Zürich "Hall\2""#, "10.4.4.4", 8756),
    ];
    let member = |(id, location, ip, port): (&str, &str, &str, u16)| {
        let body = serde_json::json!({"instance_id": id, "location": location, "ip": ip, "port": port}).to_string();
        let Registration { instance_id, location, ip, port } = Registration::from_json(body.as_bytes()).unwrap();
        let instance_id = instance_id.unwrap();
        Member { instance_id, location, ip, port, last_seen: 1_629_123_456, registered_at: 1_629_120_000, status: () }
    };
    peers.apply(roster.map(member).into(), start);
    let here = Here { listening: "0.0.0.0:8756".parse().unwrap(), registered: None, is_own: &|_| false };
    let plan = Planner::default().plan(&peers, &["/health".into(), "/metrics".into()], &here);
    board.follow(&plan, start);
    let probing = plan.probing();

    let mut report = |peer: &str, check: usize, result: Result<Timings, Reason>, syn_retransmits: u32| {
        let of_peer: Vec<&Probing> = probing.iter().filter(|p| p.peer.as_str() == peer).collect();
        let result = result.map_err(|reason| Failure { reason, detail: "for people".into() });
        let outcome = Outcome { result, syn_retransmits, source: None, answered_by: None };
        let lag = Duration::from_micros(500);
        let (facts, ended) = (Facts { limit: Duration::from_secs(5), ..Facts::default() }, at(5));
        let report = Report::Probed { id: of_peer[check].id, outcome, facts, began: ended, lag, ended };
        board.apply(report);
    };
    let micros = Duration::from_micros;
    let tcp = |rtt: Option<u64>| {
        Ok(Timings { total: micros(31_000), connect: micros(30_500), rtt: rtt.map(micros), ..Timings::default() })
    };
    let http = |status| {
        Ok(Timings {
            total: micros(95_000),
            connect: micros(31_250),
            rtt: Some(micros(30_000)),
            first_byte: Some(micros(62_500)),
            transfer: Some(micros(1_250)),
            status: Some(status),
            ..Timings::default()
        })
    };
    report("uuid-456", 0, tcp(Some(30_250)), 0);
    report("uuid-456", 1, http(200), 0);
    report("uuid-456", 2, http(404), 0);
    report("uuid-457", 0, tcp(None), 1);
    report("uuid-457", 1, Err(Reason::Status), 0);
    report("uuid-457", 2, Err(Reason::Local(LocalCause::NoRoute)), 0);
    report("uuid-six", 0, tcp(Some(180_000)), 0);
    report("uuid-bad", 0, Err(Reason::Timeout), 2);
    report("uuid-bad", 0, Err(Reason::Timeout), 2);
    report("uuid-bad", 1, Err(Reason::Refused), 0);
    for (reason, count) in [(SkipReason::Overlap, 2), (SkipReason::Late, 1)] {
        let _ = board.apply(Report::Skipped { reason, count });
    }
    let lost = Duration::from_millis(1_250);
    let _ = board.apply(Report::Stalled { lost, until: at(10) });
    let snapshot = Snapshot::of(&board, at(90), Wall::from_epoch_seconds(1_629_123_585));
    let mut out = Exposition::new();
    write(&mut out, &snapshot, &ProcessMetrics::new(Reloads::default()), 3);
    out.finish()
}

/// The page of a member with one peer, whose HTTP probe succeeded and took 100 ms while the process was stalled for so long.
fn page_after_a_stall(stalled: Duration) -> String {
    let now = clock::monotonic();
    let me = "me".parse::<crate::wire::InstanceId>().unwrap();
    let freshness = Freshness { interval: Duration::from_secs(60), time_limit: Duration::from_secs(10) };
    let mut board = Board::new("here".parse().unwrap(), me.clone(), freshness);
    let mut peers = Peers::new(me, Duration::from_secs(90));
    let peer = Member {
        instance_id: "peer".parse().unwrap(),
        location: "there".parse().unwrap(),
        ip: "10.1.2.3".parse().unwrap(),
        port: std::num::NonZeroU16::MIN,
        last_seen: 0,
        registered_at: 0,
        status: (),
    };
    peers.apply(vec![peer], now);
    let here = Here { listening: "0.0.0.0:8756".parse().unwrap(), registered: None, is_own: &|_| false };
    let plan = Planner::default().plan(&peers, &["/health".into()], &here);
    board.follow(&plan, now);
    let time = Some(Duration::from_millis(100));
    let timings = Timings { first_byte: time, transfer: time, status: Some(200), ..Timings::default() };
    let outcome = Outcome { result: Ok(timings), syn_retransmits: 0, source: None, answered_by: None };
    let facts = Facts { stalled, limit: Duration::from_secs(5), ..Facts::default() };
    let id = plan.probing().iter().find(|probing| probing.target.check.check_type() == CheckType::Http).unwrap().id;
    let _ = board.apply(Report::Probed { id, outcome, facts, began: now, lag: Duration::ZERO, ended: now });
    let mut out = Exposition::new();
    let snapshot = Snapshot::of(&board, now, Wall::from_epoch_seconds(1_629_123_585));
    write(&mut out, &snapshot, &ProcessMetrics::new(Reloads::default()), 0);
    out.finish()
}

#[test]
fn the_phases_of_an_http_probe_during_a_stall_are_not_exported_and_its_success_is() {
    for (stalled, phases) in [(Duration::ZERO, 3), (Duration::from_secs(1), 0)] {
        let page = page_after_a_stall(stalled);
        let of = |name: &str| page.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect::<Vec<_>>();
        assert_eq!(of("netring_http_phase_seconds").len(), phases, "stalled for {stalled:?}");
        let [up] = of("netring_connectivity_http")[..] else { panic!("one endpoint of one peer: {page}") };
        assert!(up.ends_with(" 1"), "{up}");
    }
}

/// The text with the figures of the test's own process, and of this version, left out.
fn masked(text: &str) -> String {
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let line = |line: &str| match line.split_once(' ') {
        Some((name, _)) if name.starts_with("process_") || name.ends_with("_timestamp_seconds") => {
            format!("{name} *\n")
        }
        _ => format!("{}\n", line.replace(&version, "version=\"*\"")),
    };
    text.lines().map(line).collect()
}

/// The whole text, word for word. Written anew where `UPDATE_GOLDEN` is set.
#[test]
fn a_scrape_is_the_golden_one() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/member-metrics.txt");
    let found = masked(&scrape());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &found).unwrap();
    }
    assert_eq!(std::fs::read_to_string(golden).unwrap(), found, "{golden}");
}

#[test]
fn no_series_stands_twice_and_every_family_is_announced_once() {
    let text = scrape();
    let (mut series, mut families) = (HashSet::new(), HashSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} twice");
            assert!(help.len() > 20 && help.ends_with('.'), "{name}: no full sentence: {help}");
        } else if !line.starts_with('#') {
            let (labelled, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(labelled.to_owned()), "{labelled} twice");
        }
    }
    assert!(series.len() > 80, "a full scrape, {} series", series.len());
}

#[test]
fn promtool_has_nothing_to_say_but_of_the_one_name_that_came_before_it() {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else {
        println!("SKIP {}: promtool is not installed", std::thread::current().name().unwrap_or("test"));
        return;
    };
    promtool.stdin.take().unwrap().write_all(scrape().as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&verdict.stdout) + String::from_utf8_lossy(&verdict.stderr);
    let complaints: Vec<&str> = said.lines().filter(|line| !line.starts_with("netring_members_total ")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
