//! Resolves the name of the registry in the background.
//!
//! The system's resolver can take minutes if its name servers do not answer, and a call of it cannot be cancelled. So a thread
//! resolves the name, every [`REFRESH`], and at once if a connection has failed ([`Addresses::doubt`]). Callers get the last
//! good answer without waiting, even while the resolver hangs or fails, so that a member does not lose its lease because a name
//! server is down. Only before the first good answer do callers wait, up to a limit of their own.
//!
//! A name has one thread, so a call that hangs is never started a second time. The thread ends when the [`Addresses`] are
//! dropped, or, if the resolver hangs, when it gives up. If the host is an address, there is no thread. The watchdog supervises
//! the thread except while it waits for the resolver, because a restart would not make that faster.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, LockResult, Mutex, MutexGuard, PoisonError, WaitTimeoutResult};
use std::thread::Builder;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::lock;
use crate::clock;
use crate::host::vitals::Vitals;

/// How long an answer is used before the name is resolved again.
const REFRESH: Duration = Duration::from_secs(30);

/// How long the thread may take for anything but the resolver.
const LIMIT: Duration = Duration::from_secs(10);

/// The addresses of one host and port.
pub(super) struct Addresses {
    host: String,
    is_name: bool,
    refresh: Duration,
    vitals: Vitals,
    look_up: Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>,
    shared: Arc<Shared>,
}

/// What the thread shares with the callers.
struct Shared {
    state: Mutex<State>,
    /// A look-up has ended or is wanted, or the thread is to end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The last good answer; empty before the first.
    known: Vec<SocketAddr>,
    /// There is a thread.
    has_thread: bool,
    /// The name is to be resolved now.
    wanted: bool,
    /// The resolver is running.
    under_way: bool,
    /// The thread is to end.
    over: bool,
}

/// Why there is no address for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAddress {
    /// The resolver found none.
    Unknown,
    /// The resolver has not answered yet.
    Pending,
}

impl Addresses {
    /// The addresses of `host`, a name or an address. A name is resolved at the first call of [`Addresses::get`].
    pub(super) fn of(host: &str, port: u16, vitals: &Vitals) -> Self {
        let name = host.to_owned();
        Self::found_by(host, port, REFRESH, vitals, move || {
            (name.as_str(), port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
        })
    }

    fn found_by(
        host: &str,
        port: u16,
        refresh: Duration,
        vitals: &Vitals,
        look_up: impl Fn() -> Vec<SocketAddr> + Send + Sync + 'static,
    ) -> Self {
        let address = host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port));
        let state = State { known: Vec::from_iter(address), ..State::default() };
        Self {
            host: host.to_owned(),
            is_name: address.is_none(),
            refresh,
            vitals: vitals.clone(),
            look_up: Arc::new(look_up),
            shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }),
        }
    }

    /// The host as given.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The last good answer. Before there is one, waits for it, at most `within`.
    pub(super) fn get(&self, within: Duration) -> Result<Vec<SocketAddr>, NoAddress> {
        let mut state = lock(&self.shared.state);
        if state.known.is_empty() {
            self.want(&mut state);
            let waiting = |state: &mut State| state.known.is_empty() && (state.wanted || state.under_way);
            state = ignore_poison(self.shared.changed.wait_timeout_while(state, within, waiting));
        }
        match &state.known[..] {
            [] if state.wanted || state.under_way => Err(NoAddress::Pending),
            [] => Err(NoAddress::Unknown),
            known => Ok(known.to_vec()),
        }
    }

    /// The last good answer; empty before the first.
    pub(super) fn known(&self) -> Vec<SocketAddr> {
        lock(&self.shared.state).known.clone()
    }

    /// Resolves the name again now, because a connection to its addresses failed.
    pub(super) fn doubt(&self) {
        let mut state = lock(&self.shared.state);
        // Without an answer, the next call of `get` resolves the name anyway.
        if !state.known.is_empty() {
            self.want(&mut state);
        }
    }

    fn want(&self, state: &mut State) {
        // The answer of a running look-up is as good as a new one.
        if !self.is_name || state.under_way {
            return;
        }
        if !state.has_thread {
            let (host, refresh, vitals) = (self.host.clone(), self.refresh, self.vitals.clone());
            let (look_up, shared) = (Arc::clone(&self.look_up), Arc::clone(&self.shared));
            let thread = Builder::new().name("netring-resolve".into());
            // If no thread can be created now, the next caller tries again.
            state.has_thread = thread.spawn(move || keep_current(&host, &*look_up, refresh, &vitals, &shared)).is_ok();
        }
        state.wanted = state.has_thread;
        self.shared.changed.notify_all();
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        lock(&self.shared.state).over = true;
        self.shared.changed.notify_all();
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses").field("host", &self.host).finish_non_exhaustive()
    }
}

