//! A ring of any size around one real member: its registry is real, and one small server stands for all the others.
//!
//! All of it is on one host of a fabric, where 10.64.0.0/14 is local as a whole, so that each peer has an address of its own
//! and no cable is in the way; only a crowd apart has its member on a second host. The registry gets one registration a peer,
//! as from as many members.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use netring::clock::monotonic;
use serde_json::{Value, json};

use crate::bare::{Addresses, Bare};
use crate::support::daemon::{Daemon, Member, Registry};
use crate::support::fabric::{Fabric, Host};
use crate::support::process::Process;
use crate::support::{SOON, Scratch, eventually, holds};

/// How long a member may take to have taken up a large ring.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many threads register the peers: the registry writes several registrations down at once.
const CLERKS: u32 = 16;

/// The peers of a member to be, with their registry.
pub struct Crowd {
    // Processes before what they stand on.
    landing: Process,
    registry: Daemon,
    /// Where the peers are.
    pub addresses: Addresses,
    fabric: Fabric,
    scratch: Scratch,
}

/// How a member follows its crowd.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Seconds between two probes of one target.
    pub interval: u32,
    /// The paths it gets from each peer.
    pub endpoints: Vec<String>,
}

impl Habits {
    /// By default a member probes each peer by TCP and by HTTP at two endpoints.
    #[must_use]
    pub fn usual(interval: u32) -> Self {
        Self { interval, endpoints: vec!["/health".into(), "/metrics".into()] }
    }

    /// How many targets each peer is.
    #[must_use]
    pub fn targets(&self) -> usize {
        1 + self.endpoints.len()
    }
}

impl Crowd {
    /// A crowd of so many peers, each at a location of its own.
    #[must_use]
    pub fn new(count: u32) -> Self {
        Self::landing(count, false, &["ring"])
    }

    /// A crowd that is on another host than its member, so that all their traffic crosses an interface.
    #[must_use]
    pub fn apart(count: u32) -> Self {
        let crowd = Self::landing(count, false, &["ring", "site"]);
        let via = crowd.host().v4.to_string();
        crowd.member_host().run("ip", &["route", "add", "10.64.0.0/14", "via", &via]);
        crowd
    }

    /// A crowd whose landing server notes who was called when.
    #[must_use]
    pub fn noting(count: u32) -> Self {
        Self::landing(count, true, &["ring"])
    }

    fn landing(count: u32, note: bool, hosts: &[&str]) -> Self {
        let fabric = Fabric::new(hosts).expect("main has looked for root, ip and nft");
        let host = &fabric.hosts()[0];
        host.run("ip", &["route", "add", "local", "10.64.0.0/14", "dev", "lo"]);
        let scratch = Scratch::new();
        let addresses = Addresses { count, port: 9000 };
        let landing = start(host, &Bare::Land { port: addresses.port, note }, &scratch);
        let registry =
            Registry { server: SocketAddr::new(host.v4.into(), 8756), member_ttl: 86_400, ..Registry::new() };
        let crowd = Self { landing, registry: registry.start_on(host), addresses, fabric, scratch };
        crowd.wait_open(addresses.port);
        crowd.register();
        crowd
    }

