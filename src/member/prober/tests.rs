use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;

use super::*;
use crate::probe::blackhole::FullListener;
use crate::probe::schedule::SkipReason;
use crate::probe::{Check, StatusRanges};

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
        Prober::start(&"self".parse().unwrap(), settings, sender, reports_max, Network::default(), || {}).unwrap();
    (prober, Inbox { batches, opened: VecDeque::new() })
}

/// The next report of a target, waited for with patience. A busy machine may hold the thread up at any time.
fn next(inbox: &mut Inbox) -> Report {
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        match inbox.opened.pop_front() {
            Some(Report::Stalled { .. } | Report::Suspended { .. }) => continue,
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

/// The target of a probe; nothing for a skipped turn, whose report does not name it.
fn id(report: &Report) -> Option<u64> {
    match report {
        Report::Probed { id, .. } => Some(id.0),
        Report::Skipped { .. } => None,
        Report::Stalled { .. } | Report::Suspended { .. } => unreachable!("`next` leaves them out"),
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
            Report::Probed { id, outcome, .. } => {
                assert!(outcome.result.is_ok(), "{outcome:?}");
                seen[id.0 as usize] += 1;
            }
            Report::Skipped { reason, .. } => assert_eq!(reason, SkipReason::Late),
            report => unreachable!("`next` leaves them out: {report:?}"),
        }
    }
    assert!(seen.iter().all(|&n| n <= 5), "{seen:?}");
    prober.stop();
}

#[test]
fn a_target_that_turned_is_looked_at_again_before_its_next_turn() {
    let (closed, address) = listener();
    drop(closed);
    let (prober, mut reports) = start(settings(Duration::from_secs(10), ms(500)), 100);
    // Of several targets one is due soon.
    prober.set_targets((0..50).map(|id| probing(id, address)).collect());
    let report = next(&mut reports);
    let Report::Probed { id: first, ended: found, .. } = report else { panic!("{report:?}") };
    prober.set_targets(vec![probing(first.0, address)]);
    prober.turned(first, found);
    let mut looks = Vec::new();
    while looks.len() < 3 {
        let report = next(&mut reports);
        let Report::Probed { id, ended, outcome, .. } = report else { panic!("{report:?}") };
        assert_eq!(outcome.result.unwrap_err().reason, Reason::Refused);
        // Reports of the others may have been on their way.
        if id == first {
            looks.push(ended - found);
        }
    }
    for (look, after) in looks.iter().zip([ms(1_000), ms(2_000), ms(4_000)]) {
        assert!((after..after + ms(900)).contains(look), "{looks:?}");
    }
}

#[test]
fn what_began_when_and_how_much_later_than_due_is_reported() {
    let (_listener, address) = listener();
    let interval = ms(200);
    let (prober, mut reports) = start(settings(interval, ms(150)), 100);
    prober.set_targets(vec![probing(0, address)]);
    let mut dues = Vec::new();
    while dues.len() < 4 {
        let Report::Probed { outcome, began, lag, ended, .. } = next(&mut reports) else { continue };
        assert!(outcome.result.unwrap().total <= ended - began);
        assert!(lag > Duration::ZERO && lag <= interval / 2 + ms(50), "{lag:?}");
        dues.push(began - lag);
    }
    for pair in dues.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart.as_nanos().is_multiple_of(interval.as_nanos()) && !apart.is_zero(), "{apart:?}");
    }
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
        assert!(id(&report).is_none_or(|id| id >= 100), "{report:?}");
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
    let mut probed = 0;
    while probed < 3 {
        probed += id(&next(&mut reports)).map_or(0, |_| 1);
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
        (0..count).for_each(|_| outbox.put(Report::Stalled { lost: ms(21), until: start }));
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
    let prober = Prober::start(&"self".parse().unwrap(), settings, sender, 1, Network::default(), move || {
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
    let mut dues = HashMap::new();
    let mut lags = Vec::new();
    let mut timeouts = 0;
    while starts.len() < 20 || starts.values().any(|starts| starts.len() < 5) {
        let report = next(&mut reports);
        let Report::Probed { id, outcome, began, lag, ended, .. } = report else { continue };
        match outcome.result {
            Ok(timings) => {
                if let Some(before) = dues.insert(id, began - lag) {
                    assert_eq!(began - lag - before, interval, "no turn of a living target is skipped: {id:?}");
                }
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

/// What keeps a loop alive that a test drives by itself, and what it tells it.
struct Reins {
    orders: watch::Sender<Orders>,
    turned: mpsc::Sender<Turned>,
}

/// A loop with nothing to do, and who orders it.
fn idle(settings: Settings, sender: mpsc::Sender<Vec<Report>>) -> (Reins, Loop) {
    let (orders, told) = watch::channel(Orders { plan: Arc::default(), settings: Arc::new(settings) });
    let (turned, turns) = mpsc::channel(TURNED_MAX);
    let work = Loop::new(told, turns, Outbox::new(sender, 100, Arc::default()), Network::default());
    (Reins { orders, turned }, work)
}

/// A loop that has these targets and makes nothing of them until it is told to.
fn with_targets(settings: Settings, targets: Vec<Probing>) -> (Reins, Loop) {
    let (sender, _) = mpsc::channel(1);
    with_targets_to(settings, targets, sender)
}

/// The same, with a taker of its reports.
fn with_targets_to(settings: Settings, targets: Vec<Probing>, sender: mpsc::Sender<Vec<Report>>) -> (Reins, Loop) {
    let (reins, mut work) = idle(settings, sender);
    let me = "self".parse().unwrap();
    let planned = |Probing { id, peer, target }| (id, Planned { phase: Phase::of(&me, &peer, &target.check), target });
    reins.orders.send_modify(|orders| orders.plan = Arc::new(targets.into_iter().map(planned).collect()));
    work.follow_orders();
    (reins, work)
}

fn http(id: u64, address: SocketAddr) -> Probing {
    let target = Target { address, check: Check::Http { endpoint: "/health".into() } };
    Probing { target, ..probing(id, address) }
}

/// Starts the one target of a loop when it is due.
async fn start_one(work: &mut Loop) {
    let deadline = clock::monotonic() + PATIENCE;
    while work.in_flight.is_empty() {
        assert!(clock::monotonic() < deadline, "no turn");
        work.start_what_is_due();
        tokio::time::sleep(ms(1)).await;
    }
}

/// Waits for the one probe of a loop and gives back what is reported of it.
async fn settle_one(work: &mut Loop) -> Report {
    let ended = tokio::time::timeout(PATIENCE, work.probes.join_next()).await.unwrap().unwrap();
    work.settle(ended);
    assert_eq!((work.schedule.in_flight(), work.in_flight.len()), (0, 0), "it gives its place back");
    work.outbox.waiting.pop().unwrap()
}

fn facts_of(report: &Report) -> &Facts {
    let Report::Probed { facts, .. } = report else { panic!("{report:?}") };
    facts
}

#[tokio::test]
async fn the_time_stood_still_while_a_probe_runs_is_reported_with_it_and_that_before_and_after_is_not() {
    let (_listener, address) = listener();
    let (_reins, mut work) = with_targets(settings(ms(50), ms(500)), vec![probing(0, address)]);
    work.lost = ms(5_000);
    start_one(&mut work).await;
    work.lost += ms(33);
    let report = settle_one(&mut work).await;
    assert_eq!(*facts_of(&report), Facts { stalled: ms(33), limit: ms(500), network: None });
    work.lost += ms(7_000);
    start_one(&mut work).await;
    let report = settle_one(&mut work).await;
    assert_eq!(facts_of(&report).stalled, Duration::ZERO);
}

#[tokio::test]
async fn the_limit_is_that_of_the_kind_of_probe_and_of_the_settings_it_began_with() {
    let (_listener, address) = listener();
    let mut limits = settings(ms(50), ms(300));
    limits.limits.http_timeout = ms(40);
    let (_reins, mut work) = with_targets(limits.clone(), vec![probing(0, address)]);
    start_one(&mut work).await;
    let report = settle_one(&mut work).await;
    assert_eq!(facts_of(&report).limit, ms(300));

    let (reins, mut work) = with_targets(limits, vec![http(0, address)]);
    start_one(&mut work).await;
    reins.orders.send_modify(|orders| orders.settings = Arc::new(settings(ms(50), ms(9_000))));
    work.follow_orders();
    // Nobody answers: the listener accepts nothing.
    let report = settle_one(&mut work).await;
    assert_eq!(facts_of(&report).limit, ms(40));
}

#[tokio::test]
async fn a_failure_comes_with_what_was_wrong_with_the_network_of_this_host() {
    let full = FullListener::new();
    let own: IpAddr = "127.0.0.1".parse().unwrap();
    let (_reins, mut work) = with_targets(settings(ms(50), ms(100)), vec![probing(0, full.address())]);
    work.network = Network::without_carrier(own, clock::monotonic());
    start_one(&mut work).await;
    let report = settle_one(&mut work).await;
    assert_eq!(facts_of(&report).network, Some(Fault::NoCarrier { address: own }));
    let Report::Probed { outcome, .. } = report else { panic!("{report:?}") };
    assert_eq!(outcome.result.unwrap_err().reason, Reason::Timeout, "to judge it is the business of others");
}

#[tokio::test]
async fn a_probe_that_ran_into_its_limit_makes_its_target_slow_and_no_other_failure_does() {
    let full = FullListener::new();
    let (closed, refusing) = listener();
    drop(closed);
    for (address, reason, slow) in [(full.address(), Reason::Timeout, true), (refusing, Reason::Refused, false)] {
        let (_reins, mut work) = with_targets(settings(ms(50), ms(100)), vec![probing(0, address)]);
        start_one(&mut work).await;
        let report = settle_one(&mut work).await;
        let Report::Probed { outcome, .. } = report else { panic!("{report:?}") };
        assert_eq!(outcome.result.unwrap_err().reason, reason);
        let schedule = format!("{:?}", work.schedule);
        assert!(schedule.contains(&format!("slow: {slow}")), "{schedule}");
    }
}

#[tokio::test]
async fn a_target_that_turned_is_followed_up_where_another_probe_of_its_kind_fits_before_its_next_turn() {
    let (_listener, address) = listener();
    let mut limits = settings(Duration::from_secs(60), ms(100));
    limits.limits.http_timeout = Duration::from_secs(59);
    for (probing, fits) in [(probing(0, address), true), (http(0, address), false)] {
        let (_reins, mut work) = with_targets(limits.clone(), vec![probing]);
        let due = work.schedule.next_due().unwrap();
        let Some(Event::Start(turn)) = work.schedule.due(due) else { panic!("no turn") };
        assert!(work.schedule.ended(turn, false));
        work.take_in(Turned { id: TargetId(1), ended: due });
        assert_eq!(work.schedule.next_due(), Some(due + Duration::from_secs(60)), "there is no such target");
        work.take_in(Turned { id: TargetId(0), ended: due });
        assert_eq!(work.schedule.next_due(), Some(due + Duration::from_secs(if fits { 1 } else { 60 })));
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The facts of the first probe that is reported.
fn first_facts(batches: &mut mpsc::Receiver<Vec<Report>>) -> Facts {
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        assert!(clock::monotonic() < deadline, "no report");
        if let Ok(batch) = batches.try_recv()
            && let Some(report) = batch.iter().find(|report| matches!(report, Report::Probed { .. }))
        {
            return facts_of(report).clone();
        }
        std::thread::sleep(ms(1));
    }
}

#[test]
fn a_probe_that_ends_while_the_thread_stands_still_is_reported_with_that_time() {
    let (_listener, address) = listener();
    let (sender, mut batches) = mpsc::channel(100);
    let (reins, mut work) = with_targets_to(settings(ms(60_000), ms(500)), vec![probing(0, address)], sender);
    let runtime = runtime();
    let Some(Event::Start(turn)) = work.schedule.due(work.schedule.next_due().unwrap()) else { panic!("no turn") };
    let probe = async move {
        // The thread with it; and when it goes on, this is the first thing it hears of.
        std::thread::sleep(ms(600));
        let failure = Failure { reason: Reason::Timeout, detail: "no answer".into() };
        Probed { turn, lag: ms(0), outcome: Outcome::failed(failure), ended: clock::monotonic(), network: None }
    };
    let task = work.probes.spawn_on(probe, runtime.handle());
    work.in_flight.insert(turn.id, InFlight { turn, task, lost_before: ms(0), limit: ms(500) });
    let thread = std::thread::spawn(move || work.run(&runtime, || {}));
    let stalled = first_facts(&mut batches).stalled;
    assert!(stalled >= ms(600) - WATCHFUL_MAX - GRAIN, "{stalled:?}");
    drop(reins);
    thread.join().unwrap();
}

#[test]
fn a_standstill_before_a_probe_does_not_count_whatever_the_thread_hears_of_first_afterwards() {
    type Tell = fn(&Reins);
    let hears: [(&str, Tell); 3] = [
        ("orders", |reins| reins.orders.send_modify(|_| {})),
        ("a turn", |reins| reins.turned.try_send(Turned { id: TargetId(99), ended: clock::monotonic() }).unwrap()),
        ("nothing but its alarm", |_| {}),
    ];
    let (_listener, address) = listener();
    for (what, tell) in hears {
        // The turn comes due early in a standstill of a second, and is still in time at its end.
        let (reins, mut work, mut batches) = (0..1_000)
            .find_map(|n| {
                let (sender, batches) = mpsc::channel(100);
                let probing = Probing { peer: format!("peer-{n}").parse().unwrap(), ..probing(0, address) };
                let (reins, work) = with_targets_to(settings(ms(2_400), ms(500)), vec![probing], sender);
                let due = work.schedule.next_due().unwrap().saturating_duration_since(work.wake);
                (ms(150)..ms(250)).contains(&due).then_some((reins, work, batches))
            })
            .unwrap();
        let runtime = runtime();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        work.probes.spawn_on(
            async move {
                stop.store(true, Ordering::Relaxed);
                std::thread::sleep(ms(1_000));
                std::future::pending().await
            },
            runtime.handle(),
        );
        let thread = std::thread::spawn(move || work.run(&runtime, || {}));
        wait_until("it stands still", || stopped.load(Ordering::Relaxed));
        tell(&reins);
        let stalled = first_facts(&mut batches).stalled;
        assert!(stalled < ms(300), "{what}: {stalled:?}");
        drop(reins);
        thread.join().unwrap();
    }
}

#[test]
fn a_standstill_that_ends_with_orders_is_noticed_as_well() {
    let stopped = Arc::new(AtomicBool::new(false));
    let (sender, mut batches) = mpsc::channel(10);
    let (reins, mut work) = idle(settings(ms(1_000), ms(500)), sender);
    let runtime = runtime();
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
    reins.orders.send_modify(|orders| orders.plan = Arc::default());
    wait_until("the standstill is noticed", || !batches.is_empty());
    let reports = batches.try_recv().unwrap();
    let [Report::Stalled { lost, .. }] = reports[..] else { panic!("{reports:?}") };
    assert!(lost > ms(400), "{lost:?}");
    drop(reins);
    thread.join().unwrap();
}

#[test]
fn a_standstill_of_a_thread_that_is_awake_is_noticed_as_well() {
    let (sender, _) = mpsc::channel(1);
    let (_reins, mut work) = idle(settings(ms(1_000), ms(500)), sender);
    work.look_at_the_clock();
    std::thread::sleep(ms(120));
    work.set_wake();
    assert!(work.lost >= ms(120), "{:?}", work.lost);
}

#[test]
fn a_standstill_counts_beyond_the_grain_and_a_suspend_counts_as_one() {
    let (sender, _) = mpsc::channel(1);
    let (_reins, mut work) = idle(settings(ms(1_000), ms(500)), sender);
    let (start, suspended) = (work.wake, work.suspended);
    work.note_time(start + GRAIN, suspended + GRAIN);
    assert_eq!((work.lost, work.outbox.waiting.len()), (Duration::ZERO, 0));
    work.note_time(start + GRAIN * 2 + ms(1), suspended + GRAIN);
    assert_eq!(work.lost, GRAIN + ms(1));
    // The monotonic clock does not count the time of a suspend.
    let until = start + GRAIN * 2 + ms(2);
    work.note_time(until, suspended + GRAIN + ms(60_000));
    assert_eq!(work.lost, GRAIN + ms(60_001));
    work.note_time(until, suspended + GRAIN + ms(60_000));
    assert_eq!(work.lost, GRAIN + ms(60_001), "it is noticed once");
    let stalled = Report::Stalled { lost: GRAIN + ms(1), until: until - ms(1) };
    assert_eq!(work.outbox.waiting, [stalled, Report::Suspended { lost: ms(60_000), until }]);
}

#[tokio::test]
async fn a_probe_that_panics_is_a_fault_of_our_own_and_gives_its_place_back() {
    let (_listener, address) = listener();
    let (_reins, mut work) = with_targets(settings(ms(1_000), ms(500)), vec![probing(0, address)]);
    let Some(Event::Start(turn)) = work.schedule.due(work.schedule.next_due().unwrap()) else { panic!("no turn") };
    let task = work.probes.spawn(async { panic!("for the test") });
    work.in_flight.insert(turn.id, InFlight { turn, task, lost_before: ms(0), limit: ms(500) });
    let report = settle_one(&mut work).await;
    let Report::Probed { id, outcome, .. } = report else { panic!("{report:?}") };
    assert_eq!((id, outcome.result.unwrap_err().reason), (TargetId(0), Reason::Local(LocalCause::Internal)));
}
