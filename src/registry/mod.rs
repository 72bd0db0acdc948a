//! The registry daemon: keeps the roster of the ring and serves it to the members.
//!
//! [`api`] parses requests and formats answers. [`directory`] holds the roster that is being served ([`view`], `listing`) and
//! the state of the connection to the store. A [`store`] keeps the roster, in this process or in Redis. The rules of
//! membership are in [`roster`], the metrics in [`exporter`]. The command starts, reloads and stops the daemon with [`start`],
//! [`Running::reload`] and [`Running::stop`].

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

/// How long one iteration of the loop that follows the store may take before the loop counts as stalled, without the time it
/// waits for a store that does not answer.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);

/// How long the accept loop may make no progress before it counts as stalled.
const SERVE_LIMIT: Duration = Duration::from_secs(10);

/// How long the journal's writer may make no progress, without the time it waits for the disk, before it counts as stalled.
const JOURNAL_LIMIT: Duration = Duration::from_secs(10);

/// How long the store may take to write its last snapshot when the daemon stops.
const CLOSE_LIMIT: Duration = Duration::from_millis(400);

/// How much memory requests that wait for the roster to change may take together, in bytes: enough for 16,384 of them.
const POLLS_MEMORY: usize = 64 << 20;

/// How much memory one of them takes, in bytes. 2.9 KiB were measured with 8,000 of them waiting (resident memory, x86-64);
/// the rest allows for what the allocator cannot use between them.
const POLL_MEMORY: usize = 4 << 10;

/// What the registry gets from the host rather than from its settings.
#[derive(Default)]
pub struct Options {
    /// A listening socket passed by systemd, used instead of the configured address.
    pub listener: Option<std::net::TcpListener>,
    /// Where the embedded store keeps its journal. Without one the roster is in memory only.
    pub state_dir: Option<PathBuf>,
    /// The limit on connections if the settings have none; `None` uses the default of [`serve::Limits`].
    pub connections: Option<usize>,
    /// Where loops register that must make progress, for the watchdog.
    pub vitals: Option<Vitals>,
    /// The outcomes of configuration reloads, for the metrics.
    pub reloads: Reloads,
}

/// Why the registry does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error("{}{}", .0, another(.0))]
    Bind(serve::BindError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The Redis settings are invalid.
    #[error(transparent)]
    Redis(#[from] StoreError),
    /// The socket passed by systemd is not a listening TCP socket.
    #[error("cannot use the listening socket passed by systemd: {0}")]
    Listener(#[source] std::io::Error),
}

/// A hint that names the setting to change if the registry cannot listen.
fn another(e: &serve::BindError) -> String {
    e.at_fault().map(|part| format!("; registry.server.{part} chooses another")).unwrap_or_default()
}

/// A running registry.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    directory: Arc<Directory>,
    api: Arc<Api>,
    settings: Mutex<RegistrySettings>,
    stopping: watch::Sender<bool>,
    serving: JoinHandle<serve::Drained>,
}

/// Starts the registry on the current tokio runtime. When this function returns, the listener is bound. [`Running::status`] and
/// `/health` show whether the store answers.
///
/// # Errors
///
/// [`StartError`]. It is no error if Redis does not answer: the registry keeps trying to connect.
pub async fn start(settings: RegistrySettings, options: Options) -> Result<Running, StartError> {
    let Options { listener, state_dir, connections, vitals, reloads } = options;
    let listener = match listener {
        Some(listener) => listener,
        None => serve::bind_or_all(settings.server.host, settings.server.port.get()).map_err(StartError::Bind)?,
    };
    let address = listener.local_addr().map_err(StartError::Listener)?;
    let pulse = |name, limit| vitals.as_ref().map(|vitals| vitals.add(name, limit));
    let store = open_store(&settings, state_dir, || pulse("journal", JOURNAL_LIMIT))?;
    // If the store hangs, a restart of the registry does not help. It would lose the roster that is being served.
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
            (Arc::clone(&directory), pulse("store follower", follow_limit), stop(stopped.clone()));
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

/// Returns when the registry is asked to stop or its handle has been dropped.
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
            tracing::info!("no state directory: the roster is kept in memory only and is lost at a restart");
            Arc::new(EmbeddedStore::in_memory(limits))
        }
    })
}

fn limits(settings: &RegistrySettings) -> Limits {
    let RegistrySettings { member_ttl, max_members, cleanup_interval, .. } = *settings;
    Limits { member_ttl, max_members, cleanup_interval }
}

impl Running {
    /// Applies new settings; counters continue. Returns the keys whose change needs a restart; these keep their old values.
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

    /// One line for operators: the number of members and the state of the store.
    #[must_use]
    pub fn status(&self) -> String {
        let roster = self.directory.latest().map_or_else(
            || "roster not loaded yet".to_owned(),
            |view| {
                let (members, locations) = (view.members.len(), view.locations.len());
                let plural = |count: usize| if count == 1 { "" } else { "s" };
                format!("{members} member{} at {locations} location{}", plural(members), plural(locations))
            },
        );
        let store = self.directory.store_name();
        match self.directory.problem() {
            None => format!("{roster}, store {store}"),
            Some(reason) => format!("{roster}, store {store} in trouble: {reason}"),
        }
    }

    /// Answers waiting polls at once, finishes requests in flight, and lets the store write its last snapshot. Takes less than
    /// a second.
    pub async fn stop(self) {
        self.stopping.send_replace(true);
        match self.serving.await {
            Ok(drained) if drained.cut > 0 => {
                tracing::warn!(requests = drained.cut, "closed connections whose requests were still in progress");
            }
            Ok(_) => {}
            Err(e) => tracing::error!("the HTTP server ended unexpectedly: {e}"),
        }
        match tokio::time::timeout(CLOSE_LIMIT, self.directory.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!("cannot write the last snapshot of the roster: {e}"),
            Err(_) => tracing::warn!("cannot write the last snapshot of the roster within {CLOSE_LIMIT:?}"),
        }
    }
}
