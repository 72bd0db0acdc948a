//! Drives the schedule: the thread that probes and does nothing else.
//!
//! A [`Prober`] is an OS thread of its own with a runtime of its own, so that nothing a member serves, encodes or asks
//! of the registry can make a probe late or a time look long. It is told what to probe and by which settings, and says
//! what it found over a bounded channel, in batches; where nobody takes the reports in time they are dropped and counted,
//! since a prober that waited would measure its listener.
//!
//! Of what it is told only the latest counts, at once: probes in flight to targets that are gone are broken off and not
//! reported. A report that was in the channel by then still comes; that ids are never used again makes it easy to know.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::clock;
use crate::host::network::{Fault, Network};
use crate::probe::schedule::{ByTarget, Event, Phase, Schedule, SkipReason, TargetId, Turn};
use crate::probe::{self, Failure, Limits, LocalCause, Outcome, Reason, Target};
use crate::wire::InstanceId;

use super::judge::Facts;

/// The longest the thread sleeps, so that it shows at least twice a second that it is alive.
const IDLE_MAX: Duration = Duration::from_millis(500);

/// The longest it sleeps while probes are in flight, so that it knows to that grain how much of their time it stood still.
const WATCHFUL_MAX: Duration = Duration::from_millis(100);

/// How much later than asked for the thread may wake without having stood still: the timer's grain, and the wait for a turn on
/// a busy processor.
const GRAIN: Duration = Duration::from_millis(50);

/// How late word may come that a target has turned, for its follow-ups to be counted from the end of the probe.
const LATE: Duration = Duration::from_millis(500);

/// How long reports are gathered where they come one after the other: to wake their taker for each costs as much as a third of
/// a probe. The first after a pause goes out at once.
const GATHER: Duration = Duration::from_millis(200);

/// How many reports are gathered at most.
const BATCH_MAX: usize = 256;

/// How many turned targets may wait for the thread to hear of them. One that finds no room is not looked at again before its
/// next regular turn, and that is all.
const TURNED_MAX: usize = 4_096;

/// One thing to probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probing {
    /// Its name in reports.
    pub id: TargetId,
    /// The peer it belongs to, which with the check gives it its phase in the interval.
    pub peer: InstanceId,
    /// What to aim at.
    pub target: Target,
}

/// How to probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// From one regular turn of a target to the next.
    pub interval: Duration,
    /// What each probe is held to.
    pub limits: Limits,
    /// How many probes may be in flight at once. Each holds one descriptor.
    pub max_in_flight: usize,
}

/// What the prober has to say.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every report is of the large kind, and a box for each costs time"
)]
pub enum Report {
    /// A probe was made.
    Probed {
        /// Of which target.
        id: TargetId,
        /// What it found.
        outcome: Outcome,
        /// What was the case meanwhile.
        facts: Facts,
        /// When it began.
        began: Instant,
        /// How much later than due that was.
        lag: Duration,
        /// When it ended.
        ended: Instant,
    },
    /// Regular turns of one target were skipped.
    Skipped {
        /// Why.
        reason: SkipReason,
        /// How many in a row.
        count: u64,
    },
    /// The thread woke later than it had asked for: the process was stopped, or starved of processor time.
    Stalled {
        /// How much later.
        lost: Duration,
        /// When it woke.
        until: Instant,
    },
    /// The host was suspended, which the monotonic clock does not count.
    Suspended {
        /// For how long.
        lost: Duration,
        /// When that was noticed.
        until: Instant,
    },
}

/// A running probe thread. Dropping it stops the thread as [`Prober::stop`] does.
#[derive(Debug)]
pub struct Prober {
    self_id: InstanceId,
    /// Taken out to stop the thread.
    orders: Option<watch::Sender<Orders>>,
    turned: mpsc::Sender<Turned>,
    thread: Option<JoinHandle<()>>,
    dropped_reports: Arc<AtomicU64>,
}

/// A target has gone up or down.
#[derive(Clone, Copy, Debug)]
struct Turned {
    id: TargetId,
    /// When the probe ended that found it.
    ended: Instant,
}

/// What the thread is told.
#[derive(Clone, Debug)]
struct Orders {
    plan: Arc<Plan>,
    settings: Arc<Settings>,
}

