//! What a member tells the journal, by the journal's own protocol: fields, priorities, and the ids of what is worth an alert.
//!
//! The journal is a socket of the test's, which the member finds at its usual place in a mount namespace of its own.

pub mod support;

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netring::host::logging::events::{self, KINDS};
use support::daemon::{Member, NETRING, Registry};
use support::process::Process;
use support::{SOON, Scratch, eventually, installed, skip};

type Entry = BTreeMap<String, String>;

/// An entry of the journal's native protocol: `NAME=value`, or `NAME`, the length in eight bytes, and the value.
fn entry(mut text: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (String::from_utf8_lossy(&text[..end]).into_owned(), &text[end + 1..]);
        text = match line.split_once('=') {
            Some((name, value)) => {
                entry.insert(name.into(), value.into());
                rest
            }
            None => {
                let (length, rest) = rest.split_first_chunk().expect("a length follows");
                let length = usize::try_from(u64::from_le_bytes(*length)).expect("it is that of a datagram");
                entry.insert(line, String::from_utf8_lossy(&rest[..length]).into_owned());
                &rest[length + 1..]
            }
        };
    }
    entry
}

/// Collects what arrives, for as long as anybody keeps the list. It reads all the time, as the journal does, because a sender
/// waits where ten entries lie unread.
fn collect(journal: UnixDatagram) -> Arc<Mutex<Vec<Entry>>> {
    journal.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit can be set");
    let list = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::downgrade(&list);
    std::thread::spawn(move || {
        let mut message = [0; 8192];
        while kept.strong_count() > 0 {
            let Ok(length) = journal.recv(&mut message) else { continue };
            let Some(list) = kept.upgrade() else { return };
            list.lock().expect("no thread panics while it holds the list").push(entry(&message[..length]));
        }
    });
    list
}

/// The journal's socket, in a directory that can be put in the place of the real one's.
fn journal() -> Option<(Scratch, UnixDatagram)> {
    if !installed(&["unshare", "mount"]) {
        return None;
    }
    let in_namespace = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/run"]).output();
    if !in_namespace.is_ok_and(|output| output.status.success()) {
        skip("no mount namespace can be made");
        return None;
    }
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path().join("journal")).expect("a directory can be made");
    let journal = UnixDatagram::bind(scratch.path().join("journal/socket")).expect("a socket can be made");
    Some((scratch, journal))
}

/// Starts a member whose stderr is the journal of the scratch directory.
fn start(described: &Member, scratch: &Scratch) -> Process {
    start_with(&described.yaml(), scratch)
}

fn start_with(configuration: &str, scratch: &Scratch) -> Process {
    let config = scratch.file("config.yaml", configuration);
    let script = "mount -t tmpfs none /run && mkdir /run/systemd && mount --bind \"$1\" /run/systemd && exec 2>\"$1/stderr\" && \
                  JOURNAL_STREAM=$(stat -L -c %d:%i \"$1/stderr\") exec \"$0\" member \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, NETRING]).arg(scratch.path()).arg(config).env_remove("NOTIFY_SOCKET");
    Process::start(&mut command, scratch, "unshare")
}

/// The first entry of this kind that has this value in this field.
fn wait_for(entries: &Mutex<Vec<Entry>>, kind: &str, about: (&str, &str)) -> Entry {
    let id = KINDS.iter().find(|known| known.name == kind).expect("it is in the table").id;
    eventually(SOON, kind, || {
        let entries = entries.lock().expect("no thread panics while it holds the list");
        let is_wanted = |entry: &&Entry| entry.get("MESSAGE_ID").is_some_and(|found| found == id);
        let about = |entry: &&Entry| entry.get(about.0).is_some_and(|value| value == about.1);
        entries.iter().filter(is_wanted).find(about).cloned().ok_or_else(|| format!("{entries:#?}"))
    })
}

/// Waits until the member says whether it reaches the peer at eu1.
fn reaches_peer(member: &Member, up: f64) {
    eventually(SOON, "the peer is probed", || {
        let answer = support::http::get(member.server, "/metrics").map_err(|e| e.to_string())?;
        let metrics = support::metrics::Metrics::parse(&answer.text())?;
        let value = metrics.value("netring_connectivity_tcp", &[("target_location", "eu1")]);
        support::holds(value == Some(up), value)
    });
}

