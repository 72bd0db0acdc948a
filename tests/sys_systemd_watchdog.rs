//! The watchdog of systemd: it kills a service in which any one thread stands still, and no other.

pub mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::booted::{Booted, REGISTRY_PORT};
use support::frozen::Frozen;
use support::{SOON, http};

on_each_systemd!(
    a_service_is_restarted_whichever_of_its_threads_stands_still,
    neither_idle_nor_busy_services_are_killed_and_no_member_is_for_a_registry_that_hangs,
);

/// How often the service manager wants to hear of the services here: often, so that the tests are short, and yet a second after
/// the daemon says what stands still, which is at its second look.
const WATCHDOG: Duration = Duration::from_secs(3);

/// The `MESSAGE_ID` of the entry that says which part stands still.
const LOOP_STALLED: &str = "9700b4070d1f408a815b11d5f3aa6a41";

/// How long a loop may stand still before its daemon says no more, and then WATCHDOG, the signal, and RestartSec=.
const NOTICED: Duration = Duration::from_secs(35);

/// Makes another service of one of ours: the unit as it is, under another name and with a state of its own. It has a short
/// WATCHDOG, and listens on this port.
fn copy(host: &Booted, of: &str, name: &str, port: u16) {
    let unit = host.read(&format!("/usr/lib/systemd/system/netring-{of}.service"));
    host.write(&format!("/etc/systemd/system/{name}.service"), &unit.replace(&format!("netring-{of}"), name));
    let variable = format!("NETRING_{}_SERVER_PORT={port}", of.to_uppercase());
    // By a name, so that a member has a thread that looks it up.
    host.write("/etc/hosts", &format!("{} registry.ring.test\n", host.host.v4));
    let registry = format!("REGISTRY_URL=http://registry.ring.test:{REGISTRY_PORT}");
    let short = format!("[Service]\nWatchdogSec={}\nEnvironment={variable} {registry}\n", WATCHDOG.as_secs());
    host.write(&format!("/etc/systemd/system/{name}.service.d/short.conf"), &short);
}

fn a_service_is_restarted_whichever_of_its_threads_stands_still(host: &mut Booted) {
    host.configure_registry();
    host.configure_member("us1", &host.host);
    // With it the members have peers, and look at their interfaces while they probe.
    host.run(&["systemctl", "start", "netring-registry"]);
    // The thread, and what the daemon says stands still; it says nothing where its voice does.
    let cases = [
        ("member", "netring", None),
        ("member", "netring-notify", None),
        ("member", "netring-log", None),
        ("member", "netring-probe", Some("probe schedule")),
        ("member", "netring-serve", Some("HTTP service")),
        ("member", "netring-control", Some("control loop")),
        ("member", "netring-lease", Some("lease worker")),
        ("member", "netring-keep", Some("roster writer")),
        ("member", "netring-resolve", Some("name resolver")),
        ("member", "netring-network", Some("network monitor")),
        ("registry", "netring", None),
        ("registry", "netring-notify", None),
        ("registry", "netring-journal", Some("journal")),
    ];
    let services: Vec<String> = (0..cases.len()).map(|number| format!("frozen-{number}")).collect();
    for ((of, ..), (name, port)) in cases.iter().zip(services.iter().zip(9000..)) {
        copy(host, of, name, port);
    }
    host.run(&["systemctl", "daemon-reload"]);
    host.run(&[&["systemctl", "start"], &services.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());

    let freeze = |(name, (_, thread, _)): (&String, &(_, &str, _))| Frozen::thread(host.main_pid(name), thread);
    let _frozen: Vec<Frozen> = services.iter().zip(&cases).map(freeze).collect();
    for (name, (of, thread, said)) in services.iter().zip(&cases) {
        host.wait_for_property(NOTICED, name, "NRestarts", "1");
        host.wait_for_property(SOON, name, "SubState", "running");
        let journal = host.journal(name);
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let has = |field, words: &str| journal.iter().any(|entry| text(entry, field).contains(words));
        let messages = || journal.iter().map(|entry| text(entry, "MESSAGE")).collect::<Vec<_>>();
        assert!(has("MESSAGE", "Watchdog timeout (limit 3s)"), "{of}, {thread}: {:#?}", messages());
        assert_eq!(has("MESSAGE_ID", LOOP_STALLED), said.is_some(), "{of}, {thread}: {:#?}", messages());
        assert!(said.is_none_or(|said| has("NETRING_REASON", said)), "{of}, {thread}: {journal:#?}");
        let stalled = journal.iter().filter(|entry| text(entry, "MESSAGE_ID") == LOOP_STALLED);
        for entry in stalled.filter(|_| *of == "member") {
            assert_eq!(text(entry, "NETRING_LOCATION"), "us1", "{entry:#?}");
            assert!(!text(entry, "NETRING_INSTANCE").is_empty(), "{entry:#?}");
        }
    }
}

fn neither_idle_nor_busy_services_are_killed_and_no_member_is_for_a_registry_that_hangs(host: &mut Booted) {
    let host = &*host;
    host.configure_registry();
    host.configure_member("us1", &host.host);
    host.run(&["systemctl", "start", "netring-registry"]);
    let services = ["idle-member", "busy-member", "idle-registry", "busy-registry"];
    for (name, port) in services.into_iter().zip(9000..) {
        copy(host, name.split_once('-').expect("two words").1, name, port);
    }
    host.run(&["systemctl", "daemon-reload"]);
    host.run(&[&["systemctl", "start"], &services[..]].concat());
    let away = "1 peer at 1 location, registry away";

    // Nobody answers the members' control threads, which wait as long as they may; the kernel takes their connections.
    host.wait_for_property(SOON, "idle-member", "StatusText", "1 peer at 1 location");
    host.run(&["systemctl", "kill", "--signal=STOP", "netring-registry"]);
    let over = AtomicBool::new(false);
    let answers: u64 = thread::scope(|scope| {
        let over = &over;
        let client = |port: u16, path: &'static str| {
            let ask = move || {
                let mut answers = 0;
                while !over.load(Ordering::Relaxed) {
                    let server = SocketAddr::new(host.host.v4.into(), port);
                    answers += u64::from(http::get(server, path).is_ok_and(|answer| answer.status == 200));
                }
                answers
            };
            scope.spawn(move || host.host.inside(ask))
        };
        let clients = [(9001, "/metrics"), (9001, "/metrics"), (9003, "/members"), (9003, "/metrics")];
        let clients = clients.map(|(port, path)| client(port, path));
        thread::sleep(WATCHDOG * 6);
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client counts its answers")).min().unwrap_or_default()
    });
    assert!(answers > 300, "each busy service answered {answers} requests of one of its clients");
    for name in services {
        assert_eq!(host.property(name, "NRestarts"), "0", "{name}");
        assert_eq!(host.property(name, "SubState"), "running", "{name}");
    }
    host.wait_for_property(SOON, "idle-member", "StatusText", away);
    host.run(&["systemctl", "kill", "--signal=CONT", "netring-registry"]);
    host.wait_for_property(SOON * 4, "idle-member", "StatusText", "1 peer at 1 location");
}
