//! The benchmarks: each row of the performance table, with a peer and the machine's limit measured in the same run.
//!
//! `tests/bench/run` installs what it needs, builds this with the profile that packages carry, and calls it. Every figure is
//! taken from the real binary, over real sockets, on loopback or in network namespaces made here.

#![expect(unreachable_pub, reason = "nothing is reached from outside, as in the tests whose support this shares")]

mod table;

use std::process::ExitCode;

use table::{HEAD, Row};

/// What rows share: how long they may take, and what one has found out for another.
pub struct Bench {
    /// Take a short look only: enough to notice a gross loss, not enough to quote.
    pub short: bool,
}

/// Every row, in the order of the table.
fn rows() -> Vec<Row<Bench>> {
    Vec::new()
}

fn main() -> ExitCode {
    let bench = Bench { short: std::env::args().any(|word| word == "--short") };
    println!("{HEAD}");
    for row in rows() {
        let figures = (row.measure)(&bench);
        println!("{}", row.line(&figures));
    }
    ExitCode::SUCCESS
}
