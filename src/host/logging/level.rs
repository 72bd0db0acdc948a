//! Parses the log level: the value of `log.level` and `LOG_LEVEL`.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// A part of the value that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected off, error, warn, info, debug or trace, or such a level for one part of the program as in \
     `warn,member=debug`, got {part:?}"
)]
pub struct LevelError {
    /// The part that cannot be parsed.
    pub part: String,
}

/// Parses `LEVEL` or `PART=LEVEL`, or several of them separated by commas; case does not matter. A part is a module of this
/// program, with or without `netring::` before it, or another crate. A `LEVEL` without a part applies to everything else;
/// the default is `info`.
pub(super) fn parse(text: &str) -> Result<Targets, LevelError> {
    let mut targets = Targets::new().with_default(LevelFilter::INFO);
    for item in text.split(',').map(str::trim) {
        let wrong = || LevelError { part: item.to_owned() };
        targets = match item.split_once('=') {
            None => targets.with_default(level(item).ok_or_else(wrong)?),
            Some((part, name)) => {
                let level = level(name).ok_or_else(wrong)?;
                let part = part.trim();
                if part.is_empty() {
                    return Err(wrong());
                }
                targets.with_target(format!("netring::{part}"), level).with_target(part, level)
            }
        };
    }
    Ok(targets)
}

/// A level by its name. `warning` and `critical` are the names that Python's logging uses.
fn level(name: &str) -> Option<LevelFilter> {
    Some(match name.trim().to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" | "critical" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn shows(text: &str, target: &str, level: Level) -> bool {
        parse(text).unwrap().would_enable(target, &level)
    }

    #[test]
    fn a_level_alone_applies_to_everything_and_case_does_not_matter() {
        for text in ["DEBUG", "debug", " Debug "] {
            assert!(shows(text, "netring::member", Level::DEBUG) && !shows(text, "netring::member", Level::TRACE));
        }
        assert!(!shows("off", "netring", Level::ERROR));
        assert!(shows("WARNING", "netring", Level::WARN) && !shows("WARNING", "netring", Level::INFO));
        assert!(shows("CRITICAL", "netring", Level::ERROR) && !shows("CRITICAL", "netring", Level::WARN));
    }

    #[test]
    fn a_part_has_its_own_level_with_and_without_the_prefix_netring() {
        for text in ["warn,member=debug", "netring::member=DEBUG,warn"] {
            assert!(shows(text, "netring::member::session", Level::DEBUG), "{text}");
            assert!(!shows(text, "netring::registry", Level::INFO), "{text}");
        }
        assert!(shows("hyper=trace", "hyper::proto", Level::TRACE));
        assert!(shows("hyper=trace", "netring::serve", Level::INFO), "the rest stays at info");
    }

    #[test]
    fn an_error_names_the_wrong_part_and_what_was_expected() {
        for (text, part) in
            [("", ""), ("verbose", "verbose"), ("info,", ""), ("member=", "member="), ("=info", "=info")]
        {
            assert_eq!(parse(text).unwrap_err().part, part, "{text:?}");
        }
        assert!(parse("verbose").unwrap_err().to_string().ends_with("as in `warn,member=debug`, got \"verbose\""));
    }
}
