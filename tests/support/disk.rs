//! A disk that hangs: what a process wants to be sure of is not written until it is told so (fsync(2), fdatasync(2)).

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::{Scratch, preload};

/// A disk that can hang. Its clones are the same disk. One that is dropped hangs no longer.
#[derive(Clone, Debug)]
pub struct HangingDisk {
    library: PathBuf,
    // It hangs while there is a file in here.
    scratch: Arc<Scratch>,
}

impl HangingDisk {
    /// One that works for now; `None`, with the skip said, without a C compiler.
    #[must_use]
    pub fn new() -> Option<Self> {
        let scratch = Scratch::new();
        let library = preload::build(&scratch)?;
        Some(Self { library, scratch: Arc::new(scratch) })
    }

    /// Lets a process that is to be started use this disk for all its files.
    pub fn govern(&self, command: &mut Command) {
        preload::govern(command, &self.library, "NETRING_TEST_DISK", &self.file());
    }

    /// From now on nothing is written.
    pub fn hang(&self) {
        let _ = self.scratch.file("hangs", "");
    }

    /// It works again, and what was waiting goes on.
    pub fn recover(&self) {
        std::fs::remove_file(self.file()).expect("it hangs");
    }

    fn file(&self) -> PathBuf {
        self.scratch.path().join("hangs")
    }
}
