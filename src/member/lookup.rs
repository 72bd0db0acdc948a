//! Where the registry is: the addresses of its name, kept fresh without holding anybody up.
//!
//! The system's resolver can take minutes when its servers do not answer, and cannot be broken off. So a name is looked up
//! by a thread of its own, its keeper: every [`REFRESH`], and at once where somebody who went there says that nothing
//! answered ([`Addresses::doubt`]). Whoever asks is given the last good answer and waits for nothing, also while the
//! resolver hangs or fails: a name server that is away costs no member its lease. Only as long as there has been no good
//! answer does one wait for it, and no longer than one wants to.
//!
//! A name has one keeper, so a look-up that hangs is never started a second time. The keeper ends when nobody asks any more,
//! which after a look-up that hangs is when the resolver gives up. An address needs no keeper and has none. The keeper is on the
//! vitals, the waits for the resolver left out: no restart makes that faster.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, LockResult, Mutex, MutexGuard, PoisonError, WaitTimeoutResult};
use std::thread::Builder;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::lock;
use crate::clock;
use crate::host::vitals::Vitals;

/// How long an answer is gone by before the name is looked up again.
const REFRESH: Duration = Duration::from_secs(30);

/// How long the keeper may take for anything but the resolver.
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

/// What the keeper shares with those who ask.
struct Shared {
    state: Mutex<State>,
    /// A look-up has ended, or is wanted, or the keeper is to end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The last good answer; empty before the first.
    known: Vec<SocketAddr>,
    /// There is a keeper.
    kept: bool,
    /// A look-up is to be made now.
    wanted: bool,
    /// A look-up is under way.
    under_way: bool,
    /// Nobody asks any more.
    over: bool,
}

/// Why a name has given no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAddress {
    /// The resolver says so.
    Unknown,
    /// The resolver has not answered yet.
    Pending,
}

impl Addresses {
    /// Of `host`, a name or an address. Nothing is looked up before somebody asks.
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

    /// The host, as it was named.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The addresses as last found; before the first good answer waits for one, at most `within`.
    pub(super) fn get(&self, within: Duration) -> Result<Vec<SocketAddr>, NoAddress> {
        let mut state = lock(&self.shared.state);
        if state.known.is_empty() {
            self.want(&mut state);
            let waiting = |state: &mut State| state.known.is_empty() && (state.wanted || state.under_way);
            state = calm(self.shared.changed.wait_timeout_while(state, within, waiting));
        }
        match &state.known[..] {
            [] if state.wanted || state.under_way => Err(NoAddress::Pending),
            [] => Err(NoAddress::Unknown),
            known => Ok(known.to_vec()),
        }
    }

    /// The addresses as last found; none before the first good answer.
    pub(super) fn known(&self) -> Vec<SocketAddr> {
        lock(&self.shared.state).known.clone()
    }

    /// Has the name looked up now, because nothing answered where it led.
    pub(super) fn doubt(&self) {
        let mut state = lock(&self.shared.state);
        // Where there is no answer to be doubted the next one to ask has the name looked up.
        if !state.known.is_empty() {
            self.want(&mut state);
        }
    }

