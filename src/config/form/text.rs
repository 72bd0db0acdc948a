//! The forms of texts: names, paths, secrets and log levels.

use std::path::PathBuf;

use super::super::level::{InvalidLevel, LogLevel};
use super::super::settings::Secret;
use super::super::yaml::{Content, Node};
use super::{Form, Wrong, at_node, got, text_of};
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

/// A name that may hold any character but control characters.
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

/// The absolute path of a file.
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

/// Which events are logged.
pub(in super::super) struct Level;

impl Form<LogLevel> for Level {
    fn expects(&self) -> String {
        LogLevel::EXPECTS.into()
    }

    fn read(&self, node: &Node) -> Result<LogLevel, Vec<Wrong>> {
        at_node(
            node,
            text_of(node, LogLevel::EXPECTS).and_then(|text| text.parse().map_err(|e: InvalidLevel| e.to_string())),
        )
    }

    fn show(&self, value: &LogLevel) -> String {
        value.to_string()
    }
}
