//! The packages as `packaging/build` makes them of the tests' own program: what they hold and what they are called, that
//! linters and systemd have nothing to say about them, and that the same sources give the same bytes.

pub mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::packages::{DEB_ARCHITECTURE, Packages, can_build};
use support::{Scratch, installed};

const PROGRAM: &str = env!("CARGO_BIN_EXE_netring");
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What an administrator edits.
const CONFIGURATION: [&str; 4] = [
    "/etc/default/netring-member",
    "/etc/default/netring-registry",
    "/etc/netring/member.yaml",
    "/etc/netring/registry.yaml",
];

const UNITS: [&str; 4] =
    ["netring-member.service", "netring-member.socket", "netring-registry.service", "netring-registry.socket"];

/// The files of the .deb, laid out.
fn unpacked(packages: &Packages) -> PathBuf {
    let root = packages.path("root");
    run(Command::new("dpkg-deb").arg("--extract").arg(packages.deb()).arg(&root));
    root
}

/// The names of the files beside the packages, and theirs.
fn names(packages: &Packages) -> Vec<String> {
    let entries = fs::read_dir(packages.directory()).expect("the directory can be read");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("its entry can be read"))).collect();
    names.sort();
    names
}

/// Runs it; fails the test with its words where it fails. Gives what it wrote to its output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

fn query(rpm: &Path, arguments: &[&str]) -> String {
    run(Command::new("rpm").args(["--query", "--package"]).args(arguments).arg(rpm))
}

/// Compares with a file of `tests/golden/packages`, which is written anew where `UPDATE_GOLDEN` is set.
#[track_caller]
fn assert_golden(name: &str, found: &str) {
    let golden = Path::new(SOURCES).join("tests/golden/packages").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, found).expect("a golden file can be written");
    }
    assert_eq!(text(&read(&golden)), found, "{}", golden.display());
}

#[test]
fn the_packages_hold_what_they_should() {
    let Some(packages) = Packages::build(VERSION, None) else { return };
    assert_checksums(&packages);
    assert_deb(&packages);
    assert_manual_and_completions(&packages);
    if installed(&["rpm"]) {
        assert_rpm(&packages);
    }
}

fn assert_deb(packages: &Packages) {
    let deb = packages.deb();

    // Mode, owner, path; the sizes and the one time of all are left out.
    let listing = run(Command::new("dpkg-deb").arg("--contents").arg(&deb));
    let mut files = Vec::new();
    for line in listing.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, _size, _day, _time, path] = fields[..] else { panic!("a line of another form: {line}") };
        files.push(format!("{mode} {owner} {path}\n"));
    }
    files.sort_by(|a, b| a.split(' ').next_back().cmp(&b.split(' ').next_back()));
    assert_golden("deb.txt", &files.concat());

    let field = |name: &str| run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg(name)).trim().to_owned();
    for (name, value) in [
        ("Package", "netring"),
        ("Version", &format!("{VERSION}-1")),
        ("Architecture", DEB_ARCHITECTURE),
        ("Section", "net"),
        ("Priority", "optional"),
        ("Recommends", "systemd (>= 252)"),
        ("Breaks", "systemd (<< 252)"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));

    let control = packages.path("control");
    run(Command::new("dpkg-deb").arg("--control").arg(&deb).arg(&control));
    let conffiles = text(&read(control.join("conffiles")));
    let mut conffiles: Vec<&str> = conffiles.lines().collect();
    conffiles.sort_unstable();
    assert_eq!(conffiles, CONFIGURATION);
    let postinst = text(&read(control.join("postinst")));
    let started: Vec<&str> = postinst.lines().filter(|line| line.contains("deb-systemd-invoke")).collect();
    assert_eq!(started.len(), 1, "only what runs is restarted, by one command: {started:?}");
    assert!(started[0].contains(" try-restart netring-registry.service netring-member.service "), "{started:?}");

    let root = unpacked(packages);
    for unit in UNITS {
        let source = Path::new(SOURCES).join("packaging/systemd").join(unit);
        assert_eq!(text(&read(root.join("usr/lib/systemd/system").join(unit))), text(&read(source)), "{unit}");
    }
    let program = run(Command::new(root.join("usr/bin/netring")).arg("--version"));
    assert_eq!(program.trim(), format!("netring {VERSION}"));
    let copyright = text(&read(root.join("usr/share/doc/netring/copyright")));
    assert!(copyright.starts_with("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"));
    assert!(copyright.contains("\nLicense: Expat or Apache-2.0\n"), "the licences of Cargo.toml: {copyright}");
    assert_eq!(env!("CARGO_PKG_LICENSE"), "MIT OR Apache-2.0");
}

