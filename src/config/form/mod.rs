//! The forms of values: each form describes which values it accepts, reads a value or reports what is wrong with it, and writes
//! a value as it could be written in the file.
//!
//! A form carries its own range, so a value that has been read is valid by itself; what concerns two keys is checked
//! in `load`. The text of [`Form::expects`] is part of every fault and of the manual.

pub(super) mod network;
pub(super) mod text;

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::fault::{Position, shown};
use super::yaml::{Content, Node, is_number};

/// How the value of one key is read and written.
pub(super) trait Form<T>: Sync {
    /// Which values are valid, as the text after "expected" in an error message.
    fn expects(&self) -> String;

    /// The value of `node`, or everything that is wrong with it.
    fn read(&self, node: &Node) -> Result<T, Vec<Wrong>>;

    /// The value as the file could hold it.
    fn show(&self, value: &T) -> String;
}

/// Why a value is invalid.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wrong {
    /// Where it is.
    pub(super) at: Position,
    /// Its index in a list.
    pub(super) item: Option<usize>,
    /// What was expected and what was found.
    pub(super) problem: String,
}

/// The result of a form that finds at most one fault in a value.
fn at_node<T>(node: &Node, result: Result<T, String>) -> Result<T, Vec<Wrong>> {
    result.map_err(|problem| vec![Wrong { at: node.at, item: None, problem }])
}

/// A description of a value, as the text after "got" in an error message.
pub(super) fn got(node: &Node) -> String {
    match &node.content {
        Content::Null => "nothing".into(),
        Content::Bool(text) => format!("the boolean {text}"),
        Content::Number(text) if text.len() <= 40 => format!("the number {text}"),
        Content::Number(text) => format!("a number of {} digits", text.len()),
        Content::Text(text) => format!("the text {}", shown(text)),
        Content::Bare(text) => shown(text),
        Content::List(_) => "a list".into(),
        Content::Section(_) | Content::Refused => "a section".into(),
    }
}

/// The text in `node`, or why it contains none.
fn text_of<'n>(node: &'n Node, expects: &str) -> Result<&'n str, String> {
    match &node.content {
        Content::Text(text) | Content::Bare(text) => Ok(text),
        Content::Number(text) | Content::Bool(text) if text.len() <= 40 => {
            Err(format!("expected {expects}, got {}; as a text it needs quotes: \"{text}\"", got(node)))
        }
        _ => Err(format!("expected {expects}, got {}", got(node))),
    }
}

/// A whole number within a range.
pub(super) struct Whole {
    /// The smallest.
    pub(super) from: u64,
    /// The largest.
    pub(super) to: u64,
}

impl Whole {
    /// The number in `node`; `expects` is used in the error message if it contains none.
    fn read_as<T: FromStr>(&self, node: &Node, expects: &str) -> Result<T, Vec<Wrong>> {
        let result = match &node.content {
            Content::Number(text) | Content::Bare(text) => text
                .parse()
                .ok()
                .filter(|number: &u64| (self.from..=self.to).contains(number))
                .and_then(|number| number.to_string().parse().ok())
                .ok_or_else(|| format!("expected {expects}, got {}", got(node))),
            Content::Text(text) if is_number(text) => {
                Err(format!("expected {expects}, got {}; as a number it stands without quotes", got(node)))
            }
            _ => Err(format!("expected {expects}, got {}", got(node))),
        };
        at_node(node, result)
    }
}

impl<T: FromStr + Display> Form<T> for Whole {
    fn expects(&self) -> String {
        format!("a whole number from {} to {}", self.from, self.to)
    }

    fn read(&self, node: &Node) -> Result<T, Vec<Wrong>> {
        self.read_as(node, &Form::<T>::expects(self))
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }
}

/// A number of bytes within a range: a whole number, or a text with a unit.
pub(super) struct Size {
    /// The smallest, in bytes.
    pub(super) from: usize,
    /// The largest, in bytes.
    pub(super) to: usize,
}

/// The units of sizes, in bytes, the largest first.
const SIZE_UNITS: [(&str, usize); 2] = [("MiB", 1024 * 1024), ("KiB", 1024)];

