//! What this member has seen: its targets, the last outcome of each, and the sums over all of them.
//!
//! One board a member. It is given the [`Plan`], it takes in what the probe thread reports, and scrapes, `/health`, the status
//! line and the demo's table read it. It records: what a probe says is decided by [`judge`](super::judge), whether a target is
//! up or down by its [`Memory`], whether this member is well by [`Health`]. It promises:
//! * Every target is one label set: identities are unique among peers, endpoints are unique in the configuration.
//! * What belongs to a departed peer is gone with it; what belongs to a location goes with its last peer.
//! * Unknown stays unknown: a target that was not probed lately, or only with failures of this host, has no state, rather than
//!   its old one; a peer that is not probed counts as not covered.
//!
//! It reads no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Wall;
use crate::probe::schedule::{ByTarget, SkipReason, TargetId};
use crate::probe::stats::{Histogram, LAG_BOUNDS, OVERHEAD_BOUNDS, Tally};
use crate::probe::{Check, CheckType, Failure, LocalCause, Outcome, Reason, Timings};
use crate::wire::{InstanceId, Location};

use super::health::{self, Health};
use super::judge::{Finding, Judged, judge};
use super::memory::{Memory, State};
use super::peers::Peer;
use super::plan::{Plan, PlannedPeer};
use super::report::Report;

/// How many other members that answer in the place of a peer are reported for each peer.
const REPORTED_MAX: usize = 8;

/// One target and what is known of it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The peer it belongs to.
    pub peer: Arc<Peer>,
    /// What is done there.
    pub check: Check,
    /// When it was taken up.
    pub added: Instant,
    memory: Memory,
    marks: health::Marks,
    /// When the last successful probe ended. Monotonic, so that a step of the wall clock does not stick.
    reached: Option<Instant>,
    /// The index of its location in [`Board::tallies`].
    index: usize,
    /// The index of its peer in [`Board::sights`].
    sight: usize,
}

/// What is known of one peer beside its targets.
#[derive(Clone, Debug)]
struct Sight {
    peer: Arc<Peer>,
    /// When the registry last heard of it, in seconds since the epoch; 0 where it did not say.
    registry_last_seen: u64,
    held: bool,
    on_this_host: bool,
    leads_back: bool,
    /// Why this host cannot send it a probe, where it cannot.
    cannot: Option<String>,
    /// Another member of its location answered in its place the last time.
    another: Option<InstanceId>,
    /// The other members of which that has been reported, a few at most.
    reported: Vec<InstanceId>,
    targets: Vec<TargetId>,
}

impl Sight {
    fn new(planned: &PlannedPeer) -> Self {
        Self {
            peer: Arc::clone(&planned.peer),
            registry_last_seen: planned.last_seen,
            held: planned.held,
            on_this_host: planned.on_this_host,
            leads_back: planned.leads_back,
            cannot: None,
            another: None,
            reported: Vec::new(),
            targets: Vec::new(),
        }
    }
}

/// Something that is worth a line in the log.
#[derive(Clone, Debug)]
pub enum Event {
    /// A target has gone up or down.
    Turned(Transition),
    /// This host cannot send a peer any probe.
    CannotProbe {
        /// Which peer.
        peer: Arc<Peer>,
        /// Why.
        why: String,
    },
    /// Another member of the peer's location answers at its address.
    AnotherAnswers {
        /// Which peer.
        peer: Arc<Peer>,
        /// Who answers.
        instance: InstanceId,
    },
    /// Nothing outside this host answers as far as can be seen: ask the registry for a sign of life.
    AllSilent,
}

/// A target has gone up or down.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The target.
    pub id: TargetId,
    /// The peer it belongs to.
    pub peer: Arc<Peer>,
    /// What was done there.
    pub check: Check,
    /// Why it is down; nothing where it is up.
    pub failure: Option<Failure>,
    /// When the probe ended that found it.
    pub ended: Instant,
    /// How long it had been the other way; nothing where it had no state before.
    pub lasted: Option<Duration>,
    /// How many probes had failed meanwhile.
    pub failed: u64,
}

/// The registry, as this member sees it.
#[derive(Clone, Copy, Debug)]
pub struct RegistrySight {
    /// Whether the last requests to it were answered as they should be.
    pub up: bool,
    /// When the roster was last known to be true: confirmed by the registry, less the age it gave. Nothing before the
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

/// Why peers are not probed, or cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotProbed {
    /// Their addresses lead back to this member.
    LeadsBack,
    /// This host cannot send them anything.
    NoRoute,
}

