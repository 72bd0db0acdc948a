//! The registry's rows: what a request costs it, what a ring of ten thousand costs it, and how fast news travels.
//!
//! Costs are counted in requests per second of the registry's processor time, user space and kernel together, which a busy
//! machine moves less than the clock on the wall. The limit is [`bare`], asked the same by the same clients in turn.

mod bare;
mod load;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use netring::clock::monotonic;
use serde_json::{Value, json};

use self::bare::{Answers, Bare};
use self::load::{Ask, Follow, Job, Load};
use crate::Bench;
use crate::statistics::median;
use crate::support::daemon::{Daemon, Registry};
use crate::support::process::Usage;
use crate::support::redis::Redis;
use crate::table::{Figures, Goal, Row, Side, number};

/// The connections over which requests are asked one after the other.
const CONNECTIONS: usize = 64;

/// The ring that is polled where the row does not say otherwise.
const RING: usize = 500;

/// The ring that is large.
const LARGE: usize = 10_000;

/// What a heartbeat is answered.
const OK: &str = r#"{"status":"ok"}"#;

/// The rows, in the order of the table.
pub fn rows() -> Vec<Row<Bench>> {
    let least = |reach, stretch| Goal::AtLeast { reach, stretch };
    let most = |reach, stretch| Goal::AtMost { reach, stretch };
    let row = |name, what, unit, goal, measure| Row { name, what, unit, goal, measure };
    vec![
        row(
            "registry-heartbeats",
            "registry: heartbeats per CPU-second, embedded store",
            "/CPU-s",
            least(30_000.0, 60_000.0),
            heartbeats,
        ),
        row(
            "registry-heartbeats-redis",
            "registry: heartbeats per CPU-second, store in Redis",
            "/CPU-s",
            least(15_000.0, 30_000.0),
            heartbeats_in_redis,
        ),
        row(
            "registry-unchanged",
            "registry: GET /members, 500 members, unchanged (304), per CPU-second",
            "/CPU-s",
            least(20_000.0, 40_000.0),
            unchanged,
        ),
        row(
            "registry-full",
            "registry: GET /members, 500 members, in full, per CPU-second",
            "/CPU-s",
            least(5_000.0, 10_000.0),
            full,
        ),
        row(
            "registry-ring-cpu",
            "registry: 10,000 members heartbeating each 45 s and following by long polls of 30 s, of a core",
            "%",
            most(5.0, 3.0),
            large_ring_cpu,
        ),
        row("registry-ring-memory", "registry: the same, resident memory", "MB", most(60.0, 40.0), large_ring_memory),
        row(
            "registry-news",
            "registry: 10,000 long polls open, one member joins: last one told",
            "s",
            most(1.0, 0.3),
            news,
        ),
    ]
}

/// What this program is where a row has started it again; `None` where it is the benchmark itself.
pub fn other_side() -> Option<ExitCode> {
    match std::env::args().nth(1)?.as_str() {
        load::WORD => Some(load::main()),
        bare::WORD => Some(bare::main()),
        _ => None,
    }
}

/// A registry with this many members.
fn ring(members: usize, redis: Option<SocketAddr>) -> Daemon {
    let registry = Registry { redis, member_ttl: 3600, cleanup_interval: 60, ..Registry::new() }.start();
    let _ = load::run(registry.server, &Job::Fill { members });
    let listed = registry.get("/members").json()["members"].as_array().map_or(0, Vec::len);
    assert_eq!(listed, members, "all that were registered are listed");
    registry
}

/// The entity tag of its roster.
fn tag(registry: &Daemon) -> String {
    registry.get("/members").header("etag").expect("a roster has an entity tag").to_owned()
}

/// How often `ask` is answered per second of processor time, over one round.
fn rate(bench: &Bench, server: SocketAddr, usage: impl Fn() -> Usage, ask: &Ask, fresh: bool) -> f64 {
    let seconds = if bench.short { 0.7 } else { 2.0 };
    let job = Job::Closed { connections: CONNECTIONS, fresh, seconds, ask: ask.clone() };
    let before = usage().cpu;
    let report = load::run(server, &job);
    report.answers as f64 / (usage().cpu - before).as_secs_f64()
}