#[test]
fn peer_and_registry_that_go_and_come_back_are_entries_with_ids_fields_and_priorities() {
    let Some((scratch, journal)) = journal() else { return };
    let entries = collect(journal);

    let mut registry = Registry { member_ttl: 300, ..Registry::new() }.start();
    let mut peer = Member::new("eu1", registry.server).start();
    let described = Member::new("us1", registry.server);
    let mut member = start(&described, &scratch);

    let wait_for = |kind, about| wait_for(&entries, kind, about);
    let check = |entry: &Entry, priority: &str, fields: &[(&str, &str)]| {
        for (name, value) in [("PRIORITY", priority), ("SYSLOG_IDENTIFIER", "netring-member")].iter().chain(fields) {
            assert_eq!(entry.get(*name).map(String::as_str), Some(*value), "{name} of {entry:#?}");
        }
    };
    let own = [("NETRING_LOCATION", "us1"), ("NETRING_INSTANCE", "us1-id")];
    let target = [("NETRING_TARGET_LOCATION", "eu1"), ("NETRING_TARGET", "eu1-id"), ("NETRING_CHECK", "tcp")];

    // The member knows the peer when it has probed it.
    reaches_peer(&described, 1.0);
    peer.kill();
    let down = wait_for(events::PEER_DOWN, ("NETRING_CHECK", "tcp"));
    check(&down, "4", &[&own[..], &target, &[("NETRING_REASON", "refused")]].concat());
    let words =
        "peer down location=us1 instance=us1-id target_location=eu1 target=eu1-id check=tcp reason=refused detail=";
    assert!(down["MESSAGE"].starts_with(words), "journalctl shows the message alone: {down:#?}");
    peer.start_again();
    let up = wait_for(events::PEER_UP, ("NETRING_CHECK", "tcp"));
    check(&up, "5", &[&own[..], &target].concat());
    assert!(up["NETRING_FAILED_PROBES"].parse::<u64>().is_ok_and(|failed| failed >= 1), "{up:#?}");
    assert!(up["NETRING_LASTED"].ends_with(" s"), "{up:#?}");

    registry.kill();
    check(&wait_for(events::REGISTRY_LOST, own[0]), "4", &own);
    registry.start_again();
    let back = wait_for(events::REGISTRY_BACK, own[0]);
    check(&back, "5", &own);
    assert!(back["NETRING_ATTEMPTS"].parse::<u64>().is_ok_and(|attempts| attempts >= 1), "{back:#?}");

    std::fs::write(scratch.path().join("config.yaml"), "member: [").expect("a temporary file can be written");
    member.signal(libc::SIGHUP);
    let refused = wait_for(events::CONFIGURATION_REFUSED, ("PRIORITY", "3"));
    check(&refused, "3", &own);
    assert!(refused["NETRING_REASON"].contains("config.yaml:1:"), "{refused:#?}");
    std::fs::write(scratch.path().join("config.yaml"), described.yaml()).expect("a temporary file can be written");
    member.signal(libc::SIGHUP);
    check(&wait_for(events::CONFIGURATION_IN_FORCE, own[0]), "5", &own);

    let entries = entries.lock().expect("no thread panics while it holds the list");
    let without_id = |entry: &&Entry| !entry.contains_key("MESSAGE_ID");
    assert!(entries.iter().filter(without_id).all(|entry| !entry.contains_key("NETRING_EVENT")));
    assert!(
        entries.iter().filter(without_id).any(|entry| entry.get("PRIORITY").is_some_and(|p| p == "6")),
        "the rest is informational"
    );
    assert!(member.ended().is_none());
}

#[test]
fn a_start_that_is_refused_is_one_entry_with_its_id() {
    let Some((scratch, journal)) = journal() else { return };
    let entries = collect(journal);
    let _member = start_with("member: [", &scratch);
    let refused = wait_for(&entries, events::CONFIGURATION_REFUSED, ("PRIORITY", "3"));
    assert_eq!(refused["SYSLOG_IDENTIFIER"], "netring-member");
    assert!(refused["NETRING_REASON"].contains("config.yaml:1:"), "{refused:#?}");
    assert_eq!(refused["MESSAGE"], format!("configuration refused: {}", refused["NETRING_REASON"]));
    let entries = entries.lock().expect("no thread panics while it holds the list");
    let said = entries.iter().filter(|entry| entry.contains_key("MESSAGE")).count();
    assert_eq!(said, 1, "it says so once: {entries:#?}");
}

#[test]
fn a_start_that_is_refused_is_one_line_of_json_where_the_environment_asks_for_it() {
    let scratch = Scratch::new();
    let config = scratch.file("config.yaml", "registry: [");
    let stderr = |format: &str| {
        let output = Command::new(NETRING).arg("registry").arg(&config).env("LOG_FORMAT", format).output();
        let output = output.expect("it can be started");
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        String::from_utf8(output.stderr).expect("it writes text")
    };
    let line = stderr("json");
    let event: serde_json::Value = serde_json::from_str(&line).expect("one object, and nothing else");
    assert!(event.to_string().contains(events::CONFIGURATION_REFUSED), "{event}");
    assert!(event.to_string().contains("config.yaml:1:"), "{event}");
    for text in ["", "text"] {
        let said = stderr(text);
        assert!(said.starts_with("netring: ") && said.contains("config.yaml:1:"), "{said}");
    }
}

#[test]
fn a_journal_that_takes_nothing_holds_up_no_probe_and_no_answer_and_is_told_all_when_it_does() {
    let Some((scratch, journal)) = journal() else { return };
    let other = UnixDatagram::unbound().expect("a socket can be made");
    other.set_nonblocking(true).expect("a socket need not wait");
    // As many as it holds unread, so that the next sender waits.
    while other.send_to(b"MESSAGE=unread\n", scratch.path().join("journal/socket")).is_ok() {}

    let registry = Registry::new().start();
    let mut peer = Member::new("eu1", registry.server).start();
    let described = Member::new("us1", registry.server);
    let member = start(&described, &scratch);
    reaches_peer(&described, 1.0);
    peer.kill();
    reaches_peer(&described, 0.0);
    peer.start_again();
    reaches_peer(&described, 1.0);

    let entries = collect(journal);
    wait_for(&entries, events::PEER_DOWN, ("NETRING_TARGET_LOCATION", "eu1"));
    wait_for(&entries, events::PEER_UP, ("NETRING_TARGET_LOCATION", "eu1"));
    drop(member);
}
