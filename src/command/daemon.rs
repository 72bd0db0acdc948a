//! `netring registry` and `netring member`: the daemons, as a service manager runs them.
//!
//! Both work the same way: read the configuration, start logging, start the daemon, notify READY, then wait for signals and
//! update the status and the watchdog of the service manager every second. SIGHUP reloads the configuration; if it has
//! errors, they are logged and the old settings stay in force. SIGTERM and SIGINT end the daemon within a second.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::MissedTickBehavior;
use tracing::field::{DisplayValue, display};
use tracing::{error, info, warn};

use crate::config::{
    self, ConfigFaults, Environment, Loaded, LogFormat, LogSettings, MemberSettings, RegistrySettings, Role,
    ServerSettings,
};
use crate::host::descriptors;
use crate::host::logging::{self, Logging, events};
use crate::host::memory;
use crate::host::reload::{self, Outcome, Reloads};
use crate::host::signals::{Signal, Signals};
use crate::host::state::{self, IdSource, StateDir};
use crate::host::systemd::{self, Notifier};
use crate::host::vitals::Vitals;
use crate::member::{self, Farewell, Member};
use crate::registry;
use crate::wire::{InstanceId, Location};

use super::{Exit, chain, complain};

/// How often the status line is updated.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How often the start checks whether all loops are running.
const START_POLL: Duration = Duration::from_millis(2);

/// The limit for a turn of the log thread, apart from writing.
const LOG_LIMIT: Duration = Duration::from_secs(10);

/// How long a daemon with a wrong configuration keeps running if systemd passed it a socket. A connection that waits on the
/// socket makes systemd start the daemon again as soon as it exits, and systemd disables a socket that triggers its service
/// too often.
const REFUSED_PAUSE: Duration = Duration::from_secs(3);

/// The registry's descriptors that are not for connections: store, journal, log and those of libraries.
const OWN_DESCRIPTORS: usize = 64;

/// The function that reads the settings of a daemon: [`config::load_registry`] or [`config::load_member`].
pub(super) type Load<S> = fn(Option<&Path>, &Path, &Environment) -> Result<Loaded<S>, ConfigFaults>;

/// A kind of daemon, and how its configuration is read.
struct Kind<S> {
    role: Role,
    load: Load<S>,
    log: fn(&S) -> &LogSettings,
}

const REGISTRY: Kind<RegistrySettings> =
    Kind { role: Role::Registry, load: config::load_registry, log: |settings| &settings.log };

const MEMBER: Kind<MemberSettings> =
    Kind { role: Role::Member, load: config::load_member, log: |settings| &settings.log };

/// A running daemon.
trait Daemon<S> {
    /// The status, in one line.
    fn status(&self) -> String;

    /// Applies new settings. Returns the keys that only take effect after a restart.
    fn reload(&mut self, settings: S) -> Vec<&'static str>;

    /// Location and instance of a member; `None` for a registry.
    fn member(&self) -> Option<(&Location, &InstanceId)>;
}

/// Runs the registry until it is stopped.
pub(super) fn registry(config: Option<&Path>, state_dir: Option<&Path>) -> Exit {
    let run = |settings: RegistrySettings, runtime: &Runtime, life: Life<RegistrySettings>| {
        let options = registry::Options {
            listener: passed_listener(&settings.server, Role::Registry)?,
            state_dir: StateDir::locate(state_dir),
            connections: Some(descriptors::raise_limit().saturating_sub(OWN_DESCRIPTORS).max(OWN_DESCRIPTORS)),
            vitals: Some(life.vitals.clone()),
            reloads: life.reloads.clone(),
        };
        runtime.block_on(async {
            let mut running = registry::start(settings, options).await.map_err(|e| chain(&e))?;
            info!(address = %running.address, version = env!("CARGO_PKG_VERSION"), "registry serving");
            life.attend(&mut running).await;
            running.stop().await;
            Ok(())
        })
    };
    daemon(&REGISTRY, config, run)
}

impl Daemon<RegistrySettings> for registry::Running {
    fn member(&self) -> Option<(&Location, &InstanceId)> {
        None
    }

    fn status(&self) -> String {
        Self::status(self)
    }

    fn reload(&mut self, settings: RegistrySettings) -> Vec<&'static str> {
        Self::reload(self, settings)
    }
}

