//! The whole life of the packages on booted hosts: the administrators' page is followed word for word, from the first
//! installation over an upgrade and the way back to the removal, and a host that had netring is as it was before.

pub mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::booted::{Booted, MEMBER_PORT, REGISTRY_PORT, System};
use support::fabric::Fabric;
use support::packages::{DEB_ARCHITECTURE, Packages, page};
use support::{SOON, Scratch, eventually, http};

const SOURCES: &str = env!("CARGO_MANIFEST_DIR");

const REGISTRY: &str = "netring-registry.service";
const MEMBER: &str = "netring-member.service";
const UNITS: [&str; 4] = [REGISTRY, MEMBER, "netring-registry.socket", "netring-member.socket"];

/// What an administrator edits.
const CONFIGURATION: [&str; 4] =
    ["netring/registry.yaml", "netring/member.yaml", "default/netring-registry", "default/netring-member"];

/// A member that the test plays itself, as far as the registry can tell.
const PEER: &str = "eu1-id";

/// The name that the page gives to the registry's host.
const REGISTRY_NAME: &str = "registry.us1.company.com";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Deb,
    Rpm,
}

impl Family {
    /// The section of the page about the first installation.
    fn section(self) -> &'static str {
        match self {
            Self::Deb => "Debian and Ubuntu",
            Self::Rpm => "Fedora, RHEL, SUSE",
        }
    }

    /// The name of a package of that version.
    fn file(self, version: &str) -> String {
        match self {
            Self::Deb => format!("netring_{version}-1_{DEB_ARCHITECTURE}.deb"),
            Self::Rpm => format!("netring-{version}-1.{}.rpm", std::env::consts::ARCH),
        }
    }

    /// The commands of a section that are this family's, from all its blocks.
    fn commands(self, section: &str) -> Vec<String> {
        let program = match self {
            Self::Deb => "apt-get ",
            Self::Rpm => "rpm ",
        };
        page(section).into_iter().flatten().filter(|command| command.starts_with(program)).collect()
    }

    /// Where the default that was not taken lies beside an edited file.
    fn not_taken(self, file: &str) -> String {
        match self {
            Self::Deb => format!("/etc/{file}.dpkg-dist"),
            Self::Rpm => format!("/etc/{file}.rpmnew"),
        }
    }

    /// What the system itself keeps of packages that come and go.
    fn may_differ(self) -> &'static [&'static str] {
        match self {
            // dpkg's database with its back-ups, the logs, what apt worked out from the database, an empty directory.
            Self::Deb => &[
                "/var/lib/dpkg/",
                "/var/lib/apt/",
                "/var/log/dpkg.log",
                "/var/log/apt/",
                "/var/cache/apt/",
                "/var/cache/debconf/tmp.ci",
            ],
            // The database of Debian's rpm, and directories that belong to other packages where rpm is at home.
            Self::Rpm => &[
                "/root/.rpmdb",
                "/root/.rpmdb/",
                "/usr/share/licenses",
                "/usr/share/fish",
                "/usr/share/fish/vendor_completions.d",
                "/usr/share/zsh/site-functions",
            ],
        }
    }
}

/// What runs the life of a package on a host.
struct Life<'a> {
    host: &'a Booted,
    family: Family,
    /// The versions, as the page has them: the one to begin with, and the one after it.
    versions: [String; 2],
}

