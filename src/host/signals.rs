//! The signals that a daemon handles.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Leave the ring and end: SIGTERM, or SIGINT from Ctrl-C.
    Stop,
    /// Read the configuration again: SIGHUP.
    Reload,
}

/// Receives the signals of this process. Their default action is replaced until the process ends.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    /// Installs the handlers. Must run inside a tokio runtime with its I/O driver enabled.
    ///
    /// # Errors
    ///
    /// The kernel refuses a handler or a descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hang_up: unix::signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. Several of one kind that arrived since the last call count once, and a stop goes before a
    /// reload. Cancelling this loses none.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn raise(signal: libc::c_int) {
        // SAFETY: sends a signal to this process, which has a handler for it.
        assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0);
    }

    // One test for all, because signals belong to the process.
    #[tokio::test]
    async fn each_signal_is_what_it_asks_for() {
        let mut signals = Signals::new().unwrap();
        for (signal, asked) in
            [(libc::SIGHUP, Signal::Reload), (libc::SIGTERM, Signal::Stop), (libc::SIGINT, Signal::Stop)]
        {
            raise(signal);
            assert_eq!(timeout(Duration::from_secs(10), signals.next()).await, Ok(asked), "signal {signal}");
        }
        assert!(timeout(Duration::from_millis(50), signals.next()).await.is_err(), "none is left over");
    }
}
