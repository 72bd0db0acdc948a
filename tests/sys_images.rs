//! The container images: what is in them, and that they run with next to no rights.

pub mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::podman::{Machine, PORT, VERSION, repository_file};
use support::{SOON, eventually, holds};

/// The largest an image may be, in bytes.
const IMAGE_MAX: u64 = 15_000_000;

/// As little as a container can be given.
const CONFINED: [&str; 7] = [
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--pids-limit=64",
    "--memory=64m",
    "--network=ring",
];

/// Runs a container of an image of netring, confined, with these variables and words of `podman run`.
#[track_caller]
fn run(machine: &Machine, role: &str, name: &str, words: &[&str]) {
    let image = format!("netring-{role}:{VERSION}");
    machine.run(&[&["podman", "run", "--detach", "--name", name], &CONFINED[..], words, &[&image]].concat());
}

fn server(machine: &Machine, container: &str) -> SocketAddr {
    SocketAddr::new(machine.address(container), PORT)
}

#[test]
fn an_image_holds_one_binary_and_certificates_and_is_the_same_when_built_again() {
    let Some(machine) = Machine::start() else { return };
    machine.build_images();
    let ids = || ["registry", "member"].map(|role| machine.inspect(&format!("netring-{role}:{VERSION}"))["Id"].clone());
    let first = ids();
    machine.run(&["podman", "rmi", "--all", "--force"]);
    machine.build_images();
    assert_eq!(ids(), first, "built twice from the same files");

    for (role, title) in [("registry", "netring-registry"), ("member", "netring-member")] {
        let image = machine.inspect(&format!("netring-{role}:{VERSION}"));
        assert_eq!(image["Id"], machine.inspect(&format!("netring-{role}:latest"))["Id"]);
        let config = &image["Config"];
        assert_eq!(config["Entrypoint"], json!(["/bin/netring", role]));
        assert_eq!(config["Cmd"], Value::Null);
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(config["ExposedPorts"], json!({ "8756/tcp": {} }));
        assert_eq!(config["Volumes"], json!({ "/var/lib/netring": {} }));
        let label = |name: &str| image["Labels"][format!("org.opencontainers.image.{name}")].clone();
        assert_eq!([label("title"), label("version"), label("licenses")], [title, VERSION, env!("CARGO_PKG_LICENSE")]);
        assert!(label("description").as_str().is_some_and(|text| text.len() > 20), "{}", image["Labels"]);
        let size = image["Size"].as_u64().expect("an image has a size");
        assert!(size <= IMAGE_MAX, "{size} bytes");
    }

    machine.run(&["podman", "create", "--name", "still", &format!("netring-member:{VERSION}")]);
    let listed = machine.shell("podman export still | tar --list --verbose --numeric-owner");
    let listed: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let files: Vec<String> = listed
        .iter()
        // The last word is the name; that of a link is where it leads. Mount points are podman's own.
        .map(|words| (words[0], words[1], words[5], words.last().expect("a line has words")))
        .filter(|(mode, _, name, _)| !mode.starts_with('d') && !name.starts_with("etc/") || name.contains("ssl"))
        .map(|(mode, owner, name, leads)| format!("{mode} {owner} {name} {leads}"))
        .filter(|line| !["proc/", "sys/", "dev/", "run/"].iter().any(|own| line.contains(own)))
        .collect();
    assert_eq!(
        files,
        [
            "lrwxrwxrwx 0/0 app/config ../etc/netring",
            "-rwxr-xr-x 0/0 bin/netring bin/netring",
            "drwxr-xr-x 0/0 etc/ssl/ etc/ssl/",
            "drwxr-xr-x 0/0 etc/ssl/certs/ etc/ssl/certs/",
            "-rw-r--r-- 0/0 etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ca-certificates.crt",
        ]
    );
    let state = listed.iter().find(|words| words[5] == "var/lib/netring/").expect("a directory for the state");
    assert_eq!([state[0], state[1]], ["drwx------", "65532/65532"]);
}

#[test]
fn a_ring_of_confined_containers_finds_itself_by_name_keeps_its_identity_and_leaves_in_order() {
    let Some(machine) = Machine::start() else { return };
    machine.build_images();
    machine.run(&["podman", "network", "create", "ring"]);
    run(&machine, "registry", "registry", &[]);
    for location in ["us1", "eu1"] {
        let words = [
            &format!("--env=MEMBER_LOCATION={location}"),
            "--env=REGISTRY_URL=http://registry:8756",
            "--env=NETRING_MEMBER_INTERVALS_CHECK_INTERVAL=1",
            "--env=NETRING_MEMBER_INTERVALS_POLL_INTERVAL=1",
            "--health-cmd=[\"/bin/netring\", \"healthcheck\", \"--member\"]",
        ];
        run(&machine, "member", location, &words);
    }
    let us1 = server(&machine, "us1");
    machine.wait_for_connectivity(us1, "eu1", Some(1.0));

    let status = machine.shell("cat /proc/$(podman inspect --format '{{.State.Pid}}' us1)/status");
    for line in ["Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|l| l == line), "no {line:?} in\n{status}");
    }
    machine.run(&["podman", "healthcheck", "run", "us1"]);
    assert!(
        machine.run(&["podman", "exec", "us1", "/bin/netring", "healthcheck", "--member"]).starts_with("healthy: ")
    );
    assert!(
        machine.run(&["podman", "exec", "registry", "netring", "healthcheck", "--registry"]).starts_with("healthy: ")
    );
    let status = machine.run(&["podman", "exec", "registry", "netring", "status"]);
    assert!(status.ends_with("\n2 members at 2 locations"), "{status}");

    let identity = |at| -> Result<Value, String> { Ok(machine.get(at, "/health")?.json()["instance_id"].clone()) };
    let before = identity(us1).expect("it answers");
    machine.run(&["podman", "restart", "us1"]);
    // It may have got another address.
    let us1 = server(&machine, "us1");
    eventually(SOON, "the restarted member has its old identity", || {
        let after = identity(us1)?;
        holds(after == before, after)
    });
    machine.wait_for_connectivity(us1, "eu1", Some(1.0));

    machine.run(&["podman", "kill", "eu1"]);
    machine.wait_for_connectivity(us1, "eu1", Some(0.0));
    machine.run(&["podman", "start", "eu1"]);
    machine.wait_for_connectivity(us1, "eu1", Some(1.0));
    // Told to stop, a member takes its leave.
    let start = netring::clock::monotonic();
    machine.run(&["podman", "stop", "--time=10", "us1"]);
    assert!(netring::clock::monotonic() - start < Duration::from_secs(5));
    assert_eq!(machine.inspect("us1")["State"]["ExitCode"], 0);
    machine.wait_for_connectivity(server(&machine, "eu1"), "us1", None);
}

