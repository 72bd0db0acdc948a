//! A YAML text as a tree in which every node knows its line and column and what kind of scalar it was written as.
//!
//! The readers of values need three things that a deserializer into structs loses: the position of a key, whether `12` was a
//! number or a text, and the possibility to continue after a fault. So this file builds its own tree from the parser's events.
//!
//! YAML that a configuration does not need is a fault here: a second document, anchors, aliases and tags, keys that are no
//! text, and the same key twice. With aliases refused there is nothing to expand, and nesting is limited, so a tree is
//! never larger than its text. Scalars follow YAML 1.2's core schema: `yes` and `no` are texts.

use std::collections::HashMap;

use serde_yaml::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, options};

use super::fault::{Position, shown_key};

/// How deep sections and lists may nest; the settings need four levels.
const NESTING_MAX: usize = 16;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Where it begins; for a missing value, where it would.
    pub(super) at: Position,
    /// What it is.
    pub(super) content: Content,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`, as written.
    Bool(String),
    /// A number, as written.
    Number(String),
    /// A text, quoted or not.
    Text(String),
    /// A text from a source without kinds, such as an environment variable: the form decides what it is.
    Bare(String),
    /// `[a, b]`
    List(Vec<Node>),
    /// `key: value` lines.
    Section(Vec<Entry>),
    /// Something whose fault has been recorded already.
    Refused,
}

/// One `key: value` of a section.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// The key.
    pub(super) key: String,
    /// Where the key begins.
    pub(super) at: Position,
    /// The value.
    pub(super) value: Node,
}

/// Something in the text that no configuration may hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Flaw {
    /// Where.
    pub(super) at: Position,
    /// The key path it is under; empty at the top.
    pub(super) path: String,
    /// What was expected and what was found.
    pub(super) problem: String,
}

/// The tree of `text`, none where the text holds nothing but comments, and the faults that leave a tree.
///
/// # Errors
///
/// The place where the text stops being YAML; there is no tree then.
pub(super) fn parse(text: &str) -> Result<(Option<Node>, Vec<Flaw>), Flaw> {
    let options = options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: NESTING_MAX,
        block_nesting_limit: NESTING_MAX,
    };
    let mut builder =
        Builder { events: Parser::new_from_str_with_options(text, options), path: Vec::new(), flaws: Vec::new() };
    match builder.document() {
        Ok(root) => Ok((root, builder.flaws)),
        Err(error) => Err(Flaw {
            at: Position { line: error.marker().line(), column: error.marker().col() + 1 },
            path: String::new(),
            problem: format!("expected YAML, got a syntax error: {}{}", error.info(), advice(error.kind())),
        }),
    }
}

/// A hint about the usual cause of a syntax error.
fn advice(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::MappingValueNotAllowed => {
            " (a text that ends in a colon or holds one before a space, such as \"::\", needs quotes)"
        }
        ErrorKind::UnexpectedCharacter { .. } => " (a text that begins with such a character needs quotes)",
        ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation | ErrorKind::TabNotAllowed => {
            " (indent with spaces)"
        }
        _ => "",
    }
}

struct Builder<'t, P: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> {
    events: P,
    path: Vec<String>,
    flaws: Vec<Flaw>,
}

impl<'t, P: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> Builder<'t, P> {
    fn document(&mut self) -> Result<Option<Node>, ScanError> {
        let mut root = None;
        let mut documents = 0;
        while let Some(event) = self.events.next() {
            let (event, span) = event?;
            match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents == 2 {
                        self.refuse(position(&span), "expected one document, got a second one".into());
                    }
                }
                event if event.is_node() => {
                    let node = self.node(event, &span)?;
                    if documents == 1 {
                        root = Some(node);
                    }
                }
                _ => {}
            }
        }
        Ok(root)
    }

    fn node(&mut self, event: Event<'t>, span: &Span) -> Result<Node, ScanError> {
        let at = position(span);
        let refused = match (&event, event.anchor_id(), event.tag()) {
            (Event::Alias(_) | Event::UnresolvedAlias(_), ..) => Some("an alias"),
            (_, Some(_), _) => Some("an anchor"),
            (_, _, Some(_)) => Some("a tag"),
            _ => None,
        };
        if let Some(what) = refused {
            self.refuse(at, format!("expected the value itself, got {what}"));
        }
        let content = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => plain(&text),
            Event::Scalar(text, ..) => Content::Text(text.into_owned()),
            Event::SequenceStart(..) => self.list()?,
            Event::MappingStart(..) => self.section()?,
            _ => Content::Refused,
        };
        Ok(Node { at, content: if refused.is_some() { Content::Refused } else { content } })
    }

    fn list(&mut self) -> Result<Content, ScanError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Content::List(items));
            }
            self.path.push(format!("[{}]", items.len()));
            items.push(self.node(event, &span)?);
            self.path.pop();
        }
    }

    fn section(&mut self) -> Result<Content, ScanError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut first_lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Content::Section(entries));
            }
            let at = position(&span);
            let key = match &event {
                Event::Scalar(text, _, 0, None) => Some(text.to_string()),
                _ => None,
            };
            if key.is_none() {
                self.node(event, &span)?;
                self.refuse(at, "expected the name of a key, got something else".into());
            }
            self.path.push(key.as_deref().map(shown_key).unwrap_or_default());
            let (event, span) = self.next()?;
            let value = self.node(event, &span)?;
            if let Some(key) = key {
                match first_lines.get(&key) {
                    Some(line) => {
                        self.refuse(at, format!("expected the key once, got it again (it is in line {line} already)"));
                    }
                    None => {
                        first_lines.insert(key.clone(), at.line);
                        entries.push(Entry { key, at, value });
                    }
                }
            }
            self.path.pop();
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), ScanError> {
        self.events.next().expect("the parser ends every collection it begins, or says why not")
    }

    fn refuse(&mut self, at: Position, problem: String) {
        let path = self.path.join(".").replace(".[", "[");
        self.flaws.push(Flaw { at, path, problem });
    }
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

/// What an unquoted scalar is by YAML 1.2's core schema.
fn plain(text: &str) -> Content {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Content::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Content::Bool(text.into()),
        _ if is_number(text) => Content::Number(text.into()),
        _ => Content::Text(text.into()),
    }
}

/// Whether YAML takes the unquoted `text` as a number.
pub(super) fn is_number(text: &str) -> bool {
    let all = |digits: &str, ok: fn(&char) -> bool| !digits.is_empty() && digits.chars().all(|c| ok(&c));
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, char::is_ascii_hexdigit);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return all(digits, |c| ('0'..='7').contains(c));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| all(exponent, char::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Node {
        let (root, flaws) = parse(text).unwrap();
        assert_eq!(flaws, [], "{text}");
        root.unwrap()
    }

    fn flaws(text: &str) -> Vec<(usize, usize, String, String)> {
        let found = match parse(text) {
            Ok((_, flaws)) => flaws,
            Err(flaw) => vec![flaw],
        };
        found.into_iter().map(|flaw| (flaw.at.line, flaw.at.column, flaw.path, flaw.problem)).collect()
    }

    #[test]
    fn keys_and_values_know_their_line_and_column() {
        let Content::Section(entries) = root("# comment\nouter:\n  ключ: [1,\n    b]\n").content else { panic!() };
        assert_eq!(entries[0].at, Position { line: 2, column: 1 });
        let Content::Section(inner) = &entries[0].value.content else { panic!() };
        assert_eq!(inner[0].at, Position { line: 3, column: 3 });
        let Content::List(items) = &inner[0].value.content else { panic!() };
        assert_eq!(items[0].at, Position { line: 3, column: 10 });
        assert_eq!(items[1].at, Position { line: 4, column: 5 });
    }

    #[test]
    fn scalars_keep_the_kind_they_were_written_as() {
        let kind = |text: &str| {
            let Content::Section(mut entries) = root(&format!("k: {text}\n")).content else { panic!() };
            entries.remove(0).value.content
        };
        for text in ["", "~", "null", "NULL"] {
            assert_eq!(kind(text), Content::Null, "{text}");
        }
        for text in ["true", "False"] {
            assert_eq!(kind(text), Content::Bool(text.into()), "{text}");
        }
        for text in ["12", "-1", "+1", "0x1F", "0o17", "1.5", ".5", "5.", "1e3", "-1.5E-3", ".inf", "-.Inf", ".nan"] {
            assert_eq!(kind(text), Content::Number(text.into()), "{text}");
        }
        for text in ["yes", "no", "on", "12s", "1_000", "0x", ".", "-", "e3", "1e", "10.1.2.3", "::1", "2024-01-01"] {
            let found = if text == "-" { Content::Text(text.into()) } else { kind(text) };
            assert_eq!(found, Content::Text(text.into()), "{text}");
        }
        assert_eq!(kind("\"12\""), Content::Text("12".into()));
        assert_eq!(kind("'null'"), Content::Text("null".into()));
    }

    #[test]
    fn a_text_without_content_has_no_tree() {
        assert_eq!(parse("").unwrap().0, None);
        assert_eq!(parse("# only a comment\n").unwrap().0, None);
    }

    #[test]
    fn what_a_configuration_has_no_use_for_is_named_with_its_place() {
        let found = flaws("a:\n  b: 1\n  b: 2\n");
        assert_eq!((found[0].0, found[0].1, found[0].2.as_str()), (3, 3, "a.b"));
        assert!(found[0].3.contains("line 2 already"), "{found:?}");

        assert!(flaws("a: 1\n---\nb: 2\n")[0].3.contains("second"));
        let found = flaws("a: [&x 1, *x, *y, !!str 2]\n");
        let paths: Vec<_> = found.iter().map(|flaw| flaw.2.as_str()).collect();
        assert_eq!(paths, ["a[0]", "a[1]", "a[2]", "a[3]"]);
        assert!(flaws("? [a]\n: 1\n")[0].3.contains("name of a key"));
    }

    #[test]
    fn a_fault_of_syntax_is_one_flaw_at_its_place() {
        let found = flaws("registry:\n  server:\n    host: ::\n");
        assert_eq!((found.len(), found[0].0, found[0].1), (1, 3, 12));
        assert!(found[0].3.contains("needs quotes"), "{found:?}");
        assert!(flaws("a:\n\tb: 1\n")[0].3.contains("spaces"));
    }

    #[test]
    fn bombs_end_early() {
        let laughs = format!("a: &a [x]\n{}", "b: [*a, *a, *a, *a, *a, *a, *a, *a]\n".repeat(20));
        assert!(flaws(&laughs).len() > 20);
        assert_eq!(flaws(&"[".repeat(100_000)).len(), 1);
        assert_eq!(flaws(&(0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>()).len(), 1);
    }
}
