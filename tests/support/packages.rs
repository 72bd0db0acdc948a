//! The packages, which `packaging/build` makes of the tests' own program, and the page that tells administrators how to use
//! them, command by command.
//!
//! ```ignore
//! let Some(packages) = Packages::build("0.2.0", None) else { return };
//! host.copy(packages.deb(), "/root/netring.deb", 0o644);
//! assert_eq!(page("Remove")[0][0], "apt-get remove netring");
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::daemon::NETRING;
use super::{Scratch, cache, installed, skip};

/// The directory of the sources.
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");

/// Debian's name of this machine's processor.
pub const DEB_ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

/// A .deb and an .rpm of one version, gone at the end of the test.
#[derive(Debug)]
pub struct Packages {
    scratch: Scratch,
    version: String,
}

impl Packages {
    /// Makes both in this version. What goes to `/etc` comes from this directory where one is named, else from
    /// `packaging/etc`. `None`, with the skip said, where the tools are missing.
    ///
    /// # Panics
    ///
    /// Where they cannot be made.
    #[must_use]
    pub fn build(version: &str, configuration: Option<&Path>) -> Option<Self> {
        Self::build_from(Path::new(SOURCES), version, configuration)
    }

    /// Likewise, from the sources in another directory.
    ///
    /// # Panics
    ///
    /// Where they cannot be made.
    #[must_use]
    pub fn build_from(sources: &Path, version: &str, configuration: Option<&Path>) -> Option<Self> {
        if !can_build() {
            return None;
        }
        let packages = Self::none(version);
        let mut options = vec!["--binary", NETRING, "--version", version];
        if let Some(directory) = configuration {
            options.extend(["--config", directory.to_str().expect("it is named in letters")]);
        }
        let output = packages.run_build(sources, &options);
        assert!(output.status.success(), "packaging/build {options:?}: {output:?}");
        let made = [packages.deb(), packages.rpm(), packages.path("SHA256SUMS")].map(|path| path.display().to_string());
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), made, "it says what it made");
        Some(packages)
    }

    /// An empty directory for those of this version.
    #[must_use]
    pub fn none(version: &str) -> Self {
        Self { scratch: Scratch::new(), version: version.to_owned() }
    }

    /// Runs `packaging/build` of these sources with these options, and has it put into the directory what it makes.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    #[must_use]
    pub fn run_build(&self, sources: &Path, options: &[&str]) -> Output {
        let mut command = Command::new(sources.join("packaging/build"));
        command.arg("--fast").arg("--output").arg(self.scratch.path()).args(options);
        command.env("TMPDIR", self.scratch.path()).output().expect("packaging/build can be started")
    }

    /// A file of the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The .deb.
    #[must_use]
    pub fn deb(&self) -> PathBuf {
        self.path(&format!("netring_{}-1_{DEB_ARCHITECTURE}.deb", self.version))
    }

    /// The .rpm.
    #[must_use]
    pub fn rpm(&self) -> PathBuf {
        self.path(&format!("netring-{}-1.{}.rpm", self.version, std::env::consts::ARCH))
    }
}

/// Whether what `packaging/build` needs is there; says the skip where it is not.
#[must_use]
pub fn can_build() -> bool {
    // Where they are missing, packaging/build would take minutes to install them.
    let tools = cache().join("tools/bin");
    let missing = ["cargo-deb", "cargo-generate-rpm"].into_iter().find(|tool| !tools.join(tool).is_file());
    if let Some(tool) = missing {
        skip(&format!("{tool} is not in {}: packaging/build --tools installs it", tools.display()));
    }
    missing.is_none() && installed(&["dpkg-deb", "dpkg-shlibdeps", "readelf", "strip", "git"])
}

/// The commands of a section of `packaging/README.md`, block by block, as they stand there. What the page calls the
/// processor is put as this machine's is called.
///
/// # Panics
///
/// Where the page has no such section, or the section no command.
#[must_use]
#[track_caller]
pub fn page(section: &str) -> Vec<Vec<String>> {
    let file = Path::new(SOURCES).join("packaging/README.md");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
    let text = text.replace("amd64", DEB_ARCHITECTURE).replace("x86_64", std::env::consts::ARCH);
    let heading = format!("\n## {section}\n");
    let (_, section) = text.split_once(&heading).unwrap_or_else(|| panic!("no section {section}"));
    let section = section.split("\n## ").next().expect("a split has a first part");
    let blocks: Vec<Vec<String>> = section
        .split("```sh\n")
        .skip(1)
        .map(|block| block.split("```").next().expect("a split has a first part"))
        .map(|block| block.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
        .collect();
    assert!(!blocks.is_empty(), "no command below{heading}");
    blocks
}
