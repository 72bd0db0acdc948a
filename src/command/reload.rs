//! `netring reload`: has a daemon read its configuration again, and tells what became of it.
//!
//! It is what the units run as ExecReload=, so that `systemctl reload` returns when the new configuration is in force and
//! fails where it was refused. How the answer comes is explained at [`crate::host::reload`].

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;
use crate::host::reload::{Outcome, Word, runtime_directory};

use super::{Exit, complain};

/// How long a daemon that starts may take to give its first word.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// How long the reload may take in all.
const LIMIT: Duration = Duration::from_secs(20);

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Reloads the daemon with this process id, or that of `$MAINPID`.
pub(super) fn run(pid: Option<u32>, out: &mut dyn Write) -> io::Result<Exit> {
    let outcome = whom(pid).and_then(|pid| {
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
                "the new configuration is in force; these changes wait for a restart: {}",
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

fn whom(pid: Option<u32>) -> Result<u32, String> {
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
    // A signal to a daemon that has given no word yet might end it, and one to a stranger surely.
    let first_word = deadline.min(clock::monotonic() + FIRST_WORD);
    let silence = || {
        format!(
            "process {pid} has left no word in {}: it is no netring daemon of that runtime directory",
            directory.display()
        )
    };
    let before = wait(pid, directory, first_word, |_| true).map_err(|e| e.unwrap_or_else(silence))?;
    send(pid, Signal::SIGHUP)?;
    let answered = |word: &Word| word.ended > before.begun;
    let silence = || format!("process {pid} has not answered within {} s", LIMIT.as_secs());
    let word = wait(pid, directory, deadline, answered).map_err(|e| e.unwrap_or_else(silence))?;
    word.last.ok_or_else(|| format!("process {pid} does not say what became of it"))
}

/// Waits for a word of this process that is as wanted. The error is none where the time is over.
fn wait(pid: u32, directory: &Path, deadline: Instant, wanted: impl Fn(&Word) -> bool) -> Result<Word, Option<String>> {
    loop {
        let word = Word::read(directory)
            .map_err(|e| format!("the daemon's word in {} cannot be read: {e}", directory.display()))?;
        if let Some(word) = word.filter(|word| word.pid == pid && wanted(word)) {
            return Ok(word);
        }
        send(pid, None)?;
        if clock::monotonic() >= deadline {
            return Err(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Sends a signal; none asks whether the process is there.
fn send(pid: u32, signal: impl Into<Option<Signal>>) -> Result<(), String> {
    let number = i32::try_from(pid).expect("process ids have been checked to fit");
    kill(Pid::from_raw(number), signal).map_err(|e| match e {
        Errno::ESRCH => format!("there is no process {pid}"),
        e => format!("process {pid} takes no signal from here: {}", e.desc()),
    })
}
