//! What this member has seen: its targets, the last outcome of each, and the sums over all of them.
//!
//! One board a member. The control thread tells it who the peers are, the report task feeds it what the probe
//! thread found, and scrapes, `/health`, the status line and the demo's table read it. The probe thread never touches it.
//! It promises:
//! * Every target is one label set: identities are unique among peers, endpoints are unique in the configuration.
//! * What belongs to a departed peer is gone with it; what belongs to a location goes with its last peer.
//! * Unknown stays unknown: a target that was not probed lately, or only by a sick host (failures of kind `local`), has
//!   no state, rather than its old one; a peer whose address leads back to this member is not probed at all.
//! * It knows whether this member is itself well ([`Health`]).
//!
//! It reads no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Wall;
use crate::probe::schedule::{ByTarget, SkipReason, TargetId};
use crate::probe::stats::{Histogram, LAG_BOUNDS, OVERHEAD_BOUNDS, Tally};
use crate::probe::{Check, CheckType, Failure, Target, Timings};
use crate::wire::{InstanceId, Location};

use super::health::Health;
use super::peers::{Peer, Peers};
use super::prober::{Probing, Report};

/// What the last sound probe of a target said.
#[derive(Clone, Debug)]
pub struct State {
    /// Its timings, or why it failed.
    pub result: Result<Timings, Failure>,
    /// When it ended.
    pub at: Instant,
    /// Since when the target has been up or down without a break.
    pub since: Instant,
    /// How many probes have failed since then.
    pub failed: u64,
}

/// One target and what is known of it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The peer it belongs to.
    pub peer: Arc<Peer>,
    /// What is done there.
    pub check: Check,
    /// When it was taken up.
    pub added: Instant,
    /// What the last sound probe said; nothing before the first.
    pub state: Option<State>,
    /// When the last successful probe ended. Monotonic, so that a step of the wall clock does not stick.
    reached: Option<Instant>,
    /// The place of its location in [`Board::tallies`].
    place: usize,
}

/// What is known of one peer beside its targets.
#[derive(Clone, Debug)]
struct Sight {
    peer: Arc<Peer>,
    /// The registry's word of when it was last seen, in seconds since the epoch; 0 where it gave none.
    registry_last_seen: u64,
    targets: Vec<TargetId>,
}

/// A target has gone up or down.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The peer it belongs to.
    pub peer: Arc<Peer>,
    /// What was done there.
    pub check: Check,
    /// Why it is down; nothing where it is up.
    pub failure: Option<Failure>,
    /// How long it had been the other way; nothing where it had no state before.
    pub lasted: Option<Duration>,
    /// How many probes had failed meanwhile.
    pub failed: u64,
}

/// The registry, as this member sees it.
#[derive(Clone, Copy, Debug)]
pub struct RegistrySight {
    /// Whether the last request to it was answered as it should be.
    pub up: bool,
    /// When the roster was last known to be true: confirmed by the registry, less the age it said. Nothing before the
    /// registry has answered, when the roster is that of the last run.
    pub roster_at: Option<Instant>,
}

/// How the board judges freshness: the same figures the prober runs by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The check interval.
    pub interval: Duration,
    /// The longest a probe may take.
    pub time_limit: Duration,
}

impl Freshness {
    /// How old an outcome may be before it says nothing about now: two turns and a probe, and two seconds of grace for
    /// short intervals.
    fn horizon(self) -> Duration {
        self.interval * 2 + self.time_limit + Duration::from_secs(2)
    }
}

/// What one member has seen. See the module's head.
#[derive(Debug)]
pub struct Board {
    /// The site this member stands for.
    pub location: Location,
    /// Who this member is.
    pub instance_id: InstanceId,
    /// How old an outcome may be.
    pub freshness: Freshness,
    /// The registry.
    pub registry: RegistrySight,
    /// Where peers reach this member, once it has found out. A peer that leads back to it has no targets.
    pub own_address: Option<SocketAddr>,
    next_id: u64,
    targets: ByTarget<Watched>,
    /// The targets whose last sound probe failed.
    down: BTreeSet<TargetId>,
    /// In the order of location, then identity.
    sights: BTreeMap<(Location, InstanceId), Sight>,
    /// The sums of each location that is probed, in the order of their names.
    tallies: Vec<(Location, [Tally; 2])>,
    lag: Histogram,
    overhead: Histogram,
    skipped: BTreeMap<SkipReason, u64>,
    health: Health,
}

