//! What is known about the interfaces and gateways of this host, and for how long it explains a failed probe.
//!
//! A plain value that is given the time and waits for nothing.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a fault explains failures after it was last seen. The interfaces and gateways are checked once a second, on a busy
/// host less often; and after a link or a gateway comes back, the kernel repeats its request for a hardware address only
/// after a second (arp(7), `retrans_time_ms`).
pub(super) const AFTERMATH: Duration = Duration::from_secs(3);

/// How many addresses are remembered before those are forgotten that no interface has any more.
const ADDRESSES_MAX: usize = 1024;

/// How many gateways are remembered. A host has a handful. The one that was asked about least recently is removed first.
const GATEWAYS_MAX: usize = 256;

/// For how long a gateway is looked at once a second after a failed probe last asked about it.
const GATEWAY_KEPT: Duration = Duration::from_secs(60);

/// A gateway: the index of the interface that leads to it, and its address.
pub(super) type Gateway = (u32, IpAddr);

#[derive(Debug, Default)]
pub(super) struct Memory {
    addresses: HashMap<IpAddr, Address>,
    gateways: HashMap<Gateway, Known>,
}

/// An address that an interface of this host has or had.
#[derive(Clone, Copy, Debug)]
struct Address {
    /// An interface has it at the last look.
    present: bool,
    /// That interface was up and had a carrier at the last look.
    running: bool,
    /// When it was last not so.
    cut_off: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    asked: Instant,
    /// When it last left the kernel's requests for its hardware address unanswered.
    unresolved: Option<Instant>,
}

impl Memory {
    /// Stores the state of the interfaces: every address, and whether one of the interfaces with it is up and has a carrier.
    pub(super) fn note_interfaces(&mut self, running: &HashMap<IpAddr, bool>, now: Instant) {
        if self.addresses.len() > ADDRESSES_MAX {
            self.addresses.retain(|ip, _| running.contains_key(ip));
        }
        for ip in running.keys() {
            self.addresses.entry(*ip).or_insert(Address { present: true, running: true, cut_off: None });
        }
        for (ip, known) in &mut self.addresses {
            let seen = running.get(ip);
            let runs = seen == Some(&true);
            if !runs || !known.running {
                // As far as is known, it had no carrier until now.
                known.cut_off = Some(now);
            }
            (known.present, known.running) = (seen.is_some(), runs);
        }
    }

    /// Every address that an interface has.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().filter(|(_, known)| known.present).map(|(ip, _)| *ip).collect()
    }

    /// Whether packets to this address stay on this host.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.addresses.get(&ip).is_some_and(|known| known.present)
    }

    /// Whether the interface with this address was down, without a carrier or without the address at any time after `since`,
    /// or within [`AFTERMATH`] before. `false` for an address that no interface ever had.
    pub(super) fn was_cut_off(&self, own: IpAddr, since: Instant) -> bool {
        self.addresses.get(&own).is_some_and(|known| !known.running || recent(known.cut_off, since))
    }

    /// Stores the state of a gateway; `asked` where a failed probe was the reason to look.
    pub(super) fn note_gateway(&mut self, gateway: Gateway, resolved: bool, asked: bool, now: Instant) {
        if asked && self.gateways.len() >= GATEWAYS_MAX && !self.gateways.contains_key(&gateway) {
            let oldest = self.gateways.iter().min_by_key(|(_, known)| known.asked).map(|(gateway, _)| *gateway);
            oldest.and_then(|oldest| self.gateways.remove(&oldest));
        }
        if asked {
            self.gateways.entry(gateway).or_insert(Known { asked: now, unresolved: None }).asked = now;
        }
        if let Some(known) = self.gateways.get_mut(&gateway).filter(|_| !resolved) {
            known.unresolved = Some(now);
        }
    }

    /// Whether this gateway was unresolved at any time after `since`, or within [`AFTERMATH`] before.
    pub(super) fn was_dead(&self, gateway: Gateway, since: Instant) -> bool {
        self.gateways.get(&gateway).is_some_and(|known| recent(known.unresolved, since))
    }

    /// The gateways to look at now: those that failed probes asked about in the last minute. The others are forgotten.
    pub(super) fn gateways(&mut self, now: Instant) -> Vec<Gateway> {
        self.gateways.retain(|_, known| now.saturating_duration_since(known.asked) <= GATEWAY_KEPT);
        self.gateways.keys().copied().collect()
    }
}

