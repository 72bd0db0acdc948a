//! Whole hosts: Debian with its own systemd as PID 1, booted on a host of a [`Fabric`], and every way to lose one.
//!
//! A host boots in a second, from an overlay over a root directory that `tests/support/roots` makes once; what it writes is
//! kept until it is dropped, so it can lose its power and boot again. Its network is that of its [`Host`], where cables are
//! pulled and links cut. The script `tests/support/boot` runs it and ends it, however the test itself ends.
//!
//! ```ignore
//! let Some(fabric) = Fabric::new(&["us1", "eu1"]) else { return };
//! let Some(mut us1) = Booted::start(&fabric.hosts()[0], System::Bookworm) else { return };
//! us1.install();
//! us1.configure_registry();
//! us1.run(&["systemctl", "enable", "--now", "netring-registry"]);
//! assert_eq!(us1.property("netring-registry", "SubState"), "running");
//! us1.reboot();
//! ```
//!
//! A test of one host takes [`on_each_systemd!`](crate::on_each_systemd) and is handed the host. Hosts go before their
//! fabric: declare them after it. A test that fails prints the end of the journal of each host it had.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::daemon::{Member, NETRING, Registry};
use super::fabric::{Fabric, Host, left_behind};
use super::http::{self, Answer};
use super::metrics::Metrics;
use super::{SOON, Scratch, cache, eventually, installed, skip};

/// Boots a host and holds it; `boot clear NAME` ends what is left of one.
const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/boot");

/// Where the folders of the hosts' cgroups are, one hierarchy in the place of all.
const CGROUPS: &str = "/sys/fs/cgroup/systemd";

/// Where the registry of a host listens.
pub const REGISTRY_PORT: u16 = 8756;

/// Where its member does.
pub const MEMBER_PORT: u16 = 8757;

/// The whole environment of a command on a host.
const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a root directory that is being made may take.
const ROOT_LIMIT: Duration = Duration::from_secs(90);

/// What a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Debian 12, with systemd 252 and rpm.
    Bookworm,
    /// Debian 13, with systemd 257.
    Trixie,
}

impl System {
    /// Debian's name of the release.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// The version of its systemd.
    #[must_use]
    pub fn systemd(self) -> u32 {
        match self {
            Self::Bookworm => 252,
            Self::Trixie => 257,
        }
    }

    /// Its root directory, once whoever makes it is done; `None`, with the skip said, where nobody does.
    fn root(self) -> Option<PathBuf> {
        let roots = cache().join("roots");
        let root = roots.join(self.name());
        if let Ok(lock) = File::open(roots.join(format!(".{}.lock", self.name()))) {
            eventually(ROOT_LIMIT, "the root directory of the host is made", || lock.try_lock_shared());
        }
        if !root.is_dir() {
            skip(&format!("there is no {}: `tests/support/roots {}` makes it", root.display(), self.name()));
            return None;
        }
        Some(root)
    }
}

/// One host, running or without power. Dropping it ends it and all it wrote.
#[derive(Debug)]
pub struct Booted {
    // Declared before the directory, so that the host ends before its files go.
    power: Option<Power>,
    root: PathBuf,
    /// What it runs.
    pub system: System,
    /// Its place in the network.
    pub host: Host,
    scratch: Scratch,
}

/// A host from power on to power off.
#[derive(Debug)]
struct Power {
    /// The script that holds it, which ends when it does.
    holder: Child,
    /// The host's PID 1, by the id it has on this machine.
    leader: u32,
}