impl Board {
    /// An empty board.
    #[must_use]
    pub fn new(location: Location, instance_id: InstanceId, freshness: Freshness) -> Self {
        Self {
            location,
            instance_id,
            freshness,
            registry: RegistrySight { up: false, roster_at: None },
            own_address: None,
            next_id: 1,
            targets: ByTarget::default(),
            down: BTreeSet::new(),
            sights: BTreeMap::new(),
            tallies: Vec::new(),
            lag: Histogram::new(LAG_BOUNDS),
            overhead: Histogram::new(OVERHEAD_BOUNDS),
            skipped: SkipReason::ALL.into_iter().map(|reason| (reason, 0)).collect(),
            health: Health::default(),
        }
    }

    /// Takes in who the peers are and which endpoints to get, and says what is to be probed from now on. A target that
    /// was there before keeps its identity and its state.
    pub fn follow(&mut self, peers: &Peers, endpoints: &[Arc<str>], now: Instant) -> Vec<Probing> {
        let mut before = mem::take(&mut self.sights);
        let mut kept = ByTarget::with_capacity_and_hasher(self.targets.len(), BuildHasherDefault::default());
        let mut probing = Vec::with_capacity(peers.len() * (1 + endpoints.len()));
        for (peer, registry_last_seen) in peers.iter() {
            let key = (peer.location.clone(), peer.instance_id.clone());
            let old = before.remove(&key).filter(|sight| sight.peer == *peer);
            let old_targets = old.map_or_else(Vec::new, |sight| sight.targets);
            let mut targets = Vec::with_capacity(1 + endpoints.len());
            let leads_back = self.own_address.is_some_and(|own| peer.leads_back(own));
            let http = endpoints.iter().map(|endpoint| Check::Http { endpoint: Arc::clone(endpoint) });
            for check in std::iter::once(Check::Tcp).chain(http).filter(|_| !leads_back) {
                let same = old_targets.iter().find(|id| self.targets.get(id).is_some_and(|w| w.check == check));
                let id = same.copied().unwrap_or_else(|| {
                    self.next_id += 1;
                    TargetId(self.next_id)
                });
                let watched = self.targets.remove(&id).unwrap_or_else(|| Watched {
                    peer: Arc::clone(peer),
                    check: check.clone(),
                    added: now,
                    state: None,
                    reached: None,
                    place: 0,
                });
                kept.insert(id, watched);
                targets.push(id);
                probing.push(Probing {
                    id,
                    peer: peer.instance_id.clone(),
                    target: Target { address: peer.address(), check },
                });
            }
            self.sights.insert(key, Sight { peer: Arc::clone(peer), registry_last_seen, targets });
        }
        self.targets = kept;
        self.down.retain(|id| self.targets.contains_key(id));
        self.place_tallies();
        probing
    }

    /// Gives every location that is probed its sums, and every target the place of its own.
    fn place_tallies(&mut self) {
        let probed: BTreeSet<&Location> = self.targets.values().map(|watched| &watched.peer.location).collect();
        let mut before: HashMap<Location, [Tally; 2]> = mem::take(&mut self.tallies).into_iter().collect();
        self.tallies = probed
            .into_iter()
            .map(|location| (location.clone(), before.remove(location).unwrap_or_default()))
            .collect();
        for watched in self.targets.values_mut() {
            let place = self.tallies.binary_search_by(|(location, _)| location.cmp(&watched.peer.location));
            watched.place = place.expect("every location that is probed has a place");
        }
    }

