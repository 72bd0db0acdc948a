//! A registry with the embedded store is killed over and over while members register, and its disk fills up or is
//! read-only: what was acknowledged is there after the restart, and what cannot be kept is not acknowledged.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netring::clock::wall;
use support::daemon::{NETRING, Registry};
use support::http::{get, post};
use support::process::Process;
use support::{SOON, Scratch, eventually, holds, skip};

const ROUNDS: u32 = 15;

fn arguments(scratch: &Scratch, described: &Registry) -> [PathBuf; 4] {
    let config = scratch.file("config.yaml", &described.yaml());
    ["registry".into(), config, "--state-dir".into(), scratch.path().join("state")]
}

/// What one member was last told, or told the registry, of its registration.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    port: u64,
    registered_at: u64,
}

/// What a client knows of its members.
#[derive(Debug, Default)]
struct Client {
    /// What the registry acknowledged: the port, and between which seconds.
    acknowledged: HashMap<String, (u64, [u64; 2])>,
    /// A registration without an answer: the member may be as before, or as this says.
    unanswered: HashMap<String, u64>,
    /// What the registry listed after its last start.
    listed: HashMap<String, Entry>,
    count: u64,
}

impl Client {
    /// Registers one member after another until told to stop: mostly new ones, and some that have moved to another port.
    fn register_until(&mut self, server: std::net::SocketAddr, stop: &AtomicBool, dice: &mut fastrand::Rng) {
        while !stop.load(Ordering::Relaxed) {
            self.count += 1;
            let old = dice.u64(1..=self.count);
            let id = format!("m-{}", if dice.u8(..4) == 0 { old } else { self.count });
            let port = 1000 + self.count;
            let body = format!(r#"{{"instance_id": "{id}", "location": "us1", "ip": "10.1.2.3", "port": {port}}}"#);
            let sent = wall().epoch_seconds();
            self.unanswered.insert(id.clone(), port);
            if post(server, "/register", &body).is_ok_and(|answer| answer.status == 200) {
                self.unanswered.remove(&id);
                self.acknowledged.insert(id, (port, [sent, wall().epoch_seconds()]));
            }
        }
    }

    /// Holds what the registry lists after a restart against what it had acknowledged.
    fn judge(&mut self, server: std::net::SocketAddr, round: u32) {
        let listed = get(server, "/members").unwrap().json();
        let members = listed["members"].as_array().expect("the members are a list").iter().map(|member| {
            let number = |name: &str| member[name].as_u64().expect("a port and a time are whole numbers");
            let entry = Entry { port: number("port"), registered_at: number("registered_at") };
            (member["instance_id"].as_str().expect("an id is a text").to_owned(), entry)
        });
        let listed: HashMap<String, Entry> = members.collect();
        for (id, (port, [from, to])) in &self.acknowledged {
            let Some(now) = listed.get(id) else { panic!("round {round}: {id} was acknowledged and is lost") };
            if self.unanswered.get(id) == Some(&now.port) {
                continue;
            }
            assert_eq!(now.port, *port, "round {round}: {id} moved and is where it was");
            assert!(
                (*from..=*to).contains(&now.registered_at),
                "round {round}: {id} registered in {from}..={to}: {now:?}"
            );
            let before = self.listed.get(id).filter(|before| before.port == now.port);
            assert!(before.is_none_or(|before| before == now), "round {round}: {id} was {before:?} and is {now:?}");
        }
        for (id, now) in &listed {
            let known = self.acknowledged.contains_key(id) || self.unanswered.get(id) == Some(&now.port);
            assert!(known, "round {round}: {id} was never registered as {now:?}");
        }
        // What was not answered is settled now.
        for id in std::mem::take(&mut self.unanswered).into_keys() {
            if let Some(now) = listed.get(&id) {
                self.acknowledged.insert(id, (now.port, [now.registered_at; 2]));
            }
        }
        self.listed = listed;
    }
}

#[test]
fn a_registry_killed_at_any_moment_loses_no_member_that_it_acknowledged() {
    let seed = 20_817;
    println!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let scratch = Scratch::new();
    let described = Registry { member_ttl: 300, ..Registry::new() };
    let server = described.server;
    let arguments = arguments(&scratch, &described);
    let start = || Process::start(Command::new(NETRING).args(&arguments).env_clear(), &scratch, "registry");
    let mut client = Client::default();
    for round in 1..=ROUNDS {
        // Killed while it reads its journal and writes it anew.
        let mut unready = start();
        std::thread::sleep(Duration::from_millis(dice.u64(..60)));
        unready.kill();

        let mut registry = start();
        eventually(SOON, "the registry answers", || get(server, "/health").map_err(|e| e + "\n" + &registry.log()));
        client.judge(server, round);
        let mut its_dice = dice.fork();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| client.register_until(server, &stop, &mut its_dice));
            std::thread::sleep(Duration::from_millis(dice.u64(20..500)));
            registry.kill();
            stop.store(true, Ordering::Relaxed);
        });
    }
    let _last = start();
    eventually(SOON, "the registry answers", || get(server, "/health"));
    client.judge(server, ROUNDS + 1);
    let (all, journal) =
        (client.acknowledged.len(), fs::metadata(scratch.path().join("state/registry.journal")).unwrap());
    println!(
        "{ROUNDS} kills, {} registrations sent, {all} members acknowledged, a journal of {} bytes",
        client.count,
        journal.len()
    );
    assert!(all > usize::try_from(ROUNDS).unwrap() * 10, "too few to say anything: {all}");
}