/// Runs a member until it is stopped.
pub(super) fn member(config: Option<&Path>, state_dir: Option<&Path>) -> Exit {
    let run = |settings: MemberSettings, runtime: &Runtime, life: Life<MemberSettings>| {
        let state = match StateDir::locate(state_dir) {
            Some(path) => Some(StateDir::open(path).map_err(|e| chain(&e))?),
            None => {
                info!(
                    "no state directory ($STATE_DIRECTORY or --state-dir): identity and roster are lost when the member stops"
                );
                None
            }
        };
        let instance_id = match &settings.instance_id {
            Some(id) => id.clone(),
            None => {
                let (id, source) = state::instance_id(state.as_ref()).map_err(|e| chain(&e))?;
                if source == IdSource::Replaced {
                    warn!(
                        instance = %id,
                        "the file instance-id in the state directory is not valid; the member starts with a new identity"
                    );
                }
                id
            }
        };
        let (location, checks) = (settings.location.clone(), settings.intervals.check);
        let options = member::Options {
            instance_id: instance_id.clone(),
            listener: passed_listener(&settings.server, Role::Member)?,
            state,
            vitals: life.vitals.clone(),
            reloads: life.reloads.clone(),
        };
        let mut running = Member::start(settings, options).map_err(|e| chain(&e))?;
        info!(
            address = %running.address(), %location, instance = %instance_id, check_interval = ?checks,
            version = env!("CARGO_PKG_VERSION"), "member serving and probing"
        );
        runtime.block_on(life.attend(&mut running));
        running.stop(Farewell::Deregister);
        Ok(())
    };
    daemon(&MEMBER, config, run)
}

impl Daemon<MemberSettings> for Member {
    fn member(&self) -> Option<(&Location, &InstanceId)> {
        Some((self.location(), self.instance_id()))
    }

    fn status(&self) -> String {
        Self::status(self)
    }

    fn reload(&mut self, settings: MemberSettings) -> Vec<&'static str> {
        Self::reload(self, settings)
    }
}

/// The socket passed by systemd, if any; it replaces the configured address.
fn passed_listener(server: &ServerSettings, role: Role) -> Result<Option<TcpListener>, String> {
    let listener = systemd::listener().map_err(|e| chain(&e))?;
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(address) = address.filter(|address| !is_as_configured(*address, server)) {
        warn!(
            "listening on {address}, the socket passed by systemd, instead of {} from {}.server; ListenStream= in the .socket \
             unit and the configuration should agree",
            server.host.map_or_else(
                || format!("port {}", server.port),
                |host| SocketAddr::new(host, server.port.get()).to_string()
            ),
            role.section()
        );
    }
    Ok(listener)
}

/// Whether the socket has the configured port and address. An unspecified address in the configuration matches any.
fn is_as_configured(socket: SocketAddr, server: &ServerSettings) -> bool {
    let agrees = |host: IpAddr| host.is_unspecified() || host == socket.ip().to_canonical();
    socket.port() == server.port.get() && server.host.is_none_or(agrees)
}

/// The part that both daemons share: everything before the start and after the end.
fn daemon<S>(
    kind: &'static Kind<S>,
    config: Option<&Path>,
    run: impl FnOnce(S, &Runtime, Life<S>) -> Result<(), String>,
) -> Exit {
    let environment = config::environment();
    let loaded = match (kind.load)(config, kind.role.default_file(), &environment) {
        Ok(loaded) => loaded,
        Err(faults) => return refuse(kind.role, &faults.to_string(), &environment),
    };
    let vitals = Vitals::new();
    let pulse = vitals.add("log", LOG_LIMIT);
    let (logging, _flush) = match logging::start((kind.log)(&loaded.settings), kind.role.section(), pulse) {
        Ok(started) => started,
        Err(error) => return refuse(kind.role, &chain(&error), &environment),
    };
    announce(&loaded);
    memory::raise_trim_threshold();
    let notifier = Notifier::from_env();
    // A registry serves on this one thread, which can handle a hundred times the load of the largest ring. A second thread
    // would mostly add the cost of waking it for each single request. A member has additional threads.
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))
        .and_then(|runtime| {
            let config = config.map(Path::to_owned);
            let format = (kind.log)(&loaded.settings).format;
            // Before the start, so that a stop signal that arrives during the start is not lost.
            let signals = {
                let _inside = runtime.enter();
                Signals::new().map_err(|e| format!("cannot watch for signals: {e}"))?
            };
            // After the signal handlers: netring reload sends SIGHUP as soon as it finds the record of this daemon, and without
            // a handler the signal would end the process.
            let reloads = Reloads::new(reload::runtime_directory());
            let life = Life { kind, config, logging, notifier, signals, vitals, format, reloads };
            let ended = run(loaded.settings, &runtime, life);
            // Does not wait for blocking tasks that are still running.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => Exit::Ok,
        Err(problem) => {
            error!("{problem}");
            Exit::Unavailable
        }
    }
}

