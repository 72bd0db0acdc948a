//! The results of configuration reloads.
//!
//! SIGHUP has no reply. A daemon therefore writes a record to the file `reload` in its runtime directory
//! (`$RUNTIME_DIRECTORY`, systemd.exec(5)): how many reloads it has begun, how many have ended, and how the last one ended.
//! `netring reload` reads the record, sends SIGHUP, and waits until a reload has ended that had not begun when it read the
//! record. That reload has read the current configuration, even if several requests were merged into one signal. The file is
//! replaced atomically. Without a runtime directory only the metrics are kept.

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
    /// The new configuration is in force, except for the keys that only take effect after a restart.
    InForce {
        /// Those keys.
        waiting: Vec<String>,
    },
    /// The new configuration has errors; the old one stays in force.
    Refused {
        /// Every error, one per line.
        why: String,
    },
}

/// A daemon's record of its reloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The daemon's process id.
    pub pid: u32,
    /// How many reloads have begun.
    pub begun: u64,
    /// How many of them have ended.
    pub ended: u64,
    /// How the last one ended; `None` before the first.
    pub last: Option<Outcome>,
}

impl Record {
    /// Reads the record in this runtime directory; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The file cannot be read or parsed.
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

/// The reloads of one daemon, with their metric families. Clones share their state.
#[derive(Clone, Debug)]
pub struct Reloads {
    state: Arc<Mutex<State>>,
    successful: IntGauge,
    success_timestamp: Gauge,
}

#[derive(Debug)]
struct State {
    record: Record,
    directory: Option<PathBuf>,
    /// When the current configuration was put in force, in seconds since the epoch.
    in_force_since: u64,
}

impl Reloads {
    /// No reloads yet: the configuration of the start is in force since now. The record is written to `directory`.
    #[must_use]
    pub fn new(directory: Option<PathBuf>) -> Self {
        let record = Record { pid: std::process::id(), begun: 0, ended: 0, last: None };
        let state = State { record, directory, in_force_since: clock::wall().epoch_seconds() };
        state.write_record();
        let successful = IntGauge::new(
            "netring_config_last_reload_successful",
            "Whether the last reload of the configuration succeeded (1) or was refused, so that the old one stays in force (0).",
        );
        let success_timestamp = Gauge::new(
            "netring_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was loaded, in seconds since the epoch.",
        );
        Self {
            state: Arc::new(Mutex::new(state)),
            successful: successful.expect("the name and the text are valid"),
            success_timestamp: success_timestamp.expect("the name and the text are valid"),
        }
    }

    /// Records that a reload begins. Must be called before the configuration is read.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.record.begun += 1;
        state.write_record();
    }

    /// Records how a reload ended.
    pub fn end(&self, outcome: Outcome) {
        let mut state = self.lock();
        if matches!(outcome, Outcome::InForce { .. }) {
            state.in_force_since = clock::wall().epoch_seconds();
        }
        state.record.ended = state.record.begun;
        state.record.last = Some(outcome);
        state.write_record();
    }

    /// Whether the last one was refused, so that the settings in the file are not those in force.
    #[must_use]
    pub fn refused(&self) -> bool {
        matches!(self.lock().record.last, Some(Outcome::Refused { .. }))
    }

    /// When the current configuration was put in force, in seconds since the epoch.
    #[must_use]
    pub fn in_force_since(&self) -> u64 {
        self.lock().in_force_since
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

impl State {
    fn write_record(&self) {
        let Some(directory) = &self.directory else { return };
        if let Err(error) = self.record.write(directory) {
            let path = directory.join(FILE);
            tracing::warn!(file = %path.display(), %error, "cannot write the result of a reload");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(directory: &Path) -> Record {
        Record::read(directory).unwrap().unwrap()
    }

    #[test]
    fn the_record_counts_reloads_and_holds_the_result_of_the_last_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(Record::read(path).unwrap(), None);
        let reloads = Reloads::new(Some(path.into()));
        let (pid, why) = (std::process::id(), "file:1:1: wrong\nfile:2:1: also wrong".to_owned());
        assert_eq!(read(path), Record { pid, begun: 0, ended: 0, last: None });
        reloads.begin();
        assert_eq!(read(path), Record { pid, begun: 1, ended: 0, last: None });
        reloads.end(Outcome::Refused { why: why.clone() });
        assert_eq!(read(path), Record { pid, begun: 1, ended: 1, last: Some(Outcome::Refused { why }) });
        reloads.begin();
        let in_force = Outcome::InForce { waiting: vec!["member.server".into()] };
        reloads.end(in_force.clone());
        assert_eq!(read(path), Record { pid, begun: 2, ended: 2, last: Some(in_force) });
        let left: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FILE]);
    }

    #[test]
    fn a_refusal_lasts_until_a_reload_succeeds_and_leaves_the_time_as_it_was() {
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
    fn an_unwritable_directory_does_not_stop_a_reload() {
        let reloads = Reloads::new(Some("/nonexistent/netring".into()));
        reloads.begin();
        reloads.end(Outcome::Refused { why: String::new() });
        assert!(reloads.refused());
    }
}
