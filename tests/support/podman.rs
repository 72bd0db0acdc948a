//! Machines for containers: Debian 13 with podman, the docker command and kubectl, in namespaces of their own.
//!
//! `tests/support/podman prepare` makes once what they are made of; a machine then starts in a second. Nothing in it reaches
//! the network, so images of others are stood in for: those of Redis and Prometheus by Debian's own programs, that of Grafana,
//! which cannot be had, by one that only waits. A machine ends with its test, however that ended, and all that ran in it too.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::fabric::{inside, left_behind};
use super::http::{self, Answer};
use super::metrics::Metrics;
use super::process::Process;
use super::{SOON, Scratch, eventually, holds, installed, skip};

/// Makes, starts and clears away machines.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/podman");

/// Where left-overs are looked for: one control group hierarchy in the place of all.
const CGROUPS: &str = "/sys/fs/cgroup/cpuset";

/// Where netring listens in its images.
pub const PORT: u16 = 8756;

/// The version that the images are tagged with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A running machine. Dropping it ends all that runs in it.
#[derive(Debug)]
pub struct Machine {
    // Declared before the directory, so that the machine ends before its files go.
    process: Process,
    engine: Option<Process>,
    name: String,
    scratch: Scratch,
}

impl Machine {
    /// Starts one; `None`, with the skip said, where that cannot be.
    #[must_use]
    pub fn start() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: geteuid(2) takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            skip("needs root to make a machine for containers");
            return None;
        }
        if !installed(&["ip", "nsenter", "unshare", "setpriv"]) {
            return None;
        }
        if !Path::new(CGROUPS).is_dir() {
            skip("containers run where the control groups of version 1 are mounted");
            return None;
        }
        if !cache().join("podman/layer").is_dir() {
            skip("there is no machine for containers: `tests/support/podman prepare` makes it");
            return None;
        }
        for name in left_behind(Path::new(CGROUPS)) {
            let _ = Command::new(SCRIPT).args(["remove", &name]).output();
        }
        let name = format!("netring-{}-podman-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let scratch = Scratch::new();
        let mut command = Command::new(SCRIPT);
        let process = Process::start(command.args(["start", &name]).arg(scratch.path()), &scratch, "machine");
        let machine = Self { process, engine: None, name, scratch };
        eventually(SOON, "the machine for containers starts", || {
            holds(machine.scratch.path().join("ready").exists(), machine.process.log())
        });
        Some(machine)
    }

    /// The directory that is `/shared` inside.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.scratch.path().join("shared")
    }

    /// A command in it, which starts in this repository.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(SCRIPT);
        command.args(["run", &self.name]).arg(self.scratch.path()).args(words);
        command
    }

    /// Runs a command in it, whatever comes of it.
    #[must_use]
    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// Runs a command in it, which must succeed, and gives back what it printed.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "most commands are run for what they do")]
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?} ended with {}:\n{said}{complaint}", output.status);
        said.trim_end().to_owned()
    }

    /// Runs a line of a shell in it, likewise.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "most commands are run for what they do")]
    pub fn shell(&self, line: &str) -> String {
        self.run(&["bash", "-euc", line])
    }

    /// Compiles the static binary and builds both images of netring from it, as `packaging/oci/build` does.
    #[track_caller]
    pub fn build_images(&self) {
        if !self.shared().join("files").exists() {
            let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/oci/build"));
            command.args(["--profile", "release", "--files"]).arg(self.shared().join("files"));
            let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        self.run(&["packaging/oci/build", "--tool", "podman", "--binary", "/shared/files/root/bin/netring"]);
    }

    /// Makes an image that stands in for the one of this name: `redis`, `prometheus` or `grafana`.
    #[track_caller]
    pub fn stand_in(&self, program: &str, image: &str) {
        let name = image.rsplit_once(':').map(|(name, _)| name.rsplit('/').next().unwrap_or(name));
        assert_eq!(name, Some(program), "{image}");
        let file = format!("/stand-ins/{program}.Containerfile");
        self.run(&["podman", "build", "--quiet", "--tag", image, "--file", &file, "/stand-ins"]);
    }

    /// Has podman answer the docker command.
    pub fn start_docker_engine(&mut self) {
        let mut command = self.command(&["podman", "system", "service", "--time=0", "unix:///run/podman.sock"]);
        self.engine = Some(Process::start(&mut command, &self.scratch, "engine"));
        eventually(SOON, "podman answers the docker command", || {
            let answer = self.output(&["docker", "version"]);
            holds(answer.status.success(), String::from_utf8_lossy(&answer.stderr))
        });
    }

    /// What podman knows about a container or an image.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.run(&["podman", "inspect", name]);
        let mut list: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        list[0].take()
    }

    /// The address of a container on its network.
    #[must_use]
    #[track_caller]
    pub fn address(&self, container: &str) -> IpAddr {
        let of = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let text = self.run(&["podman", "inspect", "--format", of, container]);
        text.parse().unwrap_or_else(|_| panic!("{container} has no address: {text:?}"))
    }

    /// What a container has logged so far.
    #[must_use]
    pub fn log(&self, container: &str) -> String {
        let output = self.output(&["podman", "logs", container]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// `GET path`, asked from the machine itself.
    ///
    /// # Errors
    ///
    /// Why there was no answer.
    pub fn get(&self, server: SocketAddr, path: &str) -> Result<Answer, String> {
        inside(&self.name, || http::get(server, path))
    }

    /// The `/metrics` of a netring in a container, which must be without fault.
    ///
    /// # Errors
    ///
    /// Why there was no answer.
    pub fn metrics(&self, server: SocketAddr) -> Result<Metrics, String> {
        let text = self.get(server, "/metrics")?.text();
        Metrics::parse(&text).map_err(|e| format!("{e}\n{text}"))
    }

    /// Waits until the member at `server` says of TCP connections to the one member at `location` that they succeed (1), fail
    /// (0), or nothing.
    #[track_caller]
    pub fn wait_for_connectivity(&self, server: SocketAddr, location: &str, wanted: Option<f64>) {
        eventually(SOON, &format!("connectivity from {server} to {location} is {wanted:?}"), || {
            let seen = self.metrics(server)?.value("netring_connectivity_tcp", &[("target_location", location)]);
            holds(seen == wanted, seen)
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.process.kill();
        // No assertion here: a panic in a drop would hide the test's own failure.
        let _ = Command::new(SCRIPT).args(["remove", &self.name]).output();
    }
}

/// Where things are kept that are made once.
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("NETRING_TEST_CACHE").unwrap_or_else(|| "/var/cache/netring-tests".into()).into()
}

/// The whole text of a file of this repository.
#[must_use]
#[track_caller]
pub fn repository_file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
