//! A host that is suspended, for the processes of a test: `CLOCK_BOOTTIME` and the wall clock go on meanwhile, and
//! `CLOCK_MONOTONIC` does not (clock_gettime(2)).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Scratch, preload};

/// A host that can be suspended. Its clones are the same host.
#[derive(Clone, Debug)]
pub struct Suspend {
    library: PathBuf,
    // The processes read for how long it was suspended from a file in here.
    scratch: Arc<Scratch>,
    total: Arc<Mutex<Duration>>,
}

impl Suspend {
    /// One that was not suspended yet; `None`, with the skip said, without a C compiler.
    #[must_use]
    pub fn new() -> Option<Self> {
        let scratch = Scratch::new();
        let library = preload::build(&scratch)?;
        let suspend = Self { library, scratch: Arc::new(scratch), total: Arc::default() };
        suspend.sleep_for(Duration::ZERO);
        Some(suspend)
    }

    /// Lets a process that is to be started run on this host.
    pub fn govern(&self, command: &mut Command) {
        preload::govern(command, &self.library, "NETRING_TEST_SUSPENDED", &self.file());
    }

    /// Suspends the host for this long. It is awake again when this returns, which is at once.
    pub fn sleep_for(&self, duration: Duration) {
        let mut total = self.total.lock().expect("no thread panics while it holds the sum");
        *total += duration;
        let nanoseconds = i64::try_from(total.as_nanos()).expect("less than 292 years");
        // In place and never shorter, because the processes have it mapped.
        let file = File::options().create(true).write(true).truncate(false).open(self.file());
        let written = file.and_then(|file| file.write_all_at(&nanoseconds.to_ne_bytes(), 0));
        written.expect("a temporary file can be written");
    }

    fn file(&self) -> PathBuf {
        self.scratch.path().join("suspended")
    }
}
