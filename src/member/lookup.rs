//! Looking a name up without being held up by it.
//!
//! The system's resolver can take minutes when its servers do not answer, and cannot be broken off. So each look-up runs on
//! a thread of its own, and whoever asks waits for it no longer than it wants to. A look-up that is still running is asked
//! again rather than started twice, so there is never more than one stray thread.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// The look-ups of one asker.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    host: String,
    port: u16,
    found: Receiver<Vec<SocketAddr>>,
}

/// Why a name has given no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAddress {
    /// The resolver says so.
    Unknown,
    /// The resolver has not answered yet.
    Pending,
}

impl Lookup {
    /// The addresses of `host`, a name or an address.
    pub(super) fn resolve(&mut self, host: &str, port: u16, within: Duration) -> Result<Vec<SocketAddr>, NoAddress> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        self.resolve_by(host, port, within, |host, port| {
            (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
        })
    }

    fn resolve_by(
        &mut self,
        host: &str,
        port: u16,
        within: Duration,
        resolver: fn(&str, u16) -> Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, NoAddress> {
        let running = match self.running.take().filter(|running| running.host == host && running.port == port) {
            Some(running) => running,
            None => {
                let (answer, found) = channel();
                let name = host.to_owned();
                let thread = std::thread::Builder::new().name("netring-resolve".into());
                // Nobody may be waiting for the answer any more.
                let spawned = thread.spawn(move || drop(answer.send(resolver(&name, port))));
                if spawned.is_err() {
                    return Err(NoAddress::Unknown);
                }
                Running { host: host.to_owned(), port, found }
            }
        };
        match running.found.recv_timeout(within) {
            Ok(found) if found.is_empty() => Err(NoAddress::Unknown),
            Ok(found) => Ok(found),
            Err(RecvTimeoutError::Timeout) => {
                self.running = Some(running);
                Err(NoAddress::Pending)
            }
            Err(RecvTimeoutError::Disconnected) => Err(NoAddress::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn an_address_needs_no_resolver() {
        let found = Lookup::default().resolve("2001:db8::1", 80, Duration::ZERO);
        assert_eq!(found, Ok(vec!["[2001:db8::1]:80".parse().unwrap()]));
    }

    #[test]
    fn a_name_of_this_host_is_found_and_a_senseless_one_is_not() {
        let found = Lookup::default().resolve("localhost", 80, Duration::from_secs(10)).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
        let found = Lookup::default().resolve("no such name", 80, Duration::from_secs(10));
        assert_eq!(found, Err(NoAddress::Unknown));
    }

    #[test]
    fn a_resolver_that_hangs_holds_nobody_up_and_is_started_once() {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let slow = |_: &str, port| {
            STARTED.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(300));
            vec![SocketAddr::from(([10, 0, 0, 1], port))]
        };
        let mut lookup = Lookup::default();
        let moment = Duration::from_millis(1);
        assert_eq!(lookup.resolve_by("slow", 80, moment, slow), Err(NoAddress::Pending));
        assert_eq!(lookup.resolve_by("slow", 80, moment, slow), Err(NoAddress::Pending));
        assert!(lookup.resolve_by("slow", 80, Duration::from_secs(10), slow).is_ok());
        assert_eq!(STARTED.load(Ordering::SeqCst), 1);
    }
}
