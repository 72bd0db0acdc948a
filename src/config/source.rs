//! Finds the value of a key: the environment overrides the file, the file overrides the default. All faults are collected.
//!
//! A [`Reader`] is asked key by key. It answers with a value, or with [`Faulty`] after it has recorded the fault, so that
//! the caller can go on and one run finds all faults. A value in the file is checked even where a variable overrides it.
//! The reader records for each key the value in force and where it came from.
//!
//! A key that has been renamed is found by its former names too, with a warning for each place that uses one. The former
//! and the present name together are a fault, in the file as among the variables, because one of the two would be ignored.

use std::fmt;
use std::path::{Path, PathBuf};

use super::environment::{self, Environment};
use super::fault::{Fault, Position, shown_key};
use super::file::ConfigFile;
use super::form::{Wrong, got};
use super::keys::{Key, KeyDefault, Setting, keys};
use super::nearest::{alike, nearest};
use super::settings::Role;
use super::yaml::{Content, Entry, Node};

/// After how many faults the search for unknown keys ends: a file with more of them is not a configuration.
const FAULTS_MAX: usize = 1000;

/// Where a value in force came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is not set.
    Default,
    /// This place of this file.
    File(PathBuf, Position),
    /// This variable.
    Environment(String),
    /// The file that `password_file` names.
    PasswordFile(PathBuf),
    /// The systemd credential of this name.
    Credential(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, position) => write!(f, "{}:{}", path.display(), position.line),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::PasswordFile(path) => write!(f, "{}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// One key as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Its path.
    pub key: &'static str,
    /// Its value as the file could hold it; a secret is masked.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// There is no usable value; the reader has recorded why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Faulty;

/// A value and where it came from.
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) source: Source,
}

/// What the file holds under a path.
enum Entered<'f> {
    /// Nothing; the position is that of the nearest section above, or of the null.
    Nothing(Option<Position>),
    /// Something whose fault has been recorded already.
    Refused,
    /// This value.
    Value(&'f Node),
}