#[test]
fn the_health_check_of_the_image_is_kept_in_the_format_that_has_one() {
    let Some(machine) = Machine::start() else { return };
    machine.build_images();
    machine.run(&[
        "packaging/oci/build",
        "--format=docker",
        "--binary",
        "/shared/files/root/bin/netring",
        "--tag",
        "docker",
        "--prefix",
        "registry.example.com/monitoring/",
    ]);
    machine.run(&["podman", "network", "create", "ring"]);
    let image = "registry.example.com/monitoring/netring-registry:docker";
    machine.run(&[&["podman", "run", "--detach", "--name", "registry"], &CONFINED[..], &[image]].concat());
    eventually(SOON, "the registry is healthy", || {
        let checked = machine.output(&["podman", "healthcheck", "run", "registry"]);
        holds(checked.status.success(), checked)
    });
    assert_eq!(machine.inspect("registry")["State"]["Health"]["Status"], "healthy");
    machine.run(&["podman", "kill", "--signal=STOP", "registry"]);
    let checked = machine.output(&["podman", "healthcheck", "run", "registry"]);
    assert_eq!(checked.status.code(), Some(1), "a registry that stands still is not healthy: {checked:?}");

    // One whose Redis is away is: whoever replaces unhealthy containers would bring no Redis back.
    let words = ["--env=NETRING_REGISTRY_REDIS_HOST=127.0.0.1", image];
    machine.run(&[&["podman", "run", "--detach", "--name", "alone"], &CONFINED[..], &words].concat());
    let alone = server(&machine, "alone");
    eventually(SOON, "the registry misses its Redis", || {
        let answer = machine.get(alone, "/health")?;
        holds(answer.status == 503, answer.text())
    });
    machine.run(&["podman", "healthcheck", "run", "alone"]);
}

#[test]
fn the_versions_that_are_typed_again_are_those_of_the_package() {
    let file = repository_file("packaging/oci/Containerfile");
    assert!(file.contains(&format!("\nARG VERSION={VERSION}\n")), "{file}");
    for role in ["registry", "member"] {
        assert!(file.contains(&format!("--target {role} -t netring-{role}:{VERSION} .\n")), "{file}");
    }
    assert!(file.contains(&format!("\nARG RUST=rust:{}-", env!("CARGO_PKG_RUST_VERSION"))), "{file}");
    let page = repository_file("packaging/kubernetes/README.md");
    let named: Vec<&str> = page.split("netring-member:").skip(1).map(|rest| &rest[..VERSION.len()]).collect();
    assert_eq!(named, [VERSION; 2]);
}

/// The blocks of commands of a page, in their order.
fn commands(page: &str) -> Vec<&str> {
    page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a split has a first part")).collect()
}

#[test]
fn the_page_can_be_followed_with_the_docker_command() {
    let Some(mut machine) = Machine::start() else { return };
    machine.build_images();
    machine.start_docker_engine();
    let page = repository_file("packaging/oci/README.md");
    let [_build, _compile, first_site, other_site, look] = commands(&page)[..] else {
        panic!("{:#?}", commands(&page))
    };
    // The host has the address of the page.
    machine.run(&["ip", "addr", "add", "192.0.2.10/32", "dev", "lo"]);

    machine.shell(first_site);
    let registry: SocketAddr = "192.0.2.10:8756".parse().unwrap();
    eventually(SOON, "the member of the first site is in the ring, with the host's address", || {
        let members = machine.get(registry, "/members")?.json();
        let member = &members["members"][0];
        let seen = [&member["location"], &member["ip"], &member["port"]].map(Value::to_string).join(" ");
        holds(seen == "\"us1-k8s\" \"192.0.2.10\" 8757", members)
    });
    let health = machine.get("192.0.2.10:8757".parse().unwrap(), "/health").unwrap().json();
    assert_eq!(health["location"], "us1-k8s");
    machine.run(&["docker", "kill", "--signal", "HUP", "netring-member"]);
    eventually(SOON, "the member has read its configuration again", || {
        let log = machine.log("netring-member");
        holds(log.contains("configuration reloaded"), log)
    });

    // Another host, so to speak.
    machine.run(&["docker", "rm", "--force", "netring-registry", "netring-member"]);
    machine.shell(other_site);
    eventually(SOON, "the member of the other site answers", || {
        let health = machine.get(registry, "/health")?.json();
        holds(health["location"] == "eu1-docker", health)
    });
    assert!(machine.shell(look).contains("healthy: the member at http://127.0.0.1:8756/health"));
    assert!(
        machine.run(&["docker", "run", "--rm", "netring-member:latest", "--help"]).contains("Usage: netring member")
    );
}
