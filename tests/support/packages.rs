//! The packages, which `packaging/build` makes of the tests' own program, and the page that tells administrators how to use
//! them, command by command.
//!
//! ```ignore
//! let Some(packages) = Packages::build("0.2.0", None) else { return };
//! host.copy(packages.deb(), "/root/netring.deb", 0o644);
//! assert_eq!(page("Remove")[0][0], "apt-get remove netring");
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

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
        // Where they are missing, packaging/build would take minutes to install them.
        let tools = cache().join("tools/bin");
        for tool in ["cargo-deb", "cargo-generate-rpm"] {
            if !tools.join(tool).is_file() {
                skip(&format!("{tool} is not in {}", tools.display()));
                return None;
            }
        }
        if !installed(&["dpkg-deb", "dpkg-shlibdeps", "readelf", "strip"]) {
            return None;
        }
        let packages = Self { scratch: Scratch::new(), version: version.to_owned() };
        let mut command = Command::new(Path::new(SOURCES).join("packaging/build"));
        command.args(["--fast", "--version", version, "--binary", NETRING, "--output"]).arg(packages.scratch.path());
        if let Some(directory) = configuration {
            command.arg("--config").arg(directory);
        }
        let output = command.env("TMPDIR", packages.scratch.path()).output().expect("packaging/build can be started");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Some(packages)
    }

    /// The .deb.
    #[must_use]
    pub fn deb(&self) -> PathBuf {
        self.scratch.path().join(format!("netring_{}-1_{DEB_ARCHITECTURE}.deb", self.version))
    }

    /// The .rpm.
    #[must_use]
    pub fn rpm(&self) -> PathBuf {
        self.scratch.path().join(format!("netring-{}-1.{}.rpm", self.version, std::env::consts::ARCH))
    }
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