impl Booted {
    /// Boots this system on a host of a fabric and waits until it is up; `None`, with the skip said, where that cannot be.
    #[must_use]
    pub fn start(host: &Host, system: System) -> Option<Self> {
        if !installed(&["systemd-nspawn", "nsenter", "unshare", "setsid"]) {
            return None;
        }
        if !Path::new(CGROUPS).is_dir() || !Path::new("/sys/fs/cgroup/freezer").is_dir() {
            skip("hosts boot where the cgroups of version 1 are mounted, such as systemd and freezer");
            return None;
        }
        let root = system.root()?;
        for name in left_behind(Path::new(CGROUPS)) {
            let _ = Command::new(BOOT).args(["clear", &name]).output();
        }
        let mut booted = Self { power: None, root, system, host: host.clone(), scratch: Scratch::new() };
        booted.write("/etc/hostname", &format!("{}\n", host.name));
        booted.write("/etc/machine-id", &format!("{}\n", uuid::Uuid::new_v4().simple()));
        // Nothing runs that no test started.
        for timer in ["apt-daily", "apt-daily-upgrade", "dpkg-db-backup", "e2scrub_all", "man-db", "fstrim"] {
            let unit = booted.path(&format!("/etc/systemd/system/{timer}.timer"));
            std::os::unix::fs::symlink("/dev/null", unit).expect("the disk can be written");
        }
        booted.boot();
        Some(booted)
    }

