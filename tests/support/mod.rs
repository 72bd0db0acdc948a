//! What tests on real binaries stand on: processes that end with their test, addresses of their own, a strict reader of
//! `/metrics`, hosts in network namespaces, and whole hosts that boot.
//!
//! A test file takes it by `pub mod support;`. Everything listens on [`address`], a loopback address that belongs to this
//! test process alone, with ports counted upwards: nothing is tried and released, so nothing can be taken in between.
//! Everything that waits polls with a deadline and fails with the last thing it saw.

pub mod booted;
pub mod daemon;
pub mod dashboard;
pub mod disk;
pub mod fabric;
pub mod frozen;
pub mod http;
pub mod metrics;
pub mod name_server;
pub mod packages;
pub mod peer;
pub mod podman;
pub mod preload;
pub mod process;
pub mod prometheus;
pub mod quota;
pub mod redis;
pub mod scripted_registry;
pub mod suspend;
pub mod wall_clock;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use netring::clock::monotonic;

/// How long anything that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);

/// The loopback address of this test process: 127.64.0.0/10 with the process id in its lower 22 bits, which is as large
/// as Linux lets one grow. Connections come from 127.0.0.1, so no client's port is ever in a server's way.
#[must_use]
pub fn address() -> IpAddr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(127, 64, 0, 0)) | (std::process::id() & 0x003f_ffff)).into()
}

/// A port of [`address`] that nothing else in this process was given.
#[must_use]
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// [`address`] with a new [`port`].
#[must_use]
pub fn socket() -> SocketAddr {
    SocketAddr::new(address(), port())
}

/// A directory that is gone at the end of the test.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new, empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("netring-").tempdir().expect("a temporary directory can be made"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file in it, over an older one of that name, and says where it is.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("a temporary file can be written");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Tries until it succeeds, and fails the test with what it saw last when `limit` is over.
///
/// # Panics
///
/// When `limit` is over.
#[track_caller]
pub fn eventually<T, E: Display>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let start = monotonic();
    loop {
        let seen = match attempt() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(monotonic() - start < limit, "not within {limit:?}: {what}\nlast seen: {seen}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Turns a condition into what [`eventually`] wants, with the value seen as the explanation.
///
/// # Errors
///
/// `seen`, where `holds` does not.
pub fn holds(holds: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{seen:?}")) }
}

/// Where what takes long to make is kept from run to run: `$NETRING_TEST_CACHE`.
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("NETRING_TEST_CACHE").unwrap_or_else(|| "/var/cache/netring-tests".into()).into()
}

/// Whether every one of `programs` is installed; otherwise says that this test is skipped, in the line that `tests/run`
/// counts.
#[must_use]
pub fn installed(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&&str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    match programs.iter().find(|program| !found(program)) {
        None => true,
        Some(program) => {
            skip(&format!("{program} is not installed"));
            false
        }
    }
}

/// Says that the running test is skipped, in the line that `tests/run` counts.
pub fn skip(why: &str) {
    println!("SKIP {}: {why}", std::thread::current().name().unwrap_or("test"));
}
