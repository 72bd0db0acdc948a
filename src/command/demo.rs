//! `netring demo`: a whole ring on loopback, to try netring before installing it.
//!
//! The demo runs one registry with the embedded store and several members, each with its own port and threads, as the daemons
//! do. If stdout is a terminal, it shows a live table of the results; otherwise it prints one line per change.

mod view;

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::clock;
use crate::config::{self, Advertise, MemberSettings};
use crate::host::descriptors;
use crate::host::reload::Reloads;
use crate::host::signals::{Signal, Signals};
use crate::host::vitals::Vitals;
use crate::member::{self, Farewell, Member};
use crate::registry;
use crate::serve;
use crate::wire::{InstanceId, Location};

use super::daemon::Load;
use super::{Exit, chain, complain};
use view::{Change, Matrix, Screen};

/// How often each member probes each other member, unless the ring is too large.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The most probes per second in the whole demo. A larger ring is probed less often, so that two cores suffice.
const PROBES_PER_SECOND: usize = 3_000;

/// Up to this number of members both default endpoints are probed; in larger rings only `/health`.
const BOTH_ENDPOINTS_MAX: usize = 20;

/// How long a killed member stays on the roster: long enough to see the outage, short enough to see it removed.
const MEMBER_TTL: Duration = Duration::from_secs(20);

/// How long the ring may take to stop after Ctrl-C.
const GRACE: Duration = Duration::from_millis(800);

/// The first locations of a demo of any size.
const LOCATIONS: [&str; 8] =
    ["us1-k8s", "eu1-k8s", "asia1-docker", "us2-office", "eu2-office", "sa1-dc", "af1-dc", "au1-office"];

/// The options on the command line.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) members: u16,
    pub(super) failing: Vec<Failing>,
    pub(super) port: u16,
    pub(super) duration: Option<Duration>,
}

/// `LOCATION@SECONDS`: which member to kill, and when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failing {
    location: String,
    after: Duration,
}

impl Failing {
    /// Parses `LOCATION@SECONDS`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expected = || "expected LOCATION@SECONDS, such as eu1-k8s@10".to_owned();
        let (location, seconds) = text.rsplit_once('@').ok_or_else(expected)?;
        let seconds: f64 = seconds.parse().map_err(|_| expected())?;
        if location.is_empty() || !(0.0..=86_400.0).contains(&seconds) {
            return Err(expected());
        }
        Ok(Self { location: location.to_owned(), after: Duration::from_secs_f64(seconds) })
    }
}

/// One member of the demo; `running` is `None` once it has been killed.
struct Site {
    location: Location,
    running: Option<Member>,
}

/// Runs the demo until Ctrl-C or for the given duration.
pub(super) fn run(options: &Options) -> Exit {
    let locations = locations(options.members);
    for failing in &options.failing {
        if !locations.iter().any(|location| location.as_str() == failing.location) {
            complain(format_args!(
                "--fail: unknown location {}; a ring of {} members has {}",
                failing.location,
                options.members,
                abbreviated(&locations.iter().map(Location::as_str).collect::<Vec<_>>())
            ));
            return Exit::Usage;
        }
    }
    // Before the members start: their limits depend on it.
    let _ = descriptors::raise_limit();
    let ports: Vec<u16> = (0..=options.members).map(|n| options.port.saturating_add(n)).collect();
    let mut listeners = Vec::new();
    for &port in &ports {
        match serve::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), port) {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                complain(format_args!("{}; use --port to choose other ports", chain(&error)));
                return Exit::Unavailable;
            }
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start the demo: {error}"));
            return Exit::Unavailable;
        }
    };
    match runtime.block_on(ring(options, locations, listeners)) {
        Ok(()) => Exit::Ok,
        Err(problem) => {
            complain(problem);
            Exit::Unavailable
        }
    }
}

