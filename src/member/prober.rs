//! The thread that makes all probes, at the times that the schedule gives.
//!
//! A [`Prober`] is a thread with a runtime of its own, so that no other work of the member can delay a probe or make its times
//! longer. It gets targets and settings, and sends its reports over a bounded channel, in batches. If the reader is too slow,
//! reports are dropped and counted: if the thread waited, it would measure its reader.
//!
//! New targets and settings replace the old ones at once. Probes in flight to removed targets are aborted and not reported. A
//! report that is already in the channel still arrives; because ids are never reused, the reader can recognise and ignore it.

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
use crate::probe::schedule::{ByTarget, Event, Phase, Schedule, TargetId, Turn};
use crate::probe::{self, Failure, Limits, LocalCause, Outcome, Reason, Target};
use crate::wire::InstanceId;

use super::plan::Probing;
use super::report::{Facts, Report};

/// The longest time for which the thread sleeps, so that it marks its pulse at least twice a second.
const IDLE_MAX: Duration = Duration::from_millis(500);

/// The longest time for which it sleeps while probes are in flight: the resolution at which it notices stalls.
const WATCHFUL_MAX: Duration = Duration::from_millis(100);

/// How much later than planned the thread may wake without a stall: the resolution of the timer, and the wait for a busy
/// processor.
const GRAIN: Duration = Duration::from_millis(50);

/// How late word may come that a target has turned, for its follow-ups to be counted from the end of the probe.
const LATE: Duration = Duration::from_millis(500);

/// For how long reports are collected if they follow each other: waking the reader for each one costs as much as a third of a
/// probe. The first report after a pause is sent at once.
const GATHER: Duration = Duration::from_millis(200);

/// The largest batch of reports.
const BATCH_MAX: usize = 256;

/// How many turned targets may wait in the channel to the thread. One that does not fit gets no follow-ups; its next probe is
/// the regular one.
const TURNED_MAX: usize = 4_096;

/// How to probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The time from one regular turn of a target to the next.
    pub interval: Duration,
    /// The limits of each probe.
    pub limits: Limits,
    /// How many probes may be in flight at once. Each uses one descriptor.
    pub max_in_flight: usize,
}

/// A running probe thread. Dropping it stops the thread as [`Prober::stop`] does.
#[derive(Debug)]
pub struct Prober {
    self_id: InstanceId,
    /// Dropped to stop the thread.
    orders: Option<watch::Sender<Orders>>,
    turned: mpsc::Sender<Turned>,
    thread: Option<JoinHandle<()>>,
    dropped_reports: Arc<AtomicU64>,
}

/// A target has gone up or down.
#[derive(Clone, Copy, Debug)]
struct Turned {
    id: TargetId,
    /// When the probe ended that noticed it.
    ended: Instant,
}

/// What the thread is to do.
#[derive(Clone, Debug)]
struct Orders {
    plan: Arc<Plan>,
    settings: Arc<Settings>,
}

/// What to probe, prepared by the caller so that the thread spends no time on it.
type Plan = ByTarget<Planned>;

#[derive(Debug, PartialEq)]
struct Planned {
    phase: Phase,
    target: Target,
}

impl Prober {
    /// Starts the thread, with nothing to probe yet. `self_id` is this member. Reports are sent in batches; if the channel is
    /// full, up to `reports_max` of them wait here. The loop that starts the probes calls `mark` at least once a second.
    /// `network` is asked about failures.
    ///
    /// # Errors
    ///
    /// The system cannot create a thread or an epoll descriptor.
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

    /// Sets all targets. Targets that stay keep their phase and their probe in flight; the probes of changed or removed targets
    /// are aborted. Of two targets with the same id the last one counts.
    pub fn set_targets(&self, targets: Vec<Probing>) {
        let plan = targets
            .into_iter()
            .map(|Probing { id, peer, target }| {
                (id, Planned { phase: Phase::of(&self.self_id, &peer, &target.check), target })
            })
            .collect();
        self.tell(|orders| orders.plan = Arc::new(plan));
    }

    /// Changes the settings. Probes in flight keep the limits they started with.
    pub fn set_settings(&self, settings: Settings) {
        self.tell(|orders| orders.settings = Arc::new(settings));
    }

    /// A probe that ended at `ended` found that the target changed between up and down: it is to be probed again soon.
    pub fn turned(&self, id: TargetId, ended: Instant) {
        // If the channel is full, the target is probed at its next regular turn.
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

    /// Aborts all probes and ends the thread. Returns when it has ended, without a delay.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already reported on stderr.
            let _ = thread.join();
        }
    }
}

/// The result of the task of one probe.
struct Probed {
    turn: Turn,
    lag: Duration,
    outcome: Outcome,
    ended: Instant,
    /// The fault of this host's network that explains the failure, if there is one.
    network: Option<Fault>,
}

/// A probe in flight.
struct InFlight {
    turn: Turn,
    task: AbortHandle,
    /// The value of [`Loop::lost`] at its start.
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
    /// When the thread is to wake next; while it is awake, when it last read the clock.
    wake: Instant,
    /// The total time for which it has been stalled, including suspends.
    lost: Duration,
    /// The last value of [`clock::suspended`].
    suspended: Duration,
    network: Network,
    outbox: Outbox,
}

/// The reports that are not sent yet.
struct Outbox {
    reports: mpsc::Sender<Vec<Report>>,
    waiting: Vec<Report>,
    waiting_max: usize,
    /// When a batch was last sent, or was to be sent while the channel was full.
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

    /// When to call [`Outbox::send`] next, if nothing happens earlier.
    fn due(&self) -> Option<Instant> {
        self.tried.filter(|_| !self.waiting.is_empty()).map(|tried| tried + GATHER)
    }

    /// Sends the waiting reports if they are due or fill a batch.
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
                        // First, because the probes that have ended are judged with it.
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

    /// Computes when to wake at the latest.
    fn set_wake(&mut self) {
        // Again, because the thread can also be stopped while it is awake.
        self.look_at_the_clock();
        let now = self.wake;
        let idle = now + if self.in_flight.is_empty() { IDLE_MAX } else { WATCHFUL_MAX };
        let next = [self.schedule.next_due(), self.outbox.due()].into_iter().flatten().fold(idle, Instant::min);
        // Not before now: something that is overdue, such as reports after a long pause, is not a stall.
        self.wake = next.max(now);
    }

    /// Records for how long the thread was stalled, if it was.
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
        // The clock is read for every turn, so that each turn has its own delay.
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

    /// Processes the end of a task: of a probe that was made, or of one that was aborted.
    fn settle(&mut self, ended: Result<Probed, JoinError>) {
        let Some(Probed { turn, lag, outcome, ended, network }) = ended.map_or_else(|error| self.broken(&error), Some)
        else {
            return;
        };
        let Some(&InFlight { lost_before, limit, .. }) =
            self.in_flight.get(&turn.id).filter(|probe| probe.turn == turn)
        else {
            // Its target was removed or changed.
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

    /// The result for a task without one. An aborted task has none. A panic is a bug in this program; its target must not stay
    /// in flight forever.
    fn broken(&self, error: &JoinError) -> Option<Probed> {
        let turn = self.in_flight.values().find(|probe| probe.task.id() == error.id())?.turn;
        let failure = Failure {
            reason: Reason::Local(LocalCause::Internal),
            detail: "the probe panicked; this is a bug in netring".into(),
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