impl Life<'_> {
    /// Types a command of the page into a shell in the directory of the packages, answers what it asks, and gives back all it
    /// wrote. It must succeed.
    #[track_caller]
    fn follow(&self, command: &str) -> String {
        // The system is Debian, whose packages are none of rpm's.
        let command = match command.strip_prefix("rpm ") {
            Some(rest) if !rest.starts_with("--erase") => format!("rpm --nodeps {rest}"),
            _ => command.to_owned(),
        };
        let script = format!("cd /root && {{ {command}\n}} 2>&1");
        let mut shell = self.host.command("bash");
        let mut shell =
            shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter starts");
        let (mut answers, mut output) = (shell.stdin.take().expect("a pipe"), shell.stdout.take().expect("a pipe"));
        let (mut said, mut part) = (String::new(), [0; 4096]);
        while let Ok(length @ 1..) = output.read(&mut part) {
            said += &String::from_utf8_lossy(&part[..length]);
            if said.ends_with("[Y/n] ") {
                answers.write_all(b"y\n").expect("it waits for an answer");
            } else if said.ends_with("[default=N] ? ") {
                answers.write_all(b"\n").expect("it waits for an answer");
            }
        }
        let status = shell.wait().expect("a child can be waited for");
        println!("# {command}\n{said}");
        assert!(status.success(), "{command}: {status}\n{said}");
        said
    }

    fn installed_version(&self) -> String {
        let words: &[&str] = match self.family {
            Family::Deb => &["dpkg-query", "--show", "--showformat=${Version} ${db:Status-Abbrev}", "netring"],
            Family::Rpm => &["rpm", "--query", "--queryformat", "%{VERSION}-%{RELEASE}", "netring"],
        };
        self.host.run(words).trim().trim_end_matches(" ii").to_owned()
    }

    /// Fails unless each unit is in this state, by `systemctl show`.
    #[track_caller]
    fn assert_units(&self, states: [(&str, &str); 4]) {
        for (unit, (enabled, active)) in UNITS.into_iter().zip(states) {
            let now = (self.host.property(unit, "UnitFileState"), self.host.property(unit, "ActiveState"));
            assert_eq!((&*now.0, &*now.1), (enabled, active), "{unit}");
        }
    }

    /// Fails unless nobody listens where netring would.
    #[track_caller]
    fn assert_nobody_listens(&self) {
        for port in [REGISTRY_PORT, MEMBER_PORT] {
            let why = self.host.try_get(port, "/health").expect_err("nobody listens");
            assert!(why.contains("refused"), "{why}");
        }
    }

    fn configuration(&self) -> BTreeMap<&'static str, String> {
        CONFIGURATION.into_iter().map(|file| (file, self.host.read(&format!("/etc/{file}")))).collect()
    }

    /// The identity of the member, which must be well and in the ring.
    #[track_caller]
    fn identity(&self) -> String {
        let health = self.host.get(MEMBER_PORT, "/health");
        assert_eq!(health.status, 200, "{}", health.text());
        health.json()["instance_id"].as_str().expect("a text").to_owned()
    }

    /// Since when the registry lists a member, which it must.
    #[track_caller]
    fn listed(&self, id: &str) -> Value {
        eventually(SOON, &format!("{id} is listed"), || {
            let members = self.host.try_get(REGISTRY_PORT, "/members")?.json()["members"].clone();
            let member = members.as_array().into_iter().flatten().find(|member| member["instance_id"] == id);
            member.map(|member| member["registered_at"].clone()).ok_or(members.to_string())
        })
    }

    fn process(&self, unit: &str) -> String {
        self.host.property(unit, "MainPID")
    }

    /// Asks the member without a break while a command is followed; it must answer each time.
    #[track_caller]
    fn follow_and_ask(&self, command: &str) -> String {
        let (ended, host) = (AtomicBool::new(false), &self.host.host);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let member = SocketAddr::new(host.v4.into(), MEMBER_PORT);
                host.inside(|| {
                    let mut answers = Vec::new();
                    while !ended.load(Ordering::Relaxed) || answers.len() < 200 {
                        answers.push(http::get(member, "/health").map(|answer| answer.status));
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    answers
                })
            });
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.follow(command)));
            ended.store(true, Ordering::Relaxed);
            let answers = asking.join().expect("asking does not panic");
            let said = said.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let wrong: Vec<_> = answers.iter().filter(|answer| **answer != Ok(200)).collect();
            assert!(wrong.is_empty(), "{} of {} while {command}: {wrong:?}", wrong.len(), answers.len());
            said
        })
    }
}

/// Everything on a host that outlives a command: each file with kind, mode, owner, and what it holds, and each unit file.
struct Inventory {
    files: BTreeMap<String, String>,
    units: String,
}

impl Inventory {
    fn take(host: &Booted) -> Self {
        // The disk, and what lies in memory.
        let list = r"find / /run /tmp /dev/shm -xdev -printf '%p\t%y %m %u:%g %l\n'";
        let sums = r"find / /run /tmp /dev/shm -xdev -type f -print0 | xargs -0 sha256sum --zero | tr '\0' '\n'";
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for line in host.run(&["sh", "-c", list]).lines() {
            let (path, facts) = line.split_once('\t').expect("the form that was asked for");
            files.insert(path.to_owned(), facts.to_owned());
        }
        for line in host.run(&["sh", "-c", sums]).lines() {
            let (sum, path) = line.split_once("  ").expect("the form of sha256sum");
            files.entry(path.to_owned()).or_default().push_str(sum);
        }
        let units = host.run(&["systemctl", "list-unit-files", "--no-legend", "--no-pager"]);
        Self { files, units }
    }