impl NotProbed {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::LeadsBack, Self::NoRoute];

    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::LeadsBack => "leads_back",
            Self::NoRoute => "no_route",
        }
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
    registry: RegistrySight,
    targets: ByTarget<Watched>,
    /// The targets whose last result that counts was a failure.
    down: BTreeSet<TargetId>,
    /// In the order of location, then identity.
    sights: Vec<Sight>,
    /// The sums of each location that is probed, in the order of their names.
    tallies: Vec<(Location, [Tally; 2])>,
    lag: Histogram,
    overhead: Histogram,
    skipped: BTreeMap<SkipReason, u64>,
    health: Health,
    /// The registry was asked for a sign of life since the last success.
    asked: bool,
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
            targets: ByTarget::default(),
            down: BTreeSet::new(),
            sights: Vec::new(),
            tallies: Vec::new(),
            lag: Histogram::new(LAG_BOUNDS),
            overhead: Histogram::new(OVERHEAD_BOUNDS),
            skipped: SkipReason::ALL.into_iter().map(|reason| (reason, 0)).collect(),
            health: Health::default(),
            asked: false,
        }
    }

    /// Takes in what is to be probed. A target that was there before keeps its state.
    pub fn follow(&mut self, plan: &Plan, now: Instant) {
        let before = mem::take(&mut self.sights).into_iter();
        let mut before: HashMap<Arc<Peer>, Sight> = before.map(|sight| (Arc::clone(&sight.peer), sight)).collect();
        let mut kept = ByTarget::with_capacity_and_hasher(self.targets.len(), BuildHasherDefault::default());
        for planned in &plan.peers {
            let mut sight = Sight::new(planned);
            if let Some(known) = before.remove(&planned.peer) {
                (sight.cannot, sight.another, sight.reported) = (known.cannot, known.another, known.reported);
            }
            for (id, check) in &planned.targets {
                let mut watched = self.targets.remove(id).unwrap_or_else(|| Watched {
                    peer: Arc::clone(&planned.peer),
                    check: check.clone(),
                    added: now,
                    memory: Memory::default(),
                    marks: health::Marks::default(),
                    reached: None,
                    index: 0,
                    sight: 0,
                });
                watched.sight = self.sights.len();
                // What was found of a peer that the roster lacks by now may be its departure.
                if planned.held && watched.memory.is_down(now, self.freshness.horizon()) {
                    watched.memory.forget();
                }
                kept.insert(*id, watched);
                sight.targets.push(*id);
            }
            self.sights.push(sight);
        }
        self.targets = kept;
        self.down.retain(|id| self.targets.contains_key(id));
        self.index_tallies();
        let (sights, targets) = (&self.sights, &self.targets);
        let off_host = sights.iter().filter(|sight| !sight.on_this_host).flat_map(|sight| &sight.targets);
        let off_host = off_host.filter_map(|id| targets.get(id));
        self.health.set_targets(off_host.map(|watched| (&watched.marks, &watched.peer.location)));
    }

    /// Gives every location that is probed its sums, and every target the index of its own.
    fn index_tallies(&mut self) {
        let probed: BTreeSet<&Location> = self.targets.values().map(|watched| &watched.peer.location).collect();
        let mut before: HashMap<Location, [Tally; 2]> = mem::take(&mut self.tallies).into_iter().collect();
        self.tallies = probed
            .into_iter()
            .map(|location| (location.clone(), before.remove(location).unwrap_or_default()))
            .collect();
        for watched in self.targets.values_mut() {
            let index = self.tallies.binary_search_by(|(location, _)| location.cmp(&watched.peer.location));
            watched.index = index.expect("every location that is probed has sums");
        }
    }

    /// Takes in how it is with the registry. `reached` is whether it answered on a new connection from another host, where that
    /// was tried.
    pub fn note_registry(&mut self, sight: RegistrySight, reached: Option<bool>, now: Instant) {
        self.registry = sight;
        let Some(reached) = reached else { return };
        let was_isolated = self.health.is_isolated_now();
        self.health.registry(reached, now);
        if !was_isolated && self.health.is_isolated_now() {
            self.forget_what_turned(now);
        }
    }

    /// The registry, as this member sees it.
    #[must_use]
    pub fn registry(&self) -> RegistrySight {
        self.registry
    }

    /// Takes in what the prober reports, and says what is news. An outcome of a target that is gone is ignored; a skipped
    /// turn counts whoever it belonged to.
    pub fn apply(&mut self, report: Report) -> Vec<Event> {
        match report {
            Report::Skipped { reason, count } => {
                *self.skipped.entry(reason).or_default() += count;
                Vec::new()
            }
            Report::Stalled { lost, until } => {
                self.health.stalled(lost, until);
                Vec::new()
            }
            Report::Suspended { lost, until } => {
                self.suspended(lost, until);
                Vec::new()
            }
            Report::Probed { id, outcome, facts, began, lag, ended } => {
                let mut news = Vec::new();
                self.probed(id, outcome, &facts, (began, ended), lag, &mut news);
                news
            }
        }
    }

    fn probed(
        &mut self,
        id: TargetId,
        outcome: Outcome,
        facts: &super::report::Facts,
        (began, ended): (Instant, Instant),
        lag: Duration,
        news: &mut Vec<Event>,
    ) {
        let horizon = self.freshness.horizon();
        let Some(watched) = self.targets.get_mut(&id) else { return };
        let sight = &mut self.sights[watched.sight];
        self.lag.observe(lag);
        if let Some(overhead) = outcome.result.as_ref().ok().and_then(Timings::overhead) {
            self.overhead.observe(overhead);
        }
        let probed = health::Probed {
            location: &watched.peer.location,
            address: watched.peer.address(),
            on_this_host: sight.on_this_host,
            would_turn: !watched.memory.is_down(ended, horizon) && !sight.held && !facts.link_is_broken(),
            ended,
        };
        let was_isolated = self.health.is_isolated_now();
        self.health.note_answer(&mut watched.marks, &probed, &outcome.result);
        let isolated = self.health.is_isolated(began) && !sight.on_this_host;
        let Judged { outcome, finding, answered_by_another, answered_itself } =
            judge(outcome, facts, &watched.peer, sight.held, isolated);
        self.health.probed(&mut watched.marks, &probed, &outcome.result, facts.link_is_broken());
        let (_, tallies) = &mut self.tallies[watched.index];
        tallies[watched.check.check_type() as usize].add(&outcome);
        let result = outcome.result;
        if let Some(instance) = answered_by_another {
            // Behind a balancer they take turns.
            if sight.reported.len() < REPORTED_MAX && !sight.reported.contains(&instance) {
                sight.reported.push(instance.clone());
                news.push(Event::AnotherAnswers { peer: Arc::clone(&sight.peer), instance: instance.clone() });
            }
            sight.another = Some(instance);
        } else if answered_itself {
            sight.another = None;
        }
        match &result {
            // The kernel refused to send it, and nothing but the peer's address explains that.
            Err(Failure { reason: Reason::Local(LocalCause::NoRoute), detail }) if !facts.link_is_broken() => {
                if sight.cannot.is_none() {
                    news.push(Event::CannotProbe { peer: Arc::clone(&sight.peer), why: detail.clone() });
                }
                sight.cannot = Some(detail.clone());
            }
            Err(Failure { reason: Reason::Local(_), .. }) => {}
            _ => sight.cannot = None,
        }
        match finding {
            Finding::Up => {
                // Another member that answers at the address is no sign of life of this one.
                if sight.another.is_none() {
                    watched.reached = watched.reached.max(Some(ended));
                }
                self.down.remove(&id);
            }
            Finding::Down => {
                self.down.insert(id);
            }
            Finding::Nothing => {
                // The kernel notices a silent gateway late. What was found down shortly before, with no answer from anywhere
                // since then, was this host's own fault already.
                let down_since = watched.memory.fresh(ended, horizon).filter(|state| state.result.is_err());
                if facts.link_is_broken() && down_since.is_some_and(|state| self.health.is_silent_since(state.since)) {
                    watched.memory.forget();
                    self.down.remove(&id);
                }
            }
            Finding::Unknown => {
                // A target that was down while others still answered stays down until that is too old.
                let down_since = watched.memory.fresh(ended, horizon).filter(|state| state.result.is_err());
                let down_before = down_since.is_some_and(|state| !self.health.is_silent_since(state.since));
                if sight.held || !down_before {
                    watched.memory.forget();
                    self.down.remove(&id);
                }
            }
        }
        if matches!(finding, Finding::Up | Finding::Down) {
            let failure = result.as_ref().err().cloned();
            if let Some(turned) = watched.memory.take_in(result, ended, horizon) {
                news.push(Event::Turned(Transition {
                    id,
                    peer: Arc::clone(&watched.peer),
                    check: watched.check.clone(),
                    failure,
                    ended,
                    lasted: turned.lasted,
                    failed: turned.failed,
                }));
            }
        }
        if !was_isolated && self.health.is_isolated_now() {
            self.forget_what_turned(ended);
        }
        let all_silent = self.health.is_all_silent();
        if all_silent && !self.asked {
            news.push(Event::AllSilent);
        }
        self.asked = all_silent;
    }

    /// What turned down since the last answer from anywhere was this member's own isolation.
    fn forget_what_turned(&mut self, now: Instant) {
        let horizon = self.freshness.horizon();
        for sight in self.sights.iter().filter(|sight| !sight.on_this_host) {
            for id in &sight.targets {
                let Some(watched) = self.targets.get_mut(id) else { continue };
                let down = watched.memory.fresh(now, horizon).filter(|state| state.result.is_err());
                if down.is_some_and(|state| self.health.is_silent_since(state.since)) {
                    watched.memory.forget();
                    self.down.remove(id);
                }
            }
        }
    }

    /// The host was suspended for `lost` until then. What was known before is old, and the monotonic clock does not show it.
    fn suspended(&mut self, lost: Duration, until: Instant) {
        self.health.suspended(lost, until);
        self.down.clear();
        for watched in self.targets.values_mut() {
            watched.memory.forget();
            // So that the time since then is right again.
            watched.reached = watched.reached.and_then(|reached| reached.checked_sub(lost));
            watched.added = until;
        }
        self.registry.roster_at = self.registry.roster_at.and_then(|at| at.checked_sub(lost));
    }

    /// The targets in the order of location, identity and check, with their state where it is fresh at `now`.
    pub fn targets(&self, now: Instant) -> impl Iterator<Item = (&Watched, Option<&State>)> {
        self.sights.iter().flat_map(move |sight| self.targets_of(sight, now))
    }

    /// The peers in the order of location and identity, each with when it was last seen: the newer of the registry's word
    /// and our own last success, where there is any. What the registry says of the future counts as now. With each peer come
    /// its targets, as [`Board::targets`] has them.
    pub fn peers(
        &self,
        now: Instant,
        wall: Wall,
    ) -> impl Iterator<Item = (&Arc<Peer>, Option<Wall>, impl Iterator<Item = (&Watched, Option<&State>)>)> {
        self.sights.iter().map(move |sight| {
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
        targets.map(move |watched| (watched, watched.memory.fresh(now, horizon)))
    }

    /// Whether this outcome may be the first sign that the roster has changed, which the registry can tell: the connection was
    /// refused, or a member of another location answered. Not where the target was down before, or nobody can be asked.
    #[must_use]
    pub fn may_have_left(&self, id: TargetId, outcome: &Outcome, now: Instant) -> bool {
        let refused = matches!(&outcome.result, Err(Failure { reason: Reason::Refused, .. }));
        let location = outcome.answered_by.as_ref().and_then(|answerer| answerer.location.as_ref());
        if !self.registry.up || (!refused && location.is_none()) {
            return false;
        }
        let Some(watched) = self.targets.get(&id) else { return false };
        let moved = location.is_some_and(|location| *location != watched.peer.location);
        (refused || moved) && !watched.memory.is_down(now, self.freshness.horizon())
    }

    /// The peers whose addresses lead back to this member.
    pub fn leading_back(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.sights.iter().filter(|sight| sight.leads_back).map(|sight| &sight.peer)
    }

    /// How many peers are not probed, or cannot be, by reason.
    pub fn not_probed(&self) -> impl Iterator<Item = (NotProbed, usize)> {
        NotProbed::ALL.into_iter().map(|reason| {
            let applies = |sight: &&Sight| match reason {
                NotProbed::LeadsBack => sight.leads_back,
                NotProbed::NoRoute => sight.cannot.is_some(),
            };
            (reason, self.sights.iter().filter(applies).count())
        })
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

    /// The share of targets with a fresh state, among those that have been watched for long enough to have one. A peer that
    /// is not probed, because its address leads back, counts as one target without. Nothing where there are none.
    #[must_use]
    pub fn coverage(&self, now: Instant) -> Option<f64> {
        let due = self.freshness.interval + self.freshness.time_limit + Duration::from_secs(2);
        let not_probed = self.sights.iter().filter(|sight| sight.leads_back).count();
        let (mut expected, mut fresh) = (u32::try_from(not_probed).unwrap_or(u32::MAX), 0_u32);
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
            let Some(state) = watched.memory.fresh(now, horizon) else { continue };
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
        for sight in self.sights.iter().filter(|sight| sight.cannot.is_some()).take(1) {
            let n = self.sights.iter().filter(|sight| sight.cannot.is_some()).count();
            let why = sight.cannot.as_deref().unwrap_or_default();
            line += &format!(", {n} cannot be probed: {} ({}: {why})", sight.peer.location, sight.peer.ip);
            if n > 1 {
                line += &format!(" and {} more", n - 1);
            }
        }
        if !self.registry.up {
            line += if self.registry.roster_at.is_some() { ", registry away" } else { ", registry not reached yet" };
        }
        line
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
