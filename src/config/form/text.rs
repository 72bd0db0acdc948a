//! The forms of texts: names, paths, secrets, and what is logged.

use std::path::PathBuf;
use std::str::FromStr;

use tracing_subscriber::filter::Targets;

use super::super::Secret;
use super::super::fault::shown;
use super::super::yaml::{Content, Node};
use super::{Form, Wrong, at_node, got, parts, text_of};
use crate::wire::{INSTANCE_ID_MAX, InstanceId, LOCATION_MAX, Location};

/// The name of a site.
pub(in super::super) struct LocationName;

impl Form<Location> for LocationName {
    fn expects(&self) -> String {
        format!("a name of 1 to {LOCATION_MAX} bytes without control characters, such as \"us1-k8s\"")
    }

    fn read(&self, node: &Node) -> Result<Location, Vec<Wrong>> {
        at_node(
            node,
            text_of(node, &self.expects()).and_then(|text| text.parse::<Location>().map_err(|e| e.to_string())),
        )
    }

    fn show(&self, value: &Location) -> String {
        value.to_string()
    }
}

/// The identity of a member.
pub(in super::super) struct Identity;

impl Form<InstanceId> for Identity {
    fn expects(&self) -> String {
        format!("1 to {INSTANCE_ID_MAX} of the characters A-Z a-z 0-9 . _ : @ -")
    }

    fn read(&self, node: &Node) -> Result<InstanceId, Vec<Wrong>> {
        at_node(
            node,
            text_of(node, &self.expects()).and_then(|text| text.parse::<InstanceId>().map_err(|e| e.to_string())),
        )
    }

    fn show(&self, value: &InstanceId) -> String {
        value.to_string()
    }
}

/// A name without further rules.
pub(in super::super) struct Name;

impl Name {
    const BYTES_MAX: usize = 256;
}

impl Form<String> for Name {
    fn expects(&self) -> String {
        format!("a name of 1 to {} bytes without control characters", Self::BYTES_MAX)
    }

    fn read(&self, node: &Node) -> Result<String, Vec<Wrong>> {
        let expects = self.expects();
        let result = text_of(node, &expects).and_then(|text| {
            let fits = !text.is_empty() && text.len() <= Self::BYTES_MAX && !text.chars().any(char::is_control);
            if fits { Ok(text.into()) } else { Err(format!("expected {expects}, got {}", got(node))) }
        });
        at_node(node, result)
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

/// The path of a file, from the root.
pub(in super::super) struct FilePath;

impl Form<PathBuf> for FilePath {
    fn expects(&self) -> String {
        "the path of a file, beginning with a slash".into()
    }

    fn read(&self, node: &Node) -> Result<PathBuf, Vec<Wrong>> {
        let expects = self.expects();
        let result = text_of(node, &expects).and_then(|text| {
            let fits = text.starts_with('/') && !text.ends_with('/') && !text.chars().any(char::is_control);
            if fits { Ok(text.into()) } else { Err(format!("expected {expects}, got {}", got(node))) }
        });
        at_node(node, result)
    }

    fn show(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }
}

/// A text that is never shown, neither whole nor in part.
pub(in super::super) struct SecretText;

impl SecretText {
    const BYTES_MAX: usize = 4096;

    /// The secret that `text` is.
    pub(in super::super) fn secret(text: &str) -> Result<Secret, String> {
        match text.len() {
            1..=Self::BYTES_MAX => Ok(Secret(text.into())),
            bytes => Err(format!("expected {}, got one of {bytes}", SecretText.expects())),
        }
    }
}

impl Form<Secret> for SecretText {
    fn expects(&self) -> String {
        format!("a text of 1 to {} bytes", Self::BYTES_MAX)
    }

    fn read(&self, node: &Node) -> Result<Secret, Vec<Wrong>> {
        let result = match &node.content {
            Content::Text(text) | Content::Bare(text) => Self::secret(text),
            Content::Number(_) => Err(format!("expected {}, got a number; as a text it needs quotes", self.expects())),
            Content::Bool(_) => Err(format!("expected {}, got a boolean; as a text it needs quotes", self.expects())),
            _ => Err(format!("expected {}, got {}", self.expects(), got(node))),
        };
        at_node(node, result)
    }

    fn show(&self, _: &Secret) -> String {
        "********".into()
    }
}

/// Which events are logged: a level, and other levels for single parts of the program.
pub(in super::super) struct Level;

impl Level {
    /// Each name of a level, and the one that tracing has for it. The names of Python's `logging` that differ are
    /// here because the variable `LOG_LEVEL` is often set for programs of both kinds.
    const NAMES: [(&str, &str); 9] = [
        ("off", "off"),
        ("error", "error"),
        ("warn", "warn"),
        ("info", "info"),
        ("debug", "debug"),
        ("trace", "trace"),
        ("warning", "warn"),
        ("critical", "error"),
        ("fatal", "error"),
    ];

    fn level(name: &str) -> Option<&'static str> {
        Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
    }

    /// Whether this could be the path of a module. What else tracing's filters have, spans and fields, is not known here, and
    /// would match nothing.
    fn is_target(text: &str) -> bool {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
    }

    /// The filter in tracing's own words. A lone word that is no level must not pass: tracing would take `inof` for the
    /// name of a part, and log nothing.
    fn filter(text: &str) -> Result<String, String> {
        let directives = parts(text).map(|directive| match directive.split_once('=') {
            Some((target, name)) if Self::is_target(target) => Self::level(name)
                .map(|level| format!("{target}={level}"))
                .ok_or_else(|| format!("{} after the =", shown(name))),
            // As tracing has it: all of that part.
            None if directive.contains("::") && Self::is_target(directive) => Ok(format!("{directive}=trace")),
            _ => Self::level(directive).map(String::from).ok_or_else(|| shown(directive)),
        });
        let filter = directives.collect::<Result<Vec<_>, _>>()?.join(",");
        if filter.is_empty() {
            return Err("an empty text".into());
        }
        Targets::from_str(&filter).map_err(|_| shown(text))?;
        Ok(filter)
    }
}

impl Form<String> for Level {
    fn expects(&self) -> String {
        "off, error, warn, info, debug or trace, alone or for parts of the program (info,netring::member=debug)".into()
    }

    fn read(&self, node: &Node) -> Result<String, Vec<Wrong>> {
        let expects = self.expects();
        let result = text_of(node, &expects)
            .and_then(|text| Self::filter(text).map_err(|what| format!("expected {expects}, got {what}")));
        at_node(node, result)
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}
