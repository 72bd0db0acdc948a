//! The service thread: takes in what the prober reports, says what is news, and answers scrapes and `/health`.
//!
//! A first refused connection is kept back for a moment: a member that leaves in order stops listening a little before
//! everybody has heard of it, so the registry is asked first, and a report about a peer that has left is dropped with it.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::clock;
use crate::config::ServerSettings;
use crate::host::logging::events;
use crate::host::reload::Reloads;
use crate::host::vitals::{Pulse, Vitals};
use crate::probe::Check;
use crate::probe::schedule::TargetId;
use crate::serve;
use crate::wire::{InstanceId, Location};

use super::api;
use super::board::{Board, Event, Transition, rough};
use super::control::{Asker, Question};
use super::exporter::Exporter;
use super::lock;
use super::prober::Prober;
use super::report::Report;

/// The longest the thread waits for reports before it looks after what only time changes.
const TURN: Duration = Duration::from_secs(1);

/// How long a vital thread may take over one turn, what it waits for left out.
const TURN_MAX: Duration = Duration::from_secs(10);

/// How long a request in progress may take to end when the member stops.
const DRAIN: Duration = Duration::from_millis(300);

/// How long a first refused connection is kept back: the registry needs a moment to gather changes, and answers within one.
const KEPT_BACK: Duration = Duration::from_millis(1_500);

/// How long a member that leaves in order may take from closing its port to being off the roster.
const LEAVING: Duration = Duration::from_secs(1);

/// How many reports are kept back at most; more than that at once are no members that leave in order.
const KEPT_BACK_MAX: usize = 1_024;

/// Peers that cannot be probed: more than this at once are one line in the log with a count.
const LINES_MAX: usize = 10;

/// The service thread, from outside.
pub(super) struct Service {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What the service thread works with.
pub(super) struct Parts<'a> {
    pub(super) listener: TcpListener,
    pub(super) server: &'a ServerSettings,
    /// How many connections there may be where the settings leave it open.
    pub(super) connections_max: usize,
    pub(super) board: &'a Arc<Mutex<Board>>,
    pub(super) prober: &'a Arc<Prober>,
    pub(super) registry: Asker,
    pub(super) vitals: &'a Vitals,
    pub(super) reloads: Reloads,
    pub(super) inbox: mpsc::Receiver<Vec<Report>>,
}

