//! `netring registry` and `netring member`: the daemons as a service manager runs them.
//!
//! Both live the same way: read the configuration, start logging, start the daemon, say READY, then wait for signals and
//! once a second tell the service manager how it stands. SIGHUP reads the configuration again: what is wrong with it is
//! logged and the old settings stay. SIGTERM and SIGINT end the daemon within a second.

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
use crate::host::state::{self, Kept, StateDir};
use crate::host::systemd::{self, Notifier};
use crate::host::vitals::Vitals;
use crate::member::{self, Farewell, Member};
use crate::registry;
use crate::wire::{InstanceId, Location};

use super::{Exit, chain, complain};

/// How often the status line is brought up to date.
const TURN: Duration = Duration::from_secs(1);

/// How often the start looks whether all loops run.
const LOOK: Duration = Duration::from_millis(2);

/// How long the log's thread may take for anything but writing.
const LOG_LIMIT: Duration = Duration::from_secs(10);

/// How long a daemon with a wrong configuration holds the socket that systemd handed over. A connection that waits there
/// starts it again as soon as it has ended, and systemd gives up a socket that starts its service too often.
const REFUSED_PAUSE: Duration = Duration::from_secs(3);

/// Of the registry's descriptors, those that are not for connections: store, journal, log and what the libraries keep.
const OWN_DESCRIPTORS: usize = 64;

/// How the settings of a daemon are read: [`config::load_registry`] or [`config::load_member`].
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

/// A daemon that runs.
trait Daemon<S> {
    /// The one line an operator wants.
    fn status(&self) -> String;

    /// Takes other settings, and says which keys wait for a restart.
    fn reload(&mut self, settings: S) -> Vec<&'static str>;

    /// Which member it is, where it is one.
    fn member(&self) -> Option<(&Location, &InstanceId)>;
}