    /// Takes in what the prober reports. An outcome of a target that is gone is ignored; a
    /// skipped turn counts whoever it belonged to.
    pub fn apply(&mut self, report: Report) -> Option<Transition> {
        match report {
            Report::Skipped { reason, count, .. } => {
                *self.skipped.entry(reason).or_default() += count;
                None
            }
            Report::StoodStill { lost, until } => {
                self.health.stood_still(lost, until);
                None
            }
            Report::Probed { id, outcome, lag, ended, .. } => {
                let horizon = self.freshness.horizon();
                let targets = self.targets.len();
                let watched = self.targets.get_mut(&id)?;
                self.lag.observe(lag);
                self.health.probed(&outcome.result, ended, targets);
                if let Some(overhead) = outcome.result.as_ref().ok().and_then(Timings::overhead) {
                    self.overhead.observe(overhead);
                }
                let (_, tallies) = &mut self.tallies[watched.place];
                tallies[watched.check.check_type() as usize].add(&outcome);
                if matches!(&outcome.result, Err(failure) if failure.reason.is_local()) {
                    return None;
                }
                if outcome.result.is_ok() {
                    watched.reached = watched.reached.max(Some(ended));
                    self.down.remove(&id);
                } else {
                    self.down.insert(id);
                }
                watched.sound(outcome.result, ended, horizon)
            }
        }
    }

    /// The targets in the order of location, identity and check, with their state where it is fresh at `now`.
    pub fn targets(&self, now: Instant) -> impl Iterator<Item = (&Watched, Option<&State>)> {
        self.sights.values().flat_map(move |sight| self.targets_of(sight, now))
    }

    /// The peers in the order of location and identity, each with when it was last seen: the newer of the registry's word
    /// and our own last success, where there is any. What the registry says of the future counts as now. With each peer come
    /// its targets, as [`Board::targets`] has them.
    pub fn peers(
        &self,
        now: Instant,
        wall: Wall,
    ) -> impl Iterator<Item = (&Arc<Peer>, Option<Wall>, impl Iterator<Item = (&Watched, Option<&State>)>)> {
        self.sights.values().map(move |sight| {
            let told =
                (sight.registry_last_seen > 0).then(|| Wall::from_epoch_seconds(sight.registry_last_seen).min(wall));
            let reached = self.targets_of(sight, now).filter_map(|(watched, _)| watched.reached).max();
            let seen = reached.map(|at| wall.before(now.saturating_duration_since(at)));
            (&sight.peer, told.max(seen), self.targets_of(sight, now))
        })
    }

    fn targets_of(&self, sight: &Sight, now: Instant) -> impl Iterator<Item = (&Watched, Option<&State>)> {
        let horizon = self.freshness.horizon();
        let targets = sight.targets.iter().filter_map(|id| self.targets.get(id));
        targets.map(move |watched| (watched, watched.fresh(now, horizon)))
    }

    /// The peers that lead back to this member.
    pub fn leading_back(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.sights
            .values()
            .map(|sight| &sight.peer)
            .filter(|peer| self.own_address.is_some_and(|own| peer.leads_back(own)))
    }

