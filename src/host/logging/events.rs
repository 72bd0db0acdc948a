//! The kinds of event that are worth an alert, with the explanation of each.
//!
//! An event of such a kind carries its name in the field `event`. In the journal it also gets the kind's `MESSAGE_ID`, by
//! which journalctl(1), the catalog and log monitors recognise it even if the message text changes. An id must therefore
//! never change and never be reused for another kind. The manual pages and the journal catalog are generated from this table.

use crate::config::Role;

/// The name of the field that holds an event's kind.
pub(super) const KIND: &str = "event";

/// One kind of event.
#[derive(Debug)]
pub struct Kind {
    /// The name, as it appears in the field `event`.
    pub name: &'static str,
    /// The `MESSAGE_ID`, 128 bits in hexadecimal digits.
    pub id: &'static str,
    /// Which daemons log it.
    pub by: &'static [Role],
    /// What has happened, in a few words: the subject line of the catalog entry.
    pub title: &'static str,
    /// The details; journalctl replaces each `@FIELD@` by that field of the entry.
    pub facts: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

/// A check of a peer started to fail.
pub const PEER_DOWN: &str = "peer-down";
/// A check of a peer succeeds again.
pub const PEER_UP: &str = "peer-up";
/// A peer cannot be probed from this host.
pub const PEER_NOT_PROBED: &str = "peer-not-probed";
/// Another member of a peer's location answers at the peer's address.
pub const PEER_ANOTHER: &str = "peer-another";
/// The registry cannot be reached.
pub const REGISTRY_LOST: &str = "registry-lost";
/// The registry answers, but with an error.
pub const REGISTRY_REFUSES: &str = "registry-refuses";
/// The registry answers without error again.
pub const REGISTRY_BACK: &str = "registry-back";
/// The member cannot trust its own results.
pub const MEMBER_UNWELL: &str = "member-unwell";
/// The member can trust its own results again.
pub const MEMBER_WELL: &str = "member-well";
/// Two members use the same identity.
pub const IDENTITY_TWICE: &str = "identity-twice";
/// The registry accepts no registrations.
pub const STORE_LOST: &str = "store-lost";
/// The registry accepts registrations again.
pub const STORE_BACK: &str = "store-back";
/// A member's lease has ended.
pub const LEASE_ENDED: &str = "lease-ended";
/// A start or a reload was refused.
pub const CONFIGURATION_REFUSED: &str = "configuration-refused";
/// A reload put the new configuration in force.
pub const CONFIGURATION_IN_FORCE: &str = "configuration-in-force";
/// A thread that the daemon depends on is stalled.
pub const LOOP_STALLED: &str = "loop-stalled";

const MEMBER: &[Role] = &[Role::Member];
const REGISTRY: &[Role] = &[Role::Registry];
const BOTH: &[Role] = &[Role::Registry, Role::Member];

/// Every kind.
pub const KINDS: [Kind; 16] = [
    Kind {
        name: PEER_DOWN,
        id: "eab510e2f8294c1a8d2f4153b4444848",
        by: MEMBER,
        title: "A peer is down",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@: the check @NETRING_CHECK@ of @NETRING_TARGET_LOCATION@ \
                (@NETRING_TARGET@) fails with reason @NETRING_REASON@: @NETRING_DETAIL@.",
        meaning: "A check of this peer has started to fail, or has failed since the first probe. The member keeps probing and \
                  logs the next success, not each failure.",
        advice: "If other members report the same peer as down, look at the peer and its site. If only this member does, look \
                 at the network path between the two.",
    },
    Kind {
        name: PEER_UP,
        id: "82dc47002084481ca57b436b33ee7528",
        by: MEMBER,
        title: "A peer is up again",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@: the check @NETRING_CHECK@ of @NETRING_TARGET_LOCATION@ \
                (@NETRING_TARGET@) succeeds again, after @NETRING_LASTED@ and @NETRING_FAILED_PROBES@ failed probes.",
        meaning: "A check of this peer that failed before succeeds again.",
        advice: "No action is needed.",
    },
    Kind {
        name: PEER_NOT_PROBED,
        id: "1c1ce1f3be694f8c93e5dc5ea1f8ef0c",
        by: MEMBER,
        title: "A peer cannot be probed from this host",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ cannot send anything to @NETRING_TARGET_LOCATION@ \
                (@NETRING_TARGET@) at @NETRING_ADDRESS@: @NETRING_REASON@.",
        meaning: "The kernel of this host refuses to send packets to the address of the peer: it has no route to the address, or \
                  no address of that family (IPv4, IPv6). Whether the peer is up is unknown here. The member keeps trying.",
        advice: "Add a route on this host, or let the peer register another address (member.server.advertise_ip at the peer).",
    },
    Kind {
        name: PEER_ANOTHER,
        id: "0c8bd9c0a0d64be3b1fbb6a2b1a1f4d7",
        by: MEMBER,
        title: "Another member answers at the address of a peer",
        facts: "Seen from @NETRING_LOCATION@ (@NETRING_INSTANCE@): member @NETRING_ANSWERS@ answers at @NETRING_ADDRESS@, the \
                address of @NETRING_TARGET_LOCATION@ (@NETRING_TARGET@).",
        meaning: "The path to the location works, but nothing shows that this peer is alive. Either it was started again with a \
                  new identity, or several members are behind one address.",
        advice: "To keep its identity after a restart, a member needs --state-dir or member.instance_id. If several members are \
                 behind one address, give each its own address or port (member.server.advertise_ip, advertise_port).",
    },
    Kind {
        name: REGISTRY_LOST,
        id: "7aea8699d4e945b4aeb17adc87f3f7e1",
        by: MEMBER,
        title: "The registry cannot be reached",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ gets no answer from @NETRING_REGISTRY@: @NETRING_REASON@.",
        meaning: "The member keeps probing the peers of the last roster and retries the registry. If no heartbeat reaches the \
                  registry before the member's lease ends, the registry removes the member from the roster.",
        advice: "Check that the registry is running and that this host can reach it: netring status --registry URL.",
    },
    Kind {
        name: REGISTRY_REFUSES,
        id: "3b88749442b54505a238d2867dd5ff3c",
        by: MEMBER,
        title: "The registry refuses this member",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@: @NETRING_REGISTRY@ refused the request @NETRING_REQUEST@: \
                @NETRING_REASON@.",
        meaning: "The registry is reachable but answers with an error. The member keeps probing the peers of the last roster \
                  and retries, as it does when the registry cannot be reached.",
        advice: "The registry's answer gives the reason: for example, its store is unavailable, the ring is full, or the address \
                 of the member is not in allowed_networks.",
    },
    Kind {
        name: REGISTRY_BACK,
        id: "6167b0e8248a46cf994331321592cd72",
        by: MEMBER,
        title: "The registry is back",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@: @NETRING_REGISTRY@ answers again, after @NETRING_LASTED@ and \
                @NETRING_ATTEMPTS@ failed requests.",
        meaning: "The registry answers the member's requests without error again.",
        advice: "No action is needed.",
    },
    Kind {
        name: MEMBER_UNWELL,
        id: "4be98e01b16e469fab579e142de9f716",
        by: MEMBER,
        title: "A member is unwell",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ is unwell: @NETRING_REASON@.",
        meaning: "A problem of this member's own host or its connection keeps it from probing properly. Failures during that \
                  time are counted with reason local and do not mark any peer down.",
        advice: "The reason says where to look: at the processor load of this host, its limits on file descriptors and memory, \
                 its network interface, its gateway or its route. If the member is isolated, look at the connection of this \
                 host, its firewall and its connection tracking table.",
    },
    Kind {
        name: MEMBER_WELL,
        id: "84ff094134d94616b3f21beabb38acdd",
        by: MEMBER,
        title: "A member is well again",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ is well again.",
        meaning: "For a minute, or one check interval if that is longer, nothing has kept the member from probing.",
        advice: "No action is needed.",
    },
    Kind {
        name: IDENTITY_TWICE,
        id: "e05863ded071429883bb702508447b6f",
        by: MEMBER,
        title: "Two members use the same identity",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ is on the roster with the address @NETRING_ADDRESS@, which is \
                not its own.",
        meaning: "Another member is running with the same instance id, so the other members see only one of the two.",
        advice: "The usual cause is a copied state directory: remove the file instance-id from the copy and restart that \
                 member. If member.instance_id is set, give each member its own.",
    },
    Kind {
        name: STORE_LOST,
        id: "91b385c42a8849a5b2de7f3afefb3bf8",
        by: REGISTRY,
        title: "The registry accepts no registrations",
        facts: "The store @NETRING_STORE@ has failed: @NETRING_REASON@.",
        meaning: "The registry keeps serving the last roster it has, and answers registrations and heartbeats with status 503. \
                  Members keep probing and retry.",
        advice: "Repair Redis, or the disk that holds the state directory. The registry then recovers without a restart.",
    },
    Kind {
        name: STORE_BACK,
        id: "db9aa7e1666144b09f4c5bad16afcf2e",
        by: REGISTRY,
        title: "The registry accepts registrations again",
        facts: "The store @NETRING_STORE@ works again, after @NETRING_LASTED@.",
        meaning: "The registry accepts registrations and heartbeats again.",
        advice: "No action is needed.",
    },
    Kind {
        name: LEASE_ENDED,
        id: "4c262643741243a7bcfceb2bdcdb395b",
        by: REGISTRY,
        title: "A member's lease has ended",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ sent no heartbeat within member_ttl.",
        meaning: "The registry has removed the member from the roster, so the other members stop probing it. A member that is \
                  stopped in the normal way deregisters and does not cause this event.",
        advice: "Check that the member's host is up, that the member is running, and that it can reach the registry.",
    },
    Kind {
        name: CONFIGURATION_REFUSED,
        id: "f5a34e97fae4481cb6e97a939334e46d",
        by: BOTH,
        title: "A configuration was refused",
        facts: "The errors: @NETRING_REASON@",
        meaning: "The daemon has read a configuration with errors. After a reload the old configuration stays in force; at a start \
                  the daemon exits with code 78.",
        advice: "Correct the errors, verify the file with netring check FILE, and then reload the daemon, or start it if it is \
                 not running. Until then a restart fails.",
    },
    Kind {
        name: CONFIGURATION_IN_FORCE,
        id: "f9264e2e084c4c01b69bb7cdbba056ba",
        by: BOTH,
        title: "A new configuration is in force",
        facts: "The configuration has been reloaded.",
        meaning: "The daemon has read its configuration again and uses it from now on.",
        advice: "No action is needed, unless the next log line lists keys that only take effect after a restart.",
    },
    Kind {
        name: LOOP_STALLED,
        id: "9700b4070d1f408a815b11d5f3aa6a41",
        by: BOTH,
        title: "A thread of the daemon is stalled",
        facts: "@NETRING_REASON@.",
        meaning: "A loop that the daemon depends on makes no progress. The daemon stops sending watchdog notifications, so that \
                  systemd restarts it after WatchdogSec=.",
        advice: "Look for the cause on this host: a hanging disk or file system, memory that is swapped out, a stopped process.",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// The table in the catalog format of systemd (journalctl(1), `--catalog`).
    fn catalog() -> String {
        let mut text = String::from("# Explanations of netring's events, shown by journalctl -x.\n");
        for Kind { id, by, title, facts, meaning, advice, .. } in &KINDS {
            let pages: Vec<_> = by.iter().map(|role| format!("man:netring-{}(8)", role.section())).collect();
            let _ = write!(
                text,
                "\n-- {id}\nSubject: {title}\nDefined-By: netring\nDocumentation: {}\n\n{facts}\n\n{meaning}\n\nWhat to do: \
                 {advice}\n",
                pages.join(" ")
            );
        }
        text
    }

    /// With `UPDATE_GOLDEN` set, the file is rewritten.
    #[test]
    fn the_catalog_that_packages_install_is_this_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/netring.catalog");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, catalog()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), catalog(), "{}", path.display());
    }

    #[test]
    fn names_and_ids_are_unique_and_ids_have_their_form() {
        for kind in &KINDS {
            let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(kind.id.len() == 32 && kind.id.chars().all(hexadecimal), "{}", kind.name);
            // Version 4 of RFC 9562: 122 random bits.
            assert!(kind.id.as_bytes()[12] == b'4' && b"89ab".contains(&kind.id.as_bytes()[16]), "{}", kind.name);
        }
        for of in [|kind: &Kind| kind.name, |kind: &Kind| kind.id, |kind: &Kind| kind.title] {
            assert_eq!(KINDS.iter().map(of).collect::<BTreeSet<_>>().len(), KINDS.len());
        }
    }

    #[test]
    fn systemd_takes_the_catalog_and_knows_every_id_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/lib/systemd/catalog");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
        std::fs::write(folder.join("netring.catalog"), catalog()).unwrap();
        let journalctl = |what: &str| {
            let root = format!("--root={}", root.path().display());
            Command::new("journalctl").args([&root, what]).env("SYSTEMD_LOG_LEVEL", "warning").output()
        };
        let Ok(updated) = journalctl("--update-catalog") else {
            println!("SKIP {}: journalctl is not installed", std::thread::current().name().unwrap_or("test"));
            return;
        };
        assert!(updated.status.success() && updated.stderr.is_empty(), "{updated:?}");
        let dumped = journalctl("--dump-catalog").unwrap();
        let text = String::from_utf8(dumped.stdout).unwrap();
        for kind in &KINDS {
            let entry = text.split("-- ").find_map(|entry| entry.strip_prefix(kind.id)).unwrap_or_default();
            assert!(entry.contains(kind.title) && entry.contains(kind.advice), "{}: {entry}", kind.name);
        }
    }
}
