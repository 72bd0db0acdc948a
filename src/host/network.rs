//! What this host knows about its own network: its addresses, and whether a fault of its own explains a failed probe.
//!
//! Three faults of this host make probes fail as if the peer were at fault, and the kernel can tell them apart ([`Fault`]):
//!
//! * The interface is down or has no carrier. The kernel goes on sending through it, and nothing arrives.
//! * The gateway does not answer the kernel's requests for its hardware address (ARP, RFC 826, or neighbour discovery, RFC
//!   4861). Its entry in the neighbour table is `NUD_INCOMPLETE` or `NUD_FAILED` then, and connect(2) ends in a time-out or in
//!   `EHOSTUNREACH`. Where the peer itself is on the link and does not answer, the fault is the peer's.
//! * There is no route.
//!
//! The kernel notices a silent gateway late: its entry stays `NUD_REACHABLE` for 15 to 45 seconds after the last reply, and
//! takes another 8 to fail (arp(7), with the default settings). During that time a dead gateway cannot be recognised here.
//!
//! Where a route has several gateways, the one counts that the kernel chooses for the two addresses. Where it also chooses by
//! ports (`fib_multipath_hash_policy`), the probe may have taken another.
//!
//! A separate thread asks the kernel, because a request may block while another process changes interfaces. The watchdog
//! supervises that thread except while it waits for the kernel. Where there is no netlink, as in some sandboxes, the interfaces
//! are known from getifaddrs(3) if at all, and nothing is known about gateways and routes.

mod memory;
mod netlink;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use tokio::sync::oneshot;

use crate::clock;
use crate::host::vitals::{Pulse, Vitals};

use memory::{Gateway, Memory};
use netlink::{Changes, Netlink};

/// How often the thread looks for changes and at the gateways in question.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The least time between two looks at all interfaces. On a host with hundreds of them one takes a few milliseconds.
const LOOK_MIN: Duration = Duration::from_millis(100);

/// The most time between two, in case a notice of a change was lost.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// How long the start waits for the first look at the interfaces.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// How long a failed probe waits for an explanation. The kernel takes some microseconds unless somebody changes interfaces.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// How many questions may wait for the thread.
const QUESTIONS_MAX: usize = 1024;

/// How long the thread may take for anything but the kernel.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a probe failed on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The interface that it was sent from was down, had no carrier, or has lost the address.
    NoCarrier {
        /// The address it was sent from.
        address: IpAddr,
    },
    /// The gateway of its route did not answer.
    DeadGateway {
        /// The gateway's address.
        gateway: IpAddr,
    },
    /// This host has no route to its target.
    NoRoute {
        /// The target's address.
        target: IpAddr,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCarrier { address } => write!(f, "the interface with {address} was down or had no carrier"),
            Self::DeadGateway { gateway } => write!(f, "the gateway {gateway} did not answer"),
            Self::NoRoute { target } => write!(f, "this host has no route to {target}"),
        }
    }
}

/// What this host knows about its network. Clones share it; the thread ends with the last of them.
///
/// The default has no thread and knows nothing.
#[derive(Clone, Debug, Default)]
pub struct Network {
    memory: Arc<Mutex<Memory>>,
    questions: Option<SyncSender<Question>>,
}

/// Why did this probe fail?
#[derive(Debug)]
struct Question {
    source: Option<IpAddr>,
    target: IpAddr,
    /// When it began.
    since: Instant,
    answer: oneshot::Sender<Option<Fault>>,
}

impl Network {
    /// Starts the thread, adds it to the watchdog, and waits until the addresses of this host are known, at most two seconds.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start(vitals: &Vitals) -> io::Result<Self> {
        let memory = Arc::<Mutex<Memory>>::default();
        let (questions, inbox) = sync_channel(QUESTIONS_MAX);
        let (ready, is_ready) = sync_channel(1);
        let (shared, pulse) = (Arc::clone(&memory), vitals.add("network monitor", LIMIT));
        std::thread::Builder::new().name("netring-network".into()).spawn(move || {
            let mut watch = Watch::new(shared);
            watch.look(&pulse);
            let _ = ready.send(());
            watch.run(&inbox, &pulse);
        })?;
        // If the kernel takes longer, the addresses are known later.
        let _ = is_ready.recv_timeout(FIRST_LOOK);
        Ok(Self { memory, questions: Some(questions) })
    }

    /// Whether a packet to this address stays on this host: a loopback address, the unspecified one, or one that an interface
    /// of this host has. A change of the interfaces is known after a second.
    #[must_use]
    pub fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip.is_unspecified() || lock(&self.memory).is_own(ip)
    }

    /// The addresses that the interfaces of this host have now, so that a caller can notice a change.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        lock(&self.memory).addresses()
    }

    /// The fault of this host that explains why a probe that began at `since` has failed just now; `None` where there is none.
    /// `source` is the address it was sent from, where that is known.
    ///
    /// The kernel is asked in the background. That takes some microseconds. After half a second without an answer, only what is
    /// already known about the interface of `source` counts.
    pub async fn fault(&self, source: Option<IpAddr>, target: IpAddr, since: Instant) -> Option<Fault> {
        let (source, target) = (source.map(|ip| ip.to_canonical()), target.to_canonical());
        let known = || lock(&self.memory).no_carrier(source, since);
        let (answer, answered) = oneshot::channel();
        let question = Question { source, target, since, answer };
        let Some(Ok(())) = self.questions.as_ref().map(|questions| questions.try_send(question)) else {
            return known();
        };
        match tokio::time::timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(fault)) => fault,
            Ok(Err(_)) | Err(_) => known(),
        }
    }
}