    /// What differs from an earlier one, but for what may.
    fn differences(&self, before: &Self, family: Family) -> Vec<String> {
        let systemd = [
            // Its books on units that run, and the journal.
            "/run/systemd/",
            "/var/log/journal/",
            // Made for the first service that has no fixed user, for all to come; the same in /var/lib is made at boot.
            "/run/private",
            // It has told the consoles that units were read again.
            "/run/agetty.reload",
        ];
        // A name with a slash at its end stands for all that is in the directory.
        let within = |path: &str, place: &str| path == place || place.ends_with('/') && path.starts_with(place);
        let may_differ = |path: &str| systemd.iter().chain(family.may_differ()).any(|place| within(path, place));
        let paths = before.files.keys().chain(self.files.keys().filter(|path| !before.files.contains_key(*path)));
        paths
            .filter(|path| !may_differ(path))
            .filter(|path| before.files.get(*path) != self.files.get(*path))
            .map(|path| format!("{path}: {:?}, now {:?}", before.files.get(path), self.files.get(path)))
            .collect()
    }
}

/// Fails unless the host is as it was before netring came.
#[track_caller]
fn assert_nothing_left(life: &Life, before: &Inventory) {
    let host = life.host;
    let after = Inventory::take(host);
    assert_eq!(after.units, before.units, "unit files");
    let differences = after.differences(before, life.family);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // Whatever else changes by itself has nothing of netring in it: but for the packages that the test put there.
    let named: Vec<_> =
        after.files.keys().filter(|path| path.contains("netring") && !path.starts_with("/root/")).collect();
    assert!(named.is_empty(), "{named:?}");
    let loaded = host.run(&["systemctl", "list-units", "--all", "--no-legend", "--no-pager", "netring*"]);
    assert_eq!(loaded, "");
    let (_, processes) = host.fails(&["pgrep", "--list-full", "netring"]);
    assert_eq!(processes, "");
    life.assert_nobody_listens();
}

/// The defaults of an older version: what was changed since stands at the end of each file that changed.
fn older_defaults() -> Scratch {
    let older = Scratch::new();
    let copied = Command::new("cp")
        .args(["--recursive", "--no-target-directory"])
        .arg(Path::new(SOURCES).join("packaging/etc"))
        .arg(older.path())
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "the defaults can be copied");
    let changed = [
        ("registry.yaml", "\n  member_ttl: 240\n"),
        ("member.yaml", "\n  intervals:\n    check_interval: 20\n"),
        ("default/netring-member", "\nLOG_LEVEL=debug\n"),
    ];
    for (file, end) in changed {
        let path = older.path().join(file);
        let text = fs::read_to_string(&path).expect("the defaults can be read");
        fs::write(path, text + end).expect("the copy can be changed");
    }
    older
}

/// What the defaults of a version say, by file; those of `packaging/etc` where no other directory is named.
fn defaults(directory: Option<&Path>) -> BTreeMap<&'static str, String> {
    let own = Path::new(SOURCES).join("packaging/etc");
    let read = |file: &str| {
        let path = directory.unwrap_or(&own).join(file.trim_start_matches("netring/"));
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
    };
    CONFIGURATION.into_iter().map(|file| (file, read(file))).collect()
}

/// The version in the name of the package that a command of the page names.
fn version(family: Family, command: &str) -> String {
    let [before, after] = match family {
        Family::Deb => ["netring_", "-1_"],
        Family::Rpm => ["netring-", "-1."],
    };
    let (_, rest) = command.split_once(before).unwrap_or_else(|| panic!("no package in {command}"));
    let (version, _) = rest.split_once(after).unwrap_or_else(|| panic!("no version in {command}"));
    assert!(command.contains(&family.file(version)), "{command}");
    version.to_owned()
}

