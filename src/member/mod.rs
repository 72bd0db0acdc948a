//! The member daemon: probes all the others and says what it saw.
//!
//! Three threads do the work. The *probe thread* ([`prober`]) measures and does nothing else. The *service thread* (`service`)
//! answers scrapes and health and takes in what the prober reports; the text of a scrape is made beside it, from a snapshot. The
//! *control thread* (`control`) makes requests to the registry, by worker threads that may block. They share the [`board`] and
//! a few channels, so that a scrape of many series delays no probe and a hung registry delays no scrape.
//!
//! How all that comes to exact figures is a page of its own: [`engine`].
//!
//! What decides is pure and apart from what waits, plain values that are told the time. On the way down, from the roster to a
//! probe: [`membership`] (what is owed to the registry and what it said) with its [`session`] (when to ask what) and [`peers`] (who
//! joined, left, moved), then [`plan`] (what is to be probed). On the way up, from a probe to a metric: [`judge`] (whether a
//! failure is the peer's or this host's), [`memory`] (up or down, since when), [`health`] (whether this member is itself well),
//! and [`board`], which records.

mod api;
pub mod board;
pub mod client;
mod control;
pub mod engine;
mod exporter;
pub mod health;
pub mod judge;
mod lookup;
pub mod membership;
pub mod memory;
pub mod peers;
pub mod plan;
pub mod prober;
pub mod report;
mod service;
pub mod session;
mod snapshot;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::warn;

use crate::clock;
use crate::config::MemberSettings;
use crate::host::descriptors;
use crate::host::network::Network;
use crate::host::reload::Reloads;
use crate::host::state::StateDir;
use crate::host::vitals::Vitals;
use crate::probe;
use crate::serve::{self, BindError};
use crate::wire::{InstanceId, Location};

use board::{Board, Freshness};
use control::Control;
use prober::Prober;
use service::Service;

/// How many reports of the prober may wait to be taken in, beside a few batches on their way.
const REPORTS_MAX: usize = 16_384;

/// How many batches may be on their way.
const BATCHES_MAX: usize = 16;

/// How long a reload waits for the control thread, which may have to take leave of a registry that does not answer.
const TAKEN_UP: Duration = Duration::from_secs(2);

/// How long the control thread may take to leave the ring when the member stops.
const FAREWELL: Duration = Duration::from_millis(750);

/// How long the port stays open meanwhile, at most. Closing it takes up to 300 ms, and the whole must not take much longer than
/// a second.
const PORT_OPEN: Duration = Duration::from_millis(500);

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
        let network = Network::start(&vitals).map_err(|e| StartError::Thread("network", e))?;
        let prober = Prober::start(&me, prober_settings(&settings), reports, REPORTS_MAX, network.clone(), move || {
            pulse.mark();
        })
        .map_err(|e| StartError::Thread("probe", e))?;
        let prober = Arc::new(prober);

        let requests = control::Inbox::new();
        let service = Service::start(service::Parts {
            listener,
            server: &settings.server,
            connections_max: connections_max(),
            board: &board,
            prober: &prober,
            registry: requests.asker(),
            vitals: &vitals,
            reloads: options.reloads,
            inbox,
        })
        .map_err(|e| StartError::Thread("service", e))?;
        let parts = control::Parts {
            settings: Arc::clone(&settings),
            me: options.instance_id,
            listening: address,
            board: Arc::clone(&board),
            prober: Arc::clone(&prober),
            network,
            state: options.state,
            vitals,
        };
        let control = Control::start(parts, requests).map_err(|e| StartError::Thread("control", e))?;
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
            warn!(
                "the new settings of the registry take effect when this member has taken leave of the former registry"
            );
        }
        later
    }

    /// Ends the member, within about a second whatever the registry does.
    pub fn stop(self, farewell: Farewell) {
        // A peer that finds the port closed asks the registry for the reason, so the registry is told first.
        let now = clock::monotonic();
        self.control.begin_stop(farewell == Farewell::Deregister);
        let _ = self.control.wait_for_end(now + PORT_OPEN);
        let service = self.service.stop();
        self.control.stop(now + FAREWELL);
        // Nobody sets targets any more.
        self.prober.set_targets(Vec::new());
        if service.join().is_err() {
            warn!("the service thread had ended before its time");
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
            http_body_limit: checks.http_body_limit,
        },
        max_in_flight: checks.max_in_flight.map_or_else(|| descriptors::raise_limit() / 2, Into::into),
    }
}

fn connections_max() -> usize {
    (descriptors::raise_limit() / 4).clamp(16, 1024)
}

#[cfg(test)]
mod tests;
