//! Checks the rules of the source tree that the compiler does not know: which module may use which, that no files of one
//! folder use each other in a circle, what the pure files must not name, who reads the clock, how long a file may be, and
//! that each has a module comment.
//!
//! It reads the text of `src/` without comments. Each rule is a function from one file, or from all of them, to faults; a
//! second test shows for each that it can fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The modules, from the top row to the bottom row. A module may use those of the rows below its own.
const ROWS: [&[&str]; 7] =
    [&["command"], &["registry", "member"], &["serve", "host"], &["config"], &["probe"], &["wire"], &["clock"]];

/// The exceptions within a row: the left module may use the right one.
const WITHIN_A_ROW: [(&str, &str); 1] = [("serve", "host")];

/// The pure files, which decide and never wait, with the folders of the same names.
const PURE: [&str; 13] = [
    "registry/roster",
    "member/membership",
    "member/session",
    "member/peers",
    "member/plan",
    "member/judge",
    "member/report",
    "member/memory",
    "member/board",
    "member/health",
    "member/snapshot",
    "probe/schedule",
    "probe/stats",
];

/// What a pure file must not name: libraries that wait, and the two clocks.
const WAITING: [&str; 7] = ["tokio", "warp", "redis", "ureq", "hyper", "clock::monotonic", "clock::wall"];

const LINES_MAX: usize = 700;

/// One source file. Its path is relative to `src/`.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The module it belongs to; `None` for `lib.rs` and `main.rs`, which belong to none.
    fn module(&self) -> Option<&str> {
        let name = self.path.split('/').next()?.trim_end_matches(".rs");
        row(name).map(|_| name)
    }

    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// The code: every line that is more than a comment, with its number. A comment behind code goes too.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(number, line)| {
            let code = line.split_once(" // ").map_or(line, |(code, _)| code);
            (number, code)
        })
    }

    /// The code without the test module at its end.
    fn product_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().take_while(|(_, line)| line.trim() != "#[cfg(test)]" || self.is_test())
    }

    fn fault(&self, line: usize, rule: &str) -> String {
        format!("src/{}:{line}: {rule}", self.path)
    }
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|modules| modules.contains(&module))
}

/// Whether the text contains this path or name as a whole word: `redis::Client` contains `redis`, `StoreKind::Redis` and
/// `store_redis` do not.
fn names(line: &str, name: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name)
        .any(|(at, _)| !line[..at].ends_with(part_of_a_word) && !line[at + name.len()..].starts_with(part_of_a_word))
}

/// Every name that follows `root` in these lines, alone or in a group in braces. A root such as `super::` at the end of a
/// longer path (`super::super::`) does not count.
fn named_behind(root: &str, code: &[(usize, &str)]) -> Vec<(usize, String)> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut found = Vec::new();
    for (index, (number, line)) in code.iter().enumerate() {
        for (at, _) in line.match_indices(root).filter(|(at, _)| !line[..*at].ends_with("::")) {
            let behind = &line[at + root.len()..];
            let Some(first) = behind.strip_prefix('{') else {
                found.push((*number, word(behind)));
                continue;
            };
            // A group: the names at its own depth, up to its end, which may be several lines below.
            let rest = std::iter::once(first).chain(code[index + 1..].iter().map(|(_, line)| *line));
            let (mut depth, mut part) = (1, String::new());
            for c in rest.flat_map(str::chars) {
                depth += i32::from(c == '{') - i32::from(c == '}');
                if depth == 0 || (depth == 1 && c == ',') {
                    found.push((*number, word(std::mem::take(&mut part).trim())));
                } else {
                    part.push(c);
                }
                if depth == 0 {
                    break;
                }
            }
        }
    }
    found
}

/// Every name that follows `crate::` in the code; also those after `super::` in the file of a module without a folder, where
/// that is the root.
fn named_in_the_crate(source: &Source) -> Vec<(usize, String)> {
    let code: Vec<(usize, &str)> = source.code().collect();
    let roots: &[&str] = if source.path.contains('/') { &["crate::"] } else { &["crate::", "super::"] };
    roots.iter().flat_map(|root| named_behind(root, &code)).collect()
}

fn arrows_point_down(source: &Source) -> Vec<String> {
    let Some(from) = source.module() else { return Vec::new() };
    named_in_the_crate(source)
        .into_iter()
        .filter(|(_, to)| {
            row(to).is_some_and(|below| {
                to != from && Some(below) <= row(from) && !WITHIN_A_ROW.contains(&(from, to.as_str()))
            })
        })
        .map(|(line, to)| source.fault(line, &format!("`{from}` must not use `{to}`: arrows point down")))
        .collect()
}

