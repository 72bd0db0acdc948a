//! A member that is itself unwell: stopped, starved of processor time, out of descriptors. It blames no peer, says what ails it
//! everywhere it speaks, and is well again when it is over.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::daemon::{Daemon, Member, Registry};
use support::metrics::Metrics;
use support::quota::Quota;
use support::{eventually, holds};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A member is told unwell for a minute after the last trouble; and some time to notice.
const WELL_AGAIN: Duration = Duration::from_secs(90);

/// How a peer behaves.
#[derive(Clone, Copy)]
enum Manner {
    /// It answers at once.
    Prompt,
    /// It takes a part of the member's time limit to answer, and resets a connection that is still open a while later.
    Leisurely,
}

/// Peers that all listen on one address, for as long as the value lives.
struct Peers {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Peers {
    fn start(manner: Manner) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = support::socket();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, manner));
            }
        });
        Self { address, _runtime: runtime }
    }

    /// Puts so many of them on the roster.
    fn register(&self, registry: &Daemon, count: usize) {
        for n in 0..count {
            let body = format!(
                r#"{{"instance_id": "peer-{n}", "location": "peers-{}", "ip": "{}", "port": {}}}"#,
                n % 4,
                self.address.ip(),
                self.address.port()
            );
            assert_eq!(registry.post("/register", &body).status, 200);
        }
    }
}

