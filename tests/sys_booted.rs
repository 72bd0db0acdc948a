//! Booted hosts themselves: what they keep when they lose their power, what is silent, and that nothing outlives a test.

pub mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::booted::{Booted, System};
use support::fabric::Fabric;
use support::{SOON, eventually, holds, http};

on_each_systemd!(a_host_keeps_its_disk_and_not_its_memory_when_it_loses_power, a_frozen_host_is_silent_until_thawed);

fn a_host_keeps_its_disk_and_not_its_memory_when_it_loses_power(host: &mut Booted) {
    let version = host.run(&["systemctl", "--version"]);
    assert!(version.starts_with(&format!("systemd {} ", host.system.systemd())), "{version}");
    assert_eq!(host.run(&["hostname"]), "us1\n");
    let stops: [fn(&mut Booted); 3] = [Booted::power_cut, Booted::power_off, |host| {
        host.reboot();
        host.power_cut();
    }];
    for (stop, count) in stops.into_iter().zip(1..) {
        host.write("/var/lib/kept", "disk");
        host.write("/run/lost", "memory");
        assert!(host.has("/run/lost"));
        host.run(&["logger", "--tag", "kept", "the journal"]);
        host.run(&["journalctl", "--sync"]);
        stop(host);
        host.boot();
        let kept = host.run(&["journalctl", "--identifier=kept", "--output=cat", "--no-pager"]);
        assert_eq!(kept.lines().count(), count, "{kept}");
        assert_eq!(host.read("/var/lib/kept"), "disk");
        assert!(!host.has("/run/lost"));
    }
    assert_eq!(host.fails(&["sh", "-c", "echo why; exit 3"]), (3, "why\n".to_owned()));
}

fn a_frozen_host_is_silent_until_thawed(host: &mut Booted) {
    host.write("/etc/netring/registry.yaml", "registry:\n");
    host.run(&["systemctl", "start", "netring-registry"]);
    let restarts = host.property("netring-registry", "NRestarts");
    let asked = SocketAddr::new(host.host.v4.into(), 8756);
    host.freeze();
    let stream = host.host.inside(|| TcpStream::connect(asked)).expect("the kernel is not frozen");
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a time limit can be set");
    std::io::Write::write_all(&mut &stream, b"GET /health HTTP/1.1\r\nhost: us1\r\n\r\n").expect("the kernel takes it");
    let silence = std::io::Read::read(&mut &stream, &mut [0; 100]).expect_err("nobody answers");
    assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock, "{silence}");
    host.thaw();
    eventually(SOON, "it answers again", || host.host.inside(|| http::get(asked, "/health")));
    assert_eq!(host.property("netring-registry", "NRestarts"), restarts);
}

/// What a host of this fabric name has on this machine: cgroups, and processes in them.
fn traces(name: &str) -> Vec<String> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted").flatten();
    let mut found: Vec<String> = hierarchies
        .map(|hierarchy| hierarchy.path().join(name))
        .filter(|cgroup| cgroup.exists())
        .map(|cgroup| cgroup.display().to_string())
        .collect();
    let mounts = std::fs::read_to_string("/proc/mounts").expect("proc(5) is mounted");
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    found
}

#[test]
#[ignore = "run as a child process by another test, which kills it"]
fn waits_to_be_killed() {
    let Some(fabric) = Fabric::new(&["us1", "eu1"]) else { return };
    let started = fabric.hosts().iter().map(|host| Booted::start(host, System::Bookworm));
    let Some(hosts) = started.collect::<Option<Vec<_>>>() else { return };
    hosts[1].freeze();
    for host in &hosts {
        println!("booted {}", host.host.namespace());
    }
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_test_leaves_no_host_and_the_next_fabric_no_namespace() {
    let mut child = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "waits_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test can be started again");
    let lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines().map_while(Result::ok);
    let said: Vec<String> = lines
        .filter(|line| line.starts_with("booted ") || line.starts_with("SKIP ") || line.starts_with("test result"))
        .take(2)
        .collect();
    child.kill().expect("a child can be killed");
    child.wait().expect("a killed child ends");
    if said.iter().any(|line| line.starts_with("SKIP ")) {
        support::skip("what it runs was skipped");
        return;
    }
    let names: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix("booted ")).collect();
    assert_eq!(names.len(), 2, "{said:?}");
    for name in &names {
        eventually(SOON, "nothing of the host is left", || holds(traces(name).is_empty(), traces(name)));
    }
    drop(Fabric::new(&[]));
    for name in names {
        assert!(!Path::new("/run/netns").join(name).exists(), "{name}");
    }
}
