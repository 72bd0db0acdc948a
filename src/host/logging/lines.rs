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

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `TIME LEVEL part: message field=value`, the level in colour or not.
    Text {
        /// Whether to colour the level.
        colour: bool,
    },
    /// `{"time":..,"level":..,"part":..,"message":..}` and the fields.
    Json,
}

/// Writes each event as one line, in one call of `write`.
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
        // A clock that cannot be shown costs the time of the line, not the line.
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

/// What an event says, for whoever looks at its message alone, as journalctl does.
pub(super) fn in_words(event: &Event<'_>) -> String {
    let mut facts = Facts::default();
    event.record(&mut facts);
    facts.words()
}

/// What one event says.
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

    /// The message with the facts behind it that it does not tell itself; an event's kind, which is for programs, is left out.
    fn words(&self) -> String {
        let mut words = self.message.clone();
        let told = |value: &Value| value.as_str().is_some_and(|text| self.message.contains(text));
        for (name, value) in self.fields.iter().filter(|(name, value)| *name != KIND && !told(value)) {
            push_field(&mut words, name, value);
        }
        words
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
        // JSON has no NaN and no infinity; their names are better than nothing.
        self.put(field, if value.is_finite() { value.into() } else { value.to_string().into() });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// Puts ` name=value` behind a line.
fn push_field(line: &mut String, name: &str, value: &Value) {
    let _ = match value {
        Value::String(text) if is_plain(text) => write!(line, " {name}={text}"),
        Value::String(text) => write!(line, " {name}={text:?}"),
        other => write!(line, " {name}={other}"),
    };
}

/// Whether a text can stand after `name=` as it is: nothing in it ends the value, the line, or the colour.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| shows(c) && !c.is_whitespace() && !matches!(c, '"' | '=' | '\\'))
}

/// Whether a character is shown as itself: controls, line separators and marks that turn the direction of text are not.
fn shows(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

fn push_on_one_line(line: &mut String, text: &str) {
    for c in text.chars() {
        if shows(c) { line.push(c) } else { line.extend(c.escape_debug()) }
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