fn recent(seen: Option<Instant>, since: Instant) -> bool {
    seen.is_some_and(|seen| seen + AFTERMATH >= since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn with(running: &[(&str, bool)], now: Instant) -> Memory {
        let mut memory = Memory::default();
        look(&mut memory, running, now);
        memory
    }

    fn look(memory: &mut Memory, running: &[(&str, bool)], now: Instant) {
        memory.note_interfaces(&running.iter().map(|(own, runs)| (ip(own), *runs)).collect(), now);
    }

    #[test]
    fn an_interface_without_a_carrier_explains_what_fails_while_it_has_none_and_three_seconds_longer() {
        let (own, start) = (ip("10.0.0.1"), clock::monotonic());
        let mut memory = with(&[("10.0.0.1", true)], start);
        assert!(!memory.was_cut_off(own, start));
        look(&mut memory, &[("10.0.0.1", false)], start + SECOND);
        assert!(memory.was_cut_off(own, start + SECOND * 3600), "nobody has looked since, and it had none");
        let back = start + SECOND * 2;
        look(&mut memory, &[("10.0.0.1", true)], back);
        assert!(memory.was_cut_off(own, start));
        assert!(memory.was_cut_off(own, back + AFTERMATH));
        assert!(!memory.was_cut_off(own, back + AFTERMATH + MS));
    }

    #[test]
    fn an_address_that_its_interface_has_lost_is_cut_off_and_no_longer_own() {
        let (own, start) = (ip("fd00::1"), clock::monotonic());
        let mut memory = with(&[("fd00::1", true)], start);
        assert!(memory.is_own(own));
        look(&mut memory, &[], start + SECOND);
        assert!(memory.was_cut_off(own, start + SECOND) && !memory.is_own(own) && memory.addresses().is_empty());
        look(&mut memory, &[("fd00::1", true)], start + SECOND * 2);
        assert!(memory.is_own(own) && memory.addresses() == BTreeSet::from([own]));
    }

    #[test]
    fn an_address_stays_own_while_its_interface_has_no_carrier() {
        let memory = with(&[("10.0.0.1", false)], clock::monotonic());
        assert!(memory.is_own(ip("10.0.0.1")));
    }

    #[test]
    fn nothing_is_known_of_an_address_that_no_interface_had_or_of_a_gateway_that_nobody_asked_about() {
        let start = clock::monotonic();
        let memory = with(&[("10.0.0.1", true)], start);
        assert!(!memory.was_cut_off(ip("192.0.2.1"), start) && !memory.is_own(ip("192.0.2.1")));
        assert!(!memory.was_dead((2, ip("10.0.0.254")), start));
    }

    #[test]
    fn a_gateway_that_did_not_answer_explains_what_fails_then_and_three_seconds_longer() {
        let (gateway, start) = ((2, ip("10.0.0.254")), clock::monotonic());
        let mut memory = Memory::default();
        memory.note_gateway(gateway, false, true, start);
        memory.note_gateway(gateway, true, true, start + SECOND);
        assert!(memory.was_dead(gateway, start + AFTERMATH));
        assert!(!memory.was_dead(gateway, start + AFTERMATH + MS));
        assert!(!memory.was_dead((3, gateway.1), start), "another interface, another gateway");
    }

    #[test]
    fn a_gateway_is_looked_at_for_a_minute_after_it_was_last_asked_about() {
        let (gateway, start) = ((2, ip("10.0.0.254")), clock::monotonic());
        let mut memory = Memory::default();
        memory.note_gateway(gateway, true, true, start);
        assert_eq!(memory.gateways(start + GATEWAY_KEPT), [gateway]);
        memory.note_gateway(gateway, false, false, start + GATEWAY_KEPT);
        assert!(memory.was_dead(gateway, start + GATEWAY_KEPT));
        assert_eq!(memory.gateways(start + GATEWAY_KEPT + MS), [], "a look is not a question");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let start = clock::monotonic();
        let mut memory = Memory::default();
        for n in 0..1_u32 + u32::try_from(GATEWAYS_MAX).unwrap() {
            memory.note_gateway((n, ip("10.0.0.254")), false, true, start + MS * n);
        }
        assert_eq!(memory.gateways(start).len(), GATEWAYS_MAX);
        assert!(!memory.was_dead((0, ip("10.0.0.254")), start) && memory.was_dead((1, ip("10.0.0.254")), start));

        for n in 0..3 * u32::try_from(ADDRESSES_MAX).unwrap() {
            let own: IpAddr = std::net::Ipv4Addr::from_bits(n).into();
            memory.note_interfaces(&HashMap::from([(own, true)]), start);
        }
        assert!(memory.addresses.len() <= ADDRESSES_MAX + 1);
    }
}