/// One reading of file and environment for one role.
pub(super) struct Reader<'a> {
    file: Option<&'a ConfigFile>,
    role: Role,
    pub(super) environment: &'a Environment,
    keys: Vec<Key>,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    effective: Vec<Effective>,
    /// Keys and sections whose absence is not reported, because an unknown name was taken for a misspelling of them.
    explained: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Starts reading: every name in the file and the environment is compared with the known ones.
    pub(super) fn new(role: Role, file: Option<&'a ConfigFile>, environment: &'a Environment) -> Self {
        Self::over(keys(), role, file, environment)
    }

    /// Like [`Self::new`], with other known keys.
    pub(super) fn over(
        mut keys: Vec<Key>,
        role: Role,
        file: Option<&'a ConfigFile>,
        environment: &'a Environment,
    ) -> Self {
        let faults = environment::unknown(environment, &keys);
        keys.retain(|key| !key.path.starts_with(role.other().section()));
        let (warnings, effective, explained) = (Vec::new(), Vec::new(), Vec::new());
        let mut reader = Self { file, role, environment, keys, faults, warnings, effective, explained };
        if let Some(file) = file {
            reader.faults.extend(file.faults.iter().cloned());
            reader.inspect(&file.path, "", &file.root);
            reader.expect_own_section(file);
        }
        reader.former_names();
        reader
    }

    /// Ends reading: the values in force in the order of the table, the warnings, and the faults.
    pub(super) fn finish(mut self) -> (Vec<Effective>, Vec<String>, Vec<Fault>) {
        let order = |path| self.keys.iter().position(|key| key.path == path);
        self.effective.sort_by_key(|effective| order(effective.key));
        (self.effective, self.warnings, self.faults)
    }

    /// Warns of each former name in use, and finds those that stand beside another name of the same key.
    fn former_names(&mut self) {
        let (mut warnings, mut faults) = (Vec::new(), Vec::new());
        for key in &self.keys {
            let names = || std::iter::once(key.path).chain(key.formerly.iter().copied());
            let mut in_file = names().filter_map(|path| Some((path, self.entry(path)?)));
            if let (Some(file), Some((first, entry))) = (self.file, in_file.next()) {
                if first != key.path {
                    let (file, line) = (file.path.display(), entry.at.line);
                    warnings
                        .push(format!("{file}:{line}: {first} is now named {}; the old name is still read", key.path));
                }
                faults.extend(in_file.map(|(former, again)| {
                    let problem = format!(
                        "expected this key once, by its name {}, got its former name beside {first} on line {}",
                        key.path, entry.at.line
                    );
                    Fault::at(&file.path, again.at, former, problem)
                }));
            }
            let variables = || std::iter::once(&key.environment).chain(&key.former_environment);
            let mut set = variables().filter(|name| environment::value(self.environment, name).is_some());
            if let Some(first) = set.next() {
                if *first != key.environment {
                    let now = &key.environment;
                    warnings.push(format!("environment: {first} is now named {now}; the old name is still read"));
                }
                faults.extend(set.map(|former| {
                    let now = &key.environment;
                    let problem = format!("expected the variable {now} alone, got its former name beside {first}");
                    Fault::variable(former, problem)
                }));
            }
        }
        self.warnings.extend(warnings);
        self.faults.extend(faults);
    }

    /// The value of a key that has a default, or must be set.
    pub(super) fn value<T>(&mut self, setting: &Setting<T>) -> Result<T, Faulty> {
        self.found(setting).map(|found| found.value)
    }

    /// Like [`Self::value`], with where it came from.
    pub(super) fn found<T>(&mut self, setting: &Setting<T>) -> Result<Found<T>, Faulty> {
        let found = self.look_or_default(setting)?;
        self.note(setting, Some(&found));
        Ok(found)
    }

    /// Like [`Self::found`], but does not record the value: the caller may still change it.
    pub(super) fn look_or_default<T>(&mut self, setting: &Setting<T>) -> Result<Found<T>, Faulty> {
        match self.look(setting)? {
            Some(found) => Ok(found),
            None => match default_of(setting) {
                Some(value) => Ok(Found { value, source: Source::Default }),
                None => self.missing(setting),
            },
        }
    }

    /// The value of a key that may stay unset.
    pub(super) fn optional<T>(&mut self, setting: &Setting<T>) -> Result<Option<T>, Faulty> {
        let found = self.look(setting)?;
        self.note(setting, found.as_ref());
        Ok(found.map(|found| found.value))
    }

    /// The value of a key in the environment or the file, without its default. It is not recorded.
    pub(super) fn look<T>(&mut self, setting: &Setting<T>) -> Result<Option<Found<T>>, Faulty> {
        let variable = std::iter::once(setting.environment())
            .chain(setting.former_environment())
            .find(|name| environment::value(self.environment, name).is_some())
            .unwrap_or_else(|| setting.environment());
        let from_file = self.look_in_file(setting);
        let from_environment = match environment::value(self.environment, &variable) {
            None => Ok(None),
            Some(text) if text.contains(char::REPLACEMENT_CHARACTER) => {
                self.faults.push(Fault::variable(variable, "expected text in UTF-8, got other bytes"));
                Err(Faulty)
            }
            Some(text) => match setting.form.read(&bare(text)) {
                Ok(value) => Ok(Some(Found { value, source: Source::Environment(variable) })),
                Err(wrongs) => {
                    self.faults.extend(wrongs.into_iter().map(|wrong| Fault::variable(&variable, wrong.problem)));
                    Err(Faulty)
                }
            },
        };
        Ok(from_environment?.or(from_file?))
    }

    fn look_in_file<T>(&mut self, setting: &Setting<T>) -> Result<Option<Found<T>>, Faulty> {
        let path = self.written(setting);
        let (Some(file), Entered::Value(node)) = (self.file, self.entered(path)) else {
            return if matches!(self.entered(path), Entered::Refused) { Err(Faulty) } else { Ok(None) };
        };
        match setting.form.read(node) {
            Ok(value) => Ok(Some(Found { value, source: Source::File(file.path.clone(), node.at) })),
            Err(wrongs) => {
                self.faults.extend(wrongs.into_iter().map(|Wrong { at, item, problem }| {
                    let item = item.map(|n| format!("[{n}]")).unwrap_or_default();
                    Fault::at(&file.path, at, format!("{path}{item}"), problem)
                }));
                Err(Faulty)
            }
        }
    }

    /// The name that the file uses for a key; the present one where the file does not have the key.
    fn written<T>(&self, setting: &Setting<T>) -> &'static str {
        let former = || setting.formerly.iter().copied().find(|path| self.mentions(path));
        if self.mentions(setting.path) { setting.path } else { former().unwrap_or(setting.path) }
    }

    /// Whether the file has this key, even if its value is null.
    pub(super) fn mentions(&self, path: &str) -> bool {
        self.entry(path).is_some()
    }

    fn entry(&self, path: &str) -> Option<&'a Entry> {
        let (parent, leaf) = path.rsplit_once('.')?;
        match self.entered(parent) {
            Entered::Value(Node { content: Content::Section(entries), .. }) => entries.iter().find(|e| e.key == leaf),
            _ => None,
        }
    }

    /// Whether an optional section is in use: the file contains it (`{}` is enough), or a variable sets one of its keys.
    pub(super) fn wants_section(&self, path: &str) -> bool {
        let under = |key: &&Key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        let set = |name: &String| environment::value(self.environment, name).is_some();
        let given = |key: &Key| {
            set(&key.environment)
                || key.former_environment.iter().any(set)
                || key.formerly.iter().any(|former| self.mentions(former))
        };
        !matches!(self.entered(path), Entered::Nothing(_)) || self.keys.iter().filter(under).any(given)
    }

    /// Records a fault of a value that is valid by itself, with its source.
    pub(super) fn fault<T>(&mut self, setting: &Setting<T>, source: &Source, problem: String) {
        let fault = self.remark(setting, source, problem);
        self.faults.push(fault);
    }

    /// Records a warning about a value, with its source.
    pub(super) fn warn<T>(&mut self, setting: &Setting<T>, source: &Source, text: String) {
        let warning = self.remark(setting, source, text).to_string();
        self.warnings.push(warning);
    }

    fn remark<T>(&self, setting: &Setting<T>, source: &Source, problem: String) -> Fault {
        match source {
            Source::File(path, position) => Fault::at(path, *position, self.written(setting), problem),
            Source::Environment(name) => Fault::variable(name, problem),
            Source::Default => Fault::variable(setting.environment(), problem),
            Source::PasswordFile(path) => Fault::file(path, problem),
            Source::Credential(_) => Fault::variable("CREDENTIALS_DIRECTORY", problem),
        }
    }

    /// Records the value in force of a key.
    pub(super) fn note<T>(&mut self, setting: &Setting<T>, found: Option<&Found<T>>) {
        let (value, source) = match found {
            Some(found) => (setting.form.show(&found.value), found.source.clone()),
            None => ("null".into(), Source::Default),
        };
        self.effective.push(Effective { key: setting.path, value, source });
    }

    /// Where the recorded value of a key came from.
    pub(super) fn source_of<T>(&self, setting: &Setting<T>) -> Source {
        let recorded = self.effective.iter().find(|effective| effective.key == setting.path);
        recorded.map_or(Source::Default, |effective| effective.source.clone())
    }

    /// Records that an optional section is absent, instead of its keys.
    pub(super) fn note_absent(&mut self, section: &'static str) {
        self.effective.push(Effective { key: section, value: "null".into(), source: Source::Default });
    }

    fn missing<T>(&mut self, setting: &Setting<T>) -> Result<Found<T>, Faulty> {
        let explained = |path: &String| {
            setting.path.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if self.explained.iter().any(explained) {
            return Err(Faulty);
        }
        let expects = setting.form.expects();
        let variable = setting.environment();
        self.faults.push(match (self.file, self.entered(setting.path)) {
            (Some(file), Entered::Nothing(Some(at))) => {
                let problem = format!("expected {expects}, got nothing; set it here or by the variable {variable}");
                Fault::at(&file.path, at, setting.path, problem)
            }
            _ => {
                let (path, file) = (setting.path, self.role.default_file());
                Fault::variable(
                    variable,
                    format!("expected {expects}, got nothing; set it, or {path} in {}", file.display()),
                )
            }
        });
        Err(Faulty)
    }

    fn entered(&self, path: &str) -> Entered<'a> {
        let mut entries = self.file.map(|file| file.root.as_slice()).unwrap_or_default();
        let mut above = None;
        let mut segments = path.split('.').peekable();
        while let Some(segment) = segments.next() {
            let Some(entry) = entries.iter().find(|entry| entry.key == segment) else { break };
            let last = segments.peek().is_none();
            match &entry.value.content {
                Content::Refused => return Entered::Refused,
                Content::Null => return Entered::Nothing(Some(if last { entry.value.at } else { entry.at })),
                _ if last => return Entered::Value(&entry.value),
                Content::Section(children) => (entries, above) = (children, Some(entry.at)),
                _ => return Entered::Refused,
            }
        }
        Entered::Nothing(above)
    }

    /// Compares every name below `parent` with the known ones.
    fn inspect(&mut self, file: &Path, parent: &str, entries: &[Entry]) {
        for entry in entries {
            if self.faults.len() >= FAULTS_MAX {
                return;
            }
            let path = if parent.is_empty() { entry.key.clone() } else { format!("{parent}.{}", entry.key) };
            let nested_in_name = entry.key.contains('.');
            if !nested_in_name && (path == self.role.other().section() || self.is_key(&path)) {
                continue;
            }
            let children = self.names_below(&path);
            if nested_in_name || children.is_empty() {
                self.unknown(file, parent, entry);
                continue;
            }
            match &entry.value.content {
                Content::Section(below) => self.inspect(file, &path, below),
                Content::Null | Content::Refused => {}
                _ => {
                    let (names, got) = (children.join(", "), got(&entry.value));
                    let problem = format!("expected a section with the keys {names}, got {got}");
                    self.faults.push(Fault::at(file, entry.value.at, path, problem));
                }
            }
        }
    }

    fn unknown(&mut self, file: &Path, parent: &str, entry: &Entry) {
        let names = self.names_below(parent);
        let below = |name: &str| if parent.is_empty() { name.to_string() } else { format!("{parent}.{name}") };
        let path = below(&shown_key(&entry.key));
        let meant = below(&entry.key);
        let advice = if entry.key.contains('.') && (self.is_key(&meant) || !self.names_below(&meant).is_empty()) {
            self.explained.push(meant);
            "; sections are written as lines with deeper ones below them, not with dots".into()
        } else if let Some(name) = nearest(&entry.key, names.iter().copied()) {
            self.explained.push(below(name));
            format!("; did you mean {name}?")
        } else {
            let elsewhere: Vec<_> = self
                .keys
                .iter()
                .map(|key| key.path)
                .filter(|path| path.rsplit('.').next().is_some_and(|leaf| alike(leaf, &entry.key)))
                .collect();
            self.explained.extend(elsewhere.iter().map(|path| (*path).to_string()));
            if elsewhere.is_empty() { String::new() } else { format!("; did you mean {}?", elsewhere.join(" or ")) }
        };
        let problem = format!("expected one of {}, got an unknown key{advice}", names.join(", "));
        self.faults.push(Fault::at(file, entry.at, path, problem));
    }

    /// The known names right below a section; below nothing, the roots that one file may hold. Former names count only
    /// where a section has no others.
    fn names_below(&self, parent: &str) -> Vec<&'static str> {
        if parent.is_empty() {
            return vec!["registry", "member", "log"];
        }
        let below = |paths: &mut dyn Iterator<Item = &'static str>| {
            let mut names: Vec<&'static str> = Vec::new();
            for path in paths {
                let below = path.strip_prefix(parent).and_then(|rest| rest.strip_prefix('.'));
                if let Some(name) = below.and_then(|rest| rest.split('.').next()).filter(|name| !names.contains(name)) {
                    names.push(name);
                }
            }
            names
        };
        let names = below(&mut self.keys.iter().map(|key| key.path));
        if names.is_empty() { below(&mut self.keys.iter().flat_map(|key| key.formerly).copied()) } else { names }
    }

    fn is_key(&self, path: &str) -> bool {
        self.keys.iter().any(|key| key.path == path || key.formerly.contains(&path))
    }

    /// A file must have the section of its role: without it, it must not be accepted as "all defaults".
    fn expect_own_section(&mut self, file: &ConfigFile) {
        let own = self.role.section();
        if file.root.iter().any(|entry| entry.key == own) {
            return;
        }
        let explained = self.explained.iter().any(|path| path == own || path.starts_with(&format!("{own}.")));
        if !explained && file.faults.is_empty() {
            let other = self.role.other().section();
            self.faults.push(match file.root.iter().find(|entry| entry.key == other) {
                Some(entry) => Fault::at(
                    &file.path,
                    entry.at,
                    own,
                    format!("expected a section of this name, got only {other}; this looks like the file of a {other}"),
                ),
                None if file.root.is_empty() => {
                    Fault::file(&file.path, format!("expected the section {own}, got an empty file"))
                }
                None => Fault::file(&file.path, format!("expected the section {own}, got none of this name")),
            });
        }
        self.explained.push(own.into());
    }
}

/// The default of a key that has one.
pub(super) fn default_of<T>(setting: &Setting<T>) -> Option<T> {
    match setting.default {
        KeyDefault::Value(text) => {
            Some(setting.form.read(&bare(text)).expect("each default of the table fits its form"))
        }
        KeyDefault::Required | KeyDefault::Unset => None,
    }
}

fn bare(text: &str) -> Node {
    Node { at: Position::default(), content: Content::Bare(text.into()) }
}

#[cfg(test)]
mod tests;
