//! The benchmarks: each row of the performance table, with a peer and the machine's limit measured in the same run.
//!
//! `tests/bench/run` installs what it needs, builds this with the profile that packages carry, and calls it. Every figure is
//! taken from the real binary, over real sockets, on loopback or in network namespaces made here.
//!
//! Rows that come from one measurement share it: [`Bench`] keeps what was found out. A row whose measurement breaks off is
//! told as broken, and the others go on.

#![expect(unreachable_pub, reason = "nothing is reached from outside, as in the tests whose support this shares")]

mod accuracy;
mod bare;
mod command_line;
mod crowd;
mod life;
mod load;
mod registry;
mod scrape;
mod statistics;
#[path = "../support/mod.rs"]
pub mod support;
mod table;
mod throughput;
mod traffic;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use netring::clock::monotonic;
use serde_json::{Value, json};

use bare::Bare;
use command_line::{Order, Wanted};
use life::Lives;
use load::{Load, Look};
use support::daemon::NETRING;
use table::{Figures, HEAD, Row, Standing};
use throughput::{Kind, Rates};

/// What rows share: how long they may take, and what one has found out for another.
#[derive(Default)]
pub struct Bench {
    /// Take a short look only: enough to notice a gross loss, not enough to quote.
    pub short: bool,
    rates: RefCell<BTreeMap<Kind, Rates>>,
    loads: RefCell<BTreeMap<Look, Load>>,
    series_per_peer: OnceCell<f64>,
    lives: OnceCell<Lives>,
}

impl Bench {
    /// Nothing found out yet.
    fn new(short: bool) -> Self {
        Self { short, ..Self::default() }
    }

    /// How many probes a CPU-second makes.
    fn rates(&self, kind: Kind) -> Rates {
        self.rates.borrow_mut().entry(kind).or_insert_with(|| Rates::measure(kind, self.short)).clone()
    }

    /// What a member uses.
    fn load(&self, look: Look) -> Load {
        self.loads.borrow_mut().entry(look).or_insert_with(|| Load::measure(look)).clone()
    }

    /// How many series a further peer adds.
    fn series_per_peer(&self) -> f64 {
        *self.series_per_peer.get_or_init(scrape::series_per_peer)
    }

    /// How both daemons come, rest and go.
    fn lives(&self) -> &Lives {
        self.lives.get_or_init(|| Lives::measure(if self.short { 2 } else { 10 }))
    }
}

/// Rows that a short look leaves out unless they are named: what they would notice, the larger or quicker ones beside them
/// notice too, black holes have a test of their own, and ten thousand polls need more descriptors than every machine gives.
const LONG: [&str; 6] =
    ["load-1000-cpu", "load-1000-memory", "memory-per-target", "blackholes", "scrape-100k", "registry-news"];

/// Every row, in the order of the table.
fn rows() -> Vec<Row<Bench>> {
    let mut rows = Vec::new();
    rows.extend(throughput::rows());
    rows.extend(load::rows());
    rows.extend(traffic::rows());
    rows.extend(accuracy::rows());
    rows.extend(scrape::rows());
    rows.extend(registry::rows());
    rows.extend(life::rows());
    rows
}

fn main() -> ExitCode {
    if let Some(code) = registry::other_side() {
        return code;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(program) = Bare::from_words(&words) {
        return program.run().map_or_else(|e| complain(1, &format!("{program:?}: {e}")), |()| ExitCode::SUCCESS);
    }
    let rows = rows();
    match Order::read(&words, &rows.iter().map(|row| row.name).collect::<Vec<_>>()) {
        Err(wrong) => complain(64, &wrong),
        Ok(Order { wanted: Wanted::List, .. }) => {
            rows.iter().for_each(|row| println!("{:20} {}", row.name, row.what));
            ExitCode::SUCCESS
        }
        // SAFETY: geteuid(2) takes nothing and cannot fail.
        Ok(_) if unsafe { libc::geteuid() } != 0 => complain(77, "needs root to make network namespaces"),
        Ok(Order { wanted: Wanted::Growth, json, .. }) => grow(json.as_deref()),
        Ok(Order { wanted: Wanted::Rows(names), short, json }) => {
            let left_out = |row: &Row<Bench>| names.is_empty() && short && LONG.contains(&row.name);
            let wanted = |row: &&Row<Bench>| names.is_empty() || names.iter().any(|name| name == row.name);
            measure(rows.iter().filter(wanted).filter(|row| !left_out(row)), short, json.as_deref())
        }
    }
}

fn complain(code: u8, what: &str) -> ExitCode {
    eprintln!("netring bench: {what}");
    ExitCode::from(code)
}

/// A row with what came of it.
struct Measured<'a> {
    row: &'a Row<Bench>,
    /// Nothing where its measurement broke off.
    figures: Option<Figures>,
    /// How long that took, in seconds; what it shares with an earlier row counts there.
    took: f64,
}

