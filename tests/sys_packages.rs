//! The packages as `packaging/build` makes them of the tests' own program: what they hold and what they are called, that
//! linters and systemd have nothing to say about them, and that the same sources give the same bytes.

pub mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{Scratch, installed, skip};

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

/// A directory of finished packages.
struct Packages {
    scratch: Scratch,
}

impl Packages {
    /// Made of the tests' program, with these options beside. Nothing where the tools are missing.
    fn build(options: &[&str]) -> Option<Self> {
        Self::build_in(Path::new(SOURCES), options)
    }

    /// Likewise, from the sources in another directory.
    fn build_in(sources: &Path, options: &[&str]) -> Option<Self> {
        if !can_build() {
            return None;
        }
        let packages = Self::none();
        let output = packages.run_build(sources, &[&["--binary", PROGRAM], options].concat());
        assert!(output.status.success(), "{output:?}");
        let said: Vec<PathBuf> = text(&output.stdout).lines().map(PathBuf::from).collect();
        assert_eq!(said.len(), 3, "it says what it made: {said:?}");
        assert!(said.iter().all(|file| file.is_file()), "{said:?}");
        Some(packages)
    }

    /// An empty directory for them.
    fn none() -> Self {
        Self { scratch: Scratch::new() }
    }

    fn run_build(&self, sources: &Path, options: &[&str]) -> Output {
        let mut command = Command::new(sources.join("packaging/build"));
        command.arg("--fast").arg("--output").arg(self.scratch.path()).args(options);
        command.env("TMPDIR", self.scratch.path()).output().expect("packaging/build can be started")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn deb(&self) -> PathBuf {
        self.path(&format!("netring_{VERSION}-1_{}.deb", if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }))
    }

    fn rpm(&self) -> PathBuf {
        self.path(&format!("netring-{VERSION}-1.{}.rpm", std::env::consts::ARCH))
    }

    /// The files of the .deb, laid out.
    fn unpacked(&self) -> PathBuf {
        let root = self.path("root");
        run(Command::new("dpkg-deb").arg("--extract").arg(self.deb()).arg(&root));
        root
    }

    /// The names of the files in the directory.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.scratch.path()).expect("the directory can be read");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.map(|entry| name(entry.expect("its entry can be read"))).collect();
        names.sort();
        names
    }
}

/// Whether the tools that `packaging/build` would otherwise take minutes to install are there.
fn can_build() -> bool {
    let cache = std::env::var_os("NETRING_TEST_CACHE").unwrap_or_else(|| "/var/cache/netring-tests".into());
    let tools = PathBuf::from(cache).join("tools/bin");
    let missing = ["cargo-deb", "cargo-generate-rpm"].into_iter().find(|tool| !tools.join(tool).is_file());
    if let Some(tool) = missing {
        skip(&format!("{tool} is not in {}: packaging/build --tools installs it", tools.display()));
    }
    missing.is_none() && installed(&["dpkg-deb", "dpkg-shlibdeps", "readelf", "strip", "git"])
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
    let Some(packages) = Packages::build(&[]) else { return };
    assert_checksums(&packages);
    assert_deb(&packages);
    assert_manual_and_completions(&packages);
    if installed(&["rpm"]) {
        assert_rpm(&packages);
    }
}

fn assert_deb(packages: &Packages) {
    let deb = packages.deb();
    let archive = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

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
        ("Architecture", archive),
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

    let root = packages.unpacked();
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
    assert_eq!(packages.names(), ["SHA256SUMS".to_owned(), name(&rpm), name(&deb)]);
    let verdict =
        run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(packages.scratch.path()));
    assert_eq!(verdict, format!("{}: OK\n{}: OK\n", name(&rpm), name(&deb)));
}

#[test]
fn linters_and_systemd_have_nothing_to_say() {
    let Some(packages) = Packages::build(&[]) else { return };
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
    let root = packages.unpacked();
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
    let Some(packages) = Packages::build(&[]) else { return };
    // The files of today, also those that no commit has yet.
    let elsewhere = Scratch::new();
    let sources = elsewhere.path().join("another place");
    fs::create_dir(&sources).unwrap();
    let copy = r#"cd "$1" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$2""#;
    run(Command::new("bash").args(["-c", copy, "bash", SOURCES]).arg(&sources));
    run(Command::new("cp").arg("--recursive").arg(Path::new(SOURCES).join(".git")).arg(&sources));
    let again = Packages::build_in(&sources, &[]).expect("it could be built before");
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

    let options = ["--version", "0.0.9", "--config", config.to_str().unwrap()];
    let Some(packages) = Packages::build(&options) else { return };
    let (deb, rpm) = (
        packages.deb().to_str().unwrap().replace(VERSION, "0.0.9"),
        packages.rpm().to_str().unwrap().replace(VERSION, "0.0.9"),
    );
    assert_eq!(run(Command::new("dpkg-deb").args(["--field", &deb, "Version"])), "0.0.9-1\n");
    assert_eq!(query(Path::new(&rpm), &["--queryformat", "%{VERSION}-%{RELEASE}"]), "0.0.9-1");
    let root = packages.path("root");
    run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&root));
    assert_eq!(text(&read(root.join("etc/netring/member.yaml"))), defaults);
    assert_eq!(read(root.join("etc/netring/registry.yaml")), read(own.join("registry.yaml")));
}

#[test]
fn the_list_of_checksums_keeps_what_is_there_and_forgets_what_is_gone() {
    if !can_build() {
        return;
    }
    let packages = Packages::none();
    let sums = || text(&read(packages.path("SHA256SUMS")));
    let build = |version: &str| {
        let made = packages.run_build(Path::new(SOURCES), &["--binary", PROGRAM, "--version", version]);
        assert!(made.status.success(), "{made:?}");
    };
    build("0.0.8");
    let first = sums();
    assert_eq!(first.lines().count(), 2, "{first}");
    build("0.0.9");
    let both = sums();
    assert_eq!(both.lines().count(), 4, "{both}");
    assert!(first.lines().all(|line| both.lines().any(|kept| kept == line)), "{first}{both}");
    run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(packages.scratch.path()));
    // Made again, a package is listed once.
    fs::remove_file(packages.path("netring-0.0.8-1.x86_64.rpm".replace("x86_64", std::env::consts::ARCH).as_str()))
        .unwrap();
    build("0.0.9");
    let left = sums();
    assert_eq!(left.lines().count(), 3, "{left}");
    assert!(left.lines().all(|line| both.lines().any(|kept| kept == line)), "{left}{both}");
}

#[test]
fn a_program_for_another_processor_is_refused() {
    if !can_build() {
        return;
    }
    let packages = Packages::none();
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
        assert!(words.ends_with(&format!("foreign is no program for {processor}\n")), "{words}");
    }
    assert_eq!(packages.names(), ["foreign"], "nothing was made");
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
    let root = packages.unpacked();
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
