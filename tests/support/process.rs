//! One child process: its output in a file, its signals by id, its end by a deadline, and never left behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{Scratch, eventually};

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in the file `name.log` of `scratch`, after what an earlier one wrote there.
    #[must_use]
    pub fn start(command: &mut Command, scratch: &Scratch, name: &str) -> Self {
        Self::start_reading(command, Stdio::null(), scratch, name)
    }

    /// Starts `command` likewise, with something to type on.
    #[must_use]
    pub fn start_with_keyboard(command: &mut Command, scratch: &Scratch, name: &str) -> (Self, ChildStdin) {
        let mut process = Self::start_reading(command, Stdio::piped(), scratch, name);
        let keyboard = process.child.stdin.take().expect("its input is a pipe");
        (process, keyboard)
    }

    /// Starts `command` likewise, with `input` as its descriptor 0.
    #[must_use]
    pub fn start_reading(command: &mut Command, input: Stdio, scratch: &Scratch, name: &str) -> Self {
        let log = scratch.path().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log file can be opened");
        let child = command
            .stdin(input)
            .stdout(file.try_clone().expect("a log file can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { child, log }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(self.id())
    }

    /// Where its output goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("a process id fits its type");
        // SAFETY: kill(2) takes two numbers. The child has not been waited for, or its status is kept by `Child` and
        // `ended` says so first, so the id is still its own.
        let sent = unsafe { libc::kill(id, signal) };
        assert_eq!(sent, 0, "signal {signal} to {id}: {}", std::io::Error::last_os_error());
    }

    /// Its exit status, where it has ended.
    #[must_use]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end; fails the test with its log where that takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log.clone();
        let running = || format!("it runs; its log:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        eventually(limit, "the process ends", || self.ended().ok_or_else(running))
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(libc::SIGKILL);
            self.child.wait().expect("a killed child ends");
        }
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time of all its threads, those that have ended too, in user space and in the kernel; to 10 ms.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}

impl Usage {
    /// Of the process with this id, which must run (proc(5), `stat` and `statm`).
    #[must_use]
    pub fn of(id: u32) -> Self {
        /// `USER_HZ`, the same on every Linux of today.
        const TICKS_A_SECOND: u64 = 100;
        /// The page size of x86-64, and of ARM64 as Debian has it.
        const PAGE: u64 = 4096;
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).expect("the process runs");
        let number = |text: Option<&str>| -> u64 { text.and_then(|t| t.parse().ok()).expect("proc(5) has it here") };
        let stat = read("stat");
        // The second field is the name in parentheses, which may hold anything; what follows starts with the third.
        let mut after_name = stat.rsplit(')').next().expect("a name in parentheses").split_whitespace().skip(11);
        let ticks = number(after_name.next()) + number(after_name.next());
        let resident = number(read("statm").split_whitespace().nth(1)) * PAGE;
        Self { cpu: Duration::from_millis(ticks * 1000 / TICKS_A_SECOND), resident }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