async fn answer(mut stream: TcpStream, manner: Manner) {
    // Whoever only connects ends here.
    if !matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {
        return;
    }
    if let Manner::Leisurely = manner {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    if let Manner::Leisurely = manner {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

fn ring(manner: Manner, count: usize) -> (Daemon, Daemon, Peers) {
    let registry = Registry { member_ttl: 300, ..Registry::new() };
    let member = Member { timeout: 0.8, ..Member::new("us1", registry.server) };
    let (registry, peers) = (registry.start(), Peers::start(manner));
    peers.register(&registry, count);
    let member = member.start();
    member.wait_for("every peer is reached", |metrics| {
        let up = metrics.sum("netring_connectivity_tcp", &[]) + metrics.sum("netring_connectivity_http", &[]);
        holds((up - 3.0 * count as f64).abs() < 0.5, up)
    });
    assert_eq!(member.metrics().value("netring_local_health", &[]), Some(1.0));
    (registry, member, peers)
}

fn failures(metrics: &Metrics, local: bool) -> f64 {
    let ours = metrics.sum("netring_check_failures_total", &[("reason", "local")]);
    if local { ours } else { metrics.sum("netring_check_failures_total", &[]) - ours }
}

/// No peer was blamed for anything, in no way.
#[track_caller]
fn assert_nobody_blamed(member: &Daemon, metrics: &Metrics) {
    assert_eq!(failures(metrics, false), 0.0, "its log:\n{}", member.log());
    for family in ["netring_connectivity_tcp", "netring_connectivity_http"] {
        let down: Vec<_> = metrics.series(family, &[]).into_iter().filter(|series| series.value < 0.5).collect();
        assert!(down.is_empty(), "{down:?}");
    }
    assert_eq!(member.log_lines(&["peer down"]), Vec::<String>::new());
}

/// It says that it is unwell, wherever it speaks, and why.
#[track_caller]
fn assert_unwell(member: &Daemon, why: &str) {
    let health = member.get("/health");
    assert_eq!(health.status, 200, "it serves, so whoever asks for that is told so");
    let text = health.text();
    assert!(text.contains(r#""status":"unwell""#) && text.contains(why), "{text}");
    assert_eq!(member.log_lines(&["warn", "this member is unwell", why]).len(), 1, "{}", member.log());
    assert_service_manager_told(member, why);
}

#[track_caller]
fn assert_service_manager_told(member: &Daemon, why: &str) {
    eventually(Duration::from_secs(10), "the service manager is told", || {
        let told = member.notifications();
        holds(told.iter().any(|message| message.contains("STATUS=unwell") && message.contains(why)), told)
    });
}

#[track_caller]
fn assert_well_again(member: &Daemon) {
    eventually(WELL_AGAIN, "it is well again", || {
        let health = member.metrics().value("netring_local_health", &[]);
        holds(health == Some(1.0), health)
    });
    assert!(member.get("/health").text().contains(r#""status":"healthy""#));
    // Whoever asks is told at once; the log looks once a second.
    eventually(Duration::from_secs(5), "the log says so once", || {
        let said = member.log_lines(&["this member is well again"]);
        holds(said.len() == 1, said)
    });
}

#[test]
fn a_member_that_was_stopped_for_ten_seconds_blames_nobody_and_says_so() {
    let (_registry, member, _peers) = ring(Manner::Leisurely, 12);
    member.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(10));
    member.signal(libc::SIGCONT);
    member.wait_for_value("netring_local_health", &[], 0.0);
    // Two more rounds, so that all that was in flight has come to its end.
    member.wait_for_checks(72.0);

    let metrics = member.metrics();
    assert_nobody_blamed(&member, &metrics);
    // What had been asked for and was reset before this member could read it.
    assert!(failures(&metrics, true) >= 1.0, "{}", member.log());
    assert_unwell(&member, "stood still for");
    let stood_still = metrics.value("netring_standstill_seconds_total", &[]).unwrap();
    assert!((9.5..12.0).contains(&stood_still), "{stood_still}");
    let late = metrics.value("netring_checks_skipped_total", &[("reason", "late")]).unwrap();
    assert!((200.0..=360.0).contains(&late), "36 targets stood still for ten turns, {late} were skipped");
    for check_type in ["tcp", "http"] {
        let count =
            |le| metrics.sum("netring_check_duration_seconds_bucket", &[("check_type", check_type), ("le", le)]);
        assert_eq!(count("1"), count("+Inf"), "no probe took longer than its time limit");
    }
    assert_well_again(&member);
    assert_nobody_blamed(&member, &member.metrics());
}

/// Every loop has ten seconds at least. After the stop each is as late as all the others, and none is stuck.
#[test]
fn a_daemon_that_was_stopped_takes_none_of_its_loops_for_stuck() {
    let registry = Registry { member_ttl: 300, ..Registry::new() }.start();
    let member = Member::new("us1", registry.server).start();
    member.wait_for_value("netring_registry_up", &[], 1.0);
    for daemon in [&registry, &member] {
        daemon.signal(libc::SIGSTOP);
    }
    std::thread::sleep(Duration::from_secs(13));
    for daemon in [&registry, &member] {
        daemon.signal(libc::SIGCONT);
    }
    // Two looks, and a little.
    std::thread::sleep(Duration::from_secs(3));
    for daemon in [&registry, &member] {
        assert_eq!(daemon.log_lines(&["a thread is stalled"]), Vec::<String>::new());
    }
}

#[test]
fn a_member_with_a_twentieth_of_a_processor_blames_nobody_and_says_so() {
    // In any build more probes a second than that share allows for.
    let (_registry, member, _peers) = ring(Manner::Prompt, 300);
    let Some(quota) = Quota::limit(member.id(), 0.05) else { return };
    eventually(Duration::from_secs(60), "it notices that it is starved", || {
        let seen = member.log_lines(&["this member is unwell"]);
        holds(!seen.is_empty(), seen)
    });
    std::thread::sleep(Duration::from_secs(10));
    drop(quota);
    member.wait_for_value("netring_local_health", &[], 0.0);
    member.wait_for_checks(900.0);
    let metrics = member.metrics();
    assert_nobody_blamed(&member, &metrics);
    assert_unwell(&member, "stood still for");
    assert!(metrics.value("netring_standstill_seconds_total", &[]).unwrap() > 2.0);
    assert_well_again(&member);
}

/// The soft limit on descriptors of another process (prlimit(2)); the hard one stays.
fn limit_descriptors(process: u32, soft: u64) {
    let process = process.try_into().unwrap();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit(2) only writes to `limit`.
    assert_eq!(unsafe { libc::prlimit(process, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) }, 0);
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: prlimit(2) only reads from `limit`.
    let set = unsafe { libc::prlimit(process, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// The lowest descriptor that a process has not open when nothing is in flight: with that as its limit it gets no more.
fn lowest_free_descriptor(process: u32) -> u64 {
    let lowest = || {
        let directory = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        let open: Vec<u64> =
            directory.flatten().map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
        (0..).find(|number| !open.contains(number)).unwrap()
    };
    (0..20)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            lowest()
        })
        .min()
        .unwrap()
}

#[test]
fn a_member_without_descriptors_blames_nobody_and_says_so() {
    let (_registry, member, _peers) = ring(Manner::Prompt, 5);
    limit_descriptors(member.id(), lowest_free_descriptor(member.id()));
    eventually(Duration::from_secs(15), "it notices", || {
        let seen = member.log_lines(&["this member is unwell"]);
        holds(!seen.is_empty(), seen)
    });
    // A message takes a descriptor as well.
    assert_service_manager_told(&member, "too many open files");
    std::thread::sleep(Duration::from_secs(3));
    limit_descriptors(member.id(), u64::MAX);
    member.wait_for_value("netring_local_health", &[], 0.0);
    let metrics = member.metrics();
    assert_nobody_blamed(&member, &metrics);
    let local = failures(&metrics, true);
    assert!(local >= 30.0, "three turns of fifteen targets, {local} failures");
    assert_unwell(&member, "too many open files");
    assert_well_again(&member);
    assert_nobody_blamed(&member, &member.metrics());
}
