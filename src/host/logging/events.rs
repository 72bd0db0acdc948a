//! The kinds of event worth an alert, and what there is to say about each.
//!
//! An event of such a kind has the field `event` with its name. In the journal it gets the kind's `MESSAGE_ID`, by which
//! journalctl(1), a catalog and whoever watches the journal find it whatever its words are. So an id is made once and never
//! changed, nor used for another kind. Manual and catalog are made from this table.

use crate::config::Role;

/// The field that names an event's kind.
pub(super) const KIND: &str = "event";

/// One kind of event.
#[derive(Debug)]
pub struct Kind {
    /// The name, as the field `event` has it.
    pub name: &'static str,
    /// The `MESSAGE_ID`, 128 bits in hexadecimal digits.
    pub id: &'static str,
    /// Which daemons log it.
    pub by: &'static [Role],
    /// What has happened, in a few words.
    pub title: &'static str,
    /// The facts, as the catalog fills them in from the fields of the event.
    pub facts: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

/// A check of a peer fails that did not fail before.
pub const PEER_DOWN: &str = "peer-down";
/// A check of a peer succeeds again.
pub const PEER_UP: &str = "peer-up";
/// The registry cannot be reached.
pub const REGISTRY_LOST: &str = "registry-lost";
/// The registry answers, and not as it should.
pub const REGISTRY_REFUSES: &str = "registry-refuses";
/// The registry answers as it should again.
pub const REGISTRY_BACK: &str = "registry-back";
/// The member cannot trust what it sees.
pub const MEMBER_UNWELL: &str = "member-unwell";
/// The member trusts what it sees again.
pub const MEMBER_WELL: &str = "member-well";
/// Two members have one identity.
pub const IDENTITY_TWICE: &str = "identity-twice";
/// The registry takes no registrations.
pub const STORE_LOST: &str = "store-lost";
/// The registry takes registrations again.
pub const STORE_BACK: &str = "store-back";
/// A member's lease has ended.
pub const LEASE_ENDED: &str = "lease-ended";
/// A start or a reload was refused.
pub const CONFIGURATION_REFUSED: &str = "configuration-refused";
/// A reload took the configuration up.
pub const CONFIGURATION_IN_FORCE: &str = "configuration-in-force";
/// A vital loop stands still.
pub const LOOP_STALLED: &str = "loop-stalled";

const MEMBER: &[Role] = &[Role::Member];
const REGISTRY: &[Role] = &[Role::Registry];
const BOTH: &[Role] = &[Role::Registry, Role::Member];

/// Every kind.
pub const KINDS: [Kind; 14] = [
    Kind {
        name: PEER_DOWN,
        id: "eab510e2f8294c1a8d2f4153b4444848",
        by: MEMBER,
        title: "A peer is down",
        facts: "Seen from @NETRING_LOCATION@ (@NETRING_INSTANCE@): @NETRING_TARGET_LOCATION@ (@NETRING_TARGET@) fails the \
                check @NETRING_CHECK@ with @NETRING_REASON@: @NETRING_DETAIL@.",
        meaning: "A check of a peer fails that succeeded before, or has failed from the first. It goes on; the next line about \
                  it tells of its success.",
        advice: "Where other members see the same peer down, look at the peer and its site; where only this one does, look at \
                 the way between the two.",
    },
    Kind {
        name: PEER_UP,
        id: "82dc47002084481ca57b436b33ee7528",
        by: MEMBER,
        title: "A peer is up again",
        facts: "Seen from @NETRING_LOCATION@ (@NETRING_INSTANCE@): @NETRING_TARGET_LOCATION@ (@NETRING_TARGET@) passes the \
                check @NETRING_CHECK@ again, after @NETRING_LASTED@ and @NETRING_FAILED_PROBES@ failed probes.",
        meaning: "A check of a peer succeeds that failed before.",
        advice: "Nothing is left to do.",
    },
    Kind {
        name: REGISTRY_LOST,
        id: "7aea8699d4e945b4aeb17adc87f3f7e1",
        by: MEMBER,
        title: "The registry cannot be reached",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ has no answer from @NETRING_REGISTRY@: @NETRING_REASON@.",
        meaning: "The member goes on probing the ring as it last knew it, and goes on asking. Its lease ends meanwhile, so that \
                  others may take it for gone.",
        advice: "See whether the registry runs, and whether this host reaches it: netring status --registry URL.",
    },
    Kind {
        name: REGISTRY_REFUSES,
        id: "3b88749442b54505a238d2867dd5ff3c",
        by: MEMBER,
        title: "The registry refuses this member",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ was refused by @NETRING_REGISTRY@ (@NETRING_REQUEST@): \
                @NETRING_REASON@.",
        meaning: "The registry answers, and does not do what it is asked for. The member goes on as if it were lost.",
        advice: "The registry's answer says why: its store may be away, the ring full, or the address not allowed.",
    },
    Kind {
        name: REGISTRY_BACK,
        id: "6167b0e8248a46cf994331321592cd72",
        by: MEMBER,
        title: "The registry is back",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ is served by @NETRING_REGISTRY@ again, after \
                @NETRING_LASTED@ and @NETRING_ATTEMPTS@ failed requests.",
        meaning: "The registry does again what it is asked for.",
        advice: "Nothing is left to do.",
    },
    Kind {
        name: MEMBER_UNWELL,
        id: "4be98e01b16e469fab579e142de9f716",
        by: MEMBER,
        title: "A member is unwell",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ is unwell: @NETRING_REASON@.",
        meaning: "The host of this member does not let it probe as it should. What it sees fail meanwhile is counted with the \
                  reason local and held against no peer.",
        advice: "Look at this host: its load, its limits of descriptors and memory, its network.",
    },
    Kind {
        name: MEMBER_WELL,
        id: "84ff094134d94616b3f21beabb38acdd",
        by: MEMBER,
        title: "A member is well again",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ is well again.",
        meaning: "Nothing has kept the member from probing for a minute or an interval.",
        advice: "Nothing is left to do.",
    },
    Kind {
        name: IDENTITY_TWICE,
        id: "e05863ded071429883bb702508447b6f",
        by: MEMBER,
        title: "Two members have one identity",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ is on the roster with the address @NETRING_ADDRESS@, which is \
                not its own.",
        meaning: "Another member runs with the identity of this one, and its peers see only one of the two.",
        advice: "Give each its own member.instance_id; a copied state directory is the usual cause, remove instance-id there.",
    },
    Kind {
        name: STORE_LOST,
        id: "91b385c42a8849a5b2de7f3afefb3bf8",
        by: REGISTRY,
        title: "The registry takes no registrations",
        facts: "The store @NETRING_STORE@ is in trouble: @NETRING_REASON@.",
        meaning: "The roster is served as it was last known. Whoever registers is told to come again; members go on probing.",
        advice: "See to Redis, or to the disk of the state directory. Nothing has to be restarted.",
    },
    Kind {
        name: STORE_BACK,
        id: "db9aa7e1666144b09f4c5bad16afcf2e",
        by: REGISTRY,
        title: "The registry takes registrations again",
        facts: "The store @NETRING_STORE@ is well again, after @NETRING_LASTED@.",
        meaning: "The store does again what it is asked for.",
        advice: "Nothing is left to do.",
    },
    Kind {
        name: LEASE_ENDED,
        id: "4c262643741243a7bcfceb2bdcdb395b",
        by: REGISTRY,
        title: "A member has gone without a word",
        facts: "Member @NETRING_INSTANCE@ at @NETRING_LOCATION@ sent no heartbeat within member_ttl.",
        meaning: "It is off the roster, and nobody probes it any more. A member that is stopped takes its leave instead.",
        advice: "See whether its host runs, and whether it reaches the registry.",
    },
    Kind {
        name: CONFIGURATION_REFUSED,
        id: "f5a34e97fae4481cb6e97a939334e46d",
        by: BOTH,
        title: "A configuration was refused",
        facts: "What is wrong with it: @NETRING_REASON@",
        meaning: "The daemon has read a configuration that is wrong. At a reload the old one stays in force; at the start there \
                  is none, and the daemon ends with exit code 78.",
        advice: "Correct it, try it by netring check FILE, and reload, or start again where nothing runs. A restart with the \
                 wrong one fails.",
    },
    Kind {
        name: CONFIGURATION_IN_FORCE,
        id: "f9264e2e084c4c01b69bb7cdbba056ba",
        by: BOTH,
        title: "A new configuration is in force",
        facts: "It was read again.",
        meaning: "The daemon was told to read its configuration again, and has taken it up.",
        advice: "Nothing is left to do, unless a line beside it names keys that wait for a restart.",
    },
    Kind {
        name: LOOP_STALLED,
        id: "9700b4070d1f408a815b11d5f3aa6a41",
        by: BOTH,
        title: "A part of the daemon stands still",
        facts: "@NETRING_REASON@.",
        meaning: "A loop that must never stand still does. systemd is told nothing from now on, and restarts the daemon when \
                  its watchdog's time is over.",
        advice: "Look at this host: a disk or a file system that hangs, memory that is swapped out, a stopped process.",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// The table as systemd reads it (journalctl(1), `--catalog`).
    fn catalog() -> String {
        let mut text = String::from("# What journalctl -x says beside the events of netring.\n");
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

    /// Written anew where `UPDATE_GOLDEN` is set.
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
