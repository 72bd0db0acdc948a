//! Events as lines: text for people, or one JSON object each.

use std::fmt::{self, Write as _};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;

use super::events::KIND;

/// The format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `TIME LEVEL part: message field=value`.
    Text {
        /// Whether to colour the level.
        colour: bool,
    },
    /// `{"time":..,"level":..,"part":..,"message":..}` and the fields.
    Json,
}

/// Formats each event as one line and passes it to `write` in one call.
pub(super) struct Lines<W> {
    form: Form,
    write: W,
}

impl<W: Fn(&str)> Lines<W> {
    pub(super) fn new(form: Form, write: W) -> Self {
        Self { form, write }
    }
}

impl<S: Subscriber, W: Fn(&str) + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut facts = Facts::default();
        event.record(&mut facts);
        let mut time = String::new();
        // If the time cannot be formatted, the line is written without it.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let part = event.metadata().target();
        let part = part.strip_prefix("netring::").unwrap_or(part);
        let line = match self.form {
            Form::Text { colour } => facts.text(&time, *event.metadata().level(), part, colour),
            Form::Json => facts.json(&time, *event.metadata().level(), part),
        };
        (self.write)(&line);
    }
}

/// The message with the fields appended, for readers that see only the message, such as journalctl.
pub(super) fn message_with_fields(event: &Event<'_>) -> String {
    let mut facts = Facts::default();
    event.record(&mut facts);
    facts.message_with_fields()
}

/// Message and fields of one event.
#[derive(Default)]
struct Facts {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Facts {
    fn text(&self, time: &str, level: Level, part: &str, colour: bool) -> String {
        let mut line = format!("{time} ");
        let (on, off) = if colour { (escape_code(level), "\u{1b}[0m") } else { ("", "") };
        let _ = write!(line, "{on}{level:>5}{off} {part}: ");
        push_on_one_line(&mut line, &self.message);
        for (name, value) in &self.fields {
            push_field(&mut line, name, value);
        }
        line.push('\n');
        line
    }

    /// The message with the fields appended. Left out are fields whose value the message already contains, and the kind of
    /// the event, which is for programs.
    fn message_with_fields(&self) -> String {
        let mut text = self.message.clone();
        let contained = |value: &Value| value.as_str().is_some_and(|value| self.message.contains(value));
        for (name, value) in self.fields.iter().filter(|(name, value)| *name != KIND && !contained(value)) {
            push_field(&mut text, name, value);
        }
        text
    }

    fn json(&self, time: &str, level: Level, part: &str) -> String {
        let head = [("time", time), ("level", level_name(level)), ("part", part), ("message", &self.message)];
        let head = head.into_iter().map(|(name, text)| (name, Value::from(text)));
        let mut line = String::from("{");
        for (name, value) in head.chain(self.fields.iter().cloned()) {
            let comma = if line.len() > 1 { "," } else { "" };
            let _ = write!(line, "{comma}{}:{value}", Value::from(name));
        }
        line.push_str("}\n");
        line
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Facts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON cannot represent NaN and infinity as numbers; they are written as text.
        self.put(field, if value.is_finite() { value.into() } else { value.to_string().into() });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// Appends ` name=value` to a line.
fn push_field(line: &mut String, name: &str, value: &Value) {
    let _ = match value {
        Value::String(text) if is_plain(text) => write!(line, " {name}={text}"),
        Value::String(text) => write!(line, " {name}={text:?}"),
        other => write!(line, " {name}={other}"),
    };
}

/// Whether a value needs no quotes: nothing in it could end the value or the line, or control the terminal.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| is_printable(c) && !c.is_whitespace() && !matches!(c, '"' | '=' | '\\'))
}

/// Whether a character can be written as it is. Control characters, line separators and bidirectional controls are escaped.
fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

fn push_on_one_line(line: &mut String, text: &str) {
    for c in text.chars() {
        if is_printable(c) { line.push(c) } else { line.extend(c.escape_debug()) }
    }
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The terminal's colour for a level (ECMA-48): red, yellow, green, blue, grey.
const fn escape_code(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[90m",
    }
}