fn assert_rpm(packages: &Packages) {
    let rpm = packages.rpm();

    // The flags: c a configuration file, d documentation, n one that is not replaced.
    let format = "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES} %{FILEFLAGS:fflags}\\n]";
    let mut files: Vec<String> =
        query(&rpm, &["--queryformat", format]).lines().map(|line| format!("{}\n", line.trim_end())).collect();
    files.sort_by(|a, b| a.split(' ').nth(2).cmp(&b.split(' ').nth(2)));
    assert_golden("rpm.txt", &files.concat());

    let head = query(&rpm, &["--queryformat", "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{LICENSE}"]);
    assert_eq!(head, format!("netring {VERSION} 1 {} {}", std::env::consts::ARCH, env!("CARGO_PKG_LICENSE")));
    let configuration = query(&rpm, &["--configfiles"]);
    assert_eq!(configuration.lines().collect::<Vec<_>>(), CONFIGURATION);
    let requires = query(&rpm, &["--requires"]);
    // What systems it runs on, as the page says.
    let newest = requires
        .lines()
        .filter_map(|line| line.strip_prefix("libc.so.6(GLIBC_2.")?.split(')').next()?.parse().ok())
        .max();
    assert!(newest.is_some_and(|minor: u32| minor <= 34), "{requires}");
    for wanted in ["systemd >= 252", "libc.so.6()(64bit)", "libc.so.6(GLIBC_2.34)(64bit)", "rtld(GNU_HASH)"] {
        assert!(requires.lines().any(|line| line == wanted), "{wanted} is not in:\n{requires}");
    }
    let find_requires = Path::new("/usr/lib/rpm/find-requires");
    if find_requires.is_file() {
        // RPM's own search says the same of this program.
        let both = r#"diff <(echo "$1" | "$2") <(echo "$1" | "$3")"#;
        let own = Path::new(SOURCES).join("packaging/rpm/requires");
        run(Command::new("bash").args(["-c", both, "bash", PROGRAM]).arg(find_requires).arg(own));
    }
}

fn assert_checksums(packages: &Packages) {
    let (deb, rpm) = (packages.deb(), packages.rpm());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    assert_eq!(names(packages), ["SHA256SUMS".to_owned(), name(&rpm), name(&deb)]);
    let verdict =
        run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(packages.directory()));
    assert_eq!(verdict, format!("{}: OK\n{}: OK\n", name(&rpm), name(&deb)));
}

#[test]
fn linters_and_systemd_have_nothing_to_say() {
    let Some(packages) = Packages::build(VERSION, None) else { return };
    for (program, judge) in
        [("lintian", assert_lintian as fn(&Packages)), ("rpmlint", assert_rpmlint), ("systemd-analyze", assert_units)]
    {
        if installed(&[program]) {
            judge(&packages);
        }
    }
}

fn assert_lintian(packages: &Packages) {
    let mut lintian = Command::new("lintian");
    lintian.args(["--pedantic", "--display-experimental", "--display-info", "--fail-on", "error,warning,info"]);
    assert_eq!(run(lintian.arg(packages.deb())), "");
}

fn assert_rpmlint(packages: &Packages) {
    let config = Path::new(SOURCES).join("packaging/rpm/rpmlint.toml");
    let said = run(Command::new("rpmlint").arg("--config").arg(config).arg(packages.rpm()));
    assert!(said.contains(" 1 packages and 0 specfiles checked; 0 errors, 0 warnings,"), "{said}");
}

/// systemd understands every line of the units, and finds them hardly exposed.
fn assert_units(packages: &Packages) {
    let root = unpacked(packages);
    // The targets that the units name are part of systemd itself.
    let copy = r#"cp /usr/lib/systemd/system/*.target "$1""#;
    run(Command::new("bash").args(["-c", copy, "bash"]).arg(root.join("usr/lib/systemd/system")));
    let analyze = |arguments: &[&str], unit: &str| {
        Command::new("systemd-analyze")
            .args(arguments)
            .arg("--root")
            .arg(&root)
            .arg(unit)
            .output()
            .expect("it can be started")
    };
    for unit in UNITS {
        // It says what it does not know, and succeeds all the same.
        let verdict = analyze(&["verify", "--man=no"], unit);
        assert!(verdict.status.success() && verdict.stdout.is_empty() && verdict.stderr.is_empty(), "{verdict:?}");
    }
    for unit in UNITS.into_iter().filter(|unit| unit.ends_with(".service")) {
        let verdict = analyze(&["security", "--offline=true", "--threshold=13"], unit);
        assert!(verdict.status.success(), "more exposed than 1.3:\n{}", text(&verdict.stdout));
    }
}

