//! A small library below the C library that injects faults into a process, by `LD_PRELOAD` (ld.so(8)).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Scratch, installed};

/// Builds the library; `None`, with the skip said, without a C compiler.
pub(super) fn build(scratch: &Scratch) -> Option<PathBuf> {
    if !installed(&["cc"]) {
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/preload/preload.c");
    let library = scratch.path().join("preload.so");
    let words = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"];
    let output = Command::new("cc").args(words).arg(&library).arg(source).arg("-ldl").output();
    let output = output.expect("a C compiler is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(library)
}

/// Has a process that is to be started use the library, before others that it uses already, with this in its environment.
pub(super) fn govern(command: &mut Command, library: &Path, name: &str, value: &Path) {
    const LIST: &str = "LD_PRELOAD";
    let mut libraries = OsString::from(library);
    let before = command.get_envs().find(|(key, _)| *key == OsStr::new(LIST)).and_then(|(_, before)| before);
    if let Some(before) = before {
        libraries.push(":");
        libraries.push(before);
    }
    command.env(LIST, libraries).env(name, value);
}
