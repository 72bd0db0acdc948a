//! `netring reload`: makes a daemon reload its configuration and reports the result.
//!
//! The units run it as ExecReload=, so that `systemctl reload` returns when the new configuration is in force and fails if it
//! was refused. [`crate::host::reload`] explains how the daemon reports the result.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;
use crate::host::reload::{Outcome, Record, runtime_directory};

use super::{Exit, complain};

/// How long a daemon may take from its start until it writes its first record.
const FIRST_RECORD: Duration = Duration::from_secs(5);

/// How long the whole reload may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How often the file is read.
const POLL: Duration = Duration::from_millis(20);

/// Reloads the daemon with this process id, or with the one in `$MAINPID`.
pub(super) fn run(pid: Option<u32>, out: &mut dyn Write) -> io::Result<Exit> {
    let outcome = process_id(pid).and_then(|pid| {
        let directory = runtime_directory().ok_or(
            "expected the runtime directory of the daemon in $RUNTIME_DIRECTORY, such as /run/netring-member, got nothing; \
             systemctl reload sets it",
        )?;
        reload(pid, &directory, clock::monotonic() + LIMIT)
    });
    match outcome {
        Ok(Outcome::InForce { waiting }) if waiting.is_empty() => {
            writeln!(out, "the new configuration is in force")?;
            Ok(Exit::Ok)
        }
        Ok(Outcome::InForce { waiting }) => {
            writeln!(
                out,
                "the new configuration is in force, except for changes that need a restart: {}",
                waiting.join(", ")
            )?;
            Ok(Exit::Ok)
        }
        Ok(Outcome::Refused { why }) => {
            complain(format_args!("new configuration refused, the old one stays in force: {why}"));
            Ok(Exit::Config)
        }
        Err(problem) => {
            complain(format_args!("cannot reload: {problem}"));
            Ok(Exit::Unavailable)
        }
    }
}

fn process_id(pid: Option<u32>) -> Result<u32, String> {
    if let Some(pid) = pid {
        return Ok(pid);
    }
    let named = std::env::var("MAINPID").unwrap_or_default();
    named.parse().ok().filter(|pid| (1..=i32::MAX as u32).contains(pid)).ok_or_else(|| {
        let got = if named.is_empty() { "nothing".into() } else { format!("{named:?}") };
        format!("expected the process id of the daemon, as PID or in $MAINPID, got {got}")
    })
}

fn reload(pid: u32, directory: &Path, deadline: Instant) -> Result<Outcome, String> {
    // SIGHUP would end a daemon that has not installed its handlers yet, and most other programs. A record shows that the
    // process is a daemon with handlers.
    let first_record = deadline.min(clock::monotonic() + FIRST_RECORD);
    let no_record = || {
        format!(
            "there is no reload record of process {pid} in {}; expected a netring daemon with this runtime directory",
            directory.display()
        )
    };
    let before = wait(pid, directory, first_record, |_| true).map_err(|e| e.unwrap_or_else(no_record))?;
    send(pid, Signal::SIGHUP)?;
    let ended = |record: &Record| record.ended > before.begun;
    let timeout = || format!("process {pid} has not finished the reload within {} s", LIMIT.as_secs());
    let record = wait(pid, directory, deadline, ended).map_err(|e| e.unwrap_or_else(timeout))?;
    record.last.ok_or_else(|| format!("the reload record of process {pid} has no result"))
}

/// Waits for a record of this process that meets the condition. The error is `None` if the deadline has passed.
fn wait(
    pid: u32,
    directory: &Path,
    deadline: Instant,
    condition: impl Fn(&Record) -> bool,
) -> Result<Record, Option<String>> {
    loop {
        let record = Record::read(directory)
            .map_err(|e| format!("cannot read the reload record in {}: {e}", directory.display()))?;
        if let Some(record) = record.filter(|record| record.pid == pid && condition(record)) {
            return Ok(record);
        }
        send(pid, None)?;
        if clock::monotonic() >= deadline {
            return Err(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Sends a signal; with `None` it only checks that the process exists.
fn send(pid: u32, signal: impl Into<Option<Signal>>) -> Result<(), String> {
    let number = i32::try_from(pid).expect("process ids have been checked to fit");
    kill(Pid::from_raw(number), signal).map_err(|e| match e {
        Errno::ESRCH => format!("there is no process {pid}"),
        e => format!("cannot send a signal to process {pid}: {}", e.desc()),
    })
}
