//! The output of the demo: which member reaches which, as a table or as one line per change.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::ops::Deref;
use std::time::{Duration, Instant};

use terminal_size::{Height, Width};

use crate::member::board::{Board, Watched, rough};
use crate::member::memory::State;
use crate::probe::Check;
use crate::wire::Location;

/// One site as another sees it.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    /// Not probed yet, or not recently.
    Unknown,
    /// Every check succeeds; the round-trip time.
    Up(Duration),
    /// A check fails: which one, why and since when.
    Down { why: String, since: Instant },
}

/// The results of one site.
#[derive(Clone, Debug)]
struct Row {
    source: Location,
    /// `None` if the member was killed.
    cells: Option<BTreeMap<Location, Cell>>,
}

/// The results of all sites at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Matrix {
    rows: Vec<Row>,
    now: Option<Instant>,
}

/// A change that is worth a line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// Every member reaches every other.
    Complete { members: usize, pairs: usize },
    /// The demo killed a member, as `--fail` requested.
    Stopped(String),
    /// Some sites can no longer reach a site.
    Lost { target: String, sources: Vec<String>, why: String },
    /// Some sites can reach a site again.
    Back { target: String, sources: Vec<String> },
    /// No member probes the site any more: it is no longer on the roster.
    Left(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = |sources: &[String]| super::abbreviated(&sources.iter().map(String::as_str).collect::<Vec<_>>());
        match self {
            Self::Complete { members, pairs } => {
                write!(f, "all {members} members reach each other ({pairs} pairs)")
            }
            Self::Stopped(location) => write!(f, "killing {location}, as requested by --fail"),
            Self::Lost { target, sources, why } => write!(f, "{target} is unreachable ({why}) from {}", from(sources)),
            Self::Back { target, sources } => write!(f, "{target} is reachable again from {}", from(sources)),
            Self::Left(target) => {
                write!(f, "{target} was removed from the roster because its lease ended; its metrics are gone")
            }
        }
    }
}

impl Matrix {
    /// The results of the given members at `now`.
    pub(super) fn of<'a, B: Deref<Target = Board>>(
        sites: impl Iterator<Item = (&'a Location, Option<B>)>,
        now: Instant,
    ) -> Self {
        let rows =
            sites.map(|(source, board)| Row { source: source.clone(), cells: board.map(|board| cells(&board, now)) });
        Self { rows: rows.collect(), now: Some(now) }
    }

    /// The changes since `before`.
    pub(super) fn changes_since(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let before_of: BTreeMap<_, _> = before.running().collect();
        let rows: Vec<_> =
            self.rows.iter().map(|row| (row, row.cells.as_ref(), before_of.get(&row.source).copied())).collect();
        for target in self.rows.iter().map(|row| &row.source) {
            let (mut lost, mut back, mut why) = (Vec::new(), Vec::new(), "");
            let (mut watched, mut watched_before) = (false, false);
            for (row, cells, cells_before) in &rows {
                let old = cells_before.and_then(|cells| cells.get(target));
                // A killed member probes nobody any more, which does not mean that the target was removed.
                watched_before |= old.is_some() && cells.is_some();
                let new = cells.and_then(|cells| cells.get(target));
                watched |= new.is_some();
                match (old, new) {
                    (Some(Cell::Down { .. }), Some(Cell::Down { .. })) => {}
                    (_, Some(Cell::Down { why: reason, .. })) => {
                        lost.push(row.source.to_string());
                        why = reason;
                    }
                    (Some(Cell::Down { .. }), Some(Cell::Up(_))) => back.push(row.source.to_string()),
                    _ => {}
                }
            }
            let target = target.to_string();
            if !lost.is_empty() {
                changes.push(Change::Lost { target: target.clone(), sources: lost, why: why.to_owned() });
            }
            if !back.is_empty() {
                changes.push(Change::Back { target: target.clone(), sources: back });
            }
            if watched_before && !watched {
                changes.push(Change::Left(target));
            }
        }
        if self.is_whole() && !before.is_whole() {
            let members = self.running().count();
            changes.push(Change::Complete { members, pairs: members * (members - 1) });
        }
        changes
    }

    fn running(&self) -> impl Iterator<Item = (&Location, &BTreeMap<Location, Cell>)> {
        self.rows.iter().filter_map(|row| Some((&row.source, row.cells.as_ref()?)))
    }

    /// Whether every running member reaches every other, and none of them probes anyone else.
    fn is_whole(&self) -> bool {
        let others = self.running().count().saturating_sub(1);
        others > 0
            && self
                .running()
                .all(|(_, cells)| cells.len() == others && cells.values().all(|c| matches!(c, Cell::Up(_))))
    }
}

/// The state of each location on a board: the worst of its checks.
fn cells(board: &Board, now: Instant) -> BTreeMap<Location, Cell> {
    let mut cells = BTreeMap::new();
    for (watched, state) in board.targets(now) {
        let cell = cells.entry(watched.peer.location.clone()).or_insert(Cell::Unknown);
        match (&*cell, state) {
            // The first failure is kept: TCP comes first and explains the others.
            (Cell::Down { .. }, _) | (_, None) => {}
            (_, Some(State { result: Err(failure), since, .. })) => {
                let check = watched.check.check_type().label();
                *cell = Cell::Down { why: format!("{check} {}", failure.reason), since: *since };
            }
            (Cell::Unknown, Some(State { result: Ok(timings), .. })) => {
                *cell = Cell::Up(if is_tcp(watched) { timings.rtt.unwrap_or(timings.connect) } else { timings.total });
            }
            (Cell::Up(_), Some(_)) => {}
        }
    }
    cells
}