#[test]
fn the_same_sources_give_the_same_bytes_in_another_directory() {
    let Some(packages) = Packages::build(VERSION, None) else { return };
    // The files of today, also those that no commit has yet.
    let elsewhere = Scratch::new();
    let sources = elsewhere.path().join("another place");
    fs::create_dir(&sources).unwrap();
    let copy = r#"cd "$1" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$2""#;
    run(Command::new("bash").args(["-c", copy, "bash", SOURCES]).arg(&sources));
    run(Command::new("cp").arg("--recursive").arg(Path::new(SOURCES).join(".git")).arg(&sources));
    let again = Packages::build_from(&sources, VERSION, None).expect("it could be built before");
    assert_eq!(text(&read(again.path("SHA256SUMS"))), text(&read(packages.path("SHA256SUMS"))));
}

#[test]
fn another_version_with_other_defaults_can_be_made() {
    if !installed(&["rpm"]) {
        return;
    }
    let scratch = Scratch::new();
    let config = scratch.path().join("etc");
    let own = Path::new(SOURCES).join("packaging/etc");
    run(Command::new("cp").arg("--recursive").arg(&own).arg(&config));
    let defaults = text(&read(own.join("member.yaml"))).replace("port: 8757", "port: 9757");
    fs::write(config.join("member.yaml"), &defaults).unwrap();

    let Some(packages) = Packages::build("0.0.9", Some(&config)) else { return };
    let (deb, rpm) = (packages.deb(), packages.rpm());
    assert_eq!(run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg("Version")), "0.0.9-1\n");
    assert_eq!(query(&rpm, &["--queryformat", "%{VERSION}-%{RELEASE}"]), "0.0.9-1");
    let root = unpacked(&packages);
    assert_eq!(text(&read(root.join("etc/netring/member.yaml"))), defaults);
    assert_eq!(read(root.join("etc/netring/registry.yaml")), read(own.join("registry.yaml")));
}

#[test]
fn the_list_of_checksums_keeps_what_is_there_and_forgets_what_is_gone() {
    if !can_build() {
        return;
    }
    let packages = Packages::none(VERSION);
    let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let (deb, rpm) = (name(packages.deb()), name(packages.rpm()));
    // One that is there, one that is gone, and one that is about to be made again.
    fs::write(packages.path("there.rpm"), "made for the other machine").unwrap();
    let there = run(Command::new("sha256sum").arg("there.rpm").current_dir(packages.directory()));
    let of_old = there.split(' ').next().unwrap();
    fs::write(packages.path("SHA256SUMS"), format!("{of_old}  gone.rpm\n{there}{of_old}  {deb}\n")).unwrap();
    // Of the version of the sources, where none is named.
    let made = packages.run_build(Path::new(SOURCES), &["--binary", PROGRAM]);
    assert!(made.status.success(), "{made:?}");
    let sums = text(&read(packages.path("SHA256SUMS")));
    let listed: Vec<_> = sums.lines().filter_map(|line| line.split("  ").nth(1)).collect();
    assert_eq!(listed, [rpm.as_str(), &deb, "there.rpm"]);
    run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(packages.directory()));
}

#[test]
fn a_program_for_another_processor_is_refused() {
    if !can_build() {
        return;
    }
    let packages = Packages::none(VERSION);
    // The head of an ELF file names the processor in its bytes 18 and 19: 243 is RISC-V.
    let mut foreign = read(PROGRAM);
    foreign.truncate(4096);
    foreign[18..20].copy_from_slice(&[243, 0]);
    let path = packages.path("foreign");
    fs::write(&path, foreign).unwrap();
    for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        let refusal = packages.run_build(Path::new(SOURCES), &["--target", target, "--binary", path.to_str().unwrap()]);
        let processor = target.split('-').next().unwrap();
        assert_eq!(refusal.status.code(), Some(1), "{refusal:?}");
        let words = text(&refusal.stderr);
        assert!(words.ends_with(&format!("foreign is not a program for {processor}\n")), "{words}");
    }
    assert_eq!(names(&packages), ["foreign"], "nothing was made");
}

