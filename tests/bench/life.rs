//! How fast a daemon comes and goes, how large it is, and what it holds while it does nothing.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use netring::clock::monotonic;

use crate::Bench;
use crate::crowd::pass;
use crate::statistics::median;
use crate::support::daemon::{Member, NETRING, Registry};
use crate::support::process::Usage;
use crate::support::{SOON, Scratch};
use crate::table::{Figures, Goal, Row, number};

/// The rows of this file.
pub fn rows() -> Vec<Row<Bench>> {
    let at_most = |reach, stretch| Goal::AtMost { reach, stretch };
    vec![
        Row {
            name: "start",
            what: "from exec to READY, the slower of registry and member",
            unit: "s",
            goal: at_most(0.3, 0.1),
            measure: |bench| bench.lives().slower("exec to READY", |life| life.start),
        },
        Row {
            name: "stop",
            what: "from SIGTERM to gone, the slower of registry and member",
            unit: "s",
            goal: at_most(0.5, 0.2),
            measure: |bench| bench.lives().slower("SIGTERM to gone", |life| life.stop),
        },
        Row { name: "size", what: "the binary", unit: "MB", goal: at_most(7.0, 5.0), measure: |_| size() },
        Row {
            name: "idle-memory",
            what: "idle resident memory, the larger of registry and member",
            unit: "MB",
            goal: at_most(10.0, 6.0),
            measure: |bench| bench.lives().slower("MB resident, a member alone in its ring", |life| life.idle),
        },
    ]
}

/// A daemon's life, each the median of several: start and stop in seconds, memory in MB.
#[derive(Clone, Copy, Debug)]
struct Life {
    start: f64,
    stop: f64,
    idle: f64,
}

/// Those of both daemons.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    registry: Life,
    member: Life,
    times: u32,
}

impl Lives {
    /// Starts and stops both so many times.
    #[must_use]
    pub fn measure(times: u32) -> Self {
        let registry = Registry::new();
        let measured = Self::several(times, "registry", &registry.yaml());
        let _running = registry.start();
        let member = Self::several(times, "member", &Member::new("us1-k8s", registry.server).yaml());
        Self { registry: measured, member, times }
    }

    fn several(times: u32, subcommand: &str, yaml: &str) -> Life {
        let lives: Vec<Life> = (0..times).map(|_| one(subcommand, yaml)).collect();
        let middle = |of: fn(&Life) -> f64| median(&mut lives.iter().map(of).collect::<Vec<_>>());
        Life { start: middle(|life| life.start), stop: middle(|life| life.stop), idle: middle(|life| life.idle) }
    }

    fn slower(&self, what: &str, of: fn(&Life) -> f64) -> Figures {
        let (registry, member) = (of(&self.registry), of(&self.member));
        Figures {
            ours: registry.max(member),
            detail: format!(
                "registry {}, member {} {what}; median of {}",
                number(registry),
                number(member),
                self.times
            ),
            peer: None,
            limit: None,
        }
    }
}

/// One life, with a service manager that waits for READY and nothing else.
fn one(subcommand: &str, yaml: &str) -> Life {
    let scratch = Scratch::new();
    let config = scratch.file("config.yaml", yaml);
    let notify = scratch.path().join("notify");
    let manager = UnixDatagram::bind(&notify).expect("a socket can be made in a new directory");
    manager.set_read_timeout(Some(SOON)).expect("a time limit can be set");
    let mut command = Command::new(NETRING);
    command.arg(subcommand).arg(config).arg("--state-dir").arg(scratch.path().join("state"));
    command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = monotonic();
    let mut child = Ended(command.spawn().expect("netring starts"));
    let mut message = [0; 4096];
    loop {
        let length = manager.recv(&mut message).expect("the daemon says READY");
        if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1") {
            break;
        }
    }
    let start = (monotonic() - began).as_secs_f64();
    // What it had to say first is said: it rests.
    pass(1.2);
    let idle = Usage::of(child.0.id()).resident as f64 / 1e6;
    // Its last words must not wait for a reader.
    manager.set_nonblocking(true).expect("a socket can be told so");
    while !matches!(manager.recv(&mut message), Err(e) if e.kind() == ErrorKind::WouldBlock) {}
    let asked = monotonic();
    let id = i32::try_from(child.0.id()).expect("a process id fits its type");
    // SAFETY: kill(2) takes two numbers; the child has not been waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0, "the daemon runs");
    let status = child.0.wait().expect("a child can be waited for");
    let stop = (monotonic() - asked).as_secs_f64();
    assert!(status.success(), "netring {subcommand}: {status}");
    Life { start, stop, idle }
}

/// A child that is gone at the end, however that comes.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn size() -> Figures {
    let bytes = std::fs::metadata(NETRING).expect("the binary is there").len();
    Figures { ours: bytes as f64 / 1e6, detail: format!("{bytes} bytes"), peer: None, limit: None }
}
