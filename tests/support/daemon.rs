//! The real binary as a registry or a member, with short intervals, a service manager that listens for READY, and a
//! state directory that outlives its restarts.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::HangingDisk;
use super::fabric::Host;
use super::http::{self, Answer};
use super::metrics::Metrics;
use super::process::{Process, Usage};
use super::suspend::Suspend;
use super::wall_clock::WallClock;
use super::{SOON, Scratch, eventually, socket};

/// The binary under test.
pub const NETRING: &str = env!("CARGO_BIN_EXE_netring");

/// A registry to be: the fields stand in its configuration.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Where it listens.
    pub server: SocketAddr,
    /// Redis over TCP; without it the embedded store.
    pub redis: Option<SocketAddr>,
    /// How long a member lives after its last heartbeat, in seconds.
    pub member_ttl: u32,
    /// How often it tidies, in seconds.
    pub cleanup_interval: u32,
    /// The wall clock it reads; without one the machine's.
    pub wall_clock: Option<WallClock>,
}

impl Registry {
    /// With the embedded store, leases of three seconds, and a sweep each second.
    #[must_use]
    pub fn new() -> Self {
        Self { server: socket(), redis: None, member_ttl: 3, cleanup_interval: 1, wall_clock: None }
    }

    /// Its configuration file.
    #[must_use]
    pub fn yaml(&self) -> String {
        let redis = self.redis.map_or_else(String::new, |redis| {
            format!(
                "  redis:\n    host: \"{}\"\n    port: {}\n    db: 0\n    password: null\n",
                redis.ip(),
                redis.port()
            )
        });
        format!(
            "registry:\n{redis}  server:\n    host: \"{}\"\n    port: {}\n  member_ttl: {}\n  cleanup_interval: {}\n",
            self.server.ip(),
            self.server.port(),
            self.member_ttl,
            self.cleanup_interval
        )
    }

    /// Starts it and waits until it is ready.
    #[must_use]
    pub fn start(&self) -> Daemon {
        Daemon::start("registry", self.server, &self.yaml(), self.place(None))
    }

    /// Starts it on a host of a fabric and waits until it is ready.
    #[must_use]
    pub fn start_on(&self, host: &Host) -> Daemon {
        Daemon::start("registry", self.server, &self.yaml(), self.place(Some(host)))
    }