/// The row of one request: the registry and the bare server in turn, on kept connections and on fresh ones.
fn against_bare(bench: &Bench, registry: &Daemon, ask: &Ask, bytes: usize) -> Figures {
    let bare = Bare::start(Answers { bytes, close: false });
    let rounds = if bench.short { 1 } else { 5 };
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds {
        for (fresh, at) in [(false, 0), (true, 2)] {
            rates[at].push(rate(bench, registry.server, || registry.usage(), ask, fresh));
            rates[at + 1].push(rate(bench, bare.server, || bare.usage(), ask, fresh));
        }
    }
    let [ours, limit, ours_fresh, limit_fresh] = rates.map(|mut rates| median(&mut rates));
    let detail = format!(
        "{CONNECTIONS} kept connections; with a fresh connection for each request {}, the bare server {}; median of {rounds}",
        number(ours_fresh),
        number(limit_fresh)
    );
    Figures { ours, detail, peer: None, limit: Some(Side { name: "bare hyper", value: limit, unit: "/CPU-s" }) }
}

fn heartbeats(bench: &Bench) -> Figures {
    against_bare(bench, &ring(RING, None), &Ask::Heartbeat { members: RING }, OK.len())
}

fn heartbeats_in_redis(bench: &Bench) -> Figures {
    let Some(redis) = Redis::start() else {
        let detail = "redis-server is not installed".into();
        return Figures { ours: f64::NAN, detail, peer: None, limit: None };
    };
    let registry = ring(RING, Some(redis.server));
    let before = (registry.usage().cpu, redis.usage().cpu);
    let figures = against_bare(bench, &registry, &Ask::Heartbeat { members: RING }, OK.len());
    let share = (redis.usage().cpu - before.1).as_secs_f64() / (registry.usage().cpu - before.0).as_secs_f64();
    let detail = format!("{}; Redis itself used {} of the registry's processor time", figures.detail, number(share));
    Figures { detail, ..figures }
}

fn unchanged(bench: &Bench) -> Figures {
    let registry = ring(RING, None);
    let tag = Some(tag(&registry));
    against_bare(bench, &registry, &Ask::Members { tag }, 0)
}

fn full(bench: &Bench) -> Figures {
    let registry = ring(RING, None);
    let bytes = registry.get("/members").body.len();
    let figures = against_bare(bench, &registry, &Ask::Members { tag: None }, bytes);
    Figures { detail: format!("{} bytes each; {}", number(bytes as f64), figures.detail), ..figures }
}

/// A share of a core, and resident memory in bytes.
#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu: f64,
    resident: u64,
}

/// What a ring of ten thousand costs the registry and the bare server.
#[derive(Clone, Copy, Debug)]
struct LargeRing {
    seconds: f64,
    ours: Cost,
    /// The same by plain polls, as older members follow the roster.
    polling: Cost,
    bare: Cost,
    /// How many bytes the registry sent each second.
    bytes: f64,
}

/// Measured once for two rows.
fn large_ring(bench: &Bench) -> &'static LargeRing {
    static MEASURED: OnceLock<LargeRing> = OnceLock::new();
    MEASURED.get_or_init(|| {
        let seconds = if bench.short { 31.0 } else { 60.0 };
        let registry = ring(LARGE, None);
        let (ours, bytes) = paced(registry.server, || registry.usage(), tag(&registry), seconds, Follow::LongPoll);
        drop(registry);
        let registry = ring(LARGE, None);
        let (polling, _) = paced(registry.server, || registry.usage(), tag(&registry), seconds / 2.0, Follow::Poll);
        drop(registry);
        // The least that can be done for plain polls: close at once.
        let bare = Bare::start(Answers { bytes: OK.len(), close: true });
        let (bare, _) = paced(bare.server, || bare.usage(), "\"1\"".into(), seconds / 2.0, Follow::Poll);
        LargeRing { seconds, ours, polling, bare, bytes }
    })
}

/// What a large ring costs: the share of a core, the memory at the end, and the bytes sent each second once all follow.
fn paced(server: SocketAddr, usage: impl Fn() -> Usage, tag: String, seconds: f64, follow: Follow) -> (Cost, f64) {
    // Until all long polls wait.
    let begins = if follow == Follow::LongPoll { load::POLL + 1.0 } else { 0.0 };
    let load = Load::start(server, &Job::Paced { members: LARGE, seconds: begins + seconds, tag, follow });
    std::thread::sleep(Duration::from_secs_f64(begins));
    let (before, began) = (usage(), monotonic());
    // The load ends with its last connection, which the server may close late.
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (after, took) = (usage(), monotonic() - began);
    let report = load.report();
    let cpu = (after.cpu - before.cpu).as_secs_f64() / took.as_secs_f64();
    (Cost { cpu, resident: after.resident }, report.bytes as f64 / seconds)
}

