//! What is wrong with a configuration, and where: one sentence a fault, all faults of a run together.
//!
//! The text is the interface: `FILE:LINE:COLUMN: key.path: expected ..., got ...`, so that an editor can jump to it and
//! an operator needs no second look. A faulty variable is named instead of a place in a file. No fault ever shows a
//! secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// How many faults a report spells out; a file of garbage has no more to say after that.
const SPELLED_OUT: usize = 50;

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
    /// In a file, at a position unless the file as a whole is meant.
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
    /// What would be right and what was there, as one lower-case clause.
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
        for (n, fault) in self.0.iter().take(SPELLED_OUT).enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        match self.0.len().saturating_sub(SPELLED_OUT) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigFaults {}

/// A text from outside as a fault shows it: in quotes, on one line, never long.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    if text.chars().count() > SHOWN_MAX { format!("a text of {} bytes", text.len()) } else { format!("{text:?}") }
}

/// A key from outside as a fault shows it: as it is where it could be a key, otherwise like any text.
pub(super) fn shown_key(key: &str) -> String {
    let plain = !key.is_empty() && key.len() <= 60 && key.chars().all(|c| c.is_alphanumeric() || "_-.<".contains(c));
    if plain { key.into() } else { shown(key) }
}
