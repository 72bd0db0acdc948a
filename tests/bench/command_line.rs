//! What the benchmarks are asked for.

use std::path::PathBuf;

/// An order, as `tests/bench/run help` explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub wanted: Wanted,
    /// Take a short look only.
    pub short: bool,
    /// Where to write the figures as JSON.
    pub json: Option<PathBuf>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Measure these rows; all, where none is named.
    Rows(Vec<String>),
    /// Show how the cost of a member grows with its ring.
    Growth,
    /// Name the rows.
    List,
}

impl Order {
    /// Reads the words of a command line, where `rows` are the rows there are.
    ///
    /// # Errors
    ///
    /// What makes no sense.
    pub fn read(words: &[String], rows: &[&str]) -> Result<Self, String> {
        let mut order = Self { wanted: Wanted::Rows(Vec::new()), short: false, json: None };
        let mut named = Vec::new();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--short" => order.short = true,
                "growth" => order.wanted = Wanted::Growth,
                "--list" => order.wanted = Wanted::List,
                "--json" => order.json = Some(words.next().ok_or("--json needs the name of a file")?.into()),
                row if rows.contains(&row) => named.push(row.to_owned()),
                other => return Err(format!("no row {other:?}; the rows are: {}", rows.join(" "))),
            }
        }
        if let Wanted::Rows(wanted) = &mut order.wanted {
            *wanted = named;
        }
        Ok(order)
    }
}
