//! The registry daemon: knows who is in the ring and tells everyone.
//!
//! A request goes from [`api`] (what it means) through [`directory`] (the roster as served, and how we stand with the store)
//! to a [`store`] (where the roster lives); the rules of membership are in [`roster`], the figures in [`exporter`]. The
//! command drives all of it by [`start`], [`Running::reload`] and [`Running::stop`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::api::Api;
use self::directory::Directory;
use self::exporter::Exporter;
use self::store::embedded::EmbeddedStore;
use self::store::embedded::journal::JournalError;
use self::store::redis::RedisStore;
use self::store::{Limits, Store, StoreError};
use crate::config::RegistrySettings;
use crate::host::reload::Reloads;
use crate::host::vitals::{Pulse, Vitals};
use crate::serve;

pub mod api;
pub mod directory;
pub mod exporter;
mod listing;
pub mod roster;
pub mod store;
pub mod view;

#[cfg(test)]
mod tests;

/// How long a turn of the loop that follows the store may take before it counts as stuck, the waits for a store that does
/// not answer left out.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);

/// How long the accept loop may stand still before it counts as stuck.
const SERVE_LIMIT: Duration = Duration::from_secs(10);

/// How long the journal's writer may take for anything but the disk.
const JOURNAL_LIMIT: Duration = Duration::from_secs(10);

/// How long the store may take to write down what it holds at the end.
const CLOSE_LIMIT: Duration = Duration::from_millis(400);

/// How much memory requests that wait for the roster to change may take together, in bytes: enough for 16,384 of them.
const POLLS_MEMORY: usize = 64 << 20;

/// How much memory one of them takes, in bytes. 2.9 KiB were measured with 8,000 of them waiting (resident memory, x86-64);
/// the rest allows for what the allocator cannot use between them.
const POLL_MEMORY: usize = 4 << 10;

/// What the registry gets from the host rather than from its settings.
#[derive(Default)]
pub struct Options {
    /// A listener that systemd handed over, in the place of one that the settings name.
    pub listener: Option<std::net::TcpListener>,
    /// Where the embedded store keeps its journal; in memory only where there is none.
    pub state_dir: Option<PathBuf>,
    /// How many connections there may be where the settings leave it open; the server's own default where this does too.
    pub connections: Option<usize>,
    /// Where the loops that must move are put on record.
    pub vitals: Option<Vitals>,
    /// How reloads of the configuration ended, for the figures.
    pub reloads: Reloads,
}