fn measure<'a>(rows: impl Iterator<Item = &'a Row<Bench>>, short: bool, file: Option<&Path>) -> ExitCode {
    let bench = Bench::new(short);
    println!("{}\n", machine_line());
    println!("{HEAD}");
    let measured: Vec<Measured> = rows
        .map(|row| {
            let start = monotonic();
            let figures = figures(row, &bench);
            let took = (monotonic() - start).as_secs_f64();
            match &figures {
                Some(figures) => println!("{}", row.line(figures)),
                None => println!("| {} | broken off | | | | | BROKEN |", row.what),
            }
            Measured { row, figures, took }
        })
        .collect();
    println!();
    for Measured { row, figures, took } in &measured {
        let detail = figures.as_ref().map_or("broken off", |figures| &figures.detail);
        println!("{}: {detail} ({took:.0} s)", row.name);
    }
    let names = |which: &dyn Fn(&Measured) -> bool| -> Vec<&str> {
        measured.iter().filter(|m| which(m)).map(|m| m.row.name).collect()
    };
    let reached = |m: &Measured| m.figures.as_ref().is_some_and(|f| m.row.goal.standing(f.ours) >= Standing::Reached);
    let missed = names(&|m| !reached(m));
    println!("\nfalls short: {}", if missed.is_empty() { "nothing".into() } else { missed.join(" ") });
    if let Err(e) = write(file, &report(&measured, short)) {
        return complain(1, &e);
    }
    let broken = names(&|m| if short { is_lost(m.row, m.figures.as_ref()) } else { m.figures.is_none() });
    if broken.is_empty() { ExitCode::SUCCESS } else { complain(1, &format!("gross loss: {}", broken.join(" "))) }
}

/// The growth table.
fn grow(file: Option<&Path>) -> ExitCode {
    println!("{}\n", machine_line());
    let written =
        write(file, &with_circumstances("growth", &[load::growth(), registry::growth(&Bench::new(false))].concat()));
    written.map_or_else(|e| complain(1, &e), |()| ExitCode::SUCCESS)
}

fn write(file: Option<&Path>, report: &Value) -> Result<(), String> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, format!("{report:#}\n")).map_err(|e| format!("cannot write {}: {e}", file.display()))
}

/// Measures a row. In a short look, which a busy machine easily spoils, a gross loss must show twice.
fn figures(row: &Row<Bench>, bench: &Bench) -> Option<Figures> {
    let once = |bench: &Bench| catch_unwind(AssertUnwindSafe(|| (row.measure)(bench))).ok();
    let figures = once(bench);
    if bench.short && is_lost(row, figures.as_ref()) { once(&Bench::new(true)).or(figures) } else { figures }
}

/// Whether a row is worse than half of its goal, and the machine not to blame: where the bare limit measured beside it
/// misses the goal too, nothing could have reached it at that time.
fn is_lost(row: &Row<Bench>, figures: Option<&Figures>) -> bool {
    let Some(figures) = figures else { return true };
    let beyond = figures
        .limit
        .as_ref()
        .is_some_and(|limit| limit.unit == row.unit && row.goal.standing(limit.value) < Standing::Reached);
    row.goal.standing(figures.ours) == Standing::Lost && !beyond
}

/// Everything as JSON.
fn report(measured: &[Measured], short: bool) -> Value {
    let rows = measured.iter().map(|Measured { row, figures, .. }| match figures {
        Some(figures) => row.json(figures),
        None => json!({ "row": row.name, "what": row.what, "standing": "BROKEN" }),
    });
    with_circumstances(if short { "short" } else { "full" }, &rows.collect::<Vec<_>>())
}

fn with_circumstances(form: &str, rows: &[Value]) -> Value {
    json!({
        "netring": env!("CARGO_PKG_VERSION"),
        "profile": profile(),
        "form": form,
        "machine": machine(),
        "rows": rows,
    })
}

/// The profile the binary was built with: the directory it is in.
fn profile() -> String {
    let directory = PathBuf::from(NETRING);
    let name = directory.parent().and_then(Path::file_name);
    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn machine() -> Value {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model.map_or("unknown", |(_, model)| model),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

fn machine_line() -> String {
    let machine = machine();
    let word = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
    format!(
        "netring {} ({}) on {} cores of {}, Linux {}",
        env!("CARGO_PKG_VERSION"),
        profile(),
        machine["cores"],
        word("cpu"),
        word("kernel")
    )
}