impl Memory {
    fn no_carrier(&self, source: Option<IpAddr>, since: Instant) -> Option<Fault> {
        let address = source.filter(|own| self.was_cut_off(*own, since))?;
        Some(Fault::NoCarrier { address })
    }
}

/// The thread's state.
struct Watch {
    memory: Arc<Mutex<Memory>>,
    netlink: Option<Netlink>,
    /// Without it the interfaces are looked at every second.
    changes: Option<Changes>,
    /// When the interfaces were last looked at, and whether they have changed since.
    looked: Option<Instant>,
    changed: bool,
}

impl Watch {
    fn new(memory: Arc<Mutex<Memory>>) -> Self {
        Self { memory, netlink: Netlink::open().ok(), changes: Changes::open().ok(), looked: None, changed: true }
    }

    fn run(mut self, inbox: &Receiver<Question>, pulse: &Pulse) {
        let mut next = clock::monotonic() + LOOK_EVERY;
        loop {
            match inbox.recv_timeout(next.saturating_duration_since(clock::monotonic())) {
                Ok(question) => {
                    let fault = self.explain(&question, pulse);
                    // Whoever asked may have given up.
                    let _ = question.answer.send(fault);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if clock::monotonic() >= next {
                self.look(pulse);
                self.look_at_gateways(pulse);
                next = clock::monotonic() + LOOK_EVERY;
            }
        }
        // The daemon ends, and this thread with it.
        pulse.mark_away();
    }

    /// Looks at the interfaces where they have changed.
    fn look(&mut self, pulse: &Pulse) {
        let now = clock::monotonic();
        let age = self.looked.map(|looked| now.saturating_duration_since(looked));
        self.changed |= self.changes.as_ref().is_some_and(Changes::any);
        let due = match age {
            None => true,
            Some(age) if self.changed => age >= LOOK_MIN,
            Some(age) => age >= if self.changes.is_some() { LOOK_MAX } else { LOOK_EVERY },
        };
        if due {
            pulse.mark_away();
            let running = running();
            pulse.mark();
            self.looked = Some(now);
            self.changed = false;
            // If the kernel cannot be asked, for example for lack of a descriptor, what was known before stays.
            if let Some(running) = running {
                lock(&self.memory).note_interfaces(&running, clock::monotonic());
            }
        }
        pulse.mark();
    }

    fn look_at_gateways(&mut self, pulse: &Pulse) {
        let gateways = lock(&self.memory).gateways(clock::monotonic());
        for gateway in gateways {
            self.look_at_gateway(gateway, false, pulse);
        }
    }

    fn look_at_gateway(&mut self, (interface, address): Gateway, asked: bool, pulse: &Pulse) {
        let Some(netlink) = &mut self.netlink else { return };
        pulse.mark_away();
        let state = netlink.neighbour(interface, address);
        pulse.mark();
        let Ok(state) = state else { return };
        // Without an entry the kernel has not sent a request yet, and nothing is known.
        let resolved = state.is_none_or(|state| state & (libc::NUD_INCOMPLETE | libc::NUD_FAILED) == 0);
        lock(&self.memory).note_gateway((interface, address), resolved, asked, clock::monotonic());
    }

    fn explain(&mut self, question: &Question, pulse: &Pulse) -> Option<Fault> {
        let Question { source, target, since, .. } = *question;
        self.look(pulse);
        if let Some(fault) = lock(&self.memory).no_carrier(source, since) {
            return Some(fault);
        }
        pulse.mark_away();
        let netlink = self.netlink.as_mut()?;
        let mut route = netlink.route(target, source);
        if route.is_err() && source.is_some() {
            // Perhaps only because an interface has lost the source address since.
            route = netlink.route(target, None);
        }
        pulse.mark();
        let route = match route {
            Ok(route) => route,
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES) => return Some(Fault::NoRoute { target }),
            Err(_) => return None,
        };
        if matches!(route.kind, libc::RTN_UNREACHABLE | libc::RTN_BLACKHOLE | libc::RTN_PROHIBIT) {
            return Some(Fault::NoRoute { target });
        }
        let gateway = route.interface.zip(route.gateway);
        if let Some(gateway) = gateway {
            self.look_at_gateway(gateway, true, pulse);
        }
        let memory = lock(&self.memory);
        let dead = gateway.filter(|gateway| memory.was_dead(*gateway, since));
        dead.map(|(_, gateway)| Fault::DeadGateway { gateway }).or_else(|| memory.no_carrier(route.source, since))
    }
}

/// Every address of this host, and whether one of the interfaces that have it is up and has a carrier (netdevice(7)).
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

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Network {
    /// As if the interface with the address `own` had been seen without a carrier at `seen`.
    pub(crate) fn without_carrier(own: IpAddr, seen: Instant) -> Self {
        let mut memory = Memory::default();
        memory.note_interfaces(&HashMap::from([(own, false)]), seen);
        memory.note_interfaces(&HashMap::from([(own, true)]), seen);
        Self { memory: Arc::new(Mutex::new(memory)), questions: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_addresses_of_this_host_are_known_when_it_has_started() {
        let network = Network::start(&Vitals::new()).unwrap();
        assert!(network.addresses().contains(&ip("127.0.0.1")));
        for own in network.addresses() {
            assert!(network.is_own(own), "{own}");
        }
        assert!(!network.is_own(ip("192.0.2.1")));
    }

    #[test]
    fn loopback_and_unspecified_addresses_are_own_even_where_nothing_is_known() {
        let network = Network::default();
        for own in ["127.0.0.1", "127.8.7.6", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(network.is_own(ip(own)), "{own}");
        }
        assert!(!network.is_own(ip("::ffff:192.0.2.1")));
    }

    #[tokio::test]
    async fn a_failed_probe_of_loopback_is_not_explained() {
        let network = Network::start(&Vitals::new()).unwrap();
        let now = clock::monotonic();
        for own in ["127.0.0.1", "::1"] {
            assert_eq!(network.fault(Some(ip(own)), ip(own), now).await, None);
            assert_eq!(network.fault(None, ip(own), now).await, None);
        }
    }

    #[tokio::test]
    async fn a_probe_from_an_interface_without_a_carrier_is_explained_even_where_the_kernel_cannot_be_asked() {
        let (own, now) = (ip("10.0.0.1"), clock::monotonic());
        let network = Network::without_carrier(own, now);
        assert_eq!(network.fault(Some(own), ip("192.0.2.1"), now).await, Some(Fault::NoCarrier { address: own }));
        assert_eq!(network.fault(None, ip("192.0.2.1"), now).await, None);
    }

    #[test]
    fn a_thread_that_stands_still_is_missed_and_one_that_has_ended_is_not() {
        let vitals = Vitals::new();
        let network = Network::start(&vitals).unwrap();
        let becomes = |missed: bool| {
            let start = clock::monotonic();
            while vitals.stalled_after(Duration::from_secs(3600)).is_some() != missed {
                assert!(clock::monotonic() - start < Duration::from_secs(20), "{missed}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        becomes(true);
        std::thread::sleep(LOOK_EVERY * 2);
        assert_eq!(vitals.stalled_after(LIMIT / 2), None, "it marks every second");
        drop(network);
        becomes(false);
    }

    #[tokio::test]
    async fn many_questions_at_once_are_all_answered() {
        let network = Network::start(&Vitals::new()).unwrap();
        let now = clock::monotonic();
        let asked: Vec<_> = (0..2 * QUESTIONS_MAX)
            .map(|_| {
                let network = network.clone();
                tokio::spawn(async move { network.fault(None, ip("127.0.0.1"), now).await })
            })
            .collect();
        for question in asked {
            assert_eq!(question.await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_kernel_that_blocks_holds_up_no_probe_for_long() {
        let (own, now) = (ip("10.0.0.1"), clock::monotonic());
        let (questions, unread) = sync_channel(1);
        let network = Network { questions: Some(questions), ..Network::without_carrier(own, now) };
        let known = Some(Fault::NoCarrier { address: own });
        assert_eq!(network.fault(Some(own), ip("192.0.2.1"), now).await, known);
        let took = clock::monotonic() - now;
        assert!((ANSWER_WITHIN..ANSWER_WITHIN * 4).contains(&took), "{took:?}");
        // The queue is full now: nothing is waited for.
        let start = clock::monotonic();
        assert_eq!(network.fault(Some(own), ip("192.0.2.1"), now).await, known);
        assert!(clock::monotonic() - start < ANSWER_WITHIN);
        drop(unread);
    }
}