/// Why the registry does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or not ours to take.
    #[error("{}{}", .0, another(.0))]
    Bind(serve::BindError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The Redis settings make no sense.
    #[error(transparent)]
    Redis(#[from] StoreError),
    /// The listener handed over is none.
    #[error("cannot use the listener that was handed over: {0}")]
    Listener(#[source] std::io::Error),
}

/// Which setting would help a registry that cannot listen.
fn another(e: &serve::BindError) -> String {
    e.at_fault().map(|part| format!("; registry.server.{part} chooses another")).unwrap_or_default()
}

/// A registry that serves.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    directory: Arc<Directory>,
    api: Arc<Api>,
    settings: Mutex<RegistrySettings>,
    stopping: watch::Sender<bool>,
    serving: JoinHandle<serve::Drained>,
}

/// Starts the registry on the current tokio runtime. When this returns the listener is bound; whether the store answers shows
/// in [`Running::status`] and on `/health`.
///
/// # Errors
///
/// [`StartError`]. A Redis that does not answer is none: the registry waits for it.
pub async fn start(settings: RegistrySettings, options: Options) -> Result<Running, StartError> {
    let Options { listener, state_dir, connections, vitals, reloads } = options;
    let listener = match listener {
        Some(listener) => listener,
        None => serve::bind_or_all(settings.server.host, settings.server.port.get()).map_err(StartError::Bind)?,
    };
    let address = listener.local_addr().map_err(StartError::Listener)?;
    let pulse = |name, limit| vitals.as_ref().map(|vitals| vitals.add(name, limit));
    let store = open_store(&settings, state_dir, || pulse("journal", JOURNAL_LIMIT))?;
    // A store that hangs is the store's trouble: a restart would only lose the roster that is served meanwhile.
    let follow_limit = FOLLOW_LIMIT + 2 * settings.redis.as_ref().map_or(Duration::ZERO, |redis| redis.timeout);

    let mut limits = serve::Limits::default();
    if let Some(connections) = settings.server.max_connections.map(std::num::NonZero::get).or(connections) {
        limits.connections = connections;
    }
    let exporter = Arc::new(Exporter::new(reloads));
    let directory = Arc::new(Directory::new(store, Arc::clone(&exporter)));
    let (stopping, stopped) = watch::channel(false);
    let polls = polls(limits.connections);
    let networks = settings.allowed_networks.clone();
    let api = Arc::new(Api::new(Arc::clone(&directory), exporter, networks, polls, stopped.clone()));

    tokio::spawn({
        let (directory, pulse, stop) =
            (Arc::clone(&directory), pulse("follower of the store", follow_limit), stop(stopped.clone()));
        async move {
            tokio::select! {
                () = directory.run(pulse) => {}
                () = stop => {}
            }
        }
    });
    let routes = api::routes(&api, &limits);
    let pulse = pulse("HTTP service", SERVE_LIMIT);
    let serving = tokio::spawn(serve::run(listener, routes, limits, pulse, stop(stopped)));
    Ok(Running { address, directory, api, settings: Mutex::new(settings), stopping, serving })
}

/// How many requests may wait for the roster to change at once: as many as fit [`POLLS_MEMORY`], and no more than leave a
/// quarter of the connections to requests that do not wait.
fn polls(connections: usize) -> usize {
    (connections - connections.div_ceil(4)).min(POLLS_MEMORY / POLL_MEMORY)
}

/// Resolves when the registry is told to stop, or its handle has been dropped.
async fn stop(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn open_store(
    settings: &RegistrySettings,
    state_dir: Option<PathBuf>,
    pulse: impl FnOnce() -> Option<Pulse>,
) -> Result<Arc<dyn Store>, StartError> {
    let limits = limits(settings);
    Ok(match (&settings.redis, state_dir) {
        (Some(redis), _) => Arc::new(RedisStore::new(redis, limits)?),
        (None, Some(directory)) => Arc::new(EmbeddedStore::open(&directory, limits, pulse())?),
        (None, None) => {
            tracing::info!("no state directory: the roster is kept in memory only, and gone with a restart");
            Arc::new(EmbeddedStore::in_memory(limits))
        }
    })
}

fn limits(settings: &RegistrySettings) -> Limits {
    let RegistrySettings { member_ttl, max_members, cleanup_interval, .. } = *settings;
    Limits { member_ttl, max_members, cleanup_interval }
}

impl Running {
    /// Takes new settings and keeps all counters. Gives the keys whose change needs a restart; those keep their old values.
    pub fn reload(&self, new: RegistrySettings) -> Vec<&'static str> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let RegistrySettings { redis, server, .. } = &*settings;
        let mut restart = Vec::new();
        if new.redis != *redis {
            restart.push("registry.redis");
        }
        if new.server != *server {
            restart.push("registry.server");
        }
        self.directory.set_limits(limits(&new));
        self.api.set_allowed_networks(new.allowed_networks.clone());
        *settings = RegistrySettings { redis: redis.clone(), server: server.clone(), ..new };
        restart
    }

    /// One line for people: how many members there are, and how the store is.
    #[must_use]
    pub fn status(&self) -> String {
        let roster = self.directory.latest().map_or_else(
            || "roster not known yet".to_owned(),
            |view| {
                let (members, locations) = (view.members.len(), view.locations.len());
                let plural = |count: usize| if count == 1 { "" } else { "s" };
                format!("{members} member{} at {locations} location{}", plural(members), plural(locations))
            },
        );
        let store = self.directory.store_name();
        match self.directory.trouble() {
            None => format!("{roster}, store {store}"),
            Some(reason) => format!("{roster}, store {store} in trouble: {reason}"),
        }
    }

    /// Ends waiting polls, serves what is in flight, and lets the store write down what it holds; all within a second.
    pub async fn stop(self) {
        self.stopping.send_replace(true);
        match self.serving.await {
            Ok(drained) if drained.cut > 0 => tracing::warn!(requests = drained.cut, "cut off requests in flight"),
            Ok(_) => {}
            Err(e) => tracing::error!("the listener ended by itself: {e}"),
        }
        match tokio::time::timeout(CLOSE_LIMIT, self.directory.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!("the last snapshot of the roster was not written: {e}"),
            Err(_) => tracing::warn!("the last snapshot of the roster was not written within {CLOSE_LIMIT:?}"),
        }
    }
}
