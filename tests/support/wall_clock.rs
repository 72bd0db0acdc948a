//! A wall clock that a test sets: processes started under it read the machine's time moved by what the test says, now and
//! later, and their monotonic clock is the machine's.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::{Scratch, skip};

/// A wall clock. Its clones are the same clock.
#[derive(Clone, Debug)]
pub struct WallClock {
    library: PathBuf,
    // The processes read how far it is off from a file in here.
    scratch: Arc<Scratch>,
}

impl WallClock {
    /// One that shows the machine's time for now; `None`, with the skip said, where Debian's package `libfaketime` is not
    /// installed.
    #[must_use]
    pub fn new() -> Option<Self> {
        let Some(library) = library() else {
            skip("libfaketime is not installed");
            return None;
        };
        let clock = Self { library, scratch: Arc::new(Scratch::new()) };
        clock.set_off(0);
        Some(clock)
    }

    /// Moves it to this many seconds off the machine's time, in one jump. Whoever runs under it sees that at once.
    pub fn set_off(&self, seconds: i64) {
        // By a rename, so that no reader finds a file half written.
        let new = self.scratch.file("off.new", &format!("{seconds:+}\n"));
        std::fs::rename(new, self.file()).expect("a file can be renamed in its directory");
    }

    fn file(&self) -> PathBuf {
        self.scratch.path().join("off")
    }

    /// Lets a process that is to be started run under it.
    ///
    /// The C library follows in the list so that its malloc goes before jemalloc's, which Redis is linked with: jemalloc asks for
    /// the time before it can give memory, and libfaketime for memory before it can tell the time.
    pub fn govern(&self, command: &mut Command) {
        let mut libraries = self.library.clone().into_os_string();
        libraries.push(":libc.so.6");
        let settings: [(&str, OsString); 4] = [
            ("LD_PRELOAD", libraries),
            ("FAKETIME_TIMESTAMP_FILE", self.file().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ];
        command.envs(settings);
    }
}

/// The library for programs with threads, where Debian puts it: in a directory per architecture.
fn library() -> Option<PathBuf> {
    let architectures = std::fs::read_dir("/usr/lib").ok()?.flatten();
    architectures.map(|directory| directory.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
}