    fn register(&self) {
        let next = AtomicU32::new(0);
        let clerk = || {
            let agent = ureq::Agent::new_with_defaults();
            let url = format!("http://{}/register", self.registry.server);
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= self.addresses.count {
                    return;
                }
                let (ip, port) = (self.addresses.ip(n), self.addresses.port);
                let body = json!({
                    "instance_id": format!("6f1c9a54-0000-4000-8000-{n:012}"),
                    "location": format!("site{n}-k8s"),
                    "ip": ip,
                    "port": port,
                });
                let sent = agent.post(&url).header("content-type", "application/json").send(body.to_string());
                sent.unwrap_or_else(|e| panic!("the registry takes no registration: {e}"));
            }
        };
        self.host().inside(|| {
            std::thread::scope(|scope| {
                for _ in 0..CLERKS {
                    scope.spawn(clerk);
                }
            });
        });
    }

    /// Where everything runs but, in a crowd apart, the member.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.fabric.hosts()[0]
    }

    /// Where the member runs.
    #[must_use]
    pub fn member_host(&self) -> &Host {
        self.fabric.hosts().last().expect("a fabric has hosts")
    }

    /// What the landing server has noted: when each call came, in seconds since its start, and whom it was for.
    #[must_use]
    pub fn notes(&self) -> Vec<(f64, String)> {
        let log = self.landing.log();
        let lines = log.lines().filter_map(|line| line.split_once(' '));
        lines.filter_map(|(nanos, whom)| Some((nanos.parse::<f64>().ok()? / 1e9, whom.to_owned()))).collect()
    }

    /// Starts a member and waits until it knows the whole crowd.
    #[must_use]
    pub fn member(&self, habits: &Habits) -> Daemon {
        let described = Member {
            server: SocketAddr::new(self.member_host().v4.into(), 8757),
            check_interval: habits.interval,
            heartbeat_interval: 30,
            timeout: (f64::from(habits.interval) / 2.0).min(5.0),
            http_endpoints: habits.endpoints.clone(),
            ..Member::new("us1-k8s", self.registry.server)
        };
        let member = described.start_on(self.member_host());
        eventually(PATIENCE, "the member knows the whole crowd", || {
            let known = member.try_get("/health")?.json()["members_count"].as_u64();
            holds(known == Some(self.addresses.count.into()), known)
        });
        member
    }

    /// How many connections have been accepted on the host so far, the few to the daemons among them.
    #[must_use]
    pub fn connections(&self) -> f64 {
        let read = || std::fs::read_to_string("/proc/thread-self/net/snmp").expect("a host has its network statistics");
        let text = self.host().inside(read);
        let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
        let (names, values) = (tcp.next().expect("a line of names"), tcp.next().expect("a line of values"));
        let found = names.zip(values).find(|(name, _)| *name == "PassiveOpens");
        found.and_then(|(_, value)| value.parse().ok()).expect("Linux counts passive opens")
    }

    /// Starts a small program on the crowd's host.
    #[must_use]
    pub fn start(&self, program: &Bare) -> Process {
        start(self.host(), program, &self.scratch)
    }

    /// Waits until a small program listens.
    pub fn wait_open(&self, port: u16) {
        let server = SocketAddr::new(self.host().v4.into(), port);
        eventually(SOON, "it listens", || self.host().inside(|| TcpStream::connect(server)));
    }

    /// Runs a small program on the crowd's host to its end and gives back what it said.
    #[must_use]
    pub fn run(&self, program: &Bare) -> Value {
        said(self.start(program))
    }
}

fn start(host: &Host, program: &Bare, scratch: &Scratch) -> Process {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let exe = std::env::current_exe().expect("a process knows its program");
    let mut command = host.command(exe.to_str().expect("a path of plain characters"));
    command.args(program.words());
    Process::start(&mut command, scratch, &format!("bare-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Waits for the end of a small program and gives back what it said.
#[must_use]
pub fn said(mut program: Process) -> Value {
    let status = program.wait(Duration::from_secs(15 * 60));
    let log = program.log();
    assert!(status.success(), "{status}: {log}");
    serde_json::from_str(&log).unwrap_or_else(|e| panic!("{e}: {log}"))
}

/// What a member used over a stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Processor time, in seconds.
    pub cpu: f64,
    /// Connections that were made to the crowd, by the count that the kernel keeps.
    pub connections: f64,
    /// The share of failures among the probes, by the member's own count.
    pub failed: f64,
}

impl Stretch {
    /// The same, which must have been without trouble: with more than a few failures something else was measured.
    #[must_use]
    #[track_caller]
    pub fn sound(self) -> Self {
        assert!(self.connections > 0.0 && self.failed < 0.01, "not all was well: {self:?}");
        self
    }
}

/// Looks at a member of the crowd while `meanwhile` runs.
#[must_use]
pub fn over(crowd: &Crowd, member: &Daemon, meanwhile: impl FnOnce()) -> Stretch {
    // A scrape of a large ring takes its time, in which more probes are made: it can say which share failed, and lies
    // outside of what is paid for.
    let text = member.get("/metrics").text();
    let (connections, start, usage) = (crowd.connections(), monotonic(), member.usage());
    meanwhile();
    let (end, spent) = (monotonic(), member.usage().cpu - usage.cpu);
    let connections = crowd.connections() - connections;
    let [(made_before, failed_before), (made, failed)] =
        [text, member.get("/metrics").text()].map(|text| probes(&text));
    let failed = (failed - failed_before) / (made - made_before).max(1.0);
    Stretch { seconds: seconds(end, start), cpu: spent.as_secs_f64(), connections, failed }
}

/// How many probes a member has made, and how many of them failed. Large texts are looked through rather than parsed.
fn probes(text: &str) -> (f64, f64) {
    let sum = |name: &str| -> f64 {
        let samples = text.lines().filter(|line| line.starts_with(name));
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    };
    (sum("netring_checks_total{"), sum("netring_check_failures_total{"))
}

fn seconds(later: Instant, earlier: Instant) -> f64 {
    (later - earlier).as_secs_f64()
}

/// Lets time pass.
pub fn pass(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}
