//! What systemd hands to the services and asks of them while they run: configuration, its reload, a secret, a port.

pub mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use netring::host::logging::events::{CONFIGURATION_REFUSED, KINDS};
use serde_json::Value;
use support::booted::{Booted, MEMBER_PORT, REGISTRY_PORT};
use support::process::Process;
use support::{SOON, Scratch, eventually, holds, http, installed};

on_each_systemd!(
    a_wrong_configuration_is_named_by_file_and_line_and_not_tried_again,
    a_reload_returns_when_it_is_in_force_and_fails_where_it_is_refused,
    the_password_of_redis_is_a_credential_that_may_be_missing_and_is_told_to_nobody,
    a_port_that_systemd_holds_refuses_nobody_while_the_service_restarts,
    a_port_that_systemd_holds_outlives_a_wrong_configuration,
);

const REGISTRY: &str = "netring-registry.service";
const MEMBER: &str = "netring-member.service";

/// A request to a server.
type Request = dyn Fn(SocketAddr) -> Result<http::Answer, String> + Sync;

fn messages(host: &Booted, unit: &str) -> String {
    let journal = host.journal(unit);
    journal.iter().filter_map(|entry| entry["MESSAGE"].as_str()).collect::<Vec<_>>().join("\n")
}

fn a_wrong_configuration_is_named_by_file_and_line_and_not_tried_again(host: &mut Booted) {
    host.configure_member("us1", &host.host);
    let good = host.read("/etc/netring/member.yaml");
    host.write("/etc/netring/member.yaml", &good.replace("check_interval", "chek_interval"));
    let _ = host.fails(&["systemctl", "start", MEMBER]);
    for (property, wanted) in
        [("SubState", "failed"), ("ExecMainStatus", "78"), ("NRestarts", "0"), ("Result", "exit-code")]
    {
        assert_eq!(host.property(MEMBER, property), wanted, "{property}");
    }
    let line = 1 + good.lines().position(|line| line.contains("check_interval")).expect("the key is in the file");
    let journal = host.journal(MEMBER);
    let place = format!("/etc/netring/member.yaml:{line}:");
    let names_it = |entry: &&Value| entry["MESSAGE"].as_str().is_some_and(|message| message.contains(&place));
    let fault = journal.iter().find(names_it).unwrap_or_else(|| panic!("no {place} in {journal:#?}"));
    assert!(fault["MESSAGE"].as_str().is_some_and(|message| message.contains("did you mean")), "{fault}");
    assert_eq!(fault["PRIORITY"], "3", "an error: {fault}");
    let refused = KINDS.iter().find(|kind| kind.name == CONFIGURATION_REFUSED).expect("it is in the table");
    assert_eq!(fault["MESSAGE_ID"], refused.id, "{fault}");
    assert!(fault["NETRING_REASON"].as_str().is_some_and(|reason| reason.contains(&place)), "{fault}");
    // Mended, it starts without another word.
    host.write("/etc/netring/member.yaml", &good);
    host.run(&["systemctl", "start", MEMBER]);
    assert_eq!(host.property(MEMBER, "SubState"), "running");
}

