//! A state directory on a disk that hangs, as one on a network or a dying one does.

pub mod support;

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use netring::clock::monotonic;
use support::daemon::{Daemon, Member, Registry};
use support::disk::HangingDisk;
use support::process::Process;
use support::{SOON, Scratch, eventually, holds};

#[test]
#[ignore = "run as a child process by another test"]
fn writes_and_syncs() {
    let scratch = Scratch::new();
    let file = File::open(scratch.file("data", "something")).unwrap();
    println!("child: written");
    file.sync_data().unwrap();
    println!("child: synced data");
    file.sync_all().unwrap();
    println!("child: synced all");
}

#[test]
fn a_process_waits_for_a_disk_that_hangs_until_it_recovers() {
    let Some(disk) = HangingDisk::new() else { return };
    let scratch = Scratch::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["writes_and_syncs", "--exact", "--ignored", "--nocapture"]);
    disk.govern(&mut command);
    disk.hang();
    let mut child = Process::start(&mut command, &scratch, "child");
    eventually(SOON, "the child has written", || holds(child.log().contains("child: written"), child.log()));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!child.log().contains("synced"), "{}", child.log());
    disk.recover();
    child.wait(SOON);
    assert!(child.log().contains("child: synced all"), "{}", child.log());
}

/// How long the disk hangs: longer than a lease and than the watchdog waits.
const HANGS: Duration = Duration::from_secs(60);

/// How soon a newcomer is followed: two polls and two rounds of probes, on a busy machine.
const FOLLOWED: Duration = Duration::from_secs(8);

#[track_caller]
fn reaches(member: &Daemon, location: &str, limit: Duration) {
    eventually(limit, &format!("{location} is reached"), || {
        let up = member.metrics().sum("netring_connectivity_tcp", &[("target_location", location)]);
        holds(up > 0.5, format!("{up}; its log:\n{}", member.log()))
    });
}

#[test]
fn a_member_whose_disk_hangs_stays_in_the_ring_and_keeps_the_newest_roster_afterwards() {
    let Some(disk) = HangingDisk::new() else { return };
    let registry = Registry { member_ttl: 10, ..Registry::new() }.start();
    let member = |location: &str| Member { heartbeat_interval: 2, ..Member::new(location, registry.server) };
    let eu1 = member("eu1").start();
    let mut us1 = Member { disk: Some(disk.clone()), ..member("us1") }.start();
    reaches(&us1, "eu1", SOON);
    let kept = || std::fs::read_to_string(us1.state_file("roster.json")).unwrap_or_default();
    eventually(SOON, "the roster is kept", || holds(kept().contains("eu1-id"), kept()));

    disk.hang();
    let start = monotonic();
    let asia1 = member("asia1").start();
    reaches(&us1, "asia1", FOLLOWED);
    let mut africa1 = None;
    while monotonic() - start < HANGS {
        let listed = registry.get("/members").text();
        assert!(listed.contains("us1-id"), "after {:?}: {listed}\n{}", monotonic() - start, us1.log());
        reaches(&eu1, "us1", FOLLOWED);
        if africa1.is_none() && monotonic() - start > HANGS / 2 {
            africa1 = Some(member("africa1").start());
            reaches(&us1, "africa1", FOLLOWED);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(us1.log_lines(&["a vital loop stands still"]), Vec::<String>::new());
    assert_eq!(us1.log_lines(&["does not know this member"]), Vec::<String>::new(), "its lease never ended");
    let before = kept();
    assert!(!before.contains("asia1-id") && !before.contains("africa1-id"), "the disk did hang: {before}");

    disk.recover();
    eventually(FOLLOWED, "the newest roster is kept", || {
        let now = kept();
        holds(["eu1-id", "asia1-id", "africa1-id"].iter().all(|id| now.contains(id)), now)
    });
    drop(asia1);
    assert!(us1.terminate(SOON).success(), "{}", us1.log());
}