/// Reports the errors of the configuration and ends the start.
fn refuse(role: Role, why: &str, environment: &Environment) -> Exit {
    // The file has errors, so only the environment variable sets the log format.
    let format = match environment.get("LOG_FORMAT").map(String::as_str) {
        Some("json") => LogFormat::Json,
        Some("text") => LogFormat::Text,
        _ => LogFormat::Auto,
    };
    let structured = format == LogFormat::Json || (format == LogFormat::Auto && logging::stderr_is_journal());
    let settings = LogSettings { level: "error".parse().expect("it is a level"), format };
    let pulse = Vitals::new().add("log", LOG_LIMIT);
    let log = structured.then(|| logging::start(&settings, role.section(), pulse)).and_then(Result::ok);
    match &log {
        // The errors are part of the message too, because `systemctl status` shows no fields.
        Some(_) => error!(event = events::CONFIGURATION_REFUSED, reason = %why, "configuration refused: {why}"),
        None => complain(why),
    }
    if systemd::passes_socket() {
        let notifier = Notifier::from_env();
        notifier.status(&format!("configuration refused: {why}"));
        notifier.flush();
        // SIGTERM has its default action here, so it ends the pause at once.
        std::thread::sleep(REFUSED_PAUSE);
    }
    Exit::Config
}

/// Logs which configuration is in force, and its warnings.
fn announce<S>(loaded: &Loaded<S>) {
    match &loaded.file {
        Some(file) => info!(file = %file.display(), "configuration read"),
        None => info!("no configuration file: environment and defaults"),
    }
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
}

/// The time between READY and STOPPING.
struct Life<S: 'static> {
    kind: &'static Kind<S>,
    config: Option<PathBuf>,
    logging: Logging,
    notifier: Notifier,
    signals: Signals,
    vitals: Vitals,
    /// The log format, which cannot change at run time.
    format: LogFormat,
    reloads: Reloads,
}