/// The loop of the thread.
fn keep_current(
    host: &str,
    look_up: &dyn Fn() -> Vec<SocketAddr>,
    refresh: Duration,
    vitals: &Vitals,
    shared: &Shared,
) {
    let pulse = vitals.add("name resolver", LIMIT);
    let mut failing = false;
    let mut state = lock(&shared.state);
    while !state.over {
        (state.wanted, state.under_way) = (false, true);
        drop(state);
        pulse.mark_away();
        let found = look_up();
        pulse.mark();
        state = lock(&shared.state);
        state.under_way = false;
        let lost = found.is_empty() && !state.known.is_empty();
        if lost && !failing {
            warn!(host, "cannot resolve the name of the registry; using the last known addresses");
        } else if failing && !found.is_empty() {
            info!(host, "the name of the registry can be resolved again");
        }
        failing = lost;
        if !found.is_empty() {
            debug!(host, addresses = ?found, "resolved the name of the registry");
            state.known = found;
        }
        shared.changed.notify_all();
        let idle = |state: &mut State| !state.wanted && !state.over;
        let due = clock::monotonic() + refresh;
        let mut left = refresh;
        while idle(&mut state) && !left.is_zero() {
            state = ignore_poison(shared.changed.wait_timeout_while(state, left.min(pulse.idle()), idle));
            pulse.mark();
            left = due.saturating_duration_since(clock::monotonic());
        }
    }
    // The thread ends as intended.
    pulse.mark_away();
}