    /// Turns the power on and waits until the host is up.
    ///
    /// # Panics
    ///
    /// Where it is on already.
    pub fn boot(&mut self) {
        assert!(self.power.is_none(), "{} is running", self.host.name);
        let log = File::options().create(true).append(true).open(self.console()).expect("a log file can be opened");
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "--", BOOT])
            .args([&self.root, self.scratch.path()])
            .args([self.host.namespace(), &self.host.name])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a log file can be shared"))
            .stderr(log)
            // It must outlive a test that is killed together with its process group.
            .process_group(0)
            .spawn()
            .expect("unshare can be started");
        let cgroup = Path::new(CGROUPS).join(self.host.namespace());
        let console = self.console();
        let power = self.power.insert(Power { holder, leader: 0 });
        power.leader = eventually(SOON, "the host has a PID 1", || {
            if let Some(status) = power.holder.try_wait().expect("a child can be waited for") {
                panic!("the host ended with {status}:\n{}", fs::read_to_string(&console).unwrap_or_default());
            }
            leader(&cgroup).ok_or("none")
        });
        eventually(SOON, "the host is up", || {
            let output = self.output(&["systemctl", "is-system-running"]);
            let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if state == "running" { Ok(()) } else { Err(self.explain(&state)) }
        });
    }

    fn explain(&self, state: &str) -> String {
        let failed = self.output(&["systemctl", "--no-legend", "--failed"]);
        format!("{state}; failed units: {}", String::from_utf8_lossy(&failed.stdout))
    }

    /// What the host wrote on its console.
    fn console(&self) -> PathBuf {
        self.scratch.path().join("console.log")
    }

    fn leader(&self) -> u32 {
        self.power.as_ref().unwrap_or_else(|| panic!("{} has no power", self.host.name)).leader
    }

    // ------------------------------------------------------------------------------------------- Ways to lose it.

    /// Cuts its power: everything on it is gone at once, what it did not write to its disk too.
    ///
    /// Its network namespace stays, and answers with resets. For a silence take its cable out first.
    pub fn power_cut(&mut self) {
        signal(self.leader(), libc::SIGKILL);
        self.wait_down();
    }

    /// Shuts it down, as `systemctl poweroff` does. See [`Self::power_cut`] for what its network says then.
    pub fn power_off(&mut self) {
        let _ = self.output(&["systemctl", "poweroff"]);
        self.wait_down();
    }

    fn wait_down(&mut self) {
        let mut power = self.power.take().expect("has power");
        eventually(SOON * 2, "the host ends", || {
            power.holder.try_wait().expect("a child can be waited for").ok_or("it runs")
        });
    }

    /// Restarts it, as `systemctl reboot` does, and waits until it is up again.
    pub fn reboot(&mut self) {
        let _ = self.output(&["systemctl", "reboot"]);
        self.wait_down();
        self.boot();
    }

    /// Stops every process on it; its kernel still takes connections. Nothing can be run on it until [`Self::thaw`].
    pub fn freeze(&self) {
        self.set_freezer("FROZEN");
    }

    /// Lets everything go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.set_freezer("THAWED");
    }

    fn set_freezer(&self, state: &str) {
        let file = format!("/sys/fs/cgroup/freezer/{}/freezer.state", self.host.namespace());
        fs::write(&file, state).expect("the host has a freezer");
        eventually(SOON, state, || {
            let now = fs::read_to_string(&file).expect("the host has a freezer");
            super::holds(now.trim() == state, now)
        });
    }

    // ---------------------------------------------------------------------------------------- Programs and files.

    /// A command that will run on it, with [`PATH`] as its whole environment. It is none of its services: its process
    /// belongs to the test.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.leader().to_string(), "--", "env", "-i", PATH, program]);
        command
    }

    /// Runs a command on it and gives back how it ended, whatever that is.
    #[must_use]
    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words[0]).args(&words[1..]).stdin(Stdio::null()).output().expect("nsenter can be started")
    }

    /// Runs a command on it, which must succeed, and gives back what it wrote to its standard output.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "most commands are run for what they do")]
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "on {}: {words:?}: {}\n{out}\n{err}", self.host.name, output.status);
        out.into_owned()
    }

    /// Runs a command on it, which must fail, and gives back its exit code and all it wrote.
    #[track_caller]
    #[must_use]
    pub fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.output(words);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!output.status.success(), "on {}: {words:?} succeeded\n{said}", self.host.name);
        (output.status.code().expect("a command that was not killed"), said)
    }

    /// Where a file of the host is on this machine: within the running host, or on its disk while it has no power.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        match &self.power {
            Some(power) => PathBuf::from(format!("/proc/{}/root", power.leader)).join(path),
            None => {
                let upper = self.scratch.path().join("upper").join(path);
                fs::create_dir_all(upper.parent().expect("a file is in a directory")).expect("the disk can be written");
                upper
            }
        }
    }

    /// Writes a file that everybody on the host may read, and the directories above it.
    pub fn write(&self, path: &str, text: &str) {
        self.put(path, text.as_bytes(), 0o644);
    }

    /// Copies a file of this machine to the host, with these permissions.
    pub fn copy(&self, from: impl AsRef<Path>, path: &str, mode: u32) {
        let from = from.as_ref();
        let bytes = fs::read(from).unwrap_or_else(|e| panic!("cannot read {}: {e}", from.display()));
        self.put(path, &bytes, mode);
    }

    /// Writes a file with these permissions; an older one of that name stays whole for whoever runs or reads it.
    fn put(&self, path: &str, bytes: &[u8], mode: u32) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().expect("a file is in a directory")).expect("the host's disk can be written");
        let unfinished = file.with_extension("unfinished");
        fs::write(&unfinished, bytes)
            .and_then(|()| fs::set_permissions(&unfinished, fs::Permissions::from_mode(mode)))
            .and_then(|()| fs::rename(&unfinished, &file))
            .unwrap_or_else(|e| panic!("cannot write {path} on {}: {e}", self.host.name));
    }

    /// The text of a file.
    #[must_use]
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let read = fs::read(self.path(path));
        let bytes = read.unwrap_or_else(|e| panic!("cannot read {path} on {}: {e}", self.host.name));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether there is a file, a directory or a link of that name, wherever it leads.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Puts netring on it: binary, units, default configuration and catalog, where the packages put them. Enables nothing.
    pub fn install(&self) {
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
        self.copy(NETRING, "/usr/bin/netring", 0o755);
        for (from, to) in [("etc", "/etc/netring"), ("etc/default", "/etc/default"), ("systemd", "/usr/lib/systemd")] {
            for file in files(&packaging.join(from)) {
                let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
                let kind = match file.extension().and_then(std::ffi::OsStr::to_str) {
                    Some("service" | "socket") => "/system",
                    Some("preset") => "/system-preset",
                    Some("catalog") => "/catalog",
                    _ => "",
                };
                self.copy(&file, &format!("{to}{kind}/{name}"), 0o644);
            }
        }
        self.run(&["journalctl", "--update-catalog"]);
        self.run(&["systemctl", "daemon-reload"]);
    }

    /// Writes the configuration of a registry, which listens everywhere and keeps a member for a minute.
    pub fn configure_registry(&self) {
        let server = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), REGISTRY_PORT);
        let registry = Registry { server, member_ttl: 60, ..Registry::new() };
        self.write("/etc/netring/registry.yaml", &registry.yaml());
    }

    /// Writes the configuration of a member that does everything once a second, knows the registry by the address of its
    /// host, and makes its identity itself.
    pub fn configure_member(&self, location: &str, registry: &Host) {
        let registry = SocketAddr::new(registry.v4.into(), REGISTRY_PORT);
        let server = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), MEMBER_PORT);
        let member = Member { server, instance_id: None, ..Member::new(location, registry) };
        self.write("/etc/netring/member.yaml", &member.yaml());
    }

    // ----------------------------------------------------------------------------------------- Services and logs.

    /// One property of a unit, as `systemctl show` has it.
    #[must_use]
    #[track_caller]
    pub fn property(&self, unit: &str, property: &str) -> String {
        self.run(&["systemctl", "show", "--property", property, "--value", unit]).trim().to_owned()
    }

    /// Waits until a property of a unit has this value.
    #[track_caller]
    pub fn wait_for_property(&self, limit: Duration, unit: &str, property: &str, wanted: &str) {
        eventually(limit, &format!("{property} of {unit} is {wanted}"), || {
            let now = self.property(unit, property);
            super::holds(now == wanted, now)
        });
    }

    /// The process id of a service, as it is on this machine.
    #[must_use]
    #[track_caller]
    pub fn main_pid(&self, unit: &str) -> u32 {
        let inside = self.property(unit, "MainPID");
        let namespace = |id: &str| fs::read_link(format!("/proc/{id}/ns/pid"));
        let ours = namespace(&self.leader().to_string()).expect("the host runs");
        let processes = fs::read_dir("/proc").expect("proc(5) is mounted").flatten();
        let mut names = processes.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .find(|id| {
                let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
                let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last());
                inner == Some(&inside) && namespace(id).is_ok_and(|found| found == ours)
            })
            .and_then(|id| id.parse().ok())
            .unwrap_or_else(|| panic!("{unit} on {} has no process {inside}", self.host.name))
    }

    /// What the journal holds of a unit, by it and about it, oldest first, each entry with all its fields.
    #[must_use]
    #[track_caller]
    pub fn journal(&self, unit: &str) -> Vec<Value> {
        self.run(&["journalctl", "--sync"]);
        let text = self.run(&["journalctl", "--output=json", "--all", "--no-pager", "--unit", unit]);
        text.lines().map(|line| serde_json::from_str(line).expect("journalctl writes JSON")).collect()
    }

    /// Waits for an entry in the journal of a unit whose fields have these values, and gives back the last such.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "that it is there is often all")]
    pub fn wait_for_entry(&self, unit: &str, fields: &[(&str, &str)]) -> Value {
        eventually(SOON, &format!("the journal of {unit} has an entry with {fields:?}"), || {
            let journal = self.journal(unit);
            let wanted = |entry: &&Value| fields.iter().all(|(field, value)| tells(entry, field, value));
            let messages = || journal.iter().map(|entry| entry["MESSAGE"].to_string()).collect::<Vec<_>>().join("\n");
            journal.iter().rfind(wanted).cloned().ok_or_else(messages)
        })
    }

    // ------------------------------------------------------------------------------------------------------ HTTP.

    /// `GET path` from a port of it, asked on the host itself.
    ///
    /// # Errors
    ///
    /// Why there was no answer.
    pub fn try_get(&self, port: u16, path: &str) -> Result<Answer, String> {
        self.host.inside(|| http::get(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), path))
    }

    /// `GET path` likewise, which it must answer.
    #[must_use]
    #[track_caller]
    pub fn get(&self, port: u16, path: &str) -> Answer {
        self.try_get(port, path).unwrap_or_else(|e| panic!("on {}: {e}", self.host.name))
    }

    /// Waits until a condition on the `/metrics` at a port of it holds; where nobody answers it does not. What `/metrics`
    /// says must be without fault. The condition gives back the figure it looked at.
    #[track_caller]
    pub fn wait_for_metrics(
        &self,
        limit: Duration,
        port: u16,
        what: &str,
        mut condition: impl FnMut(&Metrics) -> Result<(), String>,
    ) {
        eventually(limit, &format!("on {}: {what}", self.host.name), || {
            let text = self.try_get(port, "/metrics")?.text();
            condition(&Metrics::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")))
        });
    }

    /// Waits until a series of the `/metrics` at a port of it has this value; `None` for a series that is not there.
    #[track_caller]
    pub fn wait_for_value(&self, port: u16, name: &str, labels: &[(&str, &str)], wanted: Option<f64>) {
        self.wait_for_metrics(SOON, port, &format!("{name}{labels:?} is {wanted:?}"), |metrics| {
            let now = metrics.value(name, labels);
            super::holds(now == wanted, now)
        });
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        let Some(mut power) = self.power.take() else { return };
        if std::thread::panicking() {
            let _ = fs::write(format!("/sys/fs/cgroup/freezer/{}/freezer.state", self.host.namespace()), "THAWED");
            let journal = Command::new("timeout")
                .args(["5", "nsenter", "--all", "--target", &power.leader.to_string(), "--"])
                .args(["env", "-i", PATH, "journalctl", "--no-pager", "--boot", "--lines=80", "--output=short-precise"])
                .output();
            let text = journal.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            println!("the end of the journal of {} ({}):\n{text}", self.host.name, self.system.name());
        }
        // The end of its input is the word to kill the host.
        drop(power.holder.stdin.take());
        let _ = power.holder.wait();
    }
}