    fn place(&self, host: Option<&Host>) -> Place {
        Place { host: host.cloned(), wall_clock: self.wall_clock.clone(), suspend: None, disk: None }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// A member to be: the fields stand in its configuration.
#[derive(Clone, Debug)]
pub struct Member {
    /// The site it stands for.
    pub location: String,
    /// Its identity; `None` leaves it to the member.
    pub instance_id: Option<String>,
    /// Where it listens.
    pub server: SocketAddr,
    /// The address it registers; `None` leaves it to the member.
    pub advertise_ip: Option<IpAddr>,
    /// Where the registry listens.
    pub registry: SocketAddr,
    /// The name that stands for its address in the URL; `None` for the address itself.
    pub registry_name: Option<String>,
    /// Seconds between two probes of one target.
    pub check_interval: u32,
    /// Seconds between two heartbeats, and between two polls.
    pub heartbeat_interval: u32,
    /// Time limit of a probe, in seconds.
    pub timeout: f64,
    /// The paths it gets.
    pub http_endpoints: Vec<String>,
    /// The wall clock it reads; without one the machine's.
    pub wall_clock: Option<WallClock>,
    /// What suspends its host; without it the host stays awake.
    pub suspend: Option<Suspend>,
    /// The disk of its state directory; without one the machine's.
    pub disk: Option<HangingDisk>,
}

impl Member {
    /// With the location as its identity and everything once a second.
    #[must_use]
    pub fn new(location: &str, registry: SocketAddr) -> Self {
        Self {
            location: location.into(),
            instance_id: Some(format!("{location}-id")),
            server: socket(),
            advertise_ip: None,
            registry,
            registry_name: None,
            check_interval: 1,
            heartbeat_interval: 1,
            timeout: 0.5,
            http_endpoints: vec!["/health".into(), "/metrics".into()],
            wall_clock: None,
            suspend: None,
            disk: None,
        }
    }

    /// Its configuration file.
    #[must_use]
    pub fn yaml(&self) -> String {
        let instance_id = self.instance_id.as_ref().map_or_else(|| "null".into(), |id| format!("\"{id}\""));
        let advertise = self.advertise_ip.map_or_else(String::new, |ip| format!("    advertise_ip: \"{ip}\"\n"));
        let registry = self
            .registry_name
            .as_ref()
            .map_or_else(|| self.registry.to_string(), |name| format!("{name}:{}", self.registry.port()));
        format!(
            "member:\n  location: \"{}\"\n  instance_id: {instance_id}\n  registry:\n    url: \"http://{}\"\n  \
             intervals:\n    poll_interval: {beat}\n    check_interval: {}\n    heartbeat_interval: {beat}\n  \
             server:\n    host: \"{}\"\n    port: {}\n{advertise}  \
             checks:\n    tcp_timeout: {limit}\n    http_timeout: {limit}\n    http_endpoints: {:?}\n",
            self.location,
            registry,
            self.check_interval,
            self.server.ip(),
            self.server.port(),
            self.http_endpoints,
            beat = self.heartbeat_interval,
            limit = self.timeout,
        )
    }

    /// Starts it and waits until it is ready.
    #[must_use]
    pub fn start(&self) -> Daemon {
        Daemon::start("member", self.server, &self.yaml(), self.place(None))
    }

    /// Starts it on a host of a fabric and waits until it is ready.
    #[must_use]
    pub fn start_on(&self, host: &Host) -> Daemon {
        Daemon::start("member", self.server, &self.yaml(), self.place(Some(host)))
    }

    fn place(&self, host: Option<&Host>) -> Place {
        Place {
            host: host.cloned(),
            wall_clock: self.wall_clock.clone(),
            suspend: self.suspend.clone(),
            disk: self.disk.clone(),
        }
    }
}

/// Where a daemon runs: on the machine itself and by its time, unless said otherwise.
#[derive(Clone, Debug)]
struct Place {
    host: Option<Host>,
    wall_clock: Option<WallClock>,
    suspend: Option<Suspend>,
    disk: Option<HangingDisk>,
}

/// A running registry or member.
#[derive(Debug)]
pub struct Daemon {
    // Declared before the directory, so that the process ends before its files go.
    process: Process,
    /// Where it listens.
    pub server: SocketAddr,
    subcommand: &'static str,
    place: Place,
    notified: Arc<Mutex<Vec<String>>>,
    scratch: Scratch,
}

impl Daemon {
    fn start(subcommand: &'static str, server: SocketAddr, yaml: &str, place: Place) -> Self {
        let scratch = Scratch::new();
        let _ = scratch.file("config.yaml", yaml);
        let notified = listen(&scratch.path().join("notify"));
        let process = Self::spawn(subcommand, &scratch, &place);
        let mut daemon = Self { process, server, subcommand, place, notified, scratch };
        daemon.wait_ready();
        daemon
    }

    fn spawn(subcommand: &str, scratch: &Scratch, place: &Place) -> Process {
        let mut command = place.host.as_ref().map_or_else(|| Command::new(NETRING), |host| host.command(NETRING));
        command
            .arg(subcommand)
            .arg(scratch.path().join("config.yaml"))
            .arg("--state-dir")
            .arg(scratch.path().join("state"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NOTIFY_SOCKET", scratch.path().join("notify"))
            .env("RUNTIME_DIRECTORY", runtime_directory(scratch));
        if let Some(wall_clock) = &place.wall_clock {
            wall_clock.govern(&mut command);
        }
        if let Some(suspend) = &place.suspend {
            suspend.govern(&mut command);
        }
        if let Some(disk) = &place.disk {
            disk.govern(&mut command);
        }
        Process::start(&mut command, scratch, subcommand)
    }

    fn wait_ready(&mut self) {
        let what = format!("netring {} says READY", self.subcommand);
        eventually(SOON, &what, || {
            if self.notifications().iter().any(|message| message.lines().any(|line| line == "READY=1")) {
                return Ok(());
            }
            if let Some(status) = self.process.ended() {
                panic!("netring {} ended with {status}; its log:\n{}", self.subcommand, self.log());
            }
            Err(format!("no READY; its log:\n{}", self.log()))
        });
    }

    /// Every message it has sent to its service manager since its last start.
    #[must_use]
    pub fn notifications(&self) -> Vec<String> {
        self.notified.lock().expect("no thread panics while it holds the list").clone()
    }

    /// Starts it again, with the same configuration, state directory and address, and waits until it is ready.
    pub fn start_again(&mut self) {
        self.process.kill();
        self.notified.lock().expect("no thread panics while it holds the list").clear();
        self.process = Self::spawn(self.subcommand, &self.scratch, &self.place);
        self.wait_ready();
    }

    /// Puts another text into its configuration file. It learns of it by SIGHUP or a restart.
    pub fn configure(&self, yaml: &str) {
        let _: PathBuf = self.scratch.file("config.yaml", yaml);
    }

    /// `netring reload` for it, as its service manager would run that: to be started.
    #[must_use]
    pub fn reload(&self) -> Command {
        let mut command = Command::new(NETRING);
        command.arg("reload").env("MAINPID", self.id().to_string());
        command.env("RUNTIME_DIRECTORY", runtime_directory(&self.scratch));
        command
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.process.usage()
    }

    /// Sends a signal, such as `libc::SIGSTOP`.
    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The file of that name in its state directory.
    #[must_use]
    pub fn state_file(&self, name: &str) -> PathBuf {
        self.scratch.path().join("state").join(name)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit)
    }

    /// Asks it to end by SIGTERM and waits for that.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.process.signal(libc::SIGTERM);
        self.process.wait(limit)
    }

    /// What it has logged so far, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The lines of its log that hold all of these words, whatever their case.
    #[must_use]
    pub fn log_lines(&self, words: &[&str]) -> Vec<String> {
        let holds = |line: &&str| words.iter().all(|word| line.to_lowercase().contains(&word.to_lowercase()));
        self.log().lines().filter(holds).map(str::to_owned).collect()
    }

    /// `GET path`, sent from its own host.
    ///
    /// # Errors
    ///
    /// Why there was no answer.
    pub fn try_get(&self, path: &str) -> Result<Answer, String> {
        self.ask(|server| http::get(server, path))
    }

    /// Asks it something from its own host.
    fn ask(&self, question: impl FnOnce(SocketAddr) -> Result<Answer, String> + Send) -> Result<Answer, String> {
        let server = self.server;
        match &self.place.host {
            Some(host) => host.inside(|| question(server)),
            None => question(server),
        }
    }

    /// `GET path`, which it must answer.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|e| panic!("{e}; its log:\n{}", self.log()))
    }

    /// `POST path` with this JSON text, which it must answer.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "most posts are sent for what they do")]
    pub fn post(&self, path: &str, json: &str) -> Answer {
        self.ask(|server| http::post(server, path, json)).unwrap_or_else(|e| panic!("{e}; its log:\n{}", self.log()))
    }

    /// Has a registry list a peer that the test plays itself.
    #[track_caller]
    pub fn register(&self, id: &str, location: &str, address: SocketAddr) {
        let (ip, port) = (address.ip(), address.port());
        let body = format!(r#"{{"instance_id": "{id}", "location": "{location}", "ip": "{ip}", "port": {port}}}"#);
        let answer = self.post("/register", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Its `/metrics`, which must be without fault.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        Metrics::parse(&answer.text()).unwrap_or_else(|e| panic!("{e}\n{}", answer.text()))
    }

    /// Waits until a condition on its `/metrics` holds. The condition gives back the figure it looked at.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut(&Metrics) -> Result<(), String>) {
        eventually(SOON, what, || {
            condition(&self.metrics()).map_err(|seen| format!("{seen}\nits log:\n{}", self.log()))
        });
    }

    /// Waits until the member has made this many more checks, of whatever kind.
    #[track_caller]
    pub fn wait_for_checks(&self, more: f64) {
        let checks = |metrics: &Metrics| metrics.sum("netring_checks_total", &[]);
        let before = checks(&self.metrics());
        self.wait_for(&format!("{more} more checks"), |metrics| {
            let now = checks(metrics);
            super::holds(now >= before + more, format!("{before} before, {now} now"))
        });
    }

    /// Waits until a series has this value.
    #[track_caller]
    pub fn wait_for_value(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        self.wait_for(&format!("{name}{labels:?} is {wanted}"), |metrics| match metrics.value(name, labels) {
            Some(value) if (value - wanted).abs() < f64::EPSILON => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

/// The directory in which a daemon keeps what ends with it; made where it is missing.
fn runtime_directory(scratch: &Scratch) -> PathBuf {
    let directory = scratch.path().join("run");
    std::fs::create_dir_all(&directory).expect("a temporary directory can be made");
    directory
}

/// The service manager: collects what arrives at its socket for as long as anybody keeps the list. It reads all the time, as
/// systemd does, because a sender waits where ten messages lie unread.
fn listen(path: &Path) -> Arc<Mutex<Vec<String>>> {
    let socket = UnixDatagram::bind(path).expect("a socket can be made in a new directory");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit can be set");
    let list = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::downgrade(&list);
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while kept.strong_count() > 0 {
            let Ok(length) = socket.recv(&mut message) else { continue };
            let Some(list) = kept.upgrade() else { return };
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            list.lock().expect("no thread panics while it holds the list").push(text);
        }
    });
    list
}

/// A registry and one member per location, each seeing all the others.
#[derive(Debug)]
pub struct Ring {
    /// The registry.
    pub registry: Daemon,
    /// The members, in the order of their locations.
    pub members: Vec<Daemon>,
}

impl Ring {
    /// Starts it and waits until every member has probed every other by TCP.
    #[must_use]
    pub fn start(registry: &Registry, locations: &[&str]) -> Self {
        let server = registry.server;
        let registry = registry.start();
        let members: Vec<Daemon> = locations.iter().map(|location| Member::new(location, server).start()).collect();
        let ring = Self { registry, members };
        ring.wait_connected();
        ring
    }

    /// Waits until every member has reached every other by TCP.
    #[track_caller]
    pub fn wait_connected(&self) {
        for member in &self.members {
            let others = self.members.len() - 1;
            member.wait_for("every other member is reached by TCP", |metrics| {
                let up = metrics.series("netring_connectivity_tcp", &[]).iter().filter(|s| s.value > 0.5).count();
                super::holds(up == others, format!("{up} of {others}"))
            });
        }
    }
}