impl<S> Life<S> {
    /// Handles signals and notifies the service manager until a signal asks the daemon to stop.
    async fn attend(mut self, daemon: &mut impl Daemon<S>) {
        // Twice within the watchdog timeout, so that one late notification does no harm.
        let watchdog = systemd::watchdog_interval();
        let period = watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 2).min(STATUS_INTERVAL));
        let mut ticks = tokio::time::interval(period);
        // After the whole process was stopped, the other threads get a full period before the next check for stalls.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut early = self.until_all_run().await;
        let mut shown = status(daemon, false);
        self.notifier.status(&shown);
        self.notifier.ready();
        let (mut stalled, mut logged) = (None, None);
        loop {
            tokio::select! {
                biased;
                signal = async { match early.take() {
                    Some(signal) => signal,
                    None => self.signals.next().await,
                } } => match signal {
                    Signal::Stop => break,
                    Signal::Reload => shown = self.reload(daemon),
                },
                _ = ticks.tick() => {}
            }
            let status = status(daemon, self.reloads.refused());
            if status != shown {
                self.notifier.status(&status);
                shown = status;
            }
            let found = self.vitals.stalled();
            // Logged at the second check: after the whole process was stopped, the other threads have not yet run at the first.
            if let Some(found) = found.filter(|found| stalled == Some(found.name) && logged != stalled) {
                let (location, instance) = member_fields(daemon);
                error!(event = events::LOOP_STALLED, location, instance, reason = %found, "a thread is stalled");
            }
            (stalled, logged) = (found.map(|found| found.name), stalled.filter(|_| found.is_some()));
            if stalled.is_none() && watchdog.is_some() {
                self.notifier.watchdog();
            }
        }
        self.notifier.stopping();
        info!("stopping");
    }

    /// Waits until every vital loop is running. Returns the signal received during the wait; a stop signal ends the wait.
    async fn until_all_run(&mut self) -> Option<Signal> {
        let mut early = None;
        while !self.vitals.all_run() {
            tokio::select! {
                signal = self.signals.next() => {
                    early = Some(signal);
                    if signal == Signal::Stop {
                        break;
                    }
                }
                () = tokio::time::sleep(START_POLL) => {}
            }
        }
        early
    }

    /// Reloads the configuration. Returns the status that was sent.
    fn reload(&mut self, daemon: &mut impl Daemon<S>) -> String {
        self.notifier.reloading();
        self.reloads.begin();
        let result = self.apply(daemon);
        let (location, instance) = member_fields(daemon);
        let outcome = match result {
            Ok(waiting) => {
                info!(event = events::CONFIGURATION_IN_FORCE, location, instance, "configuration reloaded");
                if !waiting.is_empty() {
                    warn!(keys = waiting.join(", "), "changes of these keys take effect after a restart");
                }
                Outcome::InForce { waiting: waiting.into_iter().map(str::to_owned).collect() }
            }
            Err(why) => {
                error!(
                    event = events::CONFIGURATION_REFUSED, location, instance, reason = %why,
                    "new configuration refused; the old one stays in force"
                );
                Outcome::Refused { why }
            }
        };
        let status = status(daemon, matches!(outcome, Outcome::Refused { .. }));
        self.notifier.status(&status);
        self.notifier.ready();
        // The record of the reload is written after the status: whoever asked for the reload may read the status next.
        self.notifier.flush();
        self.reloads.end(outcome);
        status
    }

    /// Reads the configuration and, if it has no errors, applies it. Returns the keys that only take effect after a restart.
    fn apply(&mut self, daemon: &mut impl Daemon<S>) -> Result<Vec<&'static str>, String> {
        let loaded = (self.kind.load)(self.config.as_deref(), self.kind.role.default_file(), &config::environment())
            .map_err(|faults| faults.to_string())?;
        let log = (self.kind.log)(&loaded.settings);
        self.logging.set_level(&log.level);
        announce(&loaded);
        let format = (log.format != self.format).then_some("log.format");
        let mut waiting = daemon.reload(loaded.settings);
        waiting.extend(format);
        Ok(waiting)
    }
}

/// The fields of an event that name the member; `None` for a registry.
fn member_fields<S>(daemon: &impl Daemon<S>) -> (Option<DisplayValue<&Location>>, Option<DisplayValue<&InstanceId>>) {
    daemon.member().map(|(location, instance)| (display(location), display(instance))).unzip()
}

/// The daemon's status, preceded by the fact that a reload was refused.
fn status<S>(daemon: &impl Daemon<S>, refused: bool) -> String {
    let status = daemon.status();
    if refused { format!("new configuration refused, the old one stays in force; {status}") } else { status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_as_configured_if_port_and_address_match_or_the_address_is_unspecified() {
        for (host, socket, agrees) in [
            ("", "[::]:8757", true),
            ("", "10.0.0.1:8757", true),
            ("", "[::]:9757", false),
            ("::", "[::]:8757", true),
            ("::", "10.0.0.1:8757", true),
            ("0.0.0.0", "[::]:8757", true),
            ("10.0.0.1", "10.0.0.1:8757", true),
            ("10.0.0.1", "[::ffff:10.0.0.1]:8757", true),
            ("10.0.0.1", "[::]:8757", false),
            ("10.0.0.1", "0.0.0.0:8757", false),
            ("10.0.0.1", "10.0.0.2:8757", false),
            ("10.0.0.1", "10.0.0.1:9757", false),
            ("::", "[::]:9757", false),
        ] {
            let server =
                ServerSettings { host: host.parse().ok(), port: 8757.try_into().unwrap(), max_connections: None };
            assert_eq!(is_as_configured(socket.parse().unwrap(), &server), agrees, "{host} and {socket}");
        }
    }
}
