//! The sandbox of the units: it holds, it is tight, and all that netring does works in it.

pub mod support;

use std::os::unix::fs::MetadataExt;

use support::booted::{Booted, MEMBER_PORT, REGISTRY_PORT, System};
use support::fabric::Fabric;
use support::name_server::{NameServer, Says};
use support::{SOON, eventually, holds};

on_each_systemd!(the_units_are_without_fault_and_expose_little);

const UNITS: [&str; 4] =
    ["netring-registry.service", "netring-member.service", "netring-registry.socket", "netring-member.socket"];

fn the_units_are_without_fault_and_expose_little(host: &mut Booted) {
    for unit in UNITS {
        let output = host.output(&["systemd-analyze", "verify", "--man=no", unit]);
        // What it finds it prints, and still it succeeds.
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(said, "", "{unit}");
    }
    for unit in &UNITS[..2] {
        // 1.3, in tenths.
        host.run(&["systemd-analyze", "security", "--no-pager", "--threshold=13", unit]);
    }
}

/// A registry and a member on one host find each other by name, see the network, and keep to what they are given.
fn all_that_netring_does_works_in_it(system: System) {
    let Some(fabric) = Fabric::routed(&["us1"], &["eu1"]) else { return };
    let Some(host) = Booted::start(&fabric.hosts()[0], system) else { return };
    host.install();
    let names = NameServer::start_on(&host.host, Says::Address(host.host.v4));
    host.write("/etc/resolv.conf", &format!("nameserver {}\n", host.host.v4));
    host.configure_registry();
    host.configure_member("us1", &host.host);
    let by_name = host.read("/etc/netring/member.yaml").replace(&host.host.v4.to_string(), "registry.ring");
    host.write("/etc/netring/member.yaml", &by_name);
    for unit in ["netring-registry", "netring-member"] {
        let limit = "[Service]\nLimitNOFILE=1000:3000\n";
        host.write(&format!("/etc/systemd/system/{unit}.service.d/limit.conf"), limit);
    }
    host.run(&["systemctl", "daemon-reload"]);
    host.run(&["systemctl", "start", "netring-registry", "netring-member"]);

    // A name is looked up, and the address that the host uses towards the registry is registered.
    eventually(SOON, "the member is in the ring under its address", || {
        let members = host.get(REGISTRY_PORT, "/members").json()["members"].clone();
        holds(members[0]["ip"] == host.host.v4.to_string(), members)
    });
    assert!(names.asked() > 0);

    for (unit, port) in [("netring-registry.service", REGISTRY_PORT), ("netring-member.service", MEMBER_PORT)] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.main_pid(unit))).expect("it runs");
        for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "{unit}: no {line} in {status}");
        }
        let uid: u32 = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()?.parse().ok())
            .expect("an id");
        assert!((61_184..=65_519).contains(&uid), "{unit}: {uid} is no dynamic user");
        // It raised its soft limit to the hard one, and sees itself in /proc.
        for (name, wanted) in [("process_max_fds", 3000.0..=3000.0), ("process_open_fds", 5.0..=3000.0)] {
            host.wait_for_metrics(SOON, port, name, |metrics| {
                holds(metrics.value(name, &[]).is_some_and(|value| wanted.contains(&value)), metrics.value(name, &[]))
            });
        }
        host.wait_for_metrics(SOON, port, "the start is a moment ago", |metrics| {
            let started = metrics.value("process_start_time_seconds", &[]).unwrap_or_default();
            let now = std::fs::metadata(host.path("/proc/uptime")).map_or(0, |file| file.mtime());
            holds((0.0..60.0).contains(&(now as f64 - started)), (now, started))
        });
    }

    // It sees that its own gateway is silent or its own cable is out, and marks no peer down for that.
    host.wait_for_value(MEMBER_PORT, "netring_local_health", &[], Some(1.0));
    let peer =
        format!(r#"{{"instance_id": "eu1-id", "location": "eu1", "ip": "{}", "port": 8756}}"#, fabric.hosts()[1].v4);
    let registry = std::net::SocketAddr::new(host.host.v4.into(), REGISTRY_PORT);
    let answer = host.host.inside(|| support::http::post(registry, "/register", &peer)).expect("it answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
    host.wait_for_value(MEMBER_PORT, "netring_connectivity_tcp", &[("target_location", "eu1")], Some(0.0));
    fabric.silence_gateway(&host.host);
    host.wait_for_value(MEMBER_PORT, "netring_connectivity_tcp", &[("target_location", "eu1")], None);
    eventually(SOON, "the gateway is named", || {
        let health = host.get(MEMBER_PORT, "/health").text();
        holds(health.contains("the gateway 10.77.0.254 did not answer"), health)
    });
    fabric.heal();
    host.wait_for_value(MEMBER_PORT, "netring_connectivity_tcp", &[("target_location", "eu1")], Some(0.0));
    fabric.unplug(&host.host);
    host.wait_for_value(MEMBER_PORT, "netring_connectivity_tcp", &[("target_location", "eu1")], None);
    host.wait_for_value(MEMBER_PORT, "netring_local_health", &[], Some(0.0));

    // What the services own is where they may keep it.
    let owned = host.run(&["sh", "-c", "find / -xdev -uid +61183 -uid -65520 2>/dev/null || true"]);
    let allowed = ["/var/lib/private/netring-registry", "/var/lib/private/netring-member"];
    for path in owned.lines() {
        assert!(allowed.iter().any(|allowed| path.starts_with(allowed)), "{path}");
    }
    assert!(owned.lines().count() > 2, "{owned}");
    let mode =
        host.run(&["stat", "--format=%a", "/var/lib/private/netring-registry", "/var/lib/private/netring-member"]);
    assert_eq!(mode, "700\n700\n");
}

#[test]
fn all_that_netring_does_works_in_it_on_systemd_252() {
    all_that_netring_does_works_in_it(System::Bookworm);
}

#[test]
fn all_that_netring_does_works_in_it_on_systemd_257() {
    all_that_netring_does_works_in_it(System::Trixie);
}
