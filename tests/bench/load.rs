//! What a member costs and keeps to at a thousand peers and at ten thousand: processor, memory, punctuality.
//!
//! In the full form each target has its turn once a minute, as by default. The short form keeps the rate of probes, which
//! the processor time goes by, with fewer peers that have their turn more often; memory goes by the number of peers, so that
//! is kept there and the rate is higher.

use netring::clock::monotonic;
use serde_json::{Value, json};

use crate::Bench;
use crate::bare::Bare;
use crate::crowd::{Crowd, Habits, over, pass, said};
use crate::scrape;
use crate::statistics::Buckets;
use crate::support::daemon::Daemon;
use crate::table::{Figures, Goal, Row, Side, number};

/// The rows of this file.
pub fn rows() -> Vec<Row<Bench>> {
    let at_most = |reach, stretch| Goal::AtMost { reach, stretch };
    vec![
        Row {
            name: "load-1000-cpu",
            what: "1,000 peers, TCP and two HTTP endpoints each, every 60 s: of a core",
            unit: "%",
            goal: at_most(1.0, 0.5),
            measure: |bench| bench.load(Look::at_the_rate(1_000, bench.short)).processor(),
        },
        Row {
            name: "load-1000-memory",
            what: "1,000 peers, TCP and two HTTP endpoints each, every 60 s: resident memory",
            unit: "MB",
            goal: at_most(25.0, 15.0),
            measure: |bench| bench.load(Look::at_the_size(1_000, bench.short)).memory(),
        },
        Row {
            name: "load-10000-cpu",
            what: "10,000 peers, the same: of a core",
            unit: "%",
            goal: at_most(10.0, 5.0),
            measure: |bench| bench.load(Look::at_the_rate(10_000, bench.short)).processor(),
        },
        Row {
            name: "load-10000-memory",
            what: "10,000 peers, the same: resident memory",
            unit: "MB",
            goal: at_most(120.0, 80.0),
            measure: |bench| bench.load(Look::at_the_size(10_000, bench.short)).memory(),
        },
        Row {
            name: "memory-per-target",
            what: "resident memory for each peer from 1,000 to 10,000",
            unit: "KiB",
            goal: at_most(12.0, 6.0),
            measure: memory_per_target,
        },
        Row {
            name: "lateness",
            what: "start lateness p99 at 10,000 peers, /metrics scraped each second",
            unit: "ms",
            goal: at_most(5.0, 3.0),
            measure: |bench| bench.load(Look::at_the_size(10_000, bench.short)).lateness(),
        },
    ]
}

/// How to look at a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Look {
    peers: u32,
    /// Seconds from one turn of a target to the next.
    interval: u32,
    /// For how many seconds.
    seconds: u32,
}

impl Look {
    /// At as many probes a second as `peers` make that have their turn each minute.
    fn at_the_rate(peers: u32, short: bool) -> Self {
        if short { Self { peers: peers / 20, interval: 3, seconds: 6 } } else { Self::at_the_size(peers, false) }
    }

    /// At this many peers.
    fn at_the_size(peers: u32, short: bool) -> Self {
        let interval = match short {
            false => 60,
            true if peers > 1_000 => 10,
            true => 4,
        };
        Self { peers, interval, seconds: if short { 3 } else { 60 } }
    }
}

/// What a member was seen to use.
#[derive(Clone, Debug)]
pub struct Load {
    look: Look,
    /// Of a core, in per cent.
    processor: f64,
    /// The same of a bare timed loop that makes as many connects.
    bare_processor: f64,
    probes: f64,
    /// In bytes, before anybody has scraped it, and in the end.
    unscraped: u64,
    resident: u64,
    /// One scrape, in seconds and bytes.
    scrape: (f64, usize),
    /// The 99th percentile, in milliseconds, and the same of the bare loop.
    late: f64,
    bare_late: f64,
    scrapes: u32,
}

impl Load {
    /// Looks at one.
    #[must_use]
    pub fn measure(look: Look) -> Self {
        let habits = Habits::usual(look.interval);
        let crowd = Crowd::new(look.peers);
        let member = crowd.member(&habits);
        // Every target has had its turn.
        pass(f64::from(look.interval) + 1.0);
        let unscraped = member.usage().resident;
        let stretch = over(&crowd, &member, || {
            pass(look.seconds.into());
            // Paid for too. Not at first, when the text just made for counting would be handed out again.
            let _ = member.get("/metrics");
        })
        .sound();
        let scrape = scrape::once(&crowd, member.server);

        let rate = f64::from(look.peers) * habits.targets() as f64 / f64::from(look.interval);
        let seconds = look.seconds.clamp(4, 20);
        let bare = Bare::Pace { crowd: crowd.addresses, seconds: seconds.into(), rate };
        let loop_beside = crowd.start(&bare);
        let late = late_while_scraped(&member, seconds);
        let bare_late = said(loop_beside)["late_us"]["p99"].as_f64().expect("a number") / 1e3;
        let resident = member.usage().resident;
        // Alone, because two that wake up in turns spare each other some of the cost.
        member.signal(libc::SIGSTOP);
        let bare_cpu = crowd.run(&bare)["cpu"].as_f64().expect("a number");
        Self {
            look,
            processor: stretch.cpu / stretch.seconds * 100.0,
            bare_processor: bare_cpu / f64::from(seconds) * 100.0,
            probes: stretch.connections,
            unscraped,
            resident,
            scrape: (scrape.seconds, scrape.bytes),
            late: late * 1e3,
            bare_late,
            scrapes: seconds,
        }
    }

