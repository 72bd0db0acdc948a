//! The member daemon: probes all the others and says what it saw.
//!
//! Three threads, three jobs. The *probe thread* ([`prober`]) measures and does nothing else. The *service thread* answers
//! scrapes and health and takes in what the prober reports; the text of a scrape is made beside it, from a snapshot. The
//! *control thread* talks to the registry. They share the [`board`] and a few channels, so that a scrape of many series
//! delays no probe and a hung registry delays no scrape.
//!
//! How all that comes to exact figures is a page of its own: [`engine`].
//!
//! What decides is pure and apart from what waits: [`session`] (when to register, renew, ask, back off), [`peers`] (who
//! joined, left, moved) and [`board`] (what was seen) are plain values that are told the time.

mod api;
pub mod board;
pub mod client;
mod control;
pub mod engine;
mod exporter;
pub mod health;
mod lookup;
pub mod peers;
pub mod prober;
pub mod session;
mod snapshot;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::clock;
use crate::config::{MemberSettings, ServerSettings};
use crate::host::descriptors;
use crate::host::links::Links;
use crate::host::logging::events;
use crate::host::reload::Reloads;
use crate::host::state::StateDir;
use crate::host::vitals::Vitals;
use crate::probe;
use crate::serve::{self, BindError};
use crate::wire::{InstanceId, Location};

use board::{Board, Freshness, Transition, rough};
use control::Control;
use exporter::Exporter;
use prober::{Prober, Report};

/// How many reports of the prober may wait to be taken in, beside a few batches on their way.
const REPORTS_MAX: usize = 16_384;

/// How many batches may be on their way.
const BATCHES_MAX: usize = 16;

/// The longest the service thread waits for reports before it looks after what only time changes.
const TURN: Duration = Duration::from_secs(1);

/// How long a request in progress may take to end when the member stops.
const DRAIN: Duration = Duration::from_millis(300);

/// How long a reload waits for the control thread, which may have to take leave of a registry that hangs.
const TAKEN_UP: Duration = Duration::from_secs(2);

/// How long the control thread may take to leave the ring when the member stops.
const FAREWELL: Duration = Duration::from_millis(750);

/// What a member needs beside its settings.
#[derive(Debug)]
pub struct Options {
    /// Its identity.
    pub instance_id: InstanceId,
    /// A listener handed over by the service manager; otherwise the member opens its own.
    pub listener: Option<TcpListener>,
    /// Where it keeps the roster for the next start.
    pub state: Option<StateDir>,
    /// Where the loops that must keep moving are put on record.
    pub vitals: Vitals,
    /// How reloads of the configuration ended, for the figures.
    pub reloads: Reloads,
}

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is not to be had.
    #[error("{}{}", .0, another(.0))]
    Bind(BindError),
    /// The machine gives no thread or no event queue.
    #[error("cannot start the {0} thread")]
    Thread(&'static str, #[source] io::Error),
}

/// How long a vital thread may take over one turn, what it waits for left out.
const TURN_MAX: Duration = Duration::from_secs(10);

/// How long the text of a scrape may take, with the wait for those before it.
const TEXT_MAX: Duration = Duration::from_secs(20);

/// Which setting would help a member that cannot listen.
fn another(e: &BindError) -> String {
    e.at_fault().map(|part| format!("; member.server.{part} chooses another")).unwrap_or_default()
}

/// How a member ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It leaves the roster, so that its peers forget it at once.
    Deregister,
    /// It falls silent, as in a power cut.
    Vanish,
}

/// A running member.
pub struct Member {
    settings: Arc<MemberSettings>,
    me: InstanceId,
    address: SocketAddr,
    board: Arc<Mutex<Board>>,
    prober: Arc<Prober>,
    control: Control,
    service: Service,
}

/// The service thread, from outside.
struct Service {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("address", &self.address)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Member {
    /// Starts a member. When this returns, its port is open and all its threads run.
    ///
    /// # Errors
    ///
    /// Where the port is taken or the machine is out of threads.
    pub fn start(settings: MemberSettings, options: Options) -> Result<Self, StartError> {
        let settings = Arc::new(settings);
        let listener = match options.listener {
            Some(listener) => listener,
            None => serve::bind_or_all(settings.server.host, settings.server.port.get()).map_err(StartError::Bind)?,
        };
        let address = listener.local_addr().map_err(|e| StartError::Thread("service", e))?;
        let vitals = options.vitals;
        let board = Arc::new(Mutex::new(Board::new(
            settings.location.clone(),
            options.instance_id.clone(),
            freshness(&settings),
        )));

        let (reports, inbox) = mpsc::channel(BATCHES_MAX);
        let pulse = vitals.add("probe schedule", TURN_MAX);
        let me = options.instance_id.clone();
        let prober =
            Prober::start(&me, prober_settings(&settings), reports, REPORTS_MAX, Links::on(&vitals), move || {
                pulse.mark();
            })
            .map_err(|e| StartError::Thread("probe", e))?;
        let prober = Arc::new(prober);

        let service = Service::start(listener, &settings.server, &board, &prober, &vitals, options.reloads, inbox)
            .map_err(|e| StartError::Thread("service", e))?;
        let control = Control::start(control::Parts {
            settings: Arc::clone(&settings),
            me: options.instance_id,
            listening: address,
            board: Arc::clone(&board),
            prober: Arc::clone(&prober),
            state: options.state,
            pulse: vitals.add("control loop", TURN_MAX),
            vitals: vitals.clone(),
        })
        .map_err(|e| StartError::Thread("control", e))?;
        Ok(Self { settings, me, address, board, prober, control, service })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The site it stands for.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.settings.location
    }

    /// Its identity.
    #[must_use]
    pub fn instance_id(&self) -> &InstanceId {
        &self.me
    }

