//! Reads and parses a configuration file. What its keys mean is decided in `source` and `load`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::fault::{ConfigFaults, Fault, Position};
use super::form::got;
use super::settings::Role;
use super::yaml::{self, Content, Entry, Flaw};

/// The largest file that is read, in bytes.
const BYTES_MAX: u64 = 1024 * 1024;

/// A configuration file whose text is YAML. Faults that leave its structure readable, such as a key that is there
/// twice, are kept and reported together with those of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) root: Vec<Entry>,
    pub(super) faults: Vec<Fault>,
}

impl ConfigFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// One fault where the file cannot be read, is larger than 1 MiB, or is not UTF-8 or not YAML.
    pub fn read(path: &Path) -> Result<Self, ConfigFaults> {
        let text = read_text(path, BYTES_MAX).map_err(|e| match e {
            Unreadable::NotText(position) => Fault::at(path, position, "", e.to_string()),
            Unreadable::Io(_) | Unreadable::TooLong(_) => Fault::file(path, e.to_string()),
        })?;
        Self::parse(path, &text)
    }

    /// Takes `text` as the content of the file at `path`, which appears in faults and is not opened.
    ///
    /// # Errors
    ///
    /// One fault where the text is not YAML.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigFaults> {
        let fault = |flaw: Flaw| Fault::at(path, flaw.at, flaw.path, flaw.problem);
        let (root, flaws) = yaml::parse(text).map_err(fault)?;
        let mut faults: Vec<Fault> = flaws.into_iter().map(fault).collect();
        let root = match root.map(|node| (got(&node), node)) {
            None => Vec::new(),
            Some((got, node)) => match node.content {
                Content::Section(entries) => entries,
                Content::Null | Content::Refused => Vec::new(),
                _ => {
                    let problem = format!("expected the sections registry, member or log, got {got}");
                    faults.push(Fault::at(path, node.at, "", problem));
                    Vec::new()
                }
            },
        };
        Ok(Self { path: path.into(), root, faults })
    }

    /// The roles it has a section for.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| self.root.iter().any(|entry| entry.key == role.section())).collect()
    }
}

/// Why the text of a file cannot be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The system reported an error.
    Io(io::Error),
    /// It has more bytes than this.
    TooLong(u64),
    /// It is not UTF-8 from this place on.
    NotText(Position),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => {
                let text = error.to_string();
                write!(f, "cannot be read: {}", text.split(" (os error").next().unwrap_or(&text))
            }
            Self::TooLong(most) => write!(f, "is longer than {most} bytes"),
            Self::NotText(_) => f.write_str("is not UTF-8 from here on"),
        }
    }
}

/// The text of a file of at most `most` bytes.
pub(super) fn read_text(path: &Path, most: u64) -> Result<String, Unreadable> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)).map_err(Unreadable::Io)?;
    if bytes.len() as u64 > most {
        return Err(Unreadable::TooLong(most));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
        let line = valid.matches('\n').count() + 1;
        let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Unreadable::NotText(Position { line, column })
    })
}