fn pure_files_wait_for_nothing(source: &Source) -> Vec<String> {
    let stem = source.path.trim_end_matches(".rs");
    let is_pure =
        PURE.iter().any(|file| stem.strip_prefix(file).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if source.is_test() || !is_pure {
        return Vec::new();
    }
    let waiting = |line| WAITING.into_iter().find(|name| names(line, name));
    source
        .product_code()
        .filter_map(|(number, line)| Some((number, waiting(line)?)))
        .map(|(number, name)| {
            source.fault(
                number,
                &format!("a pure file names `{name}`: pure files get the time as an argument and wait for nothing"),
            )
        })
        .collect()
}

fn one_file_reads_the_clocks(source: &Source) -> Vec<String> {
    let reads = |line| ["Instant::now", "SystemTime::now"].into_iter().find(|name| names(line, name));
    source
        .code()
        .filter(|_| source.path != "clock.rs")
        .filter_map(|(number, line)| Some((number, reads(line)?)))
        .map(|(number, name)| source.fault(number, &format!("`{name}`: only clock.rs reads a clock")))
        .collect()
}

/// What this file names in the folders it is in, from its own up to that of its module, each as `(folder, file, named)`.
/// In an outer folder it counts as the folder or file there that it is part of.
fn neighbours(source: &Source) -> Vec<(String, String, String)> {
    let code: Vec<(usize, &str)> = source.product_code().collect();
    let (mut own, mut up) = (source.path.trim_end_matches(".rs").trim_end_matches("/mod"), "super::".to_owned());
    let mut found = Vec::new();
    while let Some((folder, name)) = own.rsplit_once('/') {
        let by_path = format!("crate::{}::", folder.replace('/', "::"));
        let named = [&up, &by_path].into_iter().flat_map(|root| named_behind(root, &code));
        found.extend(named.map(|(_, to)| (folder.to_owned(), name.to_owned(), to)));
        up.push_str("super::");
        own = folder;
    }
    found
}

/// The files that use each other in a circle with others of their folder: those that remain after repeatedly removing each file
/// that uses no other or is used by no other of the remaining ones.
fn circles(sources: &[Source]) -> Vec<String> {
    let arrows: Vec<_> = sources.iter().filter(|source| !source.is_test()).flat_map(neighbours).collect();
    let mut arrows: Vec<_> = arrows.iter().filter(|(_, from, to)| from != to).collect();
    loop {
        let before = arrows.len();
        let kept = arrows.clone();
        arrows.retain(|(folder, from, to)| {
            kept.iter().any(|(of, other, _)| of == folder && other == to)
                && kept.iter().any(|(of, _, other)| of == folder && other == from)
        });
        if arrows.len() == before {
            return arrows
                .iter()
                .map(|(folder, from, _)| format!("{folder}/{from}"))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
        }
    }
}

fn files_are_short(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let rule = format!("{lines} lines, more than {LINES_MAX}: split the file");
    if lines > LINES_MAX { vec![source.fault(lines, &rule)] } else { Vec::new() }
}

fn files_have_a_module_comment(source: &Source) -> Vec<String> {
    if source.is_test() || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.fault(1, "no comment at its start (`//!`) that says what the file does and guarantees")]
}