    /// What it has seen.
    pub fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }

    /// The one line an operator wants.
    #[must_use]
    pub fn status(&self) -> String {
        self.board().status(clock::monotonic())
    }

    /// Takes other settings, keeping all counters and states. Returns the keys whose change waits for a restart; what is in
    /// force stays in force for them.
    pub fn reload(&mut self, new: MemberSettings) -> Vec<&'static str> {
        let MemberSettings { server, instance_id, .. } = &*self.settings;
        let mut later = Vec::new();
        if new.server != *server {
            later.push("member.server");
        }
        if new.instance_id != *instance_id {
            later.push("member.instance_id");
        }
        let new = MemberSettings { server: server.clone(), instance_id: instance_id.clone(), ..new };
        {
            let mut board = lock(&self.board);
            board.location = new.location.clone();
            board.freshness = freshness(&new);
        }
        self.prober.set_settings(prober_settings(&new));
        self.settings = Arc::new(new);
        if !self.control.reload(Arc::clone(&self.settings), TAKEN_UP) {
            warn!("a connection to the registry is still being made; what is new about the registry counts after that");
        }
        later
    }

    /// Ends the member, within about a second whatever the registry does.
    pub fn stop(self, farewell: Farewell) {
        // The service drains while the control thread says farewell; after that nobody sets targets any more.
        let _ = self.service.stop.send(());
        self.control.stop(farewell == Farewell::Deregister, FAREWELL);
        self.prober.set_targets(Vec::new());
        if self.service.thread.join().is_err() {
            warn!("the service thread had ended before its time");
        }
    }
}

impl Service {
    fn start(
        listener: TcpListener,
        server: &ServerSettings,
        board: &Arc<Mutex<Board>>,
        prober: &Arc<Prober>,
        vitals: &Vitals,
        reloads: Reloads,
        mut inbox: mpsc::Receiver<Vec<Report>>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
        let (stop, stopped) = oneshot::channel();
        let limits = serve::Limits {
            connections: server.max_connections.map_or_else(connections_max, Into::into),
            drain: DRAIN,
            ..serve::Limits::default()
        };
        let pulse = vitals.add("HTTP service", TURN_MAX);
        let exporter = Arc::new(Exporter::new(Arc::clone(board), Arc::clone(prober), reloads));
        let routes = api::routes(board, Arc::clone(&exporter), vitals);
        let board = Arc::clone(board);
        let thread = std::thread::Builder::new().name("netring-serve".into()).spawn(move || {
            runtime.block_on(async move {
                let reports = tokio::spawn(async move {
                    let mut unwell = false;
                    while take_in(&mut inbox, &board).await {
                        log_health(&board, &mut unwell);
                        exporter.tidy();
                    }
                });
                let stopped = async {
                    let _ = stopped.await;
                };
                serve::run(listener, routes, limits, Some(pulse), stopped).await;
                reports.abort();
            });
        })?;
        Ok(Self { stop, thread })
    }
}

/// Takes in the reports that wait, or waits a second for some, and logs what went up or down. Returns whether more may come.
async fn take_in(inbox: &mut mpsc::Receiver<Vec<Report>>, board: &Mutex<Board>) -> bool {
    let reports = match tokio::time::timeout(TURN, inbox.recv()).await {
        Ok(Some(reports)) => reports,
        Ok(None) => return false,
        Err(_) => Vec::new(),
    };
    let (transitions, location, instance): (Vec<Transition>, _, _) = {
        let mut board = lock(board);
        let transitions = reports.into_iter().filter_map(|report| board.apply(report)).collect();
        (transitions, board.location.clone(), board.instance_id.clone())
    };
    transitions.iter().for_each(|transition| log(transition, &location, &instance));
    true
}

/// Says when this member becomes unwell, and when it is well again.
fn log_health(board: &Mutex<Board>, unwell: &mut bool) {
    let (why, location, instance) = {
        let board = lock(board);
        let why = board.unwell(clock::monotonic()).map(str::to_owned);
        if why.is_some() == *unwell {
            return;
        }
        (why, board.location.clone(), board.instance_id.clone())
    };
    match why {
        Some(reason) => warn!(
            event = events::MEMBER_UNWELL, %location, %instance, reason,
            "this member is unwell, and holds what it sees fail against no peer"
        ),
        None => info!(event = events::MEMBER_WELL, %location, %instance, "this member is well again"),
    }
    *unwell = !*unwell;
}

fn log(transition: &Transition, location: &Location, instance: &InstanceId) {
    let Transition { peer, check, failure, lasted, failed } = transition;
    let endpoint = match check {
        probe::Check::Tcp => None,
        probe::Check::Http { endpoint } => Some(&**endpoint),
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

/// A lock that outlives a panic of another holder: the values behind it are never left half changed for long enough to
/// matter more than going on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn freshness(settings: &MemberSettings) -> Freshness {
    let checks = &settings.checks;
    Freshness { interval: settings.intervals.check, time_limit: checks.tcp_timeout.max(checks.http_timeout) }
}

/// Half of the descriptors for probes, a quarter for those who ask us; the rest is for everything else.
fn prober_settings(settings: &MemberSettings) -> prober::Settings {
    let checks = &settings.checks;
    prober::Settings {
        interval: settings.intervals.check,
        limits: probe::Limits {
            tcp_timeout: checks.tcp_timeout,
            http_timeout: checks.http_timeout,
            http_ok_status: checks.http_ok_status.clone(),
        },
        max_in_flight: checks.max_in_flight.map_or_else(|| descriptors::raise_limit() / 2, Into::into),
    }
}

fn connections_max() -> usize {
    (descriptors::raise_limit() / 4).clamp(16, 1024)
}
