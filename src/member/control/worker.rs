//! A thread that makes blocking requests, one after the other, so that whoever asks for them need not wait.
//!
//! It is on the vitals: each piece of work says how long it may take. Dropping the handle ends the thread after the work it has.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::host::vitals::Vitals;

/// How long the thread may take for anything but its work.
const LIMIT: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

/// The thread, from outside.
pub(super) struct Worker {
    work: Sender<(Duration, Work)>,
}

impl Worker {
    /// Starts the thread `name`, known to the vitals as `title`.
    pub(super) fn start(name: &str, title: &'static str, vitals: &Vitals) -> io::Result<Self> {
        let (work, inbox) = channel::<(Duration, Work)>();
        let pulse = vitals.add(title, LIMIT);
        std::thread::Builder::new().name(name.into()).spawn(move || {
            loop {
                pulse.mark();
                match inbox.recv_timeout(pulse.idle()) {
                    Ok((longest, work)) => {
                        pulse.mark_for(longest);
                        work();
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            // Nobody asks any more.
            pulse.mark_away();
        })?;
        Ok(Self { work })
    }

    /// Does this, after what was asked for before, in at most `longest`.
    pub(super) fn run(&self, longest: Duration, work: impl FnOnce() + Send + 'static) {
        // A thread that has ended by a panic is missed on the vitals.
        let _ = self.work.send((longest, Box::new(work)));
    }
}