impl Form<usize> for Size {
    fn expects(&self) -> String {
        format!("a size from {} to {}, in bytes or with its unit (16KiB, 1MiB)", size(self.from), size(self.to))
    }

    fn read(&self, node: &Node) -> Result<usize, Vec<Wrong>> {
        let wrong = |advice: &str| format!("expected {}, got {}{advice}", self.expects(), got(node));
        let result = match &node.content {
            Content::Number(text) => bytes(text, 1).ok_or_else(|| wrong("")),
            Content::Bare(text) => parse_size(text).or_else(|| bytes(text, 1)).ok_or_else(|| wrong("")),
            Content::Text(text) if is_number(text) => {
                Err(wrong("; a number stands without quotes, a text needs a unit"))
            }
            Content::Text(text) => parse_size(text).ok_or_else(|| wrong("")),
            _ => Err(wrong("")),
        };
        at_node(node, result.and_then(|n| if (self.from..=self.to).contains(&n) { Ok(n) } else { Err(wrong("")) }))
    }

    fn show(&self, value: &usize) -> String {
        size(*value)
    }
}

/// A number of bytes as it could be written in the file: in the largest unit without a fraction, or without a unit.
fn size(value: usize) -> String {
    match SIZE_UNITS.iter().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => value.to_string(),
    }
}

/// A whole number with its unit and nothing between, such as `16KiB`.
fn parse_size(text: &str) -> Option<usize> {
    SIZE_UNITS.iter().find_map(|(unit, factor)| bytes(text.strip_suffix(unit)?, *factor))
}

/// The whole number `text` times `factor`.
fn bytes(text: &str, factor: usize) -> Option<usize> {
    let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    text.parse::<usize>().ok().filter(|_| digits)?.checked_mul(factor)
}

/// A length of time within a range: a number of seconds, or a text with a unit.
pub(super) struct Time {
    /// The shortest.
    pub(super) from: Duration,
    /// The longest.
    pub(super) to: Duration,
}

impl Form<Duration> for Time {
    fn expects(&self) -> String {
        format!(
            "a time from {} to {}, in seconds or with its unit (250ms, 5s, 2m, 1h, 1d)",
            time(self.from),
            time(self.to)
        )
    }

    fn read(&self, node: &Node) -> Result<Duration, Vec<Wrong>> {
        let wrong = |advice: &str| format!("expected {}, got {}{advice}", self.expects(), got(node));
        let result = match &node.content {
            Content::Number(text) => seconds(text, 1_000_000_000).ok_or_else(|| wrong("")),
            Content::Bare(text) => parse_time(text).or_else(|| seconds(text, 1_000_000_000)).ok_or_else(|| wrong("")),
            Content::Text(text) if is_number(text) => {
                Err(wrong("; a number stands without quotes, a text needs a unit"))
            }
            Content::Text(text) => parse_time(text).ok_or_else(|| wrong("")),
            _ => Err(wrong("")),
        };
        at_node(node, result.and_then(|t| if (self.from..=self.to).contains(&t) { Ok(t) } else { Err(wrong("")) }))
    }

    fn show(&self, value: &Duration) -> String {
        time(*value)
    }
}

/// A length of time as it could be written in the file: in whole days, otherwise in seconds, below one second in milliseconds,
/// with as many decimals as needed.
pub(super) fn time(value: Duration) -> String {
    let fraction = |nanos: u32, digits: usize| match format!("{nanos:0digits$}").trim_end_matches('0') {
        "" => String::new(),
        decimals => format!(".{decimals}"),
    };
    match (value.as_secs(), value.subsec_nanos()) {
        (0, nanos) if nanos > 0 => format!("{}{}ms", nanos / 1_000_000, fraction(nanos % 1_000_000, 6)),
        (seconds, 0) if seconds > 0 && seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        (seconds, nanos) => format!("{seconds}{}s", fraction(nanos, 9)),
    }
}

/// A length of time as a command line gives it: as in the file, a number of seconds or a text with a unit.
///
/// # Errors
///
/// What was expected, in a clause.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_time(text)
        .or_else(|| seconds(text, 1_000_000_000))
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "expected a time such as 250ms, 5s or 2m, or a number of seconds".to_owned())
}

