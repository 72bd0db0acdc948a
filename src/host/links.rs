//! Whether an address of this host still has a network: its interface is up and has a carrier.
//!
//! The kernel goes on sending by an interface that has lost its carrier: what is sent there vanishes, or ends in "no route to
//! host" when nobody answers for the next hop, and either looks as if the peer were at fault. The interface itself knows better.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use crate::clock;
use crate::host::vitals::Vitals;

/// How long what the interfaces said is taken for true: asking costs a fraction of a millisecond, with hundreds of interfaces
/// some more.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// How long an interface that had no carrier may be to blame for what fails after that. The last look at it is up to
/// [`GOOD_FOR`] old, on a busy host more; and with the carrier back the kernel asks for the peer's hardware address again
/// only a second after it last asked in vain.
const AFTERMATH: Duration = Duration::from_secs(3);

/// How many addresses are remembered before those are forgotten that no interface has any more.
const OWN_MAX: usize = 1024;

/// The addresses of this host, and whether their interfaces run.
///
/// The interfaces are asked by a thread of its own, because the kernel may keep whoever asks waiting for as long as somebody else
/// changes interfaces or namespaces; whoever wants to know is told what was found last. That thread is on the vitals, the waits
/// for the kernel left out.
#[derive(Debug, Default)]
pub struct Links {
    asked: Option<Instant>,
    /// To the thread that asks; none before the first look.
    asker: Option<SyncSender<()>>,
    known: Arc<Mutex<Known>>,
    vitals: Vitals,
}

/// The addresses that an interface has or had, and when it was last seen down, without a carrier, or without them.
type Known = HashMap<IpAddr, Option<Instant>>;

/// How long the thread may take for anything but the kernel.
const LIMIT: Duration = Duration::from_secs(10);

impl Links {
    /// Nothing is known yet. The thread is put on these vitals.
    #[must_use]
    pub fn on(vitals: &Vitals) -> Self {
        Self { vitals: vitals.clone(), ..Self::default() }
    }

    /// Has the interfaces asked, unless that was done within the last second. To be called while something waits for the
    /// network, so that a link that is away for a moment is noticed.
    pub fn look(&mut self, now: Instant) {
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < GOOD_FOR) {
            return;
        }
        self.asked = Some(now);
        if self.asker.is_none() {
            let (asker, questions) = sync_channel(1);
            let (known, vitals) = (Arc::clone(&self.known), self.vitals.clone());
            let thread = std::thread::Builder::new().name("netring-links".into());
            // A host that is out of threads now may have one a second later.
            let started = thread.spawn(move || answer(&questions, &known, &vitals));
            self.asker = started.is_ok().then_some(asker);
        }
        if let Some(asker) = &self.asker {
            // Where one question is waiting already its answer will do.
            let _ = asker.try_send(());
        }
    }

    /// Whether the interface with the address `own` is known to be down or without a carrier at `now`, or to have been so
    /// after `since`; three seconds before count. An address that no interface ever had says nothing against anyone.
    pub fn was_cut_off(&mut self, own: IpAddr, since: Instant, now: Instant) -> bool {
        self.look(now);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&own).is_some_and(|cut_off| cut_off.is_some_and(|seen| seen + AFTERMATH >= since))
    }

    /// As if the interface of `own` had been seen without a carrier at `seen`.
    #[cfg(test)]
    pub(crate) fn cut_off(own: IpAddr, seen: Instant) -> Self {
        let known = Arc::new(Mutex::new(HashMap::from([(own, Some(seen))])));
        Self { asked: Some(seen), known, ..Self::default() }
    }
}

/// The thread's life.
fn answer(questions: &Receiver<()>, known: &Mutex<Known>, vitals: &Vitals) {
    let pulse = vitals.add("look at the interfaces", LIMIT);
    loop {
        match questions.recv_timeout(pulse.idle()) {
            Ok(()) => {
                pulse.mark_away();
                note(known);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        pulse.mark();
    }
    // Nobody asks any more.
    pulse.mark_away();
}

/// Asks the interfaces and notes what they say.
fn note(known: &Mutex<Known>) {
    // A kernel that does not tell, for want of a descriptor perhaps, changes nothing of what is known.
    let Some(running) = running() else { return };
    let now = clock::monotonic();
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() > OWN_MAX {
        known.retain(|own, _| running.contains_key(own));
    }
    for own in running.keys() {
        known.entry(*own).or_default();
    }
    for (own, cut_off) in known.iter_mut() {
        if running.get(own) != Some(&true) {
            *cut_off = Some(now);
        }
    }
}

/// Every address, and whether one of the interfaces that have it is up and running (netdevice(7)).
fn running() -> Option<HashMap<IpAddr, bool>> {
    let mut running = HashMap::new();
    for interface in getifaddrs().ok()? {
        if let Some(ip) = interface.address.as_ref().and_then(ip) {
            *running.entry(ip).or_default() |=
                interface.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
        }
    }
    Some(running)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_runs_and_what_is_nobodys_address_is_not_held_against_anyone() {
        let links = Links::default();
        note(&links.known);
        assert_eq!(links.known.lock().unwrap().get(&"127.0.0.1".parse().unwrap()), Some(&None));
        let now = clock::monotonic();
        let mut links = Links { asked: Some(now), ..links };
        for own in ["127.0.0.1", "::1", "192.0.2.1"] {
            assert!(!links.was_cut_off(own.parse().unwrap(), now, now), "{own}");
        }
    }

    #[test]
    fn the_thread_that_asks_is_missed_where_it_stands_still_and_not_when_nobody_asks_any_more() {
        let vitals = Vitals::new();
        let mut links = Links::on(&vitals);
        let hour = Duration::from_secs(3600);
        assert_eq!(vitals.stalled_after(hour), None, "there is no thread before the first look");
        links.look(clock::monotonic());
        let becomes = |missed: bool| {
            let start = clock::monotonic();
            while vitals.stalled_after(hour).is_some() != missed {
                assert!(clock::monotonic() - start < Duration::from_secs(20), "{missed}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        becomes(true);
        drop(links);
        becomes(false);
    }

    #[test]
    fn an_interface_that_was_cut_off_is_remembered_for_probes_that_ran_then_and_soon_after() {
        let seen = clock::monotonic();
        let own = "127.0.0.1".parse().unwrap();
        let begins_at = |since| Links::cut_off(own, seen).was_cut_off(own, since, seen);
        assert!(begins_at(seen));
        assert!(begins_at(seen + GOOD_FOR), "nobody looked in between");
        assert!(begins_at(seen + AFTERMATH), "the peer's hardware address was not known yet");
        assert!(!begins_at(seen + AFTERMATH + Duration::from_millis(1)));
    }

    #[test]
    fn an_address_that_an_interface_has_lost_is_cut_off_and_found_so_in_the_background() {
        let gone = "192.0.2.1".parse().unwrap();
        let mut links = Links { known: Arc::new(Mutex::new(HashMap::from([(gone, None)]))), ..Links::default() };
        let start = clock::monotonic();
        while !links.was_cut_off(gone, start, clock::monotonic()) {
            assert!(clock::monotonic() - start < Duration::from_secs(20), "nobody noticed");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