fn a_reload_returns_when_it_is_in_force_and_fails_where_it_is_refused(host: &mut Booted) {
    host.configure_registry();
    host.configure_member("us1", &host.host);
    host.run(&["systemctl", "start", REGISTRY, MEMBER]);
    let process = host.property(MEMBER, "MainPID");
    let good = host.read("/etc/netring/member.yaml");
    let location = || host.get(MEMBER_PORT, "/health").json()["location"].as_str().expect("a text").to_owned();
    let refused = "new configuration refused, the old one stays in force";
    let status = || host.property(MEMBER, "StatusText");

    // By the command of the unit, which systemd waits for whatever its version.
    for name in ["us2", "us3", "us4", "us5", "us6"] {
        host.write("/etc/netring/member.yaml", &good.replace("us1", name));
        host.run(&["systemctl", "reload", MEMBER]);
        assert_eq!(location(), name, "at once");
    }
    host.write("/etc/netring/member.yaml", &good.replace("check_interval: 1", "check_interval: soon"));
    let _ = host.fails(&["systemctl", "reload", MEMBER]);
    assert_eq!(location(), "us6");
    assert!(status().contains(refused), "{}", status());
    assert_eq!(host.property(MEMBER, "SubState"), "running");
    let said = messages(host, MEMBER);
    let line = 1 + good.lines().position(|line| line.contains("check_interval")).expect("the key is in the file");
    assert!(said.contains(&format!("/etc/netring/member.yaml:{line}:")), "line {line}: {said}");
    let journal = host.journal(MEMBER);
    let by_the_daemon = |entry: &&Value| entry["_PID"] == process.as_str() && entry["PRIORITY"] == "3";
    let errors: Vec<_> = journal.iter().filter(by_the_daemon).map(|entry| entry["MESSAGE"].to_string()).collect();
    assert_eq!(errors.len(), 1, "it says once, and as an error, what is wrong: {errors:?}");
    // A restart with it would end the service; a good file mends all.
    host.write("/etc/netring/member.yaml", &good);
    host.run(&["systemctl", "reload", MEMBER]);
    assert_eq!(location(), "us1");
    assert!(!status().contains("refused"), "{}", status());

    // The registry likewise.
    let register = r#"{"instance_id": "eu1-id", "location": "eu1", "ip": "192.0.2.1", "port": 8756}"#;
    let registry = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), REGISTRY_PORT);
    let registers = || host.host.inside(|| http::post(registry, "/register", register)).expect("it answers").status;
    assert_eq!(registers(), 200);
    let open = host.read("/etc/netring/registry.yaml");
    host.write("/etc/netring/registry.yaml", &format!("{open}  allowed_networks: [\"10.77.0.0/24\"]\n"));
    host.run(&["systemctl", "reload", REGISTRY]);
    assert_eq!(registers(), 400);
    host.write("/etc/netring/registry.yaml", "registry: {");
    let _ = host.fails(&["systemctl", "reload", REGISTRY]);
    assert_eq!(registers(), 400);

    if host.system.systemd() >= 253 {
        // By systemd's own protocol, which has no word for a refusal: the status has it.
        host.write(
            "/etc/systemd/system/netring-member.service.d/reload.conf",
            "[Service]\nType=notify-reload\nExecReload=\n",
        );
        host.run(&["systemctl", "daemon-reload"]);
        for name in ["us7", "us8", "us9"] {
            host.write("/etc/netring/member.yaml", &good.replace("us1", name));
            host.run(&["systemctl", "reload", MEMBER]);
            assert_eq!(location(), name, "at once");
        }
        host.write("/etc/netring/member.yaml", "member: {");
        host.run(&["systemctl", "reload", MEMBER]);
        eventually(SOON, "the status says so", || holds(status().contains(refused), status()));
        assert_eq!(location(), "us9");
    }
    assert_eq!(host.property(MEMBER, "MainPID"), process);
}

