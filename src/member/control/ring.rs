//! Tells board and prober who is in the ring, and logs what changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::clock;
use crate::config::MemberSettings;
use crate::host::network::Network;
use crate::wire::InstanceId;

use super::super::board::Board;
use super::super::lock;
use super::super::peers::{Change, Peer, Peers};
use super::super::plan::{Here, Plan, Planner};
use super::super::prober::Prober;

/// Changes of more peers than this at once are one line in the log with a count.
const LINES_MAX: usize = 10;

/// How often it is looked whether this host has other addresses.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The way from the roster to board and prober.
pub(super) struct Ring {
    board: Arc<Mutex<Board>>,
    prober: Arc<Prober>,
    network: Network,
    listening: SocketAddr,
    registered: Option<SocketAddr>,
    planner: Planner,
    /// What board and prober have been told.
    plan: Plan,
    looked: Option<Instant>,
    /// The addresses of this host that the plan was made with.
    own: BTreeSet<IpAddr>,
    /// The peers whose addresses lead back here, as logged.
    leading_back: BTreeSet<InstanceId>,
}

impl Ring {
    pub(super) fn new(board: Arc<Mutex<Board>>, prober: Arc<Prober>, network: Network, listening: SocketAddr) -> Self {
        Self {
            board,
            prober,
            own: network.addresses(),
            network,
            listening,
            registered: None,
            planner: Planner::default(),
            plan: Plan::default(),
            looked: None,
            leading_back: BTreeSet::new(),
        }
    }

    /// Peers reach this member at this address.
    pub(super) fn set_registered(&mut self, address: SocketAddr) {
        self.registered = Some(address);
    }

    /// Tells board and prober who is in the ring now, and logs what changed.
    pub(super) fn follow(&mut self, peers: &Peers, change: &Change, settings: &MemberSettings) {
        log("a peer joined", "peers joined", &change.joined);
        log("a peer moved", "peers moved", &change.moved);
        log("a peer left", "peers left", &change.left);
        let plan = self.plan(peers, settings);
        lock(&self.board).follow(&plan, clock::monotonic());
        self.prober.set_targets(plan.probing());
        self.plan = plan;
        self.warn_about_leading_back();
    }

    /// Plans anew where this host has got or lost addresses. Looks from time to time.
    pub(super) fn look_at_own_addresses(&mut self, peers: &Peers, settings: &MemberSettings, now: Instant) {
        if self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY) {
            return;
        }
        self.looked = Some(now);
        if self.network.addresses() != self.own {
            self.follow(peers, &Change::default(), settings);
        }
    }

    fn plan(&mut self, peers: &Peers, settings: &MemberSettings) -> Plan {
        self.own = self.network.addresses();
        let endpoints: Vec<Arc<str>> = settings.checks.http_endpoints.iter().map(|e| e.as_str().into()).collect();
        let is_own = |ip| self.network.is_own(ip);
        let here = Here { listening: self.listening, registered: self.registered, is_own: &is_own };
        self.planner.plan(peers, &endpoints, &here)
    }

    /// A peer with an address that leads back here is somebody else's mistake, and a probe would find it well for ever.
    fn warn_about_leading_back(&mut self) {
        let leading_back: Vec<&Arc<Peer>> =
            self.plan.peers.iter().filter(|planned| planned.leads_back).map(|planned| &planned.peer).collect();
        for peer in leading_back.iter().filter(|peer| !self.leading_back.contains(&peer.instance_id)) {
            warn!(
                target_location = %peer.location, target = %peer.instance_id, address = %peer.address(),
                "not probing a peer: the address it registered leads back to this host; set member.server.advertise_ip there"
            );
        }
        self.leading_back = leading_back.into_iter().map(|peer| peer.instance_id.clone()).collect();
    }
}

/// Logs what happened to these peers: one line each, or one for all where they are many.
fn log(one: &str, many: &str, peers: &[Arc<Peer>]) {
    let few = peers.len() <= LINES_MAX;
    if !few {
        let locations: BTreeSet<_> = peers.iter().map(|peer| &peer.location).collect();
        info!(peers = peers.len(), locations = locations.len(), "{many}");
    }
    for peer in peers {
        let (location, id, address) = (&peer.location, &peer.instance_id, peer.address());
        if few {
            info!(target_location = %location, target = %id, %address, "{one}");
        } else {
            debug!(target_location = %location, target = %id, %address, "{one}");
        }
    }
}