fn is_tcp(watched: &Watched) -> bool {
    matches!(watched.check, Check::Tcp)
}

/// The time since the start of the demo, as printed before a line.
pub(super) fn stamp(elapsed: Duration) -> String {
    format!("[{:6.1} s]", elapsed.as_secs_f64())
}

/// A table at the bottom of the terminal, which is redrawn each time, with the changes scrolling above it.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// The number of lines of the last table.
    lines: usize,
}

impl Screen {
    /// Prints the changes, and then the table in place of the last one.
    pub(super) fn draw(
        &mut self,
        out: &mut impl Write,
        matrix: &Matrix,
        news: &[Change],
        elapsed: Duration,
    ) -> io::Result<()> {
        let (width, height) = terminal_size::terminal_size()
            .map_or((80, 24), |(Width(width), Height(height))| (usize::from(width), usize::from(height)));
        let mut text = String::new();
        if self.lines > 0 {
            // Move up over the last table and clear to the end of the screen.
            text += &format!("\x1b[{}A\x1b[J", self.lines);
        }
        for change in news {
            text += &format!("{} {change}\n", stamp(elapsed));
        }
        let table = table(matrix, width, height);
        self.lines = table.len();
        for line in &table {
            text += line;
            text.push('\n');
        }
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

/// The heading of the first column.
const CORNER: &str = "from / to";

/// The table as lines that fit into the terminal: site by site if there is room, otherwise only the sites that fail.
fn table(matrix: &Matrix, width: usize, height: usize) -> Vec<String> {
    let longest = matrix.rows.iter().map(|row| row.source.as_str().len()).max().unwrap_or(0);
    let names = longest.max(CORNER.len());
    // Wide enough for a name and for the text of a failure. The ring of five fits into 80 columns.
    let column = longest.max("http timeout".len()) + 1;
    let fits = names + column * matrix.rows.len() < width && matrix.rows.len() + 6 < height;
    let mut lines = vec![String::new()];
    if fits {
        lines.extend(site_by_site(matrix, names, column));
    } else {
        // A line that wraps would take two lines, and the next table would be drawn in the wrong place.
        let clipped = |line: String| line.chars().take(width.saturating_sub(1)).collect();
        lines.extend(summary(matrix, height.saturating_sub(8)).into_iter().map(clipped));
    }
    lines
}

fn site_by_site(matrix: &Matrix, names: usize, column: usize) -> Vec<String> {
    let mut head = format!("{CORNER:names$}");
    for row in &matrix.rows {
        head += &format!("{:>column$}", row.source.as_str());
    }
    let mut lines = vec![head];
    for row in &matrix.rows {
        let mut line = format!("{:names$}", row.source.as_str());
        for target in matrix.rows.iter().map(|row| &row.source) {
            let cell = match &row.cells {
                None => Shown::dim("killed"),
                Some(_) if row.source == *target => Shown::dim("-"),
                Some(cells) => shown(cells.get(target)),
            };
            line += &" ".repeat(column.saturating_sub(cell.text.chars().count()));
            line += &cell.coloured();
        }
        lines.push(line);
    }
    lines
}

/// A text and its colour (an SGR parameter, ECMA-48).
struct Shown {
    text: String,
    colour: &'static str,
}

impl Shown {
    fn dim(text: &str) -> Self {
        Self { text: text.to_owned(), colour: "2" }
    }

    fn coloured(&self) -> String {
        format!("\x1b[{}m{}\x1b[0m", self.colour, self.text)
    }
}

fn shown(cell: Option<&Cell>) -> Shown {
    match cell {
        None => Shown::dim("removed"),
        Some(Cell::Unknown) => Shown::dim("?"),
        Some(Cell::Up(rtt)) => Shown { text: format!("{:.3} ms", rtt.as_secs_f64() * 1e3), colour: "32" },
        Some(Cell::Down { why, .. }) => Shown { text: why.clone(), colour: "31" },
    }
}

/// For rings too large for a table: the totals, and the sites that some members cannot reach.
fn summary(matrix: &Matrix, most: usize) -> Vec<String> {
    let mut times: Vec<Duration> = Vec::new();
    let (mut unknown, mut down) = (0, BTreeMap::<&Location, (usize, &str, Instant)>::new());
    for (_, cells) in matrix.running() {
        for (target, cell) in cells {
            match cell {
                Cell::Unknown => unknown += 1,
                Cell::Up(rtt) => times.push(*rtt),
                Cell::Down { why, since } => {
                    let entry = down.entry(target).or_insert((0, why, *since));
                    *entry = (entry.0 + 1, why, entry.2.min(*since));
                }
            }
        }
    }
    let failing: usize = down.values().map(|(sources, ..)| sources).sum();
    times.sort_unstable();
    let median = times.get(times.len() / 2).map_or("none".into(), |t| format!("{:.3} ms", t.as_secs_f64() * 1e3));
    let mut lines =
        vec![format!("{} pairs connected, {failing} failing, {unknown} unknown; median {median}", times.len())];
    let hidden = down.len().saturating_sub(most);
    for (target, (sources, why, since)) in down.into_iter().take(most) {
        let lasted = matrix.now.map_or(Duration::ZERO, |now| now.saturating_duration_since(since));
        lines.push(format!("  {target}  {why}, from {sources} sites, for {}", rough(lasted)));
    }
    if hidden > 0 {
        lines.push(format!("  and {hidden} more"));
    }
    lines
}

#[cfg(test)]
mod tests;