fn live(system: System, family: Family) {
    let install = family.commands(family.section())[0].clone();
    let [upgrade, downgrade] = &family.commands("Upgrade, downgrade")[..] else { panic!("one command for each way") };
    let versions = [version(family, &install), version(family, upgrade)];
    assert_eq!(version(family, downgrade), versions[0], "the way back");

    let older = older_defaults();
    let Some(old) = Packages::build(&versions[0], Some(older.path())) else { return };
    let Some(new) = Packages::build(&versions[1], None) else { return };
    let Some(fabric) = Fabric::new(&["us1"]) else { return };
    let Some(host) = Booted::start(&fabric.hosts()[0], system) else { return };
    for (packages, version) in [(&old, &versions[0]), (&new, &versions[1])] {
        let package = if family == Family::Deb { packages.deb() } else { packages.rpm() };
        host.copy(package, &format!("/root/{}", family.file(version)), 0o644);
    }
    host.write("/etc/hosts", &format!("127.0.0.1 localhost\n{} us1 {REGISTRY_NAME}\n", host.host.v4));
    let life = Life { host: &host, family, versions };
    let before = Inventory::take(&host);

    first_installation(&life);
    four_commands(&life);
    hold_the_port_open(&life);
    upgrade_restarts_what_runs(&life, upgrade, &defaults(Some(older.path())));
    downgrade_reads_the_state(&life, downgrade, &defaults(Some(older.path())));
    remove_and_come_back(&life, &install);
    leave(&life, &before);
}

/// Nothing is enabled, nothing runs, and there is no state yet.
fn first_installation(life: &Life) {
    life.follow(&page(life.family.section())[0][0]);
    assert_eq!(life.installed_version(), format!("{}-1", life.versions[0]));
    life.assert_units([("disabled", "inactive"); 4]);
    life.assert_nobody_listens();
    for directory in ["/var/lib", "/var/lib/private", "/run", "/run/private"] {
        for service in ["netring-member", "netring-registry"] {
            assert!(!life.host.has(&format!("{directory}/{service}")), "{service} in {directory}");
        }
    }
    assert!(life.host.run(&["netring", "--version"]).starts_with("netring "));
}

/// The rest of the four, with the registry before the member.
fn four_commands(life: &Life) {
    let blocks = page(life.family.section());
    assert_eq!(blocks.len(), 1);
    let [_, edit, enable, status] = &blocks[0][..] else { panic!("four commands: {blocks:?}") };
    let registry = page("The registry");
    assert_eq!(registry.concat().len(), 1, "{registry:?}");
    life.follow(&registry[0][0]);
    life.assert_units([
        ("enabled", "active"),
        ("disabled", "inactive"),
        ("disabled", "inactive"),
        ("disabled", "inactive"),
    ]);
    life.follow(edit);
    life.follow(enable);
    let id = life.identity();
    life.host.wait_for_property(SOON, MEMBER, "StatusText", "0 peers at 0 locations");
    let said = life.follow(status);
    assert!(said.contains("Status: \"0 peers at 0 locations\"") && said.contains("Active: active (running)"), "{said}");
    let _ = life.listed(&id);
    assert_eq!(life.host.get(MEMBER_PORT, "/health").json()["location"], "us1-office");
}

/// The port of the member is systemd's from now on.
fn hold_the_port_open(life: &Life) {
    for command in &page("Keep the port open during restarts")[0] {
        life.follow(command);
    }
    life.assert_units([("enabled", "active"), ("enabled", "active"), ("disabled", "inactive"), ("enabled", "active")]);
}

/// Only the member runs, and whoever asks it through its socket meanwhile is answered.
fn upgrade_restarts_what_runs(life: &Life, upgrade: &str, older: &BTreeMap<&str, String>) {
    let id = life.identity();
    life.host.run(&["systemctl", "stop", REGISTRY]);
    let (process, edited) = (life.process(MEMBER), life.configuration());
    assert_ne!(edited["netring/member.yaml"], older["netring/member.yaml"]);
    let opened = life.host.property("netring-member.socket", "ActiveEnterTimestampMonotonic");

    let said = life.follow_and_ask(upgrade);
    assert_eq!(life.installed_version(), format!("{}-1", life.versions[1]));
    life.assert_units([
        ("enabled", "inactive"),
        ("enabled", "active"),
        ("disabled", "inactive"),
        ("enabled", "active"),
    ]);
    assert_ne!(life.process(MEMBER), process, "the new program runs");
    assert_eq!(life.host.property("netring-member.socket", "ActiveEnterTimestampMonotonic"), opened);
    assert_eq!(life.identity(), id);
    assert_edited_stays(life, &edited, &defaults(None), &said);
}