/// Runs the registry until it is told to end.
pub(super) fn registry(config: Option<&Path>, state_dir: Option<&Path>) -> Exit {
    let run = |settings: RegistrySettings, runtime: &Runtime, life: Life<RegistrySettings>| {
        let options = registry::Options {
            listener: handed_over(&settings.server, Role::Registry)?,
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

/// Runs a member until it is told to end.
pub(super) fn member(config: Option<&Path>, state_dir: Option<&Path>) -> Exit {
    let run = |settings: MemberSettings, runtime: &Runtime, life: Life<MemberSettings>| {
        let state = match StateDir::locate(state_dir) {
            Some(path) => Some(StateDir::open(path).map_err(|e| chain(&e))?),
            None => {
                info!(
                    "no state directory ($STATE_DIRECTORY or --state-dir): identity and roster are kept in memory only"
                );
                None
            }
        };
        let instance_id = match &settings.instance_id {
            Some(id) => id.clone(),
            None => {
                let (id, kept) = state::instance_id(state.as_ref()).map_err(|e| chain(&e))?;
                if kept == Kept::Replaced {
                    warn!(instance = %id, "the kept identity could not be read, this member is a new one from now on");
                }
                id
            }
        };
        let (location, checks) = (settings.location.clone(), settings.intervals.check);
        let options = member::Options {
            instance_id: instance_id.clone(),
            listener: handed_over(&settings.server, Role::Member)?,
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

/// The socket that systemd hands over, which stands above the configured address.
fn handed_over(server: &ServerSettings, role: Role) -> Result<Option<TcpListener>, String> {
    let listener = systemd::listener().map_err(|e| chain(&e))?;
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(address) = address.filter(|address| !is_as_configured(*address, server)) {
        warn!(
            "serving on {address}, the socket that systemd hands over, and not on {} of {}.server; ListenStream= of the \
             .socket unit and the configuration should agree",
            server.host.map_or_else(
                || format!("port {}", server.port),
                |host| SocketAddr::new(host, server.port.get()).to_string()
            ),
            role.section()
        );
    }
    Ok(listener)
}

/// Whether this socket serves where the configuration says to. All addresses are as good as any, unless one was named.
fn is_as_configured(socket: SocketAddr, server: &ServerSettings) -> bool {
    let agrees = |host: IpAddr| host.is_unspecified() || host == socket.ip().to_canonical();
    socket.port() == server.port.get() && server.host.is_none_or(agrees)
}

/// What both daemons do: everything before the start and after the end.
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
    let (logging, _last_words) = match logging::start((kind.log)(&loaded.settings), kind.role.section(), pulse) {
        Ok(started) => started,
        Err(error) => return refuse(kind.role, &chain(&error), &environment),
    };
    announce(&loaded);
    memory::keep_a_little();
    let notifier = Notifier::from_env();
    // A registry serves on this one thread, which can do a hundred times what the largest ring asks for: a second one would
    // mostly cost what it takes to wake it, at every request that comes alone. A member has threads of its own.
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))
        .and_then(|runtime| {
            let config = config.map(Path::to_owned);
            let format = (kind.log)(&loaded.settings).format;
            // Before the start, so that a word to stop that comes meanwhile is heard.
            let signals = {
                let _inside = runtime.enter();
                Signals::new().map_err(|e| format!("cannot watch for signals: {e}"))?
            };
            // And not before: whoever wants a reload sends its signal when it finds a word of this daemon.
            let reloads = Reloads::new(reload::runtime_directory());
            let life = Life { kind, config, logging, notifier, signals, vitals, format, reloads };
            let ended = run(loaded.settings, &runtime, life);
            // Whatever still waits on something slow is not waited for.
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

/// Says what is wrong with the configuration, and ends a start with it.
fn refuse(role: Role, why: &str, environment: &Environment) -> Exit {
    // The file is not to be trusted, so that of the settings of the log only the variable counts.
    let format = match environment.get("LOG_FORMAT").map(String::as_str) {
        Some("json") => LogFormat::Json,
        Some("text") => LogFormat::Text,
        _ => LogFormat::Auto,
    };
    let machines_read = format == LogFormat::Json || (format == LogFormat::Auto && logging::stderr_is_journal());
    let settings = LogSettings { level: "error".parse().expect("it is a level"), format };
    let pulse = Vitals::new().add("log", LOG_LIMIT);
    let log = machines_read.then(|| logging::start(&settings, role.section(), pulse)).and_then(Result::ok);
    match &log {
        // In words too, for `systemctl status` shows nothing else.
        Some(_) => error!(event = events::CONFIGURATION_REFUSED, reason = %why, "configuration refused: {why}"),
        None => complain(why),
    }
    if systemd::hands_over() {
        let notifier = Notifier::from_env();
        notifier.status(&format!("configuration refused: {why}"));
        notifier.all_sent();
        // Nobody heeds SIGTERM by now, so that it ends this at once.
        std::thread::sleep(REFUSED_PAUSE);
    }
    Exit::Config
}

/// Says which configuration is in force, and what is odd about it.
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
    /// The form of the log, which stays until the end.
    format: LogFormat,
    reloads: Reloads,
}

impl<S> Life<S> {
    /// Waits for signals and reports to the service manager until the daemon is to end.
    async fn attend(mut self, daemon: &mut impl Daemon<S>) {
        // Twice within the time that the service manager allows, so that one late beat is no death.
        let watchdog = systemd::watchdog_interval();
        let beat = watchdog.map_or(TURN, |limit| (limit / 2).min(TURN));
        let mut ticks = tokio::time::interval(beat);
        // After a standstill of the whole process two looks are as far apart as ever.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut early = self.until_all_run().await;
        let mut shown = status(daemon, false);
        self.notifier.status(&shown);
        self.notifier.ready();
        let (mut stalled, mut told) = (None, None);
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
            let still = self.vitals.stalled();
            // Not at the first look: where the whole process stood still the others are only about to move.
            if let Some(still) = still.filter(|still| stalled == Some(still.name) && told != stalled) {
                let (location, instance) = member_fields(daemon);
                error!(event = events::LOOP_STALLED, location, instance, reason = %still, "a vital loop stands still");
            }
            (stalled, told) = (still.map(|still| still.name), stalled.filter(|_| still.is_some()));
            if stalled.is_none() && watchdog.is_some() {
                self.notifier.watchdog();
            }
        }
        self.notifier.stopping();
        info!("stopping");
    }

    /// Waits until every vital loop has begun to move. Returns the signal that came meanwhile; a word to stop ends the wait.
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
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        early
    }

    /// Reads the configuration again. Returns the status that was sent.
    fn reload(&mut self, daemon: &mut impl Daemon<S>) -> String {
        self.notifier.reloading();
        self.reloads.begin();
        let taken_up = self.take_up(daemon);
        let (location, instance) = member_fields(daemon);
        let outcome = match taken_up {
            Ok(waiting) => {
                info!(event = events::CONFIGURATION_IN_FORCE, location, instance, "configuration reloaded");
                if !waiting.is_empty() {
                    warn!(keys = waiting.join(", "), "these changes wait for a restart");
                }
                Outcome::InForce { waiting: waiting.into_iter().map(str::to_owned).collect() }
            }
            Err(why) => {
                error!(
                    event = events::CONFIGURATION_REFUSED, location, instance, reason = %why,
                    "new configuration refused, the old one stays in force"
                );
                Outcome::Refused { why }
            }
        };
        let status = status(daemon, matches!(outcome, Outcome::Refused { .. }));
        self.notifier.status(&status);
        self.notifier.ready();
        // Whoever asked for the reload looks at the status next.
        self.notifier.all_sent();
        self.reloads.end(outcome);
        status
    }

    /// Reads the configuration and takes it up where it is right. Returns the keys that wait for a restart.
    fn take_up(&mut self, daemon: &mut impl Daemon<S>) -> Result<Vec<&'static str>, String> {
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

/// The fields of an event that say which member it is about; a registry's have none.
fn member_fields<S>(daemon: &impl Daemon<S>) -> (Option<DisplayValue<&Location>>, Option<DisplayValue<&InstanceId>>) {
    daemon.member().map(|(location, instance)| (display(location), display(instance))).unzip()
}

/// The daemon's status, with what the operator has to know first.
fn status<S>(daemon: &impl Daemon<S>, refused: bool) -> String {
    let status = daemon.status();
    if refused { format!("new configuration refused, the old one is in force; {status}") } else { status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_as_configured_where_its_port_is_and_its_address_unless_all_are_meant() {
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
