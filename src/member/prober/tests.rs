use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;

use super::*;
use crate::probe::blackhole::FullListener;
use crate::probe::{Check, StatusRanges, Timings};

const PATIENCE: Duration = Duration::from_secs(20);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn settings(interval: Duration, timeout: Duration) -> Settings {
    let limits = Limits {
        tcp_timeout: timeout,
        http_timeout: timeout,
        http_ok_status: StatusRanges(vec![(100, 499)]),
        http_body_limit: probe::HTTP_BODY_LIMIT,
    };
    Settings { interval, limits, max_in_flight: 1_000 }
}

fn probing(id: u64, address: SocketAddr) -> Probing {
    let peer = format!("peer-{id}").parse().unwrap();
    Probing { id: TargetId(id), peer, target: Target { address, check: Check::Tcp } }
}

/// The taker of reports.
struct Inbox {
    batches: mpsc::Receiver<Vec<Report>>,
    opened: VecDeque<Report>,
}

/// A prober for which so many reports may wait, beside one batch.
fn start(settings: Settings, reports_max: usize) -> (Prober, Inbox) {
    let (sender, batches) = mpsc::channel(1);
    let prober =
        Prober::start(&"self".parse().unwrap(), settings, sender, reports_max, Links::default(), || {}).unwrap();
    (prober, Inbox { batches, opened: VecDeque::new() })
}

/// The next report of a target, waited for with patience. A busy machine may hold the thread up at any time.
fn next(inbox: &mut Inbox) -> Report {
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        match inbox.opened.pop_front() {
            Some(Report::StoodStill { .. }) => continue,
            Some(report) => return report,
            None => {}
        }
        match inbox.batches.try_recv() {
            Ok(batch) => inbox.opened = batch.into(),
            Err(error) => assert!(clock::monotonic() < deadline, "no report: {error}"),
        }
        std::thread::sleep(ms(1));
    }
}

