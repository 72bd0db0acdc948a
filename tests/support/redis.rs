//! A real Redis server of the test's own: no persistence, its own address, and every way to lose it.

use std::net::SocketAddr;
use std::process::Command;

use super::process::{Process, Usage};
use super::wall_clock::WallClock;
use super::{SOON, Scratch, eventually, installed, socket};

/// A running server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    /// Where it listens.
    pub server: SocketAddr,
    wall_clock: Option<WallClock>,
    scratch: Scratch,
}

impl Redis {
    /// Starts one; `None`, with the skip said, where redis-server is not installed.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_by(None)
    }

    /// Starts one that goes by this wall clock.
    #[must_use]
    pub fn start_by(wall_clock: Option<WallClock>) -> Option<Self> {
        if !installed(&["redis-server"]) {
            return None;
        }
        let (server, scratch) = (socket(), Scratch::new());
        let redis = Self { process: Self::spawn(server, wall_clock.as_ref(), &scratch), server, wall_clock, scratch };
        redis.wait_ready();
        Some(redis)
    }

    fn spawn(server: SocketAddr, wall_clock: Option<&WallClock>, scratch: &Scratch) -> Process {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", &server.ip().to_string(), "--port", &server.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir"])
            .arg(scratch.path());
        if let Some(wall_clock) = wall_clock {
            wall_clock.govern(&mut command);
        }
        Process::start(&mut command, scratch, "redis")
    }

    fn wait_ready(&self) {
        eventually(SOON, "Redis answers PING", || self.command(&["PING"]));
    }

    /// What it has used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.process.usage()
    }

    /// Runs one command and gives back its answer as Redis prints it.
    ///
    /// # Errors
    ///
    /// Why there was no answer.
    pub fn command(&self, words: &[&str]) -> Result<String, String> {
        let mut command = ::redis::cmd(words[0]);
        command.arg(&words[1..]);
        ::redis::Client::open(format!("redis://{}/", self.server))
            .and_then(|client| client.get_connection_with_timeout(SOON))
            .and_then(|mut connection| command.query::<::redis::Value>(&mut connection))
            .map(|value| format!("{value:?}"))
            .map_err(|e| format!("{words:?}: {e}"))
    }

    /// Forgets everything it holds.
    pub fn flush(&self) {
        self.command(&["FLUSHALL"]).expect("a running Redis can be flushed");
    }

    /// Stands still: connections stay open and nothing is answered.
    pub fn hang(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Goes on after [`Self::hang`].
    pub fn resume(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Ends at once; its address refuses connections.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts again, empty, at the same address.
    pub fn start_again(&mut self) {
        self.process.kill();
        self.process = Self::spawn(self.server, self.wall_clock.as_ref(), &self.scratch);
        self.wait_ready();
    }
}
