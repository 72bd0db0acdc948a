//! A host that was suspended, as a laptop or a virtual machine is.

pub mod support;

use std::process::Command;
use std::time::Duration;

use netring::clock::{monotonic, suspended, wall};
use support::process::Process;
use support::suspend::Suspend;
use support::{SOON, Scratch, eventually, holds};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
#[ignore = "run as a child process by another test"]
fn says_when_it_was_suspended() {
    let (start, before, awake) = (monotonic(), suspended(), wall());
    println!("child: awake");
    while suspended() - before < HOUR && monotonic() - start < SOON {
        std::thread::sleep(Duration::from_millis(5));
    }
    let surplus = (suspended() - before).abs_diff(HOUR);
    let wall_clock = wall().epoch_seconds_f64() - awake.epoch_seconds_f64();
    let (right, went_on) = (surplus < Duration::from_millis(1), wall_clock >= HOUR.as_secs_f64());
    println!("child: {right} {went_on} {}", monotonic() - start < SOON);
}

#[test]
fn a_process_sees_that_its_host_was_suspended_and_for_how_long() {
    let Some(suspend) = Suspend::new() else { return };
    let scratch = Scratch::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["says_when_it_was_suspended", "--exact", "--ignored", "--nocapture"]);
    suspend.govern(&mut command);
    let mut child = Process::start(&mut command, &scratch, "child");
    eventually(SOON, "the child has begun", || holds(child.log().contains("child: awake"), child.log()));
    suspend.sleep_for(HOUR);
    child.wait(SOON * 2);
    let log = child.log();
    assert!(log.contains("child: true true true\n"), "an hour on two clocks and a moment on the third: {log}");
}