/// What to probe, made ready by the teller so that the thread loses no time on it.
type Plan = ByTarget<Planned>;

#[derive(Debug, PartialEq)]
struct Planned {
    phase: Phase,
    target: Target,
}

impl Prober {
    /// Starts the thread, with nothing to probe yet. `self_id` is who probes. Reports come in batches; where the channel is
    /// full, `reports_max` of them wait here. `mark` is called at least once a second while the thread is well, from the
    /// loop that hands out the turns. `network` is asked
    /// about failures.
    ///
    /// # Errors
    ///
    /// The system gives no thread or no epoll descriptor.
    pub fn start(
        self_id: &InstanceId,
        settings: Settings,
        reports: mpsc::Sender<Vec<Report>>,
        reports_max: usize,
        network: Network,
        mark: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let (orders, told) = watch::channel(Orders { plan: Arc::default(), settings: Arc::new(settings) });
        let (turned, turns) = mpsc::channel(TURNED_MAX);
        let dropped_reports = Arc::<AtomicU64>::default();
        let outbox = Outbox::new(reports, reports_max, Arc::clone(&dropped_reports));
        let work = Loop::new(told, turns, outbox, network);
        let thread =
            std::thread::Builder::new().name("netring-probe".into()).spawn(move || work.run(&runtime, mark))?;
        Ok(Self { self_id: self_id.clone(), orders: Some(orders), turned, thread: Some(thread), dropped_reports })
    }

    /// Says what to probe from now on, all of it. Targets that stay keep their rhythm and their probe in flight; those
    /// that changed or are gone have it broken off. Of two with the same id the last counts.
    pub fn set_targets(&self, targets: Vec<Probing>) {
        let plan = targets
            .into_iter()
            .map(|Probing { id, peer, target }| {
                (id, Planned { phase: Phase::of(&self.self_id, &peer, &target.check), target })
            })
            .collect();
        self.tell(|orders| orders.plan = Arc::new(plan));
    }

    /// Says how to probe from now on. Probes in flight end by the limits they started with.
    pub fn set_settings(&self, settings: Settings) {
        self.tell(|orders| orders.settings = Arc::new(settings));
    }

    /// Says that a target was found to have gone up or down by a probe that ended then: it is to be probed again soon.
    pub fn turned(&self, id: TargetId, ended: Instant) {
        // Without room the target waits for its next regular turn.
        let _ = self.turned.try_send(Turned { id, ended });
    }

    fn tell(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.as_ref().expect("orders are there until the prober is dropped").send_modify(change);
    }

    /// How many reports were dropped because the channel was full or closed.
    #[must_use]
    pub fn dropped_reports(&self) -> u64 {
        self.dropped_reports.load(Ordering::Relaxed)
    }

    /// Breaks off all probes and ends the thread. Returns when it has ended, which is at once.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on stderr; it has ended all the same.
            let _ = thread.join();
        }
    }
}

/// What one probe's task comes back with.
struct Probed {
    turn: Turn,
    lag: Duration,
    outcome: Outcome,
    ended: Instant,
    /// Why the network of this host explains the failure, where it does.
    network: Option<Fault>,
}

/// A probe in flight.
struct InFlight {
    turn: Turn,
    task: AbortHandle,
    /// What [`Loop::lost`] was at its start.
    lost_before: Duration,
    /// Its time limit.
    limit: Duration,
}

/// The thread's state.
struct Loop {
    told: watch::Receiver<Orders>,
    turns: mpsc::Receiver<Turned>,
    plan: Arc<Plan>,
    settings: Arc<Settings>,
    schedule: Schedule,
    probes: JoinSet<Probed>,
    in_flight: ByTarget<InFlight>,
    /// When the thread wants to wake next; while it is awake, when it last looked at the clock.
    wake: Instant,
    /// For how long it has stood still since it began, in all, suspends included.
    lost: Duration,
    /// What [`clock::suspended`] was at the last look.
    suspended: Duration,
    network: Network,
    outbox: Outbox,
}

/// The reports on their way out.
struct Outbox {
    reports: mpsc::Sender<Vec<Report>>,
    waiting: Vec<Report>,
    waiting_max: usize,
    /// When a batch was last sent, or could not be.
    tried: Option<Instant>,
    dropped: Arc<AtomicU64>,
}

