//! How many probes a CPU-second makes: a member with more to do than it can, blackbox_exporter asked as fast as it answers,
//! and a bare epoll loop, in turns against the same crowd.
//!
//! All processor time of the member counts, of every thread. Of the exporter too only its own counts, not that of who asks
//! it: each probe of it is one request on a kept connection, as Prometheus sends it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::Bench;
use crate::bare::Bare;
use crate::crowd::{Crowd, Habits, over, pass};
use crate::statistics::median;
use crate::support::process::Process;
use crate::support::{SOON, Scratch, eventually, holds, http};
use crate::table::{Figures, Goal, Row, Side, number};

/// The rows of this file.
pub fn rows() -> Vec<Row<Bench>> {
    vec![
        Row {
            name: "tcp",
            what: "TCP probes per CPU-second, whole engine, against a bare epoll connect loop",
            unit: "x",
            goal: Goal::AtLeast { reach: 0.75, stretch: 0.9 },
            measure: |bench| bench.rates(Kind::Tcp).against_limit(),
        },
        Row {
            name: "tcp-peer",
            what: "TCP probes per CPU-second, whole engine, against blackbox_exporter",
            unit: "x",
            goal: Goal::AtLeast { reach: 8.0, stretch: 15.0 },
            measure: |bench| bench.rates(Kind::Tcp).against_peer(),
        },
        Row {
            name: "http-peer",
            what: "HTTP probes on fresh connections per CPU-second, whole engine, against blackbox_exporter",
            unit: "x",
            goal: Goal::AtLeast { reach: 8.0, stretch: 12.0 },
            measure: |bench| bench.rates(Kind::Http).against_peer(),
        },
    ]
}

/// What is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Connect and close.
    Tcp,
    /// Connect, ask, read the answer, close.
    Http,
}

/// Probes per CPU-second, each the median of the turns of one run.
#[derive(Clone, Debug)]
pub struct Rates {
    ours: f64,
    peer: f64,
    limit: f64,
    detail: String,
}

impl Rates {
    /// Measures all three in turns.
    #[must_use]
    pub fn measure(kind: Kind, short: bool) -> Self {
        let (turns, seconds) = if short { (3, 1.0) } else { (5, 4.0) };
        // About what one core can do in a second. A member makes a TCP probe beside its HTTP probes in any case; with many
        // endpoints that one hardly weighs, and it is paid for and not counted.
        let (peers, endpoints) = match kind {
            Kind::Tcp => (if short { 8_000 } else { 19_000 }, 0),
            Kind::Http => (500, 24),
        };
        let habits = Habits { interval: 1, endpoints: (0..endpoints).map(|n| format!("/health/{n}")).collect() };
        let crowd = Crowd::new(peers);
        let exporter = Exporter::start(&crowd);
        let member = crowd.member(&habits);
        pass(2.0);
        let (mut ours, mut peer, mut limit, mut busy) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            let stretch = over(&crowd, &member, || pass(seconds));
            // Where it was more than one core can do, some failed, for want of time.
            let succeeded = stretch.connections * (1.0 - stretch.failed);
            let counted = match kind {
                Kind::Tcp => succeeded,
                Kind::Http => succeeded * f64::from(endpoints) / f64::from(endpoints + 1),
            };
            ours.push(counted / stretch.cpu);
            busy.push(stretch.cpu / stretch.seconds * 100.0);
            member.signal(libc::SIGSTOP);
            let bare = Bare::Connect { crowd: crowd.addresses, seconds, ask: kind == Kind::Http };
            let bare = crowd.run(&bare);
            let of = |name: &str| bare[name].as_f64().expect("a number");
            limit.push(of("done") / of("cpu"));
            peer.push(exporter.rate(&crowd, kind, seconds));
            member.signal(libc::SIGCONT);
            // The first second after a stop is for what had to wait.
            pass(1.5);
        }
        let [ours, peer, limit, busy] = [ours, peer, limit, busy].map(|mut values| median(&mut values));
        let detail = format!(
            "{} probes a CPU-second, at {busy:.0} % of a core, {peers} peers; median of {turns} turns of {seconds} s",
            number(ours)
        );
        Self { ours, peer, limit, detail }
    }

    fn against_limit(&self) -> Figures {
        self.figures(self.ours / self.limit)
    }

    fn against_peer(&self) -> Figures {
        self.figures(self.ours / self.peer)
    }

    fn figures(&self, ours: f64) -> Figures {
        let side = |name, value| Some(Side { name, value, unit: "/CPU-s" });
        Figures {
            ours,
            detail: self.detail.clone(),
            peer: side("blackbox_exporter", self.peer),
            limit: side("bare epoll loop", self.limit),
        }
    }
}

/// Debian's prometheus-blackbox-exporter.
struct Exporter {
    process: Process,
    server: std::net::SocketAddr,
    _scratch: Scratch,
}

impl Exporter {
    fn start(crowd: &Crowd) -> Self {
        let scratch = Scratch::new();
        let config = scratch
            .file("blackbox.yml", "modules:\n  tcp: {prober: tcp, timeout: 5s}\n  http: {prober: http, timeout: 5s}\n");
        let server = std::net::SocketAddr::new(crowd.host().v4.into(), 9115);
        let mut command: Command = crowd.host().command("prometheus-blackbox-exporter");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address={server}"))
            .arg("--log.level=error");
        let process = Process::start(&mut command, &scratch, "blackbox");
        eventually(SOON, "blackbox_exporter answers", || {
            let answer = crowd.host().inside(|| http::get(server, "/-/healthy"));
            holds(answer.as_ref().is_ok_and(|answer| answer.status == 200), (answer, process.log()))
        });
        Self { process, server, _scratch: scratch }
    }

    /// Probes per second of its own processor time, asked on eight connections for so many seconds.
    fn rate(&self, crowd: &Crowd, kind: Kind, seconds: f64) -> f64 {
        const CONNECTIONS: u32 = 8;
        let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let ask = |first: u32| {
            let agent = ureq::Agent::new_with_defaults();
            let mut n = first;
            while !over.load(Ordering::Relaxed) {
                let (ip, port) = (crowd.addresses.ip(n), crowd.addresses.port);
                let probe = match kind {
                    Kind::Tcp => format!("module=tcp&target={ip}:{port}"),
                    Kind::Http => format!("module=http&target=http://{ip}:{port}/health"),
                };
                let answer = agent.get(format!("http://{}/probe?{probe}", self.server)).call();
                let text = answer.and_then(|mut answer| answer.body_mut().read_to_string()).unwrap_or_default();
                assert!(text.lines().any(|line| line == "probe_success 1"), "{probe}: {text}");
                done.fetch_add(1, Ordering::Relaxed);
                n += CONNECTIONS;
            }
        };
        let before = self.process.usage().cpu;
        crowd.host().inside(|| {
            std::thread::scope(|scope| {
                for n in 0..CONNECTIONS {
                    scope.spawn(move || ask(n));
                }
                std::thread::sleep(Duration::from_secs_f64(seconds));
                over.store(true, Ordering::Relaxed);
            });
        });
        done.load(Ordering::Relaxed) as f64 / (self.process.usage().cpu - before).as_secs_f64()
    }
}