/// The lock after a wait, even if another holder of it panicked, as in [`lock`].
fn ignore_poison<'a, T>(waited: LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>) -> MutexGuard<'a, T> {
    waited.unwrap_or_else(PoisonError::into_inner).0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A resolver that reports the start of each look-up and answers it with the next value sent to it.
    fn prompted(refresh: Duration) -> (Addresses, Receiver<()>, Sender<Vec<SocketAddr>>) {
        prompted_on(&Vitals::new(), refresh)
    }

    fn prompted_on(vitals: &Vitals, refresh: Duration) -> (Addresses, Receiver<()>, Sender<Vec<SocketAddr>>) {
        let (began, begins) = channel();
        let (answers, answer) = channel();
        let answer = Mutex::new(answer);
        let addresses = Addresses::found_by("registry.ring.test", 80, refresh, vitals, move || {
            let _ = began.send(());
            lock(&answer).recv().unwrap_or_default()
        });
        (addresses, begins, answers)
    }

    fn at(last: u8) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([10, 0, 0, last], 80))]
    }

    /// Waits until the addresses are these.
    fn becomes(addresses: &Addresses, wanted: &[SocketAddr]) {
        let state = lock(&addresses.shared.state);
        let state =
            ignore_poison(addresses.shared.changed.wait_timeout_while(state, LONG, |state| state.known != wanted));
        assert_eq!(state.known, wanted);
    }

    #[test]
    fn an_address_needs_no_resolver() {
        let addresses = Addresses::found_by("2001:db8::1", 80, HOUR, &Vitals::new(), || panic!("nothing to look up"));
        addresses.doubt();
        assert_eq!(addresses.get(Duration::ZERO), Ok(vec!["[2001:db8::1]:80".parse().unwrap()]));
    }

    #[test]
    fn localhost_is_resolved_and_an_invalid_name_is_not() {
        let found = Addresses::of("localhost", 80, &Vitals::new()).get(LONG).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
        assert_eq!(Addresses::of("no such name", 80, &Vitals::new()).get(LONG), Err(NoAddress::Unknown));
    }

    #[test]
    fn a_resolver_that_hangs_delays_no_caller_and_is_started_once() {
        let (addresses, begins, answers) = prompted(HOUR);
        let moment = Duration::from_millis(1);
        assert_eq!(addresses.get(moment), Err(NoAddress::Pending));
        assert_eq!(addresses.get(moment), Err(NoAddress::Pending));
        addresses.doubt();
        answers.send(at(1)).unwrap();
        assert_eq!(addresses.get(LONG), Ok(at(1)));
        assert_eq!(begins.try_iter().count(), 1);
    }

    #[test]
    fn the_last_good_answer_is_kept_while_the_resolver_hangs_and_when_it_fails() {
        let (addresses, begins, answers) = prompted(HOUR);
        answers.send(at(1)).unwrap();
        assert_eq!(addresses.get(LONG), Ok(at(1)));
        addresses.doubt();
        begins.recv_timeout(LONG).unwrap();
        begins.recv_timeout(LONG).unwrap();
        assert_eq!(addresses.get(Duration::ZERO), Ok(at(1)), "it hangs");
        answers.send(Vec::new()).unwrap();
        // The failed one is over when another one begins.
        while begins.try_recv().is_err() {
            assert_eq!(addresses.get(Duration::ZERO), Ok(at(1)), "it failed");
            addresses.doubt();
        }
        answers.send(at(2)).unwrap();
        becomes(&addresses, &at(2));
    }

    #[test]
    fn a_name_is_resolved_again_on_schedule_even_if_nobody_asks() {
        let (addresses, _begins, answers) = prompted(Duration::from_millis(20));
        answers.send(at(1)).unwrap();
        assert_eq!(addresses.get(LONG), Ok(at(1)));
        answers.send(at(2)).unwrap();
        becomes(&addresses, &at(2));
    }

    #[test]
    fn a_name_without_an_address_is_resolved_again_for_each_caller() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let addresses = Addresses::found_by("registry.ring.test", 80, HOUR, &Vitals::new(), || {
            if ASKED.fetch_add(1, Ordering::SeqCst) == 0 { Vec::new() } else { at(1) }
        });
        assert_eq!(addresses.get(LONG), Err(NoAddress::Unknown));
        assert_eq!(addresses.get(LONG), Ok(at(1)));
    }

    #[test]
    fn the_watchdog_sees_a_stalled_thread_but_not_one_that_waits_for_the_resolver_or_has_ended() {
        let vitals = Vitals::new();
        let (addresses, begins, answers) = prompted_on(&vitals, HOUR);
        assert_eq!(addresses.get(Duration::from_millis(1)), Err(NoAddress::Pending));
        assert_eq!(begins.recv_timeout(LONG), Ok(()));
        assert_eq!(vitals.stalled_after(HOUR), None, "the resolver hangs");
        answers.send(at(1)).unwrap();
        assert_eq!(addresses.get(LONG), Ok(at(1)));
        assert!(vitals.stalled_after(LIMIT * 2).is_some(), "it sleeps, but not for so long without a mark");
        drop(addresses);
        assert_eq!(begins.recv_timeout(LONG), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
        assert_eq!(vitals.stalled_after(HOUR), None, "it has ended");
    }

    #[test]
    fn the_thread_ends_when_the_addresses_are_dropped() {
        let (addresses, begins, answers) = prompted(HOUR);
        answers.send(at(1)).unwrap();
        assert_eq!(addresses.get(LONG), Ok(at(1)));
        assert_eq!(begins.recv_timeout(LONG), Ok(()));
        drop(addresses);
        // The thread drops the resolver, and with it the other end of this channel.
        assert_eq!(begins.recv_timeout(LONG), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