async fn ring(options: &Options, locations: Vec<Location>, mut listeners: Vec<TcpListener>) -> Result<(), String> {
    let mut stopped = exit_on_signal(Signals::new().map_err(|e| format!("cannot watch for Ctrl-C: {e}"))?);
    let members = locations.len();
    let registry_listener = listeners.remove(0);
    let registry_address = registry_listener.local_addr().map_err(|e| e.to_string())?;
    let mut registry_settings = defaults(config::load_registry, &[]);
    registry_settings.member_ttl = MEMBER_TTL;
    let registry = registry::start(
        registry_settings,
        registry::Options { listener: Some(registry_listener), ..registry::Options::default() },
    )
    .await
    .map_err(|e| chain(&e))?;

    let mut sites = Vec::with_capacity(members);
    for (location, listener) in locations.into_iter().zip(listeners) {
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let settings = settings(&location, address, registry_address, members);
        let options = member::Options {
            instance_id: InstanceId::random(),
            listener: Some(listener),
            state: None,
            vitals: Vitals::new(),
            reloads: Reloads::default(),
        };
        let running = Member::start(settings, options).map_err(|e| chain(&e))?;
        sites.push(Site { location, running: Some(running) });
    }

    let started = clock::monotonic();
    let mut out = io::stdout();
    // A closed pipe stops the demo, as Ctrl-C does.
    let shown = async {
        introduce(&mut out, options, registry_address, &sites)?;
        watch(&mut out, options, &mut stopped, &mut sites, started).await
    }
    .await;
    stop_all(sites);
    registry.stop().await;
    match shown {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write to stdout: {error}")),
        _ => Ok(()),
    }
}

/// Reports Ctrl-C or the closing of the terminal. If the ring does not stop in time after that, because it is too large for the
/// machine, the process exits anyway: there is no state to lose.
fn exit_on_signal(mut signals: Signals) -> oneshot::Receiver<()> {
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        let (Signal::Stop | Signal::Reload) = signals.next().await;
        let _ = stop.send(());
        tokio::time::sleep(GRACE).await;
        std::process::exit(Exit::Ok as i32);
    });
    stopped
}

/// Shows the results of the members until Ctrl-C or the end of the given duration.
async fn watch(
    out: &mut io::Stdout,
    options: &Options,
    stopped: &mut oneshot::Receiver<()>,
    sites: &mut [Site],
    started: Instant,
) -> io::Result<()> {
    let mut failing = options.failing.clone();
    let mut screen = out.is_terminal().then(Screen::default);
    let turn = Duration::from_millis(if sites.len() > 50 { 2_000 } else { 500 });
    let mut ticks = tokio::time::interval(turn);
    let mut before = Matrix::default();
    loop {
        tokio::select! {
            _ = &mut *stopped => return Ok(()),
            _ = ticks.tick() => {}
        }
        let now = clock::monotonic();
        let elapsed = now.saturating_duration_since(started);
        let mut news = Vec::new();
        failing.retain(|fail| {
            let due = fail.after <= elapsed;
            if due {
                let site = sites.iter_mut().find(|site| site.location.as_str() == fail.location);
                if let Some(member) = site.and_then(|site| site.running.take()) {
                    news.push(Change::Stopped(fail.location.clone()));
                    member.stop(Farewell::Vanish);
                }
            }
            !due
        });
        let matrix = Matrix::of(sites.iter().map(|s| (&s.location, s.running.as_ref().map(Member::board))), now);
        news.extend(matrix.changes_since(&before));
        match &mut screen {
            Some(screen) => screen.draw(out, &matrix, &news, elapsed)?,
            None => {
                for change in &news {
                    writeln!(out, "{} {change}", view::stamp(elapsed))?;
                }
                out.flush()?;
            }
        }
        before = matrix;
        if options.duration.is_some_and(|duration| elapsed >= duration) {
            return Ok(());
        }
    }
}

