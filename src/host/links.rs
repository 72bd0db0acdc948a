//! Whether an address of this host still has a network: its interface is up and has a carrier.
//!
//! The kernel goes on sending by an interface that has lost its carrier: what is sent there vanishes, or ends in "no route to
//! host" when nobody answers for the next hop, and either looks as if the peer were at fault. The interface itself knows better.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

/// How long what the interfaces said is taken for true: asking costs a fraction of a millisecond, with hundreds of interfaces
/// some more.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// How many addresses are remembered before those are forgotten that no interface has any more.
const OWN_MAX: usize = 1024;

/// The addresses of this host, and whether their interfaces run.
#[derive(Debug, Default)]
pub struct Links {
    asked: Option<Instant>,
    /// The addresses that an interface has or had, and when it was last seen down, without a carrier, or without them.
    own: HashMap<IpAddr, Option<Instant>>,
}

impl Links {
    /// Asks the interfaces, unless that was done within the last second. To be called while something waits for the network,
    /// so that a link that is away for a moment is noticed.
    pub fn look(&mut self, now: Instant) {
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < GOOD_FOR) {
            return;
        }
        self.asked = Some(now);
        // A kernel that does not tell, for want of a descriptor perhaps, changes nothing of what is known.
        let Some(running) = running() else { return };
        if self.own.len() > OWN_MAX {
            self.own.retain(|own, _| running.contains_key(own));
        }
        for own in running.keys() {
            self.own.entry(*own).or_default();
        }
        for (own, cut_off) in &mut self.own {
            if running.get(own) != Some(&true) {
                *cut_off = Some(now);
            }
        }
    }

    /// Whether the interface with the address `own` is known to be down or without a carrier at `now`, or to have been so
    /// after `since`; a second before counts. An address that no interface ever had says nothing against anyone.
    pub fn was_cut_off(&mut self, own: IpAddr, since: Instant, now: Instant) -> bool {
        self.look(now);
        self.own.get(&own).is_some_and(|cut_off| cut_off.is_some_and(|seen| seen + GOOD_FOR >= since))
    }

    /// As if the interface of `own` had been seen without a carrier at `seen`.
    #[cfg(test)]
    pub(crate) fn cut_off(own: IpAddr, seen: Instant) -> Self {
        Self { asked: Some(seen), own: HashMap::from([(own, Some(seen))]) }
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
    use crate::clock;

    #[test]
    fn loopback_runs_and_what_is_nobodys_address_is_not_held_against_anyone() {
        let mut links = Links::default();
        let now = clock::monotonic();
        assert_eq!(running().unwrap().get(&"127.0.0.1".parse().unwrap()), Some(&true));
        for own in ["127.0.0.1", "::1", "192.0.2.1"] {
            assert!(!links.was_cut_off(own.parse().unwrap(), now, now), "{own}");
        }
    }

    #[test]
    fn an_interface_that_was_cut_off_while_a_probe_ran_is_remembered_for_it_alone() {
        let seen = clock::monotonic();
        let own = "127.0.0.1".parse().unwrap();
        let moment = Duration::from_millis(1);
        let ends_at = |now| Links::cut_off(own, seen).was_cut_off(own, seen, now);
        assert!(ends_at(seen + GOOD_FOR - moment), "it is not asked again yet");
        assert!(ends_at(seen + GOOD_FOR * 5), "it runs again, and did not while the probe ran");
        let begins_at = |since| Links::cut_off(own, seen).was_cut_off(own, since, seen + GOOD_FOR * 5);
        assert!(begins_at(seen + GOOD_FOR), "nobody looked in between");
        assert!(!begins_at(seen + GOOD_FOR + moment));
    }

    #[test]
    fn an_address_that_an_interface_has_lost_is_cut_off() {
        let now = clock::monotonic();
        let gone = "192.0.2.1".parse().unwrap();
        let mut links = Links { asked: None, own: HashMap::from([(gone, None)]) };
        assert!(links.was_cut_off(gone, now, now));
        assert!(!links.was_cut_off(gone, now + GOOD_FOR * 3, now), "nobody has looked again");
    }
}