    fn want(&self, state: &mut State) {
        // An answer that is still to come is as good as one that is asked for now.
        if !self.is_name || state.under_way {
            return;
        }
        if !state.kept {
            let (host, refresh, vitals) = (self.host.clone(), self.refresh, self.vitals.clone());
            let (look_up, shared) = (Arc::clone(&self.look_up), Arc::clone(&self.shared));
            let keeper = Builder::new().name("netring-resolve".into());
            // A host that is out of threads now may have one for who asks next.
            state.kept = keeper.spawn(move || keep(&host, &*look_up, refresh, &vitals, &shared)).is_ok();
        }
        state.wanted = state.kept;
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

/// The keeper's life.
fn keep(host: &str, look_up: &dyn Fn() -> Vec<SocketAddr>, refresh: Duration, vitals: &Vitals, shared: &Shared) {
    let pulse = vitals.add("look-up of the registry's name", LIMIT);
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
            warn!(host, "the registry's name has no address now: going on with what it had");
        } else if failing && !found.is_empty() {
            info!(host, "the registry's name has an address again");
        }
        failing = lost;
        if !found.is_empty() {
            debug!(host, addresses = ?found, "looked up the registry's name");
            state.known = found;
        }
        shared.changed.notify_all();
        let idle = |state: &mut State| !state.wanted && !state.over;
        let due = clock::monotonic() + refresh;
        let mut left = refresh;
        while idle(&mut state) && !left.is_zero() {
            state = calm(shared.changed.wait_timeout_while(state, left.min(pulse.idle()), idle));
            pulse.mark();
            left = due.saturating_duration_since(clock::monotonic());
        }
    }
    // Nobody asks any more.
    pulse.mark_away();
}

/// What a wait gave back, whether or not another holder of the lock panicked, as with [`lock`].
fn calm<'a, T>(waited: LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>) -> MutexGuard<'a, T> {
    waited.unwrap_or_else(PoisonError::into_inner).0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A resolver that answers each look-up when it is told to, with what it is told, and says of each that it began.
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
        let state = calm(addresses.shared.changed.wait_timeout_while(state, LONG, |state| state.known != wanted));
        assert_eq!(state.known, wanted);
    }

    #[test]
    fn an_address_needs_no_resolver() {
        let addresses = Addresses::found_by("2001:db8::1", 80, HOUR, &Vitals::new(), || panic!("nothing to look up"));
        addresses.doubt();
        assert_eq!(addresses.get(Duration::ZERO), Ok(vec!["[2001:db8::1]:80".parse().unwrap()]));
    }

    #[test]
    fn a_name_of_this_host_is_found_and_a_senseless_one_is_not() {
        let found = Addresses::of("localhost", 80, &Vitals::new()).get(LONG).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
        assert_eq!(Addresses::of("no such name", 80, &Vitals::new()).get(LONG), Err(NoAddress::Unknown));
    }

    #[test]
    fn a_resolver_that_hangs_holds_nobody_up_and_is_started_once() {
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
        answers.send(at(2)).unwrap();
        // The failed one is over when another one begins.
        while begins.try_recv().is_err() {
            assert_eq!(addresses.get(Duration::ZERO), Ok(at(1)), "it failed");
            addresses.doubt();
        }
        becomes(&addresses, &at(2));
    }

    #[test]
    fn a_name_that_moved_is_followed_on_schedule_though_nobody_asks() {
        let (addresses, _begins, answers) = prompted(Duration::from_millis(20));
        answers.send(at(1)).unwrap();
        assert_eq!(addresses.get(LONG), Ok(at(1)));
        answers.send(at(2)).unwrap();
        becomes(&addresses, &at(2));
    }

    #[test]
    fn a_name_without_an_address_is_looked_up_anew_by_each_who_asks() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let addresses = Addresses::found_by("registry.ring.test", 80, HOUR, &Vitals::new(), || {
            if ASKED.fetch_add(1, Ordering::SeqCst) == 0 { Vec::new() } else { at(1) }
        });
        assert_eq!(addresses.get(LONG), Err(NoAddress::Unknown));
        assert_eq!(addresses.get(LONG), Ok(at(1)));
    }

    #[test]
    fn a_keeper_is_missed_where_it_stands_still_but_not_for_its_resolver_and_not_when_it_has_ended() {
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
    fn the_keeper_ends_when_nobody_asks_any_more() {
        let (addresses, begins, answers) = prompted(HOUR);
        answers.send(at(1)).unwrap();
        assert_eq!(addresses.get(LONG), Ok(at(1)));
        assert_eq!(begins.recv_timeout(LONG), Ok(()));
        drop(addresses);
        // The resolver goes with its keeper, and with it the other end of this channel.
        assert_eq!(begins.recv_timeout(LONG), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