fn id(report: &Report) -> u64 {
    match report {
        Report::Probed { id, .. } | Report::Skipped { id, .. } => id.0,
        Report::StoodStill { .. } => unreachable!("`next` leaves them out"),
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Holds until `condition` does.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = clock::monotonic() + PATIENCE;
    while !condition() {
        assert!(clock::monotonic() < deadline, "{what}");
        std::thread::sleep(ms(1));
    }
}

/// How many sockets of this process are on their way to `peer`.
fn connecting_to(peer: SocketAddr) -> usize {
    let port = format!(":{:04X}", peer.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    table
        .lines()
        .filter(|line| {
            line.split_whitespace().nth(2).is_some_and(|a| a.ends_with(&port))
                && line.split_whitespace().nth(3) == Some("02")
        })
        .count()
}

#[test]
fn each_target_is_probed_once_an_interval() {
    let (_listener, address) = listener();
    let (prober, mut reports) = start(settings(ms(200), ms(150)), 100);
    prober.set_targets((0..5).map(|id| probing(id, address)).collect());
    let mut seen = [0; 5];
    while seen.iter().any(|&n| n < 3) {
        match next(&mut reports) {
            Report::Probed { id, outcome, follow_up, .. } => {
                assert!(outcome.result.is_ok() && !follow_up, "{outcome:?}");
                seen[id.0 as usize] += 1;
            }
            Report::Skipped { reason, .. } => assert_eq!(reason, SkipReason::Late),
            Report::StoodStill { .. } => unreachable!("`next` leaves them out"),
        }
    }
    assert!(seen.iter().all(|&n| n <= 5), "{seen:?}");
    prober.stop();
}

#[test]
fn a_peer_found_down_is_looked_at_again_before_its_next_turn() {
    let (closed, address) = listener();
    drop(closed);
    let (prober, mut reports) = start(settings(Duration::from_secs(10), ms(500)), 100);
    // Of several targets one is due soon.
    prober.set_targets((0..50).map(|id| probing(id, address)).collect());
    let report = next(&mut reports);
    let Report::Probed { id: first, ended: found, follow_up: false, .. } = report else { panic!("{report:?}") };
    prober.set_targets(vec![probing(first.0, address)]);
    let again = loop {
        let report = next(&mut reports);
        let Report::Probed { id, ended, follow_up, outcome, .. } = report else { panic!("{report:?}") };
        assert_eq!(outcome.result.unwrap_err().reason, Reason::Refused);
        if id == first {
            assert!(follow_up);
            break ended;
        }
    };
    let after = again - found;
    assert!((ms(1_000)..ms(1_900)).contains(&after), "{after:?}");
}

#[test]
fn a_target_that_leaves_has_its_probe_broken_off_and_is_not_heard_of_again() {
    let full = FullListener::new();
    let (_listener, live) = listener();
    let (prober, mut reports) = start(settings(ms(1_000), ms(60_000)), 1_000);
    prober.set_targets((0..50).map(|id| probing(id, full.address())).collect());
    wait_until("probes are on their way", || connecting_to(full.address()) > 10);
    prober.set_targets((100..103).map(|id| probing(id, live)).collect());
    wait_until("probes are broken off", || connecting_to(full.address()) == 0);
    for _ in 0..6 {
        // Of those that left only skipped turns may be in the channel still; no probe of theirs had reached its limit.
        let report = next(&mut reports);
        let skipped = matches!(report, Report::Skipped { reason: SkipReason::Overlap, .. });
        assert!(id(&report) >= 100 || skipped, "{report:?}");
    }
    assert_eq!(connecting_to(full.address()), 0);
}

#[test]
fn a_target_that_changes_its_address_starts_afresh_under_the_same_id() {
    let full = FullListener::new();
    let (_listener, live) = listener();
    let (prober, mut reports) = start(settings(ms(1_000), ms(900)), 1_000);
    prober.set_targets(vec![probing(0, full.address())]);
    wait_until("the probe is on its way", || connecting_to(full.address()) == 1);
    prober.set_targets(vec![probing(0, live)]);
    let report = next(&mut reports);
    let Report::Probed { outcome, .. } = &report else { panic!("{report:?}") };
    assert!(outcome.result.is_ok(), "what the old address would have said is not reported: {report:?}");
}

#[test]
fn new_settings_take_effect_at_once() {
    let (_listener, address) = listener();
    let (prober, mut reports) = start(settings(Duration::from_secs(86_400), ms(500)), 100);
    prober.set_targets(vec![probing(0, address)]);
    prober.set_settings(settings(ms(100), ms(50)));
    for _ in 0..3 {
        assert_eq!(id(&next(&mut reports)), 0);
    }
    prober.set_settings(Settings { max_in_flight: 0, ..settings(ms(100), ms(50)) });
    loop {
        if let Report::Skipped { reason: SkipReason::Limit, count: 1, .. } = next(&mut reports) {
            break;
        }
    }
}

#[test]
fn probes_in_flight_do_not_hold_up_a_stop() {
    let full = FullListener::new();
    let (prober, _reports) = start(settings(ms(1_000), ms(60_000)), 1_000);
    prober.set_targets((0..200).map(|id| probing(id, full.address())).collect());
    wait_until("probes are on their way", || connecting_to(full.address()) == 200);
    let begun = clock::monotonic();
    prober.stop();
    let took = clock::monotonic() - begun;
    assert!(took < ms(100), "{took:?}");
    assert_eq!(connecting_to(full.address()), 0);
}

#[test]
fn reports_that_nobody_takes_are_dropped_and_counted_and_the_probing_goes_on() {
    let (_listener, address) = listener();
    let (prober, mut reports) = start(settings(ms(50), ms(25)), 2);
    prober.set_targets((0..10).map(|id| probing(id, address)).collect());
    wait_until("reports are dropped", || prober.dropped_reports() >= 20);
    for _ in 0..20 {
        next(&mut reports);
    }
    drop(reports);
    let before = prober.dropped_reports();
    wait_until("reports are dropped after the channel is closed", || prober.dropped_reports() >= before + 20);
}

#[test]
fn reports_go_out_at_once_after_a_pause_and_together_where_there_are_many() {
    let (sender, mut batches) = mpsc::channel(2);
    let dropped = Arc::<AtomicU64>::default();
    let mut outbox = Outbox::new(sender, BATCH_MAX + 1, Arc::clone(&dropped));
    let start = clock::monotonic();
    let put = |outbox: &mut Outbox, count| {
        (0..count).for_each(|_| outbox.put(Report::StoodStill { lost: ms(21), until: start }));
    };
    outbox.send(start);
    assert_eq!((batches.try_recv().is_ok(), outbox.due()), (false, None), "nothing to send");
    put(&mut outbox, 1);
    outbox.send(start);
    assert_eq!(batches.try_recv().unwrap().len(), 1, "the first at once");
    put(&mut outbox, 1);
    outbox.send(start + ms(1));
    put(&mut outbox, 1);
    outbox.send(start + GATHER - ms(1));
    assert_eq!((batches.try_recv().is_ok(), outbox.due()), (false, Some(start + GATHER)), "the next are gathered");
    outbox.send(start + GATHER);
    assert_eq!(batches.try_recv().unwrap().len(), 2);
    put(&mut outbox, BATCH_MAX);
    outbox.send(start + GATHER + ms(1));
    assert_eq!(batches.try_recv().unwrap().len(), BATCH_MAX, "a whole batch does not wait");

    for n in 1..=3 {
        put(&mut outbox, 1);
        outbox.send(start + GATHER * (n + 2));
    }
    assert_eq!(outbox.due(), Some(start + GATHER * 6), "two are on their way, the third is tried again later");
    put(&mut outbox, BATCH_MAX + 5);
    assert_eq!(dropped.load(Ordering::Relaxed), 5);
    drop(batches);
    outbox.send(start + GATHER * 6);
    assert_eq!(dropped.load(Ordering::Relaxed), 5 + BATCH_MAX as u64 + 1, "nobody takes them any more");
}

#[test]
fn an_idle_prober_shows_that_it_is_alive_more_than_once_a_second() {
    let marked = Arc::new(AtomicBool::new(false));
    let (sender, _reports) = mpsc::channel(1);
    let mark = Arc::clone(&marked);
    let settings = settings(Duration::from_secs(86_400), ms(500));
    let prober = Prober::start(&"self".parse().unwrap(), settings, sender, 1, Links::default(), move || {
        mark.store(true, Ordering::Relaxed);
    });
    for _ in 0..4 {
        marked.store(false, Ordering::Relaxed);
        let begun = clock::monotonic();
        wait_until("the loop marks", || marked.load(Ordering::Relaxed));
        assert!(clock::monotonic() - begun < ms(1_000));
    }
    prober.unwrap().stop();
}

#[test]
fn two_hundred_black_holes_do_not_move_the_rhythm_of_the_living() {
    let full = FullListener::new();
    let listeners: Vec<_> = (0..20).map(|_| listener()).collect();
    let interval = ms(1_000);
    let (prober, mut reports) = start(settings(interval, ms(950)), 10_000);
    let dead = (100..300).map(|id| probing(id, full.address()));
    let live = listeners.iter().enumerate().map(|(id, (_, address))| probing(id as u64, *address));
    prober.set_targets(dead.chain(live).collect());
    let mut starts: HashMap<u64, Vec<Instant>> = HashMap::new();
    let mut lags = Vec::new();
    let mut timeouts = 0;
    while starts.len() < 20 || starts.values().any(|starts| starts.len() < 5) {
        let report = next(&mut reports);
        let Report::Probed { id, outcome, ended, lag, .. } = report else {
            assert!(id(&report) >= 100, "no turn of a living target is skipped: {report:?}");
            continue;
        };
        match outcome.result {
            Ok(timings) => {
                starts.entry(id.0).or_default().push(ended - timings.total);
                lags.push(lag);
            }
            Err(failure) => {
                assert_eq!(failure.reason, Reason::Timeout);
                timeouts += 1;
            }
        }
    }
    let mut shifts: Vec<Duration> = starts
        .values()
        .flat_map(|starts| starts.windows(2).map(|pair| (pair[1] - pair[0]).abs_diff(interval)))
        .collect();
    shifts.sort();
    let (median, worst) = (shifts[shifts.len() / 2], shifts[shifts.len() - 1]);
    println!("{timeouts} timeouts; intervals off by {median:?} in the median, {worst:?} at worst");
    assert!(timeouts >= 400, "each dead target costs one time limit, all of them in parallel: {timeouts}");
    assert!(median <= interval / 50, "{median:?}");
    lags.sort();
    let lag = lags[lags.len() / 2];
    assert!(lag > Duration::ZERO && lag <= interval / 50, "{lag:?}");
}

/// A loop with nothing to do, of which one probe may be in flight at once, and who orders it.
fn idle(sender: mpsc::Sender<Vec<Report>>) -> (watch::Sender<Orders>, Loop) {
    let settings = Settings { max_in_flight: 1, ..settings(ms(1_000), ms(500)) };
    let (orders, told) = watch::channel(Orders { plan: Arc::default(), settings: Arc::new(settings) });
    (orders, Loop::new(told, Outbox::new(sender, 10, Arc::default()), Links::default()))
}

/// A loop with one probe in flight, which ended in `result` after the thread had stood still for `lost` of its 500 ms.
async fn settled(result: Result<Timings, Failure>, lost: Duration, source: Option<IpAddr>, running: bool) -> Outcome {
    let (sender, _) = mpsc::channel(1);
    let (_orders, mut work) = idle(sender);
    work.lost = lost + ms(7);
    if let Some(source) = source.filter(|_| !running) {
        work.links = Links::cut_off(source, clock::monotonic());
    }
    let now = clock::monotonic();
    let phase = Phase::of(&"self".parse().unwrap(), &"peer".parse().unwrap(), &Check::Tcp);
    work.schedule.add(TargetId(0), phase, now);
    let Some(Event::Start(turn)) = work.schedule.due(work.schedule.next_due().unwrap()) else { panic!("no turn") };
    let outcome = Outcome { result, syn_retransmits: 0, source, answered_by: None };
    let task = work.probes.spawn(async move { Probed { turn, lag: ms(0), outcome, ended: clock::monotonic() } });
    work.in_flight.insert(turn.id, InFlight { turn, task, lost_before: ms(7), limit: ms(500) });
    let ended = work.probes.join_next().await.unwrap();
    work.settle(ended);
    assert_eq!((work.schedule.in_flight(), work.in_flight.len()), (0, 0));
    let Some(Report::Probed { outcome, .. }) = work.outbox.waiting.pop() else { panic!("no outcome") };
    outcome
}

#[tokio::test]
async fn a_failure_is_held_against_nobody_where_the_thread_stood_still_meanwhile_and_a_success_stands() {
    let failed = |reason| Err(Failure { reason, detail: "connection refused".into() });
    for reason in [Reason::Timeout, Reason::Status, Reason::Reset] {
        let spoilt = settled(failed(reason), ms(51), None, true).await.result.unwrap_err();
        assert_eq!(spoilt.reason, Reason::Local(LocalCause::Stalled));
        assert_eq!(spoilt.detail, "this process stood still for 51.0ms meanwhile; connection refused");
        assert_eq!(settled(failed(reason), ms(50), None, true).await.result.unwrap_err().reason, reason);
    }
    let refused = settled(failed(Reason::Refused), ms(51), None, true).await.result.unwrap_err();
    assert_eq!(refused.reason, Reason::Refused, "its host has answered");
    assert!(settled(Ok(Timings::default()), ms(51), None, true).await.result.unwrap().disturbed);
    assert!(!settled(Ok(Timings::default()), ms(50), None, true).await.result.unwrap().disturbed);
}

#[tokio::test]
async fn a_failure_by_an_interface_without_a_network_is_held_against_nobody() {
    let own: IpAddr = "192.0.2.1".parse().unwrap();
    let failed = |reason| Err(Failure { reason, detail: "no route to host".into() });
    for (reason, running, wanted) in [
        (Reason::Timeout, false, Reason::Local(LocalCause::NoRoute)),
        (Reason::Unreachable, false, Reason::Local(LocalCause::NoRoute)),
        (Reason::Unreachable, true, Reason::Unreachable),
        // Somebody has answered.
        (Reason::Refused, false, Reason::Refused),
        (Reason::Status, false, Reason::Status),
        (Reason::Body, false, Reason::Body),
    ] {
        let found = settled(failed(reason), ms(0), Some(own), running).await.result.unwrap_err();
        assert_eq!(found.reason, wanted, "{reason}, {running}: {}", found.detail);
    }
    assert!(settled(Ok(Timings::default()), ms(0), Some(own), false).await.result.is_ok());
}

#[test]
fn a_standstill_that_ends_with_orders_is_noticed_as_well() {
    let stopped = Arc::new(AtomicBool::new(false));
    let (sender, mut batches) = mpsc::channel(10);
    let (orders, mut work) = idle(sender);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let stop = Arc::clone(&stopped);
    let longer_than_the_thread_sleeps = IDLE_MAX + ms(500);
    work.probes.spawn_on(
        async move {
            stop.store(true, Ordering::Relaxed);
            std::thread::sleep(longer_than_the_thread_sleeps);
            std::future::pending().await
        },
        runtime.handle(),
    );
    let thread = std::thread::spawn(move || work.run(&runtime, || {}));
    wait_until("it stands still", || stopped.load(Ordering::Relaxed));
    // Of all that has happened when it goes on it hears of these first.
    orders.send_modify(|orders| orders.plan = Arc::default());
    wait_until("the standstill is noticed", || !batches.is_empty());
    let reports = batches.try_recv().unwrap();
    let [Report::StoodStill { lost, .. }] = reports[..] else { panic!("{reports:?}") };
    assert!(lost > ms(400), "{lost:?}");
    drop(orders);
    thread.join().unwrap();
}

#[test]
fn a_standstill_of_a_thread_that_is_awake_is_noticed_as_well() {
    let (sender, _) = mpsc::channel(1);
    let (_orders, mut work) = idle(sender);
    work.look_at_the_clock();
    std::thread::sleep(ms(120));
    work.set_wake();
    assert!(work.lost >= ms(120), "{:?}", work.lost);
}

#[tokio::test]
async fn a_probe_that_panics_is_a_fault_of_our_own_and_gives_its_place_back() {
    let (sender, _) = mpsc::channel(1);
    let (_orders, mut work) = idle(sender);
    let now = clock::monotonic();
    let phase = Phase::of(&"self".parse().unwrap(), &"peer".parse().unwrap(), &Check::Tcp);
    work.schedule.add(TargetId(0), phase, now);
    let Some(Event::Start(turn)) = work.schedule.due(work.schedule.next_due().unwrap()) else { panic!("no turn") };
    let task = work.probes.spawn(async { panic!("for the test") });
    work.in_flight.insert(turn.id, InFlight { turn, task, lost_before: ms(0), limit: ms(500) });
    let ended = work.probes.join_next().await.unwrap();
    work.settle(ended);
    let Some(Report::Probed { id, outcome, .. }) = work.outbox.waiting.pop() else { panic!("skipped") };
    assert_eq!((id, outcome.result.unwrap_err().reason), (TargetId(0), Reason::Local(LocalCause::Internal)));
    assert_eq!((work.schedule.in_flight(), work.in_flight.len()), (0, 0));
}