    fn processor(&self) -> Figures {
        Figures {
            ours: self.processor,
            detail: format!(
                "{} peers every {} s: {} probes and one scrape in {} s, {:.0} microseconds of CPU a probe",
                number(self.look.peers.into()),
                self.look.interval,
                number(self.probes),
                self.look.seconds,
                self.per_probe()
            ),
            peer: None,
            limit: Some(Side { name: "bare timed connects", value: self.bare_processor, unit: "%" }),
        }
    }

    /// Microseconds of processor time.
    fn per_probe(&self) -> f64 {
        self.processor / 100.0 * f64::from(self.look.seconds) / self.probes * 1e6
    }

    fn memory(&self) -> Figures {
        Figures {
            ours: self.resident as f64 / 1e6,
            detail: format!(
                "{} peers every {} s, after {} scrapes of {} MB; {} MB before the first",
                number(self.look.peers.into()),
                self.look.interval,
                self.scrapes + 4,
                number(self.scrape.1 as f64 / 1e6),
                number(self.unscraped as f64 / 1e6)
            ),
            peer: None,
            limit: None,
        }
    }

    fn lateness(&self) -> Figures {
        Figures {
            ours: self.late,
            detail: format!(
                "{} peers every {} s; {} scrapes, one of {} MB takes {} ms",
                number(self.look.peers.into()),
                self.look.interval,
                self.scrapes,
                number(self.scrape.1 as f64 / 1e6),
                number(self.scrape.0 * 1e3)
            ),
            peer: None,
            limit: Some(Side { name: "bare sleeping thread beside it", value: self.bare_late, unit: "ms" }),
        }
    }
}

fn memory_per_target(bench: &Bench) -> Figures {
    let [few, many] = [1_000, 10_000].map(|peers| bench.load(Look::at_the_size(peers, bench.short)));
    let per_peer = |of: fn(&Load) -> u64| {
        (of(&many) as f64 - of(&few) as f64) / f64::from(many.look.peers - few.look.peers) / 1024.0
    };
    Figures {
        ours: per_peer(|load| load.resident),
        detail: format!(
            "scraped; {} KiB before the first scrape; a peer is {} targets",
            number(per_peer(|load| load.unscraped)),
            Habits::usual(60).targets()
        ),
        peer: None,
        limit: None,
    }
}

/// The 99th percentile of how late probes started while the member was scraped each second, in seconds.
fn late_while_scraped(member: &Daemon, seconds: u32) -> f64 {
    let lag = || Buckets::of(&member.metrics(), "netring_probe_lag_seconds");
    let (before, start) = (lag(), monotonic());
    for second in 1..seconds {
        let due = start + std::time::Duration::from_secs(second.into());
        std::thread::sleep(due.saturating_duration_since(monotonic()));
        let _ = member.get("/metrics");
    }
    pass(1.0);
    lag().since(&before).quantile(0.99)
}

/// The growth table: what a member costs as the ring grows tenfold and tenfold again, every target each ten seconds. Printed
/// as it comes, and given back as JSON.
pub fn growth() -> Vec<Value> {
    println!(
        "| peers | targets | CPU, % of a core | per probe, us | resident, MB | scraped, MB | scrape, ms | late p99, ms |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let sizes = [10, 100, 1_000, 10_000];
    let loads = sizes.map(|peers| {
        let load = Load::measure(Look { peers, interval: 10, seconds: 10 });
        let targets = f64::from(peers) * Habits::usual(10).targets() as f64;
        let figures = [
            peers.into(),
            targets,
            load.processor,
            load.per_probe(),
            load.unscraped as f64 / 1e6,
            load.resident as f64 / 1e6,
            load.scrape.0 * 1e3,
            load.late,
        ];
        println!("| {} |", figures.map(number).join(" | "));
        load
    });
    println!();
    for pair in loads.windows(2) {
        let [few, many] = pair else { unreachable!("windows of two") };
        let times = |of: fn(&Load) -> f64| number(of(many) / of(few));
        println!(
            "from {} to {} peers: CPU x{}, a scrape x{}, resident x{}",
            number(few.look.peers.into()),
            number(many.look.peers.into()),
            times(|load| load.processor),
            times(|load| load.scrape.0),
            times(|load| load.resident as f64)
        );
    }
    let json = |load: &Load| {
        json!({
            "peers": load.look.peers,
            "processor_percent": load.processor,
            "microseconds_per_probe": load.per_probe(),
            "resident_bytes": load.unscraped,
            "resident_bytes_scraped": load.resident,
            "scrape_seconds": load.scrape.0,
            "scrape_bytes": load.scrape.1,
            "late_p99_ms": load.late,
        })
    };
    loads.iter().map(json).collect()
}