impl Service {
    pub(super) fn start(parts: Parts<'_>) -> io::Result<Self> {
        let Parts { listener, server, connections_max, board, prober, registry, vitals, reloads, inbox } = parts;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
        let (stop, stopped) = oneshot::channel();
        let limits = serve::Limits {
            connections: server.max_connections.map_or(connections_max, Into::into),
            drain: DRAIN,
            ..serve::Limits::default()
        };
        let pulse = vitals.add("HTTP service", TURN_MAX);
        let exporter = Arc::new(Exporter::new(Arc::clone(board), Arc::clone(prober), reloads));
        let routes = api::routes(board, Arc::clone(&exporter), vitals);
        let intake = Intake {
            inbox,
            board: Arc::clone(board),
            prober: Arc::clone(prober),
            registry,
            kept_back: VecDeque::new(),
            unwell: false,
            pulse: vitals.add("report intake", TURN_MAX),
        };
        let thread = std::thread::Builder::new().name("netring-serve".into()).spawn(move || {
            runtime.block_on(async move {
                let reports = tokio::spawn(intake.run(exporter));
                let stopped = async {
                    let _ = stopped.await;
                };
                serve::run(listener, routes, limits, Some(pulse), stopped).await;
                reports.abort();
            });
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends serving; what is under way may end within the drain time.
    pub(super) fn stop(self) -> JoinHandle<()> {
        let _ = self.stop.send(());
        self.thread
    }
}

/// The task that takes reports in.
struct Intake {
    inbox: mpsc::Receiver<Vec<Report>>,
    board: Arc<Mutex<Board>>,
    prober: Arc<Prober>,
    registry: Asker,
    /// Reports that wait for the roster, each with the time at which it counts whatever the roster says.
    kept_back: VecDeque<(Instant, TargetId, Report)>,
    /// That this member is unwell has been logged.
    unwell: bool,
    pulse: Pulse,
}

impl Intake {
    async fn run(mut self, exporter: Arc<Exporter>) {
        // Before the first wait: the member is ready when every loop has marked.
        self.pulse.mark();
        while self.turn().await {
            self.pulse.mark();
            self.log_health();
            exporter.tidy();
        }
    }

    /// Takes in the reports that wait, or waits a second for some, and logs what is news. Returns whether more may come.
    async fn turn(&mut self) -> bool {
        let now = clock::monotonic();
        let next = self.kept_back.front().map_or(now + TURN, |(until, ..)| (*until).min(now + TURN));
        let reports = match tokio::time::timeout_at(next.into(), self.inbox.recv()).await {
            Ok(Some(reports)) => reports,
            Ok(None) => return false,
            Err(_) => Vec::new(),
        };
        let now = clock::monotonic();
        let (events, location, instance) = {
            let board = Arc::clone(&self.board);
            let mut board = lock(&board);
            let mut events = Vec::new();
            for report in reports {
                if let Some(report) = self.keep_back(&board, report, now) {
                    events.append(&mut board.apply(report));
                }
            }
            // What the roster was confirmed a while after counts now, and so does what has waited for long enough.
            let confirmed = board.registry().roster_at;
            while let Some((until, _, report)) = self.kept_back.front() {
                let settled =
                    matches!(report, Report::Probed { ended, .. } if confirmed.is_some_and(|at| at > *ended + LEAVING));
                if !settled && now < *until {
                    break;
                }
                let Some((_, _, report)) = self.kept_back.pop_front() else { break };
                events.append(&mut board.apply(report));
            }
            (events, board.location.clone(), board.instance_id.clone())
        };
        self.take_note_of(&events, &location, &instance);
        true
    }

    /// Puts a report aside that the roster may explain, and those of the same target that come after it.
    fn keep_back(&mut self, board: &Board, report: Report, now: Instant) -> Option<Report> {
        let (id, outcome) = match &report {
            Report::Probed { id, outcome, .. } => (*id, outcome),
            // What was found before a suspend says nothing after it.
            Report::Suspended { .. } => {
                self.kept_back.clear();
                return Some(report);
            }
            Report::Skipped { .. } | Report::Stalled { .. } => return Some(report),
        };
        let waits = self.kept_back.iter().find(|(_, kept, _)| *kept == id).map(|(until, ..)| *until);
        let until = match waits {
            Some(until) => until,
            None if self.kept_back.len() < KEPT_BACK_MAX && board.may_have_left(id, outcome, now) => {
                self.registry.ask(Question::Roster);
                now + KEPT_BACK
            }
            None => return Some(report),
        };
        self.kept_back.push_back((until, id, report));
        None
    }

    fn take_note_of(&self, events: &[Event], location: &Location, instance: &InstanceId) {
        let cannot = events.iter().filter(|event| matches!(event, Event::CannotProbe { .. })).count();
        if cannot > LINES_MAX {
            warn!(
                event = events::PEER_NOT_PROBED, %location, %instance, peers = cannot,
                "cannot probe peers: this host cannot send them anything"
            );
        }
        for event in events {
            match event {
                Event::Turned(transition) => {
                    self.prober.turned(transition.id, transition.ended);
                    log(transition, location, instance);
                }
                Event::CannotProbe { .. } if cannot > LINES_MAX => {}
                Event::CannotProbe { peer, why } => warn!(
                    event = events::PEER_NOT_PROBED, %location, %instance,
                    target_location = %peer.location, target = %peer.instance_id, address = %peer.address(), reason = why,
                    "cannot probe a peer: this host cannot send it anything"
                ),
                Event::AnotherAnswers { peer, instance: other } => warn!(
                    event = events::PEER_ANOTHER, %location, %instance,
                    target_location = %peer.location, target = %peer.instance_id, address = %peer.address(), answers = %other,
                    "another member of the same location answers at the address of a peer: the location is reached, and this \
                     peer is not known to be alive"
                ),
                Event::AllSilent => self.registry.ask(Question::SignOfLife),
            }
        }
    }

    /// Says when this member becomes unwell, and when it is well again.
    fn log_health(&mut self) {
        let (why, location, instance) = {
            let board = lock(&self.board);
            let why = board.unwell(clock::monotonic()).map(str::to_owned);
            if why.is_some() == self.unwell {
                return;
            }
            (why, board.location.clone(), board.instance_id.clone())
        };
        match why {
            Some(reason) => warn!(
                event = events::MEMBER_UNWELL, %location, %instance, reason,
                "this member is unwell: failures that it causes itself do not count against any peer"
            ),
            None => info!(event = events::MEMBER_WELL, %location, %instance, "this member is well again"),
        }
        self.unwell = !self.unwell;
    }
}

fn log(transition: &Transition, location: &Location, instance: &InstanceId) {
    let Transition { peer, check, failure, lasted, failed, .. } = transition;
    let endpoint = match check {
        Check::Tcp => None,
        Check::Http { endpoint } => Some(&**endpoint),
    };
    let check = check.check_type().label();
    match failure {
        Some(failure) => warn!(
            event = events::PEER_DOWN, %location, %instance,
            target_location = %peer.location, target = %peer.instance_id, check, endpoint,
            reason = failure.reason.label(), detail = failure.detail, "peer down"
        ),
        None => {
            let lasted = lasted.map_or_else(String::new, rough);
            info!(
                event = events::PEER_UP, %location, %instance,
                target_location = %peer.location, target = %peer.instance_id, check, endpoint,
                lasted, failed_probes = *failed, "peer up again"
            );
        }
    }
}