impl Outbox {
    fn new(reports: mpsc::Sender<Vec<Report>>, waiting_max: usize, dropped: Arc<AtomicU64>) -> Self {
        Self { reports, waiting: Vec::new(), waiting_max, tried: None, dropped }
    }

    fn put(&mut self, report: Report) {
        if self.waiting.len() < self.waiting_max {
            self.waiting.push(report);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// When to call [`Outbox::send`] next, if nothing happens before.
    fn due(&self) -> Option<Instant> {
        self.tried.filter(|_| !self.waiting.is_empty()).map(|tried| tried + GATHER)
    }

    /// Sends what waits, if that is due or a whole batch.
    fn send(&mut self, now: Instant) {
        let gathering = self.waiting.len() < BATCH_MAX && self.due().is_some_and(|due| now < due);
        if gathering || self.waiting.is_empty() {
            return;
        }
        self.tried = Some(now);
        match self.reports.try_send(mem::take(&mut self.waiting)) {
            Ok(()) => {}
            Err(TrySendError::Full(waiting)) => self.waiting = waiting,
            Err(TrySendError::Closed(lost)) => {
                self.dropped.fetch_add(lost.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

impl Loop {
    fn new(mut told: watch::Receiver<Orders>, turns: mpsc::Receiver<Turned>, outbox: Outbox, network: Network) -> Self {
        let Orders { plan, settings } = told.borrow_and_update().clone();
        let now = clock::monotonic();
        Self {
            told,
            turns,
            plan,
            schedule: Schedule::new(now, settings.interval, settings.max_in_flight),
            settings,
            probes: JoinSet::new(),
            in_flight: ByTarget::default(),
            wake: now,
            lost: Duration::ZERO,
            suspended: clock::suspended(),
            network,
            outbox,
        }
    }

    fn run(mut self, runtime: &Runtime, mark: impl Fn()) {
        runtime.block_on(async {
            let mut alarm = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
            loop {
                mark();
                self.start_what_is_due();
                self.outbox.send(clock::monotonic());
                self.set_wake();
                if alarm.deadline() != self.wake.into() {
                    alarm.as_mut().reset(self.wake.into());
                }
                tokio::select! {
                    biased;
                    changed = self.told.changed() => match changed {
                        Ok(()) => {
                            self.look_at_the_clock();
                            self.follow_orders();
                        }
                        Err(_) => break,
                    },
                    Some(turned) = self.turns.recv() => {
                        self.look_at_the_clock();
                        self.take_in(turned);
                        while let Ok(turned) = self.turns.try_recv() {
                            self.take_in(turned);
                        }
                    }
                    Some(ended) = self.probes.join_next() => {
                        // First, because what ended meanwhile is judged by it.
                        self.look_at_the_clock();
                        self.settle(ended);
                        while let Some(ended) = self.probes.try_join_next() {
                            self.settle(ended);
                        }
                    }
                    () = &mut alarm => {
                        self.look_at_the_clock();
                    }
                }
            }
        });
    }

    /// Decides when to look at the schedule next, whatever happens.
    fn set_wake(&mut self) {
        // Once more, because the thread can be stopped while it is awake, too.
        self.look_at_the_clock();
        let now = self.wake;
        let idle = now + if self.in_flight.is_empty() { IDLE_MAX } else { WATCHFUL_MAX };
        let next = [self.schedule.next_due(), self.outbox.due()].into_iter().flatten().fold(idle, Instant::min);
        // Not before now: what is overdue, as reports are whose last batch is long ago, is no standstill.
        self.wake = next.max(now);
    }

    /// Notes for how long the thread stood still, if it did.
    fn look_at_the_clock(&mut self) {
        self.note_time(clock::monotonic(), clock::suspended());
    }

    fn note_time(&mut self, now: Instant, suspended: Duration) {
        let lost = now.saturating_duration_since(self.wake);
        if lost > GRAIN {
            self.lost += lost;
            self.outbox.put(Report::Stalled { lost, until: now });
        }
        let asleep = suspended.saturating_sub(self.suspended);
        if asleep > GRAIN {
            self.lost += asleep;
            self.outbox.put(Report::Suspended { lost: asleep, until: now });
        }
        self.wake = now;
        self.suspended = suspended;
    }

    fn take_in(&mut self, Turned { id, ended }: Turned) {
        let Some(planned) = self.plan.get(&id) else { return };
        let limit = self.settings.limits.timeout(planned.target.check.check_type());
        // What has waited for the roster is followed up from now on, or it would look late.
        let waited = self.wake.saturating_duration_since(ended) > LATE;
        self.schedule.turned(id, if waited { self.wake } else { ended }, limit);
    }

    fn start_what_is_due(&mut self) {
        // The clock is read for every turn, so that each is judged by how late it is itself.
        while let Some(event) = self.schedule.due(clock::monotonic()) {
            match event {
                Event::Start(turn) => self.start(turn),
                Event::Skipped { reason, count, .. } => self.outbox.put(Report::Skipped { reason, count }),
            }
        }
    }

    fn start(&mut self, turn: Turn) {
        let planned = self.plan.get(&turn.id).expect("the schedule holds exactly the targets of the plan");
        let target = planned.target.clone();
        let settings = Arc::clone(&self.settings);
        let network = self.network.clone();
        let limit = settings.limits.timeout(target.check.check_type());
        let task = self.probes.spawn(async move {
            let lag = clock::monotonic().saturating_duration_since(turn.due);
            let began = turn.due + lag;
            let outcome = probe::run(&target, &settings.limits).await;
            let ended = clock::monotonic();
            let network = match &outcome.result {
                Ok(_) => None,
                Err(_) => network.fault(outcome.source, target.address.ip(), began).await,
            };
            Probed { turn, lag, outcome, ended, network }
        });
        self.in_flight.insert(turn.id, InFlight { turn, task, lost_before: self.lost, limit });
    }

    /// Takes in the end of one task: of a probe that was made, or of one that was broken off.
    fn settle(&mut self, ended: Result<Probed, JoinError>) {
        let Some(Probed { turn, lag, outcome, ended, network }) = ended.map_or_else(|error| self.broken(&error), Some)
        else {
            return;
        };
        let Some(&InFlight { lost_before, limit, .. }) =
            self.in_flight.get(&turn.id).filter(|probe| probe.turn == turn)
        else {
            // Its target is gone, or another by now.
            return;
        };
        let timed_out = matches!(&outcome.result, Err(Failure { reason: Reason::Timeout, .. }));
        if !self.schedule.ended(turn, timed_out) {
            return;
        }
        self.in_flight.remove(&turn.id);
        let began = turn.due + lag;
        let facts = Facts { stalled: self.lost - lost_before, limit, network };
        self.outbox.put(Report::Probed { id: turn.id, outcome, facts, began, lag, ended });
    }

    /// What to make of a task without a result. One that was broken off needs nothing more. One that panicked met a
    /// fault in this program, and its target must not wait for it for ever.
    fn broken(&self, error: &JoinError) -> Option<Probed> {
        let turn = self.in_flight.values().find(|probe| probe.task.id() == error.id())?.turn;
        let failure = Failure {
            reason: Reason::Local(LocalCause::Internal),
            detail: "the probe broke down; this is a fault in netring".into(),
        };
        let (outcome, ended) = (Outcome::failed(failure), clock::monotonic());
        Some(Probed { turn, lag: Duration::ZERO, outcome, ended, network: None })
    }

    fn follow_orders(&mut self) {
        let Orders { plan, settings } = self.told.borrow_and_update().clone();
        let now = clock::monotonic();
        if self.settings != settings {
            self.schedule.set_interval(settings.interval, now);
            self.schedule.set_max_in_flight(settings.max_in_flight);
            self.settings = settings;
        }
        if Arc::ptr_eq(&self.plan, &plan) {
            return;
        }
        let before = mem::replace(&mut self.plan, plan);
        for (id, planned) in before.iter() {
            if self.plan.get(id) != Some(planned) {
                self.schedule.remove(*id);
                if let Some(InFlight { task, .. }) = self.in_flight.remove(id) {
                    task.abort();
                }
            }
        }
        for (id, planned) in self.plan.iter() {
            self.schedule.add(*id, planned.phase, now);
        }
    }
}

#[cfg(test)]
mod tests;