/// A registry whose state directory is a small file system of its own, in a mount namespace that goes with it.
struct OnSmallDisk {
    registry: Process,
    described: Registry,
    state: PathBuf,
    _scratch: Scratch,
}

impl OnSmallDisk {
    /// Starts it; `None`, with the skip said, where this user may not mount.
    fn start(options: &str) -> Option<Self> {
        if !Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|output| output.status.success()) {
            skip("this user may make no mount namespace");
            return None;
        }
        let (scratch, described) = (Scratch::new(), Registry { member_ttl: 300, ..Registry::new() });
        let state = scratch.path().join("state");
        fs::create_dir(&state).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["-rm", "sh", "-c", "mount -t tmpfs -o \"$0\" tmpfs \"$1\"; shift; exec \"$@\"", options])
            .arg(&state)
            .arg(NETRING)
            .args(arguments(&scratch, &described));
        let registry = Process::start(&mut command, &scratch, "registry");
        eventually(SOON, "the registry answers", || {
            get(described.server, "/health").map_err(|e| format!("{e}\n{}", registry.log()))
        });
        Some(Self { registry, described, state, _scratch: scratch })
    }

    /// A file of the registry's state directory, as seen from here.
    fn file(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.registry.id()));
        root.join(self.state.strip_prefix("/").unwrap()).join(name)
    }

    fn register(&self, id: &str) -> support::http::Answer {
        let body = format!(r#"{{"instance_id": "{id}", "location": "us1", "ip": "10.1.2.3", "port": 8757}}"#);
        post(self.described.server, "/register", &body).unwrap()
    }

    /// Registrations are turned away for this reason, in the answer, in `/health` and in the log.
    fn turns_away(&self, reason: &str) {
        let answer = self.register("newcomer");
        let said = answer.error(503);
        assert!(said.to_lowercase().contains(reason), "{said}");
        assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
        eventually(SOON, "its health and its log say so", || {
            let health = get(self.described.server, "/health")?;
            let seen = format!("{} {}\n{}", health.status, health.text(), self.registry.log());
            let told = health.status == 503 && health.text().to_lowercase().contains(reason);
            holds(told && self.registry.log().to_lowercase().contains(reason), seen)
        });
    }

    /// Registrations are taken again, and kept.
    fn heals(&self) {
        eventually(SOON, "a registration is taken", || {
            let answer = self.register("newcomer");
            holds(answer.status == 200, answer.text())
        });
        assert!(fs::read_to_string(self.file("registry.journal")).unwrap().contains("newcomer"));
        eventually(SOON, "it is healthy again", || {
            let health = get(self.described.server, "/health")?;
            holds(health.status == 200, health.text())
        });
    }
}

#[test]
fn a_full_disk_turns_registrations_away_with_the_reason_until_there_is_room() {
    let Some(disk) = OnSmallDisk::start("size=64k") else { return };
    let server = disk.described.server;
    assert_eq!(disk.register("early").status, 200);
    // Full to the last byte, the rest of the journal's own page included.
    let filler = disk.file("filler");
    let full = fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let turned_away = (0..100).find(|n| disk.register(&format!("m-{n}")).status != 200);
    assert!(turned_away.is_some(), "a full disk takes no hundred registrations");
    disk.turns_away("no space left");

    // Who is on the roster keeps its place.
    assert_eq!(post(server, "/heartbeat", r#"{"instance_id": "early"}"#).unwrap().status, 200);
    assert!(get(server, "/members").unwrap().text().contains("early"));
    fs::remove_file(filler).unwrap();
    disk.heals();
}

#[test]
fn a_read_only_disk_turns_registrations_away_with_the_reason_until_it_is_writable() {
    let Some(disk) = OnSmallDisk::start("size=64k,ro") else { return };
    disk.turns_away("read-only");
    let remounted = Command::new("nsenter")
        .args(["-t", &disk.registry.id().to_string(), "-U", "--preserve-credentials", "-m"])
        .args(["mount", "-o", "remount,rw"])
        .arg(&disk.state)
        .output()
        .unwrap();
    assert!(remounted.status.success(), "{}", String::from_utf8_lossy(&remounted.stderr));
    disk.heals();
}