/// Every source file.
fn sources() -> Vec<Source> {
    fn walk(directory: &Path, below: &str, found: &mut Vec<Source>) {
        for entry in fs::read_dir(directory).expect("src/ can be read") {
            let path = entry.expect("src/ can be read").path();
            let name = format!("{below}{}", path.file_name().expect("has a name").to_string_lossy());
            if path.is_dir() {
                walk(&path, &format!("{name}/"), found);
            } else if name.ends_with(".rs") {
                found.push(Source::new(&name, &fs::read_to_string(path).expect("sources are text")));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut found);
    found
}

type Rule = fn(&Source) -> Vec<String>;

const RULES: [Rule; 5] = [
    arrows_point_down,
    pure_files_wait_for_nothing,
    one_file_reads_the_clocks,
    files_are_short,
    files_have_a_module_comment,
];

#[test]
fn the_source_tree_follows_the_rules() {
    let sources = sources();
    for module in ROWS.concat() {
        let exists = sources.iter().any(|source| source.module() == Some(module));
        assert!(exists, "the module {module} does not exist: correct the table");
    }
    for file in PURE {
        assert!(
            sources.iter().any(|source| source.path == format!("{file}.rs")),
            "{file}.rs does not exist: correct the table"
        );
    }
    let mut tops = sources.iter().filter(|source| source.module().is_none()).map(|source| source.path.as_str());
    assert!(tops.all(|path| ["lib.rs", "main.rs"].contains(&path)), "a module is missing in the table");
    assert_eq!(circles(&sources), [""; 0], "files of one folder use each other in a circle");
    let faults: Vec<String> = RULES.iter().flat_map(|rule| sources.iter().flat_map(rule)).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn each_rule_can_fail() {
    let long = "//! Comment.\n".to_owned() + &"\n".repeat(LINES_MAX);
    let cases: [(Rule, &str, &str, usize); 24] = [
        (arrows_point_down, "probe/mod.rs", "use crate::serve::Limits;", 1),
        (arrows_point_down, "probe/http.rs", "\nfn f() { crate::host::address::towards() }", 1),
        (arrows_point_down, "host/vitals.rs", "use crate::serve;", 1),
        (arrows_point_down, "probe/mod.rs", "use crate::config::Checks;", 1),
        (arrows_point_down, "config/keys.rs", "use crate::probe::StatusRanges;", 0),
        (arrows_point_down, "wire.rs", "use crate::config::Role;", 1),
        (arrows_point_down, "wire.rs", "use super::config::Role;", 1),
        (arrows_point_down, "registry/mod.rs", "pub(crate) use crate::member::peers;", 1),
        (arrows_point_down, "member/api.rs", "use crate::{\n    clock, // now\n    registry::{api, store},\n};", 1),
        (arrows_point_down, "clock.rs", "use crate::{wire, command};", 2),
        (arrows_point_down, "member/mod.rs", "use crate::serve;\nuse crate::probe; // not crate::registry", 0),
        (arrows_point_down, "serve/mod.rs", "use crate::host;\n// crate::member\nuse crate::serve::text;", 0),
        (pure_files_wait_for_nothing, "member/board.rs", "use tokio::sync::watch;", 1),
        (pure_files_wait_for_nothing, "probe/schedule/wheel.rs", "    let now = clock::monotonic();", 1),
        (pure_files_wait_for_nothing, "member/peers.rs", "use std::time::Instant;\nuse hyper as h;", 1),
        (pure_files_wait_for_nothing, "member/peers.rs", "let redistribute = 1;\n#[cfg(test)]\nuse tokio;", 0),
        (pure_files_wait_for_nothing, "member/peers/tests.rs", "use tokio::time;", 0),
        (pure_files_wait_for_nothing, "member/prober.rs", "use tokio::time;", 0),
        (one_file_reads_the_clocks, "serve/mod.rs", "let now = Instant::now();", 1),
        (one_file_reads_the_clocks, "serve/tests.rs", "std::time::SystemTime::now()", 1),
        (one_file_reads_the_clocks, "clock.rs", "Instant::now()", 0),
        (files_are_short, "serve/mod.rs", &long, 1),
        (files_have_a_module_comment, "serve/mod.rs", "use crate::host;\n//! Late.", 1),
        (files_have_a_module_comment, "serve/tests.rs", "use super::*;", 0),
    ];
    for (rule, path, text, faults) in cases {
        let found = rule(&Source::new(path, text));
        assert_eq!(found.len(), faults, "{path}: {text:.80}\n{found:?}");
    }
    let circle = [
        Source::new("serve/a.rs", "use super::b::B;"),
        Source::new("serve/b.rs", "use super::{Top, c::{C, D}};\nuse super::e;"),
        Source::new("serve/c/deep.rs", "use super::super::a;"),
        Source::new("serve/d.rs", "use super::a;"),
        Source::new("serve/e.rs", "// super::a\nuse super::super::a;\n#[cfg(test)]\nuse super::b;"),
    ];
    assert_eq!(circles(&circle), ["serve/a", "serve/b", "serve/c"], "d uses the circle, e is used by it");
    assert_eq!(circles(&circle[1..]), [""; 0]);
    let found = arrows_point_down(&Source::new("host/a.rs", "\n\nuse crate::serve;"));
    assert_eq!(found, ["src/host/a.rs:3: `host` must not use `serve`: arrows point down"]);
}