#[test]
fn a_wrong_command_line_is_told_so() {
    for (options, words) in [
        (&["--targets"][..], "unknown option --targets"),
        (&["--target"], "--target needs a value"),
        (&["--check", "--binary", "netring"], "--check cannot be used with --binary or --config"),
        (&["--config", "etc", "--check"], "--check cannot be used with --binary or --config"),
        (&["--target", "riscv64gc-unknown-linux-gnu"], "there are no packages for riscv64gc-unknown-linux-gnu"),
    ] {
        let refusal = Command::new(Path::new(SOURCES).join("packaging/build")).args(options).output().unwrap();
        assert_eq!(refusal.status.code(), Some(64), "{refusal:?}");
        assert!(text(&refusal.stderr).contains(words), "{refusal:?}");
    }
}

/// As this program prints them, and readable by whom they are for.
fn assert_manual_and_completions(packages: &Packages) {
    let root = unpacked(packages);
    for name in ["netring.1", "netring.yaml.5", "netring-member.8", "netring-registry.8"] {
        let file = root.join(format!("usr/share/man/man{}/{name}.gz", &name[name.len() - 1..]));
        let source = run(Command::new("gzip").args(["--decompress", "--stdout"]).arg(&file));
        assert_eq!(source, run(Command::new(PROGRAM).args(["man", name])), "{name}");
        if installed(&["groff"]) {
            let plain = packages.path("page");
            fs::write(&plain, &source).expect("a page can be written");
            let verdict = r#"test -z "$(groff -ww -man -Tutf8 "$1" 2>&1 >/dev/null)""#;
            run(Command::new("bash").args(["-c", verdict, name]).arg(&plain));
        }
    }
    for (shell, file) in [
        ("bash", "bash-completion/completions/netring"),
        ("zsh", "zsh/vendor-completions/_netring"),
        ("fish", "fish/vendor_completions.d/netring.fish"),
    ] {
        let file = root.join("usr/share").join(file);
        assert_eq!(text(&read(&file)), run(Command::new(PROGRAM).args(["completions", shell])), "{shell}");
        if installed(&[shell]) {
            run(Command::new(shell).arg("-n").arg(&file));
        }
    }
}

/// The member's configuration wants two edits, which the page for administrators makes by one command.
#[test]
fn the_packaged_configuration_is_good_once_the_page_was_followed() {
    let page = text(&read(Path::new(SOURCES).join("packaging/README.md")));
    for family in [&format!("netring_{VERSION}-1_amd64.deb"), &format!("netring-{VERSION}-1.x86_64.rpm")] {
        assert!(page.contains(family), "the page speaks of {family}");
    }
    let edits: Vec<&str> = page.lines().filter(|line| line.starts_with("sed -i ")).collect();
    assert_eq!(edits.len(), 2, "one for each family: {edits:?}");
    assert_eq!(edits[0], edits[1]);

    let scratch = Scratch::new();
    let own = Path::new(SOURCES).join("packaging/etc");
    let check = |file: &Path| Command::new(PROGRAM).env_clear().arg("check").arg(file).output().unwrap();
    let registry = check(&own.join("registry.yaml"));
    assert!(registry.status.success(), "{registry:?}");
    assert!(text(&registry.stdout).contains("registry.server.port"), "{registry:?}");

    let member = scratch.path().join("member.yaml");
    fs::copy(own.join("member.yaml"), &member).unwrap();
    let refused = check(&member);
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let faults = text(&refused.stdout);
    assert!(faults.contains("member.location: ") && faults.contains("member.registry.url: "), "{faults}");
    assert_eq!(faults.lines().filter(|line| line.contains(": expected ")).count(), 2, "nothing else: {faults}");

    let edit = edits[0].replace("/etc/netring/member.yaml", member.to_str().unwrap());
    run(Command::new("bash").args(["-c", &edit]));
    let good = check(&member);
    assert!(good.status.success(), "{good:?}");
    assert_eq!(fs::metadata(&member).unwrap().permissions().mode() & 0o777, 0o644, "sed keeps the mode");
}