fn large_ring_detail(LargeRing { seconds, polling, bytes, .. }: &LargeRing) -> String {
    format!(
        "all of them wait all the time, each hundredth answer is the whole roster, {} MB sent a second; for {} s; members that \
         poll each 30 s on fresh connections instead: {} % and {} MB",
        number(bytes / 1e6),
        number(*seconds),
        number(polling.cpu * 100.0),
        number(polling.resident as f64 / 1e6),
    )
}

fn large_ring_cpu(bench: &Bench) -> Figures {
    let ring = large_ring(bench);
    let limit = Side { name: "bare hyper, plain polls", value: ring.bare.cpu * 100.0, unit: "%" };
    Figures { ours: ring.ours.cpu * 100.0, detail: large_ring_detail(ring), peer: None, limit: Some(limit) }
}

fn large_ring_memory(bench: &Bench) -> Figures {
    let ring = large_ring(bench);
    let limit =
        Side { name: "bare hyper without roster and polls", value: ring.bare.resident as f64 / 1e6, unit: "MB" };
    Figures { ours: ring.ours.resident as f64 / 1e6, detail: large_ring_detail(ring), peer: None, limit: Some(limit) }
}

fn news(bench: &Bench) -> Figures {
    const POLLS: usize = 10_000;
    const MEMBERS: usize = 10;
    let rounds = if bench.short { 1 } else { 3 };
    let registry = ring(MEMBERS, None);
    let bytes = registry.get("/members").body.len();
    let bare = Bare::start(Answers { bytes, close: false });
    let idle = registry.usage().resident;
    let told = |server, tag, joins, waiting: &mut dyn FnMut()| {
        let mut load = Load::start(server, &Job::Polls { polls: POLLS, tag, joins });
        load.wait_waiting();
        waiting();
        load.go_on();
        let report = load.report();
        assert_eq!(report.answers, POLLS as u64, "everyone is told");
        report
    };
    let (mut lasts, mut halves, mut limits, mut memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let report = told(registry.server, tag(&registry), MEMBERS + round, &mut || {
            registry.wait_for_value("netring_registry_polls_waiting", &[], POLLS as f64);
            memory.push((registry.usage().resident - idle) as f64 / POLLS as f64 / 1024.0);
        });
        lasts.push(report.last);
        halves.push(report.median);
        limits.push(told(bare.server, "\"1\"".into(), 0, &mut || bare.wait_for_polls(POLLS)).last);
    }
    let detail = format!(
        "a roster of {} bytes; half are told after {} s; a waiting poll costs {} KiB of memory; median of {rounds}",
        number(bytes as f64),
        number(median(&mut halves)),
        number(memory[0]),
    );
    let limit = Side { name: "bare hyper", value: median(&mut limits), unit: "s" };
    Figures { ours: median(&mut lasts), detail, peer: None, limit: Some(limit) }
}

/// How the costs of requests grow with the ring, in microseconds of processor time. Printed as it comes, and given back as
/// JSON.
pub fn growth(bench: &Bench) -> Vec<Value> {
    println!("\n| members | a heartbeat, us | an unchanged poll, us |\n| --- | --- | --- |");
    let costs = [10, 100, 1_000, LARGE].map(|members| {
        let registry = ring(members, None);
        let tag = Some(tag(&registry));
        let cost = |ask| {
            let rates = (0..3).map(|_| rate(bench, registry.server, || registry.usage(), &ask, false));
            1e6 / median(&mut rates.collect::<Vec<_>>())
        };
        let (heartbeat, poll) = (cost(Ask::Heartbeat { members }), cost(Ask::Members { tag }));
        println!("| {} |", [members as f64, heartbeat, poll].map(number).join(" | "));
        json!({ "members": members, "heartbeat_microseconds": heartbeat, "unchanged_poll_microseconds": poll })
    });
    costs.to_vec()
}
