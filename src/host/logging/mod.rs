//! The daemon's log: its formats and destinations.
//!
//! There are three formats: the native protocol of the journal, with each field as a journal field (`NETRING_LOCATION=`), if
//! stderr is connected to the journal; one JSON object per line; or text for people. Events carry their details as fields,
//! not in the message. The common fields are `location`, `instance`, `target_location`, `target`, `check` and `reason`, and
//! `event` for the kinds of [`events`]. Spans are not used and not shown. A separate thread writes, so that a log that cannot
//! be written blocks nobody.
//!
//! An event is always one line, whatever its fields contain: text from the network cannot forge a second line.
//! The level can change at run time ([`Logging::set_level`]); the format cannot.

mod background;
pub mod events;
mod journal;
mod lines;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogFormat, LogLevel, LogSettings};
use crate::host::vitals::Pulse;
use background::{Background, Direct, Entry, Handover, to_stderr};
use journal::Journal;
use lines::{Form, Lines};

pub use background::FlushGuard;

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Logging is already running in this process.
    #[error("cannot start logging: it has been started before")]
    Started,
}

/// The running log.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
}

type Output = Box<dyn Layer<Layered<reload::Layer<Targets, Registry>, Registry>> + Send + Sync>;

/// Starts logging for the whole process, to the journal or to stderr. `role` is that of the daemon, such as `member`; the
/// journal shows it as `netring-member`. The log thread marks `pulse`. The caller drops the [`FlushGuard`] before it ends the
/// process.
///
/// # Errors
///
/// Logging has been started before.
pub fn start(settings: &LogSettings, role: &'static str, pulse: Pulse) -> Result<(Logging, FlushGuard), LogError> {
    let (filter, handle) = reload::Layer::new(settings.level.targets());
    let (output, background) = output(settings.format, role, pulse);
    tracing_subscriber::registry().with(filter).with(output).try_init().map_err(|_| LogError::Started)?;
    Ok((Logging { filter: handle }, FlushGuard { background }))
}

impl Logging {
    /// Sets which events are logged from now on.
    pub fn set_level(&self, level: &LogLevel) {
        self.filter
            .reload(level.targets())
            .expect("the subscriber lives as long as the process and its lock is never poisoned");
    }
}

/// The layer that formats events, and the log thread that writes them.
fn output(format: LogFormat, role: &'static str, pulse: Pulse) -> (Output, Option<Background>) {
    let form = match format {
        LogFormat::Json => Form::Json,
        LogFormat::Auto | LogFormat::Text => Form::Text { colour: stderr_shows_colour() },
    };
    let direct = move || Lines::new(form, to_stderr);
    let to_journal = format == LogFormat::Auto && stderr_is_journal();
    let started = if to_journal {
        // If the journal's socket cannot be opened, the journal still reads stderr.
        Background::start(
            pulse,
            move || Journal::open(role).map_or_else(|_| Box::new(direct()) as Direct, |it| Box::new(it)),
            to_stderr,
        )
    } else {
        Background::start(pulse, move || Box::new(direct()), to_stderr)
    };
    match started {
        Ok(background) if to_journal => (Box::new(Handover(background.clone())), Some(background)),
        Ok(background) => {
            let thread = background.clone();
            let lines = Lines::new(form, move |line: &str| thread.send(Entry::Line(line.into())));
            (Box::new(lines), Some(background))
        }
        // Without a log thread, each thread writes its own events.
        Err(_) => (Box::new(direct()), None),
    }
}

/// Whether stderr is connected to the journal: `JOURNAL_STREAM` holds the journal's device and inode (systemd.exec(5)).
#[must_use]
pub fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    // SAFETY: descriptor 2 is only passed to fstat(2), and `ManuallyDrop` keeps it from being closed.
    let stderr = ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDERR_FILENO) });
    stderr.metadata().is_ok_and(|found| names(&stream, found.dev(), found.ino()))
}

fn names(journal_stream: &str, device: u64, inode: u64) -> bool {
    journal_stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

/// Whether stderr is a terminal whose user wants colour (no-color.org).
fn stderr_shows_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests;
