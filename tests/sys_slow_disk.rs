//! A state directory on a disk that hangs, as one on a network or a dying one does.

pub mod support;

use std::fs::File;
use std::process::Command;
use std::time::Duration;

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
