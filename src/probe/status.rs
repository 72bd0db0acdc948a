//! Which HTTP statuses count as connected: ranges of status codes, read from text and written as text.

use std::fmt;
use std::str::FromStr;

/// Ranges of HTTP status codes, such as `200-299` or `200`; both ends of a range belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(pub Vec<(u16, u16)>);

impl StatusRanges {
    /// What a text must be, to stand after "expected" in an error.
    pub const EXPECTS: &'static str = "a status from 100 to 599 or a range of them such as 200-399";

    /// Whether `status` is in one of the ranges.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&status))
    }
}

/// A part of a text that is neither a status nor a range of them; empty where the text has no part at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidStatus(pub String);

impl fmt::Display for InvalidStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, got {:?}", StatusRanges::EXPECTS, self.0)
    }
}

impl std::error::Error for InvalidStatus {}

/// Statuses and ranges separated by commas, such as `200-299,304`.
impl FromStr for StatusRanges {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        let status = |text: &str| {
            let digits = text.len() == 3 && text.chars().all(|c| c.is_ascii_digit());
            text.parse::<u16>().ok().filter(|status| digits && (100..=599).contains(status))
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (status(first.trim()), status(last.trim())) {
                (Some(first), Some(last)) if first <= last => Ok((first, last)),
                _ => Err(InvalidStatus(part.into())),
            }
        };
        text.split(',').map(|part| range(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_is_in_the_ranges_whose_ends_enclose_it() {
        let ranges: StatusRanges = "200-299, 304".parse().unwrap();
        assert_eq!(ranges.0, [(200, 299), (304, 304)]);
        for (status, is_in) in [(199, false), (200, true), (299, true), (300, false), (304, true), (305, false)] {
            assert_eq!(ranges.contains(status), is_in, "{status}");
        }
    }

    #[test]
    fn the_part_that_is_no_status_is_named() {
        for (text, part) in [
            ("", ""),
            ("99", "99"),
            ("600", "600"),
            ("200,300-200", "300-200"),
            ("200-", "200-"),
            ("-200", "-200"),
            ("2xx", "2xx"),
            ("200,,300", ""),
            ("+200", "+200"),
        ] {
            assert_eq!(text.parse::<StatusRanges>().unwrap_err().0, part, "{text:?}");
        }
        let error = "ok".parse::<StatusRanges>().unwrap_err().to_string();
        assert_eq!(error, "expected a status from 100 to 599 or a range of them such as 200-399, got \"ok\"");
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(ends in prop::collection::vec((100_u16..600, 100_u16..600), 1..5)) {
            let ranges = StatusRanges(ends.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect());
            prop_assert_eq!(ranges.to_string().parse(), Ok(ranges));
        }
    }
}
