//! The Compose file, brought up by Docker Compose over podman: the ring, Prometheus, and what Grafana would read.
//!
//! Grafana's image cannot be had here. What stands in for it only waits, so that its mounts can be looked at.

pub mod support;

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use support::podman::{Machine, VERSION, repository_file};
use support::{SOON, eventually, holds};

const FILE: &str = "packaging/compose/docker-compose.yml";

/// What makes members and Prometheus quick enough for a test.
const QUICK: &str = "services:
  member: &quick
    environment: {NETRING_MEMBER_INTERVALS_CHECK_INTERVAL: 1, NETRING_MEMBER_INTERVALS_POLL_INTERVAL: 1}
  neighbour: *quick
  prometheus:
    volumes: ['/shared/prometheus.yml:/etc/prometheus/prometheus.yml:ro']
";

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[test]
fn compose_brings_up_a_ring_with_all_that_watches_it() {
    let Some(mut machine) = Machine::start() else { return };
    machine.build_images();
    machine.start_docker_engine();
    let text = repository_file(FILE);
    let mut images: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    images.sort_unstable();
    let [grafana, member, registry, prometheus, redis] = images[..] else { panic!("five images: {images:?}") };
    assert_eq!([member, registry], [format!("netring-member:{VERSION}"), format!("netring-registry:{VERSION}")]);
    for (program, image) in [("grafana", grafana), ("prometheus", prometheus), ("redis", redis)] {
        machine.stand_in(program, image);
    }
    machine.run(&["docker", "compose", "--file", FILE, "config", "--quiet"]);
    std::fs::write(machine.shared().join("quick.yml"), QUICK).unwrap();
    let prometheus =
        repository_file("packaging/compose/prometheus.yml").replace(" 30s\n", " 1s\n").replace(" 15s\n", " 1s\n");
    assert_eq!(prometheus.matches(" 1s\n").count(), 3);
    std::fs::write(machine.shared().join("prometheus.yml"), prometheus).unwrap();
    let compose = |words: &[&str]| {
        machine.run(&[&["docker", "compose", "--file", FILE, "--file", "/shared/quick.yml"], words].concat())
    };
    compose(&["up", "-d"]);

    let (member, neighbour) = (local(8757), local(8758));
    machine.wait_for_connectivity(member, "neighbour", Some(1.0));
    machine.wait_for_connectivity(neighbour, "us1-docker", Some(1.0));
    let status = compose(&["exec", "-T", "registry", "/bin/netring", "status"]);
    assert!(status.ends_with("\n2 members at 2 locations"), "{status}");
    for (service, words) in [("member", "--member"), ("registry", "--registry")] {
        compose(&["exec", "-T", service, "/bin/netring", "healthcheck", words]);
        let of = machine.inspect(&format!("netring-{service}-1"));
        assert_eq!(of["HostConfig"]["ReadonlyRootfs"], true);
        assert_eq!(of["EffectiveCaps"], Value::Null);
        assert_eq!(of["Config"]["User"], "65532:65532");
    }
    for container in ["netring-member-1", "netring-registry-1", "netring-redis-1"] {
        machine.run(&["podman", "healthcheck", "run", container]);
    }

    // What Grafana is given, seen from where it would run.
    let inside = |words: &[&str]| compose(&[&["exec", "-T", "grafana"], words].concat());
    let dashboard = "config/grafana/netring.json";
    assert_eq!(inside(&["cat", "/var/lib/grafana/dashboards/netring.json"]), repository_file(dashboard).trim_end());
    for kind in ["datasources", "dashboards"] {
        let provisioned = inside(&["cat", &format!("/etc/grafana/provisioning/{kind}/netring.yml")]);
        assert_eq!(provisioned, repository_file(&format!("config/grafana/provisioning/{kind}/netring.yml")).trim_end());
    }
    let provisioning = repository_file("config/grafana/provisioning/datasources/netring.yml");
    let url = provisioning.lines().find_map(|line| line.trim().strip_prefix("url: ")).expect("a data source has a URL");
    inside(&["busybox", "wget", "-q", "-O", "-", &format!("{url}/-/ready")]);
    assert!(
        repository_file("config/grafana/provisioning/dashboards/netring.yml")
            .contains("path: /var/lib/grafana/dashboards")
    );

    let prometheus = local(9090);
    eventually(SOON, "Prometheus has found and scraped the registry and both members", || {
        let mut answer = machine.get(prometheus, "/api/v1/targets?state=active")?.json();
        let targets = answer["data"]["activeTargets"].take();
        let up: Vec<String> = targets
            .as_array()
            .ok_or("no targets")?
            .iter()
            .filter(|target| target["health"] == "up")
            .map(|target| target["labels"]["job"].as_str().unwrap_or_default().to_owned())
            .collect();
        let of = |job: &str| up.iter().filter(|up| *up == job).count();
        holds(of("netring") == 2 && of("netring-registry") == 1, &up)
    });
    let rules = machine.get(prometheus, "/api/v1/rules").unwrap().text();
    assert!(rules.contains("NetringConnectivityDown"), "{rules}");

    compose(&["kill", "neighbour"]);
    machine.wait_for_connectivity(member, "neighbour", Some(0.0));
    compose(&["start", "neighbour"]);
    machine.wait_for_connectivity(member, "neighbour", Some(1.0));

    // Other sites are let in, and so the neighbour leaves.
    compose(&["up", "-d", "--scale", "neighbour=0"]);
    machine.wait_for_connectivity(member, "neighbour", None);

    compose(&["down", "--volumes", "--timeout", "1"]);
    assert_eq!(machine.run(&["podman", "ps", "--all", "--quiet"]), "");
    assert_eq!(machine.run(&["podman", "volume", "ls", "--quiet"]), "");
}