    /// How many peers there are.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.sights.len()
    }

    /// How many targets there are.
    #[must_use]
    pub fn target_count(&self) -> usize {
        self.targets.len()
    }

    /// The sums by location and kind of check.
    pub fn tallies(&self) -> impl Iterator<Item = (&Location, CheckType, &Tally)> {
        self.tallies.iter().flat_map(|(location, [tcp, http])| {
            [(location, CheckType::Tcp, tcp), (location, CheckType::Http, http)].into_iter()
        })
    }

    /// How late probes started.
    #[must_use]
    pub fn lag(&self) -> &Histogram {
        &self.lag
    }

    /// What this process added to the connection times of probes.
    #[must_use]
    pub fn overhead(&self) -> &Histogram {
        &self.overhead
    }

    /// Why this member is itself not well, where it is not.
    #[must_use]
    pub fn unwell(&self, now: Instant) -> Option<&str> {
        self.health.unwell(now, self.freshness.interval)
    }

    /// For how long the probe thread has stood still since its start, in all.
    #[must_use]
    pub fn lost(&self) -> Duration {
        self.health.lost()
    }

    /// Turns that were skipped, by reason.
    pub fn skipped(&self) -> impl Iterator<Item = (SkipReason, u64)> {
        self.skipped.iter().map(|(&reason, &count)| (reason, count))
    }

    /// The share of targets with a fresh state, among those that have been watched for long enough to have one. Nothing
    /// where there are none.
    #[must_use]
    pub fn coverage(&self, now: Instant) -> Option<f64> {
        let due = self.freshness.interval + self.freshness.time_limit + Duration::from_secs(2);
        let (mut expected, mut fresh) = (0_u32, 0_u32);
        for (watched, state) in self.targets(now) {
            if state.is_some() {
                fresh += 1;
                expected += 1;
            } else if now.saturating_duration_since(watched.added) > due {
                expected += 1;
            }
        }
        (expected > 0).then(|| f64::from(fresh) / f64::from(expected))
    }

    /// The one line an operator wants: `12 peers at 6 locations, 1 failing: eu1-k8s (tcp timeout) for 3 min`.
    #[must_use]
    pub fn status(&self, now: Instant) -> String {
        let locations = self.tallies.len();
        let unwell = self.unwell(now).map_or_else(String::new, |why| format!("unwell, {why}; "));
        let mut line = format!("{unwell}{} at {}", counted(self.sights.len(), "peer"), counted(locations, "location"));
        let horizon = self.freshness.horizon();
        let mut failing: BTreeMap<&InstanceId, (&Watched, &State, &Failure)> = BTreeMap::new();
        for watched in self.down.iter().filter_map(|id| self.targets.get(id)) {
            let Some(state) = watched.fresh(now, horizon) else { continue };
            let Err(failure) = &state.result else { continue };
            // The checks of a peer are numbered in their order; the first failing one speaks for it.
            failing.entry(&watched.peer.instance_id).or_insert((watched, state, failure));
        }
        if let Some((watched, state, failure)) =
            failing.values().max_by_key(|(_, s, _)| now.saturating_duration_since(s.since))
        {
            // The line is sent where it changes, so it does not count seconds.
            let lasted = match now.saturating_duration_since(state.since) {
                short if short < Duration::from_secs(120) => "under 2 min".to_owned(),
                long => rough(long),
            };
            line += &format!(
                ", {} failing: {} ({} {}) for {lasted}",
                failing.len(),
                watched.peer.location,
                watched.check.check_type().label(),
                failure.reason,
            );
            if failing.len() > 1 {
                line += &format!(" and {} more", failing.len() - 1);
            }
        }
        if !self.registry.up {
            line += if self.registry.roster_at.is_some() { ", registry away" } else { ", registry not reached yet" };
        }
        line
    }
}

impl Watched {
    /// Its state, where that is fresh.
    fn fresh(&self, now: Instant, horizon: Duration) -> Option<&State> {
        self.state.as_ref().filter(|state| now.saturating_duration_since(state.at) <= horizon)
    }

    /// Takes in a result that says something about the peer. What was known longer ago than `horizon` is not known any more.
    fn sound(&mut self, result: Result<Timings, Failure>, at: Instant, horizon: Duration) -> Option<Transition> {
        let before = self.state.take().filter(|state| at.saturating_duration_since(state.at) <= horizon);
        let was_up = before.as_ref().map(|state| state.result.is_ok());
        let is_up = result.is_ok();
        let since = before.as_ref().filter(|_| was_up == Some(is_up)).map_or(at, |state| state.since);
        // The first word that a target is up is no news: it was just taken up.
        let news = if is_up { was_up == Some(false) } else { was_up != Some(false) };
        let transition = news.then(|| Transition {
            peer: Arc::clone(&self.peer),
            check: self.check.clone(),
            failure: result.as_ref().err().cloned(),
            lasted: before.as_ref().map(|state| at.saturating_duration_since(state.since)),
            failed: before.as_ref().map_or(0, |state| state.failed),
        });
        let failed = if is_up { 0 } else { before.map_or(0, |state| state.failed) + 1 };
        self.state = Some(State { result, at, since, failed });
        transition
    }
}

/// So many of a thing: `1 peer`, `12 peers`.
#[must_use]
pub fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A length of time as a person says it: `40 s`, `3 min`, `2 h`, `5 d`.
#[must_use]
pub fn rough(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests;
