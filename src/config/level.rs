//! Which events are logged: the text of `log.level` and `LOG_LEVEL`, and the filter that it means.
//!
//! A level alone, such as `info`, applies to the whole program. `PART=LEVEL` applies to one part: a module of this
//! program, with or without `netring::` before it, or another crate. Several are separated by commas. Case does not
//! matter.

use std::fmt;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The names of levels. Those of Python's `logging` that differ are here because the variable `LOG_LEVEL` is often set
/// for programs of both kinds.
const NAMES: [(&str, LevelFilter); 9] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
    ("warning", LevelFilter::WARN),
    ("critical", LevelFilter::ERROR),
    ("fatal", LevelFilter::ERROR),
];

/// Which events are logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLevel {
    text: String,
    targets: Targets,
}

impl LogLevel {
    /// Which texts are valid, as the text after "expected" in an error message.
    pub const EXPECTS: &'static str =
        "off, error, warn, info, debug or trace, alone or for parts of the program (info,netring::member=debug)";

    /// The filter for tracing. Parts that are not named have the level that is given without a part, or `info`.
    #[must_use]
    pub fn targets(&self) -> Targets {
        self.targets.clone()
    }
}

/// The text in one spelling: small letters, tracing's names of levels, no spaces.
impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The part of a text that is no level: what an error shows after "got".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLevel(pub String);

impl fmt::Display for InvalidLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, got {:?}", LogLevel::EXPECTS, self.0)
    }
}

impl std::error::Error for InvalidLevel {}

impl FromStr for LogLevel {
    type Err = InvalidLevel;

    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        let mut targets = Targets::new().with_default(LevelFilter::INFO);
        let mut directives = Vec::new();
        for directive in text.split(',').map(str::trim) {
            let invalid = || InvalidLevel(directive.into());
            let (part, level) = match directive.split_once('=') {
                Some((part, name)) => (part.trim(), level(name.trim()).ok_or_else(invalid)?),
                // As in tracing's own syntax, the path of a module alone is all of its events. A single word must not
                // pass: a misspelt level such as `inof` would be taken for a part, and nothing would be logged.
                None if directive.contains("::") => (directive, LevelFilter::TRACE),
                None => {
                    let level = level(directive).ok_or_else(invalid)?;
                    targets = targets.with_default(level);
                    directives.push(level.to_string());
                    continue;
                }
            };
            if !is_part(part) {
                return Err(invalid());
            }
            targets = targets.with_target(format!("netring::{part}"), level).with_target(part, level);
            directives.push(format!("{part}={level}"));
        }
        Ok(Self { text: directives.join(","), targets })
    }
}

fn level(name: &str) -> Option<LevelFilter> {
    NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
}

/// Whether `text` can be the path of a module. The spans and fields of tracing's filters are not supported.
fn is_part(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn shows(text: &str, target: &str, level: Level) -> bool {
        text.parse::<LogLevel>().unwrap().targets().would_enable(target, &level)
    }

    #[test]
    fn a_level_alone_counts_for_everything_in_any_case() {
        for text in ["DEBUG", "debug", " Debug "] {
            assert!(shows(text, "netring::member", Level::DEBUG) && !shows(text, "netring::member", Level::TRACE));
        }
        assert!(!shows("off", "netring", Level::ERROR));
        assert!(shows("WARNING", "netring", Level::WARN) && !shows("WARNING", "netring", Level::INFO));
        for text in ["CRITICAL", "fatal"] {
            assert!(shows(text, "netring", Level::ERROR) && !shows(text, "netring", Level::WARN));
        }
    }

    #[test]
    fn a_part_has_its_own_level_with_and_without_the_name_of_the_program() {
        for text in ["warn,member=debug", "netring::member=DEBUG,warn"] {
            assert!(shows(text, "netring::member::session", Level::DEBUG), "{text}");
            assert!(!shows(text, "netring::registry", Level::INFO), "{text}");
        }
        assert!(shows("hyper=trace", "hyper::proto", Level::TRACE));
        assert!(shows("hyper=trace", "netring::serve", Level::INFO), "the rest stays at info");
        assert!(shows("off,netring::member", "netring::member", Level::TRACE), "a path alone is all of it");
    }

    #[test]
    fn each_text_has_one_spelling_which_means_the_same() {
        for (given, written) in [
            ("info", "info"),
            ("DEBUG", "debug"),
            ("WARNING", "warn"),
            ("CRITICAL", "error"),
            ("warn, netring::member=Debug", "warn,netring::member=debug"),
            ("netring::member", "netring::member=trace"),
            ("off,netring::member", "off,netring::member=trace"),
            ("warn,hyper = trace", "warn,hyper=trace"),
        ] {
            let level: LogLevel = given.parse().unwrap();
            assert_eq!(level.to_string(), written);
            assert_eq!(written.parse(), Ok(level));
        }
    }

    #[test]
    fn the_part_of_a_text_that_is_no_level_is_named() {
        for (text, part) in [
            ("", ""),
            ("verbose", "verbose"),
            ("info,", ""),
            ("info,,debug", ""),
            ("member=", "member="),
            ("=info", "=info"),
            ("netring", "netring"),
            ("netring=loud", "netring=loud"),
            ("netring[span]=debug", "netring[span]=debug"),
            ("netring::[x]", "netring::[x]"),
        ] {
            assert_eq!(text.parse::<LogLevel>().unwrap_err().0, part, "{text:?}");
        }
    }
}