/// Both run, so both are restarted, and the registry knows the member from before.
fn downgrade_reads_the_state(life: &Life, downgrade: &str, older: &BTreeMap<&str, String>) {
    life.host.run(&["systemctl", "start", REGISTRY]);
    let registry = SocketAddr::new(life.host.host.v4.into(), REGISTRY_PORT);
    let body = format!(r#"{{"instance_id": "{PEER}", "location": "eu1", "ip": "{}", "port": 9}}"#, registry.ip());
    let answer = life.host.host.inside(|| http::post(registry, "/register", &body)).expect("the registry answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (id, registered, edited) = (life.identity(), life.listed(PEER), life.configuration());
    let processes = [REGISTRY, MEMBER].map(|unit| life.process(unit));

    let said = life.follow(downgrade);
    assert_eq!(life.installed_version(), format!("{}-1", life.versions[0]));
    life.assert_units([("enabled", "active"), ("enabled", "active"), ("disabled", "inactive"), ("enabled", "active")]);
    for (unit, process) in [REGISTRY, MEMBER].into_iter().zip(processes) {
        assert_ne!(life.process(unit), process, "{unit}");
    }
    assert_eq!(life.identity(), id);
    assert_eq!(life.listed(PEER), registered, "the roster was kept");
    assert_edited_stays(life, &edited, older, &said);
}

/// What the administrator edited is as it was, with the other default beside it; the rest has the defaults of the version.
#[track_caller]
fn assert_edited_stays(life: &Life, edited: &BTreeMap<&str, String>, defaults: &BTreeMap<&str, String>, said: &str) {
    let now = life.configuration();
    for file in CONFIGURATION {
        let wanted = if file == "netring/member.yaml" { edited } else { defaults };
        assert_eq!(now[file], wanted[file], "{file}");
        let beside = life.family.not_taken(file);
        if file == "netring/member.yaml" {
            assert_eq!(life.host.read(&beside), defaults[file], "{beside}");
        } else {
            assert!(!life.host.has(&beside), "{beside}");
        }
    }
    if life.family == Family::Deb {
        assert_eq!(said.matches("[default=N] ?").count(), 1, "apt asks about the edited file alone:\n{said}");
    }
}

/// Away with it and back: it finds what it kept.
fn remove_and_come_back(life: &Life, install: &str) {
    let (host, id, edited) = (life.host, life.identity(), life.configuration());
    let registered = life.listed(PEER);
    life.follow(&life.family.commands("Remove")[0]);
    life.assert_nobody_listens();
    assert!(!host.has("/usr/bin/netring"));
    for unit in UNITS {
        assert_eq!(host.property(unit, "ActiveState"), "inactive", "{unit}");
        assert!(!host.has(&format!("/usr/lib/systemd/system/{unit}")), "{unit}");
    }
    match life.family {
        Family::Deb => assert_eq!(life.configuration(), edited),
        Family::Rpm => {
            let member = "/etc/netring/member.yaml";
            assert_eq!(host.read(&format!("{member}.rpmsave")), edited["netring/member.yaml"]);
            for file in CONFIGURATION {
                assert!(!host.has(&format!("/etc/{file}")), "{file}");
            }
        }
    }

    life.follow(install);
    life.assert_nobody_listens();
    match life.family {
        // What was enabled before is enabled again; nothing is started.
        Family::Deb => life.assert_units([
            ("enabled", "inactive"),
            ("enabled", "inactive"),
            ("disabled", "inactive"),
            ("enabled", "inactive"),
        ]),
        Family::Rpm => {
            life.assert_units([("disabled", "inactive"); 4]);
            host.run(&["mv", "/etc/netring/member.yaml.rpmsave", "/etc/netring/member.yaml"]);
        }
    }
    assert_eq!(life.configuration(), edited);
    host.run(&["systemctl", "enable", "--now", REGISTRY, MEMBER]);
    assert_eq!(life.identity(), id);
    assert_eq!(life.listed(PEER), registered);
}

/// While both run: it goes, and leaves nothing.
fn leave(life: &Life, before: &Inventory) {
    let _ = life.listed(&life.identity());
    match life.family {
        Family::Deb => {
            life.follow(&life.family.commands("Remove")[1]);
        }
        Family::Rpm => {
            life.follow(&life.family.commands("Remove")[0]);
            let rest: Vec<_> = page("Remove").concat().into_iter().filter(|line| line.starts_with("rm ")).collect();
            assert_eq!(rest.len(), 1, "{rest:?}");
            assert!(life.host.has("/etc/netring/member.yaml.rpmsave"));
            life.follow(&rest[0]);
        }
    }
    assert_nothing_left(life, before);
}

#[test]
fn the_deb_on_systemd_252() {
    live(System::Bookworm, Family::Deb);
}

#[test]
fn the_deb_on_systemd_257() {
    live(System::Trixie, Family::Deb);
}

#[test]
fn the_rpm_on_systemd_252() {
    live(System::Bookworm, Family::Rpm);
}
