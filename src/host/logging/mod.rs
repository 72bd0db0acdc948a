//! What the daemon says of itself, and where it goes.
//!
//! Three forms: the journal's own protocol, with each field as a journal field (`NETRING_LOCATION=`), when stderr is the
//! journal; one JSON object a line; or text for people. Events carry their facts as fields, not in the message; the house
//! uses `location`, `instance`, `target_location`, `target`, `check` and `reason`, and `event` for the kinds of [`events`].
//! Spans are not used and not shown. A thread of its own writes, so that a log that is not taken holds nobody up.
//!
//! Whatever a field holds, an event stays one line: names and texts from the network cannot forge another.
//! The level can change while running ([`Logging::set_level`]); the form cannot.

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

pub use background::LastWords;

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Something in this process logs already.
    #[error("cannot start logging: it has been started before")]
    Started,
}

/// The running log.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
}

type Output = Box<dyn Layer<Layered<reload::Layer<Targets, Registry>, Registry>> + Send + Sync>;

/// Starts logging for the whole process, to the journal or to stderr. `role` is the daemon's, such as `member`; the journal
/// shows it as `netring-member`. `pulse` is marked by the thread that writes. Whoever ends the process drops [`LastWords`]
/// before.
///
/// # Errors
///
/// Logging has been started before.
pub fn start(settings: &LogSettings, role: &'static str, pulse: Pulse) -> Result<(Logging, LastWords), LogError> {
    let (filter, handle) = reload::Layer::new(settings.level.targets());
    let (output, background) = output(settings.format, role, pulse);
    tracing_subscriber::registry().with(filter).with(output).try_init().map_err(|_| LogError::Started)?;
    Ok((Logging { filter: handle }, LastWords { background }))
}

impl Logging {
    /// Sets which events are logged from now on.
    pub fn set_level(&self, level: &LogLevel) {
        self.filter
            .reload(level.targets())
            .expect("the subscriber lives as long as the process and its lock is never poisoned");
    }
}

/// What events go through, and the way to the thread that writes them.
fn output(format: LogFormat, role: &'static str, pulse: Pulse) -> (Output, Option<Background>) {
    let form = match format {
        LogFormat::Json => Form::Json,
        LogFormat::Auto | LogFormat::Text => Form::Text { colour: stderr_shows_colour() },
    };
    let direct = move || Lines::new(form, to_stderr);
    let to_journal = format == LogFormat::Auto && stderr_is_journal();
    let started = if to_journal {
        // A journal that cannot be reached still reads stderr.
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
            let way = background.clone();
            let lines = Lines::new(form, move |line: &str| way.put(Entry::Line(line.into())));
            (Box::new(lines), Some(background))
        }
        // A host without a thread to spare has its log written by whoever has something to say.
        Err(_) => (Box::new(direct()), None),
    }
}

/// Whether stderr is the journal, as systemd.exec(5) says to find out: `JOURNAL_STREAM` holds its device and inode.
#[must_use]
pub fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    // SAFETY: descriptor 2 is only looked at, and `ManuallyDrop` keeps it from being closed.
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