/// Prints the addresses and some commands to try.
fn introduce(out: &mut io::Stdout, options: &Options, registry: SocketAddr, sites: &[Site]) -> io::Result<()> {
    let at = |port: u16| format!("http://localhost:{port}");
    let first = options.port.saturating_add(1);
    let interval = check_interval(sites.len()).as_secs();
    writeln!(
        out,
        "A ring of {} members on this machine. Each member probes all the others every {interval} s.\n",
        sites.len()
    )?;
    writeln!(out, "  {:<14} {}", "registry", at(registry.port()))?;
    for (site, port) in sites.iter().zip(first..).take(8) {
        writeln!(out, "  {:<14} {}", site.location.as_str(), at(port))?;
    }
    if sites.len() > 8 {
        let last = first.saturating_add(options.members - 1);
        writeln!(out, "  {:<14} {}", "...", at(last))?;
    }
    writeln!(out, "\nTry in another terminal:")?;
    for (url, what) in [
        (format!("{}/health", at(registry.port())), "health of the registry"),
        (format!("{}/members", at(registry.port())), "members of the ring"),
        (format!("{}/health", at(first)), "health of a member"),
        (format!("{}/metrics", at(first)), "its metrics, for Prometheus"),
    ] {
        writeln!(out, "  curl {url:<32} # {what}")?;
    }
    match options.duration {
        None => writeln!(out, "\nPress Ctrl-C to stop.\n")?,
        Some(duration) => {
            writeln!(out, "\nThe demo stops after {} s. Press Ctrl-C to stop it earlier.\n", duration.as_secs())?;
        }
    }
    out.flush()
}

/// Stops all members in parallel: one after another would take too long in a large ring.
fn stop_all(sites: Vec<Site>) {
    std::thread::scope(|scope| {
        for member in sites.into_iter().filter_map(|site| site.running) {
            scope.spawn(move || member.stop(Farewell::Vanish));
        }
    });
}

/// How often each member probes each other member: less often in a large ring, so that two cores suffice.
fn check_interval(members: usize) -> Duration {
    let probes = members * (members - 1) * (1 + endpoints(members).len());
    let needed = probes.div_ceil(PROBES_PER_SECOND) as u64;
    CHECK_INTERVAL.max(Duration::from_secs(needed))
}

fn endpoints(members: usize) -> &'static [&'static str] {
    if members <= BOTH_ENDPOINTS_MAX { &["/health", "/metrics"] } else { &["/health"] }
}

fn settings(location: &Location, address: SocketAddr, registry: SocketAddr, members: usize) -> MemberSettings {
    let url = format!("http://{registry}");
    let mut settings = defaults(config::load_member, &[("MEMBER_LOCATION", location.as_str()), ("REGISTRY_URL", &url)]);
    settings.intervals.check = check_interval(members);
    settings.intervals.poll = Duration::from_secs(1);
    settings.intervals.heartbeat = Duration::from_secs(5);
    settings.server.host = Some(address.ip());
    settings.server.port = port_of(address);
    settings.advertise_ip = Advertise::Address(address.ip());
    let limit = config::longest_probe(settings.intervals.check).min(Duration::from_secs(2));
    (settings.checks.tcp_timeout, settings.checks.http_timeout) = (limit, limit);
    settings.checks.http_endpoints = endpoints(members).iter().map(|&endpoint| endpoint.to_owned()).collect();
    settings
}

/// The default settings of a daemon, with only these environment variables set.
fn defaults<S>(load: Load<S>, variables: &[(&str, &str)]) -> S {
    let no_file = Path::new("");
    let environment = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    load(None, no_file, &environment).expect("the defaults are valid settings").settings
}

fn port_of(address: SocketAddr) -> NonZeroU16 {
    NonZeroU16::new(address.port()).expect("a bound port is not zero")
}

fn locations(members: u16) -> Vec<Location> {
    let names =
        LOCATIONS.iter().map(|&name| name.to_owned()).chain((LOCATIONS.len() + 1..).map(|n| format!("site-{n:03}")));
    names.take(members.into()).map(|name| name.parse().expect("the names of the demo are valid")).collect()
}

/// A list of names in a sentence, abbreviated if there are many.
fn abbreviated(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    match names.len() {
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests;