fn the_password_of_redis_is_a_credential_that_may_be_missing_and_is_told_to_nobody(host: &mut Booted) {
    const PASSWORD: &str = "correct-horse-battery";
    if !installed(&["redis-server"]) {
        return;
    }
    let scratch = Scratch::new();
    let mut command = host.host.command("redis-server");
    command.args(["--port", "6379", "--save", "", "--appendonly", "no", "--requirepass", PASSWORD, "--dir"]);
    let _redis = Process::start(command.arg(scratch.path()), &scratch, "redis");
    host.write("/etc/netring/registry.yaml", "registry:\n  redis:\n    host: \"127.0.0.1\"\n");

    // Nobody wrote it: the service starts, and says what Redis says.
    host.run(&["systemctl", "start", REGISTRY]);
    let status = || host.property(REGISTRY, "StatusText");
    let in_trouble = || holds(status().contains("store redis in trouble"), status());
    eventually(SOON, "the registry is in trouble", in_trouble);
    assert!(status().contains("NOAUTH") || status().contains("password"), "{}", status());

    // Somebody wrote a wrong one, and then the right one, with the line's end that editors leave.
    host.write("/etc/credstore/netring.redis-password", "wrong-horse\n");
    host.run(&["systemctl", "restart", REGISTRY]);
    eventually(SOON, "the registry is in trouble", in_trouble);
    host.write("/etc/credstore/netring.redis-password", &format!("{PASSWORD}\n"));
    host.run(&["chmod", "0600", "/etc/credstore/netring.redis-password"]);
    host.run(&["systemctl", "restart", REGISTRY]);
    host.wait_for_property(SOON, REGISTRY, "StatusText", "0 members at 0 locations, store redis");

    let process = host.main_pid(REGISTRY);
    let of_process = |file: &str| String::from_utf8_lossy(&std::fs::read(file).expect("it runs")).into_owned();
    let told = [
        host.run(&["journalctl", "--output=export", "--all", "--no-pager"]),
        host.run(&["systemctl", "show", REGISTRY]),
        host.get(REGISTRY_PORT, "/metrics").text(),
        host.get(REGISTRY_PORT, "/health").text(),
        of_process(&format!("/proc/{process}/environ")),
        of_process(&format!("/proc/{process}/cmdline")),
    ];
    for text in told {
        for secret in [PASSWORD, "wrong-horse"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    let credential = format!("/proc/{process}/root/run/credentials/{REGISTRY}/redis-password");
    assert_eq!(of_process(&credential), format!("{PASSWORD}\n"), "the service has it by the credential alone");
}

fn a_port_that_systemd_holds_refuses_nobody_while_the_service_restarts(host: &mut Booted) {
    const RESTARTS: usize = 6;
    let host = &*host;
    host.configure_registry();
    host.configure_member("us1", &host.host);
    host.run(&["systemctl", "enable", "--now", "netring-member.socket", "netring-registry.socket"]);
    for unit in [REGISTRY, MEMBER] {
        assert_eq!(host.property(unit, "SubState"), "dead", "nobody has asked yet");
    }
    for port in [REGISTRY_PORT, MEMBER_PORT] {
        assert_eq!(host.get(port, "/health").status, 200, "the first request starts it");
    }
    let register = r#"{"instance_id": "eu1-id", "location": "eu1", "ip": "10.77.0.9", "port": 8756}"#;
    let scrape = |server| http::get(server, "/metrics");
    let registration = |server| http::post(server, "/register", register);
    let requests: [(u16, &Request); 2] = [(MEMBER_PORT, &scrape), (REGISTRY_PORT, &registration)];
    let (over, answered) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 2]);
    let (over, answered) = (&over, &answered);
    thread::scope(|scope| {
        // Several clients of each, so that whenever a service ends somebody has just connected to it.
        for (answered, (port, request)) in answered.iter().zip(requests).chain(answered.iter().zip(requests)) {
            let server = SocketAddr::new(host.host.v4.into(), port);
            let ask = move || {
                while !over.load(Ordering::Relaxed) || answered.load(Ordering::Relaxed) < 200 {
                    let answer = request(server).unwrap_or_else(|e| panic!("after {answered:?} answers: {e}"));
                    assert_eq!(answer.status, 200, "after {answered:?} answers: {}", answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            };
            scope.spawn(move || host.host.inside(ask));
            scope.spawn(move || host.host.inside(ask));
        }
        for _ in 0..RESTARTS {
            host.run(&["systemctl", "restart", MEMBER, REGISTRY]);
        }
        over.store(true, Ordering::Relaxed);
    });
    for unit in [REGISTRY, MEMBER] {
        let started = messages(host, unit).matches("stopping").count();
        assert_eq!(started, RESTARTS, "{unit} has been restarted while it was asked");
        assert_eq!(host.property(unit, "SubState"), "running");
    }
}

fn a_port_that_systemd_holds_outlives_a_wrong_configuration(host: &mut Booted) {
    const SOCKET: &str = "netring-member.socket";
    host.configure_member("us1", &host.host);
    let good = host.read("/etc/netring/member.yaml");
    host.write("/etc/netring/member.yaml", &good.replace("check_interval", "chek_interval"));
    host.run(&["systemctl", "start", SOCKET]);
    let server = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), MEMBER_PORT);
    // Each waits a while in the socket's queue, and starts the service wherever it has ended.
    host.host.inside(|| {
        for _ in 0..10 {
            let mut connection = TcpStream::connect(server).expect("systemd listens");
            connection.write_all(b"GET /health HTTP/1.1\r\nHost: us1\r\n\r\n").expect("it takes a request");
            connection.set_read_timeout(Some(Duration::from_millis(500))).expect("a time limit can be set");
            let answer = connection.read(&mut [0; 1]).map_err(|e| e.kind());
            assert_eq!(answer, Err(ErrorKind::WouldBlock), "nobody serves, and nobody hangs up");
        }
    });
    let status = host.property(MEMBER, "StatusText");
    assert!(status.starts_with("configuration refused: ") && status.contains("/etc/netring/member.yaml"), "{status}");
    assert_eq!(host.property(SOCKET, "ActiveState"), "active");
    let starts = messages(host, MEMBER).matches("Starting netring-member.service").count();
    assert!((1..=4).contains(&starts), "{starts} starts within some seconds");

    // Mended, it starts by itself, and those who ask are served.
    host.write("/etc/netring/member.yaml", &good);
    eventually(SOON, "it serves", || {
        let answer = host.try_get(MEMBER_PORT, "/health")?;
        holds(answer.status == 200, answer.status)
    });
    assert_eq!(host.property(SOCKET, "ActiveState"), "active");

    // With a wrong one again, a stop is not held up: a service that came to its own end would have failed.
    host.write("/etc/netring/member.yaml", "member: {");
    host.run(&["systemctl", "stop", MEMBER]);
    host.run(&["systemctl", "start", "--no-block", MEMBER]);
    host.wait_for_property(SOON, MEMBER, "SubState", "start");
    host.run(&["systemctl", "stop", SOCKET, MEMBER]);
    for unit in [SOCKET, MEMBER] {
        assert_eq!(host.property(unit, "ActiveState"), "inactive", "{unit}");
    }
}
