//! The faults of a configuration: what is wrong and where, one line for each, all faults of a run together.
//!
//! The text is the interface: `FILE:LINE:COLUMN: key.path: expected ..., got ...`, so that an editor can jump to it. A
//! faulty variable is named in place of a position in a file. No fault ever shows a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// How many faults a report lists; the rest is only counted.
const LISTED_MAX: usize = 50;

/// A place in a text: line and column, both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Where a fault is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file, at a position or, without one, in the file as a whole.
    File(PathBuf, Option<Position>),
    /// In an environment variable, which the subject of the fault names.
    Environment,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// The key or variable it is about; empty where the fault is about no single one.
    pub subject: String,
    /// What was expected and what was found, as one lower-case clause.
    pub problem: String,
}

impl Fault {
    /// A fault at a position of a file.
    pub(super) fn at(path: &Path, position: Position, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: Place::File(path.into(), Some(position)), subject: key.into(), problem: problem.into() }
    }

    /// A fault of a file as a whole.
    pub(super) fn file(path: &Path, problem: impl Into<String>) -> Self {
        Self { place: Place::File(path.into(), None), subject: String::new(), problem: problem.into() }
    }

    /// A fault of an environment variable.
    pub(super) fn variable(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: Place::Environment, subject: name.into(), problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path, Some(Position { line, column })) => write!(f, "{}:{line}:{column}: ", path.display())?,
            Place::File(path, None) => write!(f, "{}: ", path.display())?,
            Place::Environment => f.write_str("environment: ")?,
        }
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.problem)
    }
}

/// Everything that is wrong with a configuration: at least one fault, in the order of the file, variables last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults(Vec<Fault>);

impl ConfigFaults {
    /// The faults in reading order, each once; `None` where there is none.
    pub(super) fn collect(mut faults: Vec<Fault>) -> Option<Self> {
        faults.sort();
        faults.dedup();
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each fault.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// These and `others`, each fault once.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self.0.sort();
        self.0.dedup();
        self
    }
}

impl From<Fault> for ConfigFaults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

/// One fault a line, without a line break at the end.
impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().take(LISTED_MAX).enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        match self.0.len().saturating_sub(LISTED_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigFaults {}

/// A text from the configuration as a fault shows it: quoted, on one line, and only its length where it is long.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    if text.chars().count() > SHOWN_MAX { format!("a text of {} bytes", text.len()) } else { format!("{text:?}") }
}

/// A key from the configuration as a fault shows it: unchanged where it could be a key, otherwise like any text.
pub(super) fn shown_key(key: &str) -> String {
    let plain = !key.is_empty() && key.len() <= 60 && key.chars().all(|c| c.is_alphanumeric() || "_-.<".contains(c));
    if plain { key.into() } else { shown(key) }
}
