//! The result of each reload of the configuration, for the command that asked for it.
//!
//! A signal has no answer. So a daemon keeps the state of its reloads in the file `reload` of its runtime directory
//! (`$RUNTIME_DIRECTORY`, systemd.exec(5)): how many it has begun, how many have ended, and how the last one ended. `netring
//! reload` reads the file, sends SIGHUP, and waits until a reload has ended that had not begun when it read the file. That
//! reload has read the configuration as it is now, even where several commands ask at once and their signals are merged. The
//! file is replaced atomically. Without a runtime directory only the metrics are kept.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge};
use serde::{Deserialize, Serialize};

use crate::clock;

/// The file's name.
const FILE: &str = "reload";

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new configuration is in force, except for the keys that need a restart.
    InForce {
        /// Those keys.
        waiting: Vec<String>,
    },
    /// The new configuration is wrong and the old one stays in force.
    Refused {
        /// Every error, one per line.
        why: String,
    },
}

/// The state of a daemon's reloads, as the file holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The daemon's process.
    pub pid: u32,
    /// How many reloads have begun.
    pub begun: u64,
    /// How many of them have ended.
    pub ended: u64,
    /// How the last one ended; nothing before the first.
    pub last: Option<Outcome>,
}

impl Word {
    /// What the file in this runtime directory holds; `None` where there is no file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is invalid.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(directory.join(FILE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        let new = directory.join(format!(".{FILE}.new"));
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(&new, directory.join(FILE))
    }
}

/// The runtime directory: the first one that `$RUNTIME_DIRECTORY` names.
#[must_use]
pub fn runtime_directory() -> Option<PathBuf> {
    let list = std::env::var("RUNTIME_DIRECTORY").ok()?;
    list.split(':').find(|entry| !entry.is_empty()).map(PathBuf::from)
}

/// The reloads of one daemon, with their metric families. Clones share it.
#[derive(Clone, Debug)]
pub struct Reloads {
    standing: Arc<Mutex<Standing>>,
    successful: IntGauge,
    success_timestamp: Gauge,
}

#[derive(Debug)]
struct Standing {
    word: Word,
    directory: Option<PathBuf>,
    /// When the configuration in force was loaded, in seconds since the epoch.
    in_force_since: u64,
}

impl Reloads {
    /// No reload yet; the configuration in force is the one of the start, which is now. The state is kept in `directory`.
    #[must_use]
    pub fn new(directory: Option<PathBuf>) -> Self {
        let word = Word { pid: std::process::id(), begun: 0, ended: 0, last: None };
        let standing = Standing { word, directory, in_force_since: clock::wall().epoch_seconds() };
        standing.give_word();
        let successful = IntGauge::new(
            "netring_config_last_reload_successful",
            "Whether the last reload of the configuration took it up (1), or refused it and kept the one before (0).",
        );
        let success_timestamp = Gauge::new(
            "netring_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was taken up, in seconds since the epoch.",
        );
        Self {
            standing: Arc::new(Mutex::new(standing)),
            successful: successful.expect("the name and the text are valid"),
            success_timestamp: success_timestamp.expect("the name and the text are valid"),
        }
    }

    /// A reload begins. To be called before the configuration is read.
    pub fn begin(&self) {
        let mut standing = self.lock();
        standing.word.begun += 1;
        standing.give_word();
    }

    /// It has ended.
    pub fn end(&self, outcome: Outcome) {
        let mut standing = self.lock();
        if matches!(outcome, Outcome::InForce { .. }) {
            standing.in_force_since = clock::wall().epoch_seconds();
        }
        standing.word.ended = standing.word.begun;
        standing.word.last = Some(outcome);
        standing.give_word();
    }

    /// Whether the last reload was refused, so that the file holds settings that are not in force.
    #[must_use]
    pub fn refused(&self) -> bool {
        matches!(self.lock().word.last, Some(Outcome::Refused { .. }))
    }

    /// When the configuration in force was loaded, in seconds since the epoch.
    #[must_use]
    pub fn in_force_since(&self) -> u64 {
        self.lock().in_force_since
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Reloads {
    fn desc(&self) -> Vec<&Desc> {
        [self.successful.desc(), self.success_timestamp.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.successful.set(i64::from(!self.refused()));
        self.success_timestamp.set(self.in_force_since() as f64);
        [self.successful.collect(), self.success_timestamp.collect()].concat()
    }
}

impl Default for Reloads {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Standing {
    fn give_word(&self) {
        let Some(directory) = &self.directory else { return };
        if let Err(error) = self.word.write(directory) {
            let path = directory.join(FILE);
            tracing::warn!(file = %path.display(), %error, "cannot write down what became of a reload");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(directory: &Path) -> Word {
        Word::read(directory).unwrap().unwrap()
    }

    #[test]
    fn the_word_tells_what_has_begun_and_how_the_last_one_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(Word::read(path).unwrap(), None);
        let reloads = Reloads::new(Some(path.into()));
        let (pid, why) = (std::process::id(), "file:1:1: wrong\nfile:2:1: also wrong".to_owned());
        assert_eq!(read(path), Word { pid, begun: 0, ended: 0, last: None });
        reloads.begin();
        assert_eq!(read(path), Word { pid, begun: 1, ended: 0, last: None });
        reloads.end(Outcome::Refused { why: why.clone() });
        assert_eq!(read(path), Word { pid, begun: 1, ended: 1, last: Some(Outcome::Refused { why }) });
        reloads.begin();
        let in_force = Outcome::InForce { waiting: vec!["member.server".into()] };
        reloads.end(in_force.clone());
        assert_eq!(read(path), Word { pid, begun: 2, ended: 2, last: Some(in_force) });
        let left: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FILE]);
    }

    #[test]
    fn a_refusal_is_told_until_a_configuration_is_in_force_and_leaves_its_time() {
        let reloads = Reloads::default();
        let start = reloads.in_force_since();
        assert!(!reloads.refused() && start > 0);
        reloads.lock().in_force_since = 1;
        reloads.begin();
        reloads.end(Outcome::Refused { why: "wrong".into() });
        assert_eq!((reloads.refused(), reloads.in_force_since()), (true, 1));
        reloads.begin();
        assert!(reloads.refused(), "until the next one has ended");
        reloads.end(Outcome::InForce { waiting: Vec::new() });
        assert!(!reloads.refused() && reloads.in_force_since() >= start);
    }

    #[test]
    fn a_directory_that_cannot_be_written_stops_nothing() {
        let reloads = Reloads::new(Some("/nonexistent/netring".into()));
        reloads.begin();
        reloads.end(Outcome::Refused { why: String::new() });
        assert!(reloads.refused());
    }
}