/// Whether a field of an entry of the journal has this value; of a message its own words are enough, without the facts that
/// follow them.
#[must_use]
pub fn tells(entry: &Value, field: &str, value: &str) -> bool {
    let words = entry[field].as_str().and_then(|text| text.strip_prefix(value));
    words.is_some_and(|facts| facts.is_empty() || field == "MESSAGE" && facts.starts_with(' '))
}

/// The process in a cgroup, or below it, that is PID 1 of its namespace.
fn leader(cgroup: &Path) -> Option<u32> {
    let here = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let first = here.lines().find(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().nth(1));
        inner == Some("1") && status.lines().any(|line| line == "Name:\tsystemd")
    });
    if let Some(first) = first {
        return first.parse().ok();
    }
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    below.into_iter().find_map(|entry| leader(&entry.path()))
}

fn signal(id: u32, signal: i32) {
    let id = i32::try_from(id).expect("a process id fits its type");
    // SAFETY: kill(2) takes two numbers. The process is PID 1 of a host that this test holds, so the id is still its own.
    let sent = unsafe { libc::kill(id, signal) };
    assert_eq!(sent, 0, "signal {signal} to {id}: {}", std::io::Error::last_os_error());
}

/// The files of a directory, in the order of their names.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("cannot read {}: {e}", directory.display()));
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Hands a booted host with netring on it, and alone on its network, to a test; nothing where the skip has been said.
pub fn alone(system: System, test: fn(&mut Booted)) {
    let Some(fabric) = Fabric::new(&["us1"]) else { return };
    let Some(mut host) = Booted::start(&fabric.hosts()[0], system) else { return };
    host.install();
    test(&mut host);
}

/// Makes of each function, which takes a `&mut Booted`, one test on systemd 252 and one on 257.
#[macro_export]
macro_rules! on_each_systemd {
    ($($test:ident),+ $(,)?) => {
        mod systemd_252 {
            $(#[test]
            fn $test() {
                $crate::support::booted::alone($crate::support::booted::System::Bookworm, super::$test);
            })+
        }
        mod systemd_257 {
            $(#[test]
            fn $test() {
                $crate::support::booted::alone($crate::support::booted::System::Trixie, super::$test);
            })+
        }
    };
}
