//! What is to be probed: peers, this host's addresses and the configured checks in, targets out.
//!
//! A plain value that gives targets their ids and remembers them. It promises:
//! * A target is one check of one peer at one address; it keeps its id for as long as that stays so, and no id is used again.
//! * A peer whose address leads back to this member has no targets: a probe of it would find this member well, for ever.
//! * What has been seen of a peer has no influence on whether it is probed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::probe::schedule::TargetId;
use crate::probe::{Check, Target};
use crate::wire::InstanceId;

use super::peers::{Peer, Peers};

/// What is known of the addresses of this host and this member.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    /// Where this member listens; the address may be unspecified.
    pub listening: SocketAddr,
    /// Where peers reach this member, as registered or as it would be registered.
    pub registered: Option<SocketAddr>,
    /// Whether an interface of this host has this address.
    pub is_own: &'a dyn Fn(IpAddr) -> bool,
}

impl Here<'_> {
    fn is_on_this_host(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || (self.is_own)(ip)
    }

    /// Whether this member listens at this address of its host. A listener on `0.0.0.0` takes IPv4 connections only, one on `::`
    /// takes those of both families (ipv6(7), `IPV6_V6ONLY` is off).
    fn listens_at(&self, ip: IpAddr) -> bool {
        match self.listening.ip() {
            IpAddr::V4(listening) if listening.is_unspecified() => ip.to_canonical().is_ipv4(),
            listening => listening.is_unspecified() || listening == ip,
        }
    }

    /// Whether a probe of `address` would end at this member, or at somebody else on this host whom another host meant by a
    /// loopback address of its own.
    ///
    /// What decides is the port on which this member listens and all addresses of this host, whatever was registered: two
    /// hosts may have the same private address. A member that listens on one address only is not reached by the other
    /// addresses of its host.
    ///
    /// `all_on_loopback` is whether all peers have loopback addresses. Before the first registration that is the only sign of a
    /// ring on one host.
    fn leads_back(&self, address: SocketAddr, all_on_loopback: bool) -> bool {
        let reaches_me = address.port() == self.listening.port()
            && self.is_on_this_host(address.ip())
            && self.listens_at(address.ip());
        // A ring on one host, for a test or a demonstration, is registered with loopback addresses throughout.
        let ring_on_loopback =
            self.listening.ip().is_loopback() || self.registered.map_or(all_on_loopback, |own| own.ip().is_loopback());
        let others_loopback = address.ip().is_loopback() && !ring_on_loopback;
        self.registered == Some(address) || reaches_me || others_loopback
    }
}

/// A peer and what is to be done there.
#[derive(Clone, Debug)]
pub struct PlannedPeer {
    /// Who it is and where.
    pub peer: Arc<Peer>,
    /// When the registry last heard of it, in seconds since the epoch; 0 where it did not say.
    pub last_seen: u64,
    /// The roster lacks it, and it may be alive or gone.
    pub held: bool,
    /// Its address is one of this host's: what is seen of it says nothing about the network outside.
    pub on_this_host: bool,
    /// Its address leads back to this member, so that it is not probed.
    pub leads_back: bool,
    /// Its targets, in the order of the checks.
    pub targets: Vec<(TargetId, Check)>,
}

/// One target to probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probing {
    /// Its id in reports.
    pub id: TargetId,
    /// The peer it belongs to. Its phase in the interval is computed from the peer and the check.
    pub peer: InstanceId,
    /// The address and the check.
    pub target: Target,
}

/// What is to be probed.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The peers, in the order of location and identity.
    pub peers: Vec<PlannedPeer>,
}

impl Plan {
    /// The same for the prober.
    #[must_use]
    pub fn probing(&self) -> Vec<Probing> {
        let of_peer = |planned: &PlannedPeer| {
            let (instance, address) = (planned.peer.instance_id.clone(), planned.peer.address());
            let targets = planned.targets.iter().cloned();
            targets
                .map(|(id, check)| Probing { id, peer: instance.clone(), target: Target { address, check } })
                .collect::<Vec<_>>()
        };
        self.peers.iter().flat_map(of_peer).collect()
    }
}

/// Makes plans. See the module's head.
#[derive(Debug, Default)]
pub struct Planner {
    /// The last id that was given.
    last: u64,
    given: HashMap<Arc<Peer>, Vec<(Check, TargetId)>>,
}

impl Planner {
    /// What is to be probed now.
    pub fn plan(&mut self, peers: &Peers, endpoints: &[Arc<str>], here: &Here<'_>) -> Plan {
        let mut before = std::mem::take(&mut self.given);
        let mut plan = Plan { peers: Vec::with_capacity(peers.len()) };
        let all_on_loopback = peers.iter().all(|entry| entry.peer.ip.is_loopback());
        for entry in peers.iter() {
            let address = entry.peer.address();
            let leads_back = here.leads_back(address, all_on_loopback);
            let known = before.remove(entry.peer).unwrap_or_default();
            let http = endpoints.iter().map(|endpoint| Check::Http { endpoint: Arc::clone(endpoint) });
            let checks = std::iter::once(Check::Tcp).chain(http).filter(|_| !leads_back);
            let targets: Vec<(TargetId, Check)> = checks
                .map(|check| {
                    let same = known.iter().find(|(known, _)| *known == check);
                    (same.map_or_else(|| self.next_id(), |(_, id)| *id), check)
                })
                .collect();
            self.given.insert(Arc::clone(entry.peer), targets.iter().map(|(id, check)| (check.clone(), *id)).collect());
            plan.peers.push(PlannedPeer {
                peer: Arc::clone(entry.peer),
                last_seen: entry.last_seen,
                held: entry.held,
                on_this_host: here.is_on_this_host(address.ip()),
                leads_back,
                targets,
            });
        }
        plan.peers
            .sort_by(|a, b| (&a.peer.location, &a.peer.instance_id).cmp(&(&b.peer.location, &b.peer.instance_id)));
        plan
    }

    fn next_id(&mut self) -> TargetId {
        self.last += 1;
        TargetId(self.last)
    }
}

#[cfg(test)]
mod tests;