/// A decimal number with its unit and nothing between, such as `250ms` or `1.5h`; at most nine digits on either side.
fn parse_time(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ];
    UNITS.iter().find_map(|(unit, nanos)| seconds(text.strip_suffix(unit)?, *nanos))
}

/// The plain decimal number `text` times a unit of `unit_nanos` nanoseconds, which must come out whole.
fn seconds(text: &str, unit_nanos: u64) -> Option<Duration> {
    const DIGITS_MAX: usize = 9;
    let digits = |text: &str| text.len() <= DIGITS_MAX && text.chars().all(|c| c.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.is_empty() || fraction.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = format!("{whole}{fraction}").parse::<u128>().ok()? * u128::from(unit_nanos);
    if parts % scale != 0 {
        return None;
    }
    u64::try_from(parts / scale).ok().map(Duration::from_nanos)
}

/// One of several words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq + Sync> Form<T> for Choice<T> {
    fn expects(&self) -> String {
        match self.0 {
            [first @ .., last] => {
                let first: Vec<_> = first.iter().map(|(word, _)| *word).collect();
                format!("{} or {}", first.join(", "), last.0)
            }
            [] => String::new(),
        }
    }

    fn read(&self, node: &Node) -> Result<T, Vec<Wrong>> {
        let expects = self.expects();
        at_node(
            node,
            text_of(node, &expects).and_then(|text| match self.0.iter().find(|(word, _)| *word == text) {
                Some((_, value)) => Ok(*value),
                None => Err(format!("expected {expects}, got {}", got(node))),
            }),
        )
    }

    fn show(&self, value: &T) -> String {
        self.0.iter().find(|(_, listed)| listed == value).map(|(word, _)| (*word).into()).unwrap_or_default()
    }
}

/// A list of texts of one form, none of them twice; in a variable they are separated by commas.
pub(super) struct List<T: 'static> {
    /// The form of one item.
    pub(super) item: &'static dyn Form<T>,
    /// The most items there may be.
    pub(super) most: usize,
}

impl<T: PartialEq> Form<Vec<T>> for List<T> {
    fn expects(&self) -> String {
        format!("a list of at most {}, each {}, none of them twice", self.most, self.item.expects())
    }

    fn read(&self, node: &Node) -> Result<Vec<T>, Vec<Wrong>> {
        let split: Vec<Node>;
        let items = match &node.content {
            Content::List(items) => items,
            Content::Bare(text) => {
                split = parts(text).map(|part| Node { at: node.at, content: Content::Bare(part.into()) }).collect();
                &split
            }
            _ => return at_node(node, Err(format!("expected {}, got {}", self.expects(), got(node)))),
        };
        if items.len() > self.most {
            return at_node(node, Err(format!("expected {}, got a list of {}", self.expects(), items.len())));
        }
        let mut values = Vec::new();
        let mut wrongs = Vec::new();
        for (n, item) in items.iter().enumerate() {
            match self.item.read(item) {
                Ok(value) if values.contains(&value) => {
                    let problem = format!("expected each item once, got {} again", got(item));
                    wrongs.push(Wrong { at: item.at, item: Some(n), problem });
                }
                Ok(value) => values.push(value),
                Err(_) if item.content == Content::Refused => {}
                Err(more) => wrongs.extend(more.into_iter().map(|wrong| Wrong { item: Some(n), ..wrong })),
            }
        }
        if wrongs.is_empty() { Ok(values) } else { Err(wrongs) }
    }

    fn show(&self, values: &Vec<T>) -> String {
        let items: Vec<_> = values.iter().map(|value| format!("\"{}\"", self.item.show(value))).collect();
        format!("[{}]", items.join(", "))
    }
}

/// The parts of a text that is separated by commas, without surrounding spaces; none for an empty text.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(move |_| !text.trim().is_empty())
}

/// Accepts every value: the form of a key that is not used.
pub(super) struct Anything;

impl Form<()> for Anything {
    fn expects(&self) -> String {
        "anything".into()
    }

    fn read(&self, _: &Node) -> Result<(), Vec<Wrong>> {
        Ok(())
    }

    fn show(&self, (): &()) -> String {
        "unused".into()
    }
}

#[cfg(test)]
mod tests;
