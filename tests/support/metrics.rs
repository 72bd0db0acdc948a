//! A strict reader of the Prometheus text format 0.0.4: what Prometheus forgives, a test should not.
//!
//! An error is: a sample without HELP and TYPE before it, a family in two places, a series twice, a label twice, a wrong
//! escape, a histogram whose buckets fall, or whose `+Inf` bucket, `_sum` or `_count` is missing or disagrees.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a series.
pub type Labels = BTreeMap<String, String>;

/// Everything one scrape brought.
#[derive(Debug)]
pub struct Metrics {
    families: BTreeMap<String, Family>,
}

/// One family of series.
#[derive(Debug)]
pub struct Family {
    /// The text of its HELP line, unescaped.
    pub help: String,
    /// The word of its TYPE line.
    pub kind: String,
    /// Its samples, in the order they stand.
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name as it stands there, with `_bucket`, `_sum` or `_count` for a histogram.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty where it has none, as Prometheus sees it.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

impl Metrics {
    /// Reads an exposition.
    ///
    /// # Errors
    ///
    /// The first fault, with the line it stands in.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line does not end".into());
        }
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut help: Option<(String, String)> = None;
        let mut current: Option<String> = None;
        let mut series = BTreeSet::new();
        for line in text.lines() {
            let wrong = |what: &str| Err(format!("{what}: {line}"));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let Some((name, words)) = rest.split_once(' ') else { return wrong("HELP without text") };
                if families.contains_key(name) {
                    return wrong("a second HELP");
                }
                help = Some((name.into(), unescape(words, false).ok_or_else(|| format!("a wrong escape: {line}"))?));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else { return wrong("TYPE without a type") };
                let Some((_, help)) = help.take().filter(|(of, _)| of == name) else {
                    return wrong("no HELP right before this TYPE");
                };
                if !["counter", "gauge", "histogram"].contains(&kind) {
                    return wrong("an unknown type");
                }
                families.insert(name.into(), Family { help, kind: kind.into(), samples: Vec::new() });
                current = Some(name.into());
            } else if !line.is_empty() && !line.starts_with('#') {
                let sample = sample(line).ok_or_else(|| format!("no sample: {line}"))?;
                let family = current.as_ref().and_then(|name| families.get_mut(name).map(|family| (name, family)));
                let Some((name, family)) = family.filter(|(name, family)| belongs(&sample.name, name, &family.kind))
                else {
                    return wrong("a sample outside its family");
                };
                if family.kind == "counter" && !(sample.value >= 0.0 && sample.value.is_finite()) {
                    return wrong("a counter below zero or without end");
                }
                if !series.insert((sample.name.clone(), sample.labels.clone())) {
                    return wrong(&format!("a series twice in {name}"));
                }
                family.samples.push(sample);
            }
        }
        for (name, family) in families.iter().filter(|(_, family)| family.kind == "histogram") {
            whole_histogram(name, family)?;
        }
        Ok(Self { families })
    }

    /// The names of all families.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }

    /// A family by its name.
    #[must_use]
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families.get(name)
    }

    /// All samples of that name that carry these labels among theirs.
    #[must_use]
    pub fn series(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        self.families
            .values()
            .flat_map(|family| &family.samples)
            .filter(|sample| sample.name == name && sample.has(labels))
            .collect()
    }

    /// The value of the one sample of that name that carries these labels; `None` where there is none.
    ///
    /// # Panics
    ///
    /// Where several do.
    #[must_use]
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.series(name, labels);
        assert!(found.len() <= 1, "{name} with {labels:?} is not one series: {found:#?}");
        found.first().map(|sample| sample.value)
    }

    /// The sum over all samples of that name that carry these labels; 0 where there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).iter().map(|sample| sample.value).sum()
    }
}

fn belongs(sample: &str, family: &str, kind: &str) -> bool {
    match sample.strip_prefix(family) {
        Some("") => kind != "histogram",
        Some(suffix) => kind == "histogram" && ["_bucket", "_sum", "_count"].contains(&suffix),
        None => false,
    }
}

fn whole_histogram(name: &str, family: &Family) -> Result<(), String> {
    #[derive(Default)]
    struct Parts {
        buckets: Vec<(f64, f64)>,
        count: Option<f64>,
        sum: bool,
    }
    let mut all: BTreeMap<Labels, Parts> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le");
        let parts = all.entry(labels).or_default();
        match (&sample.name[name.len()..], le.as_deref().map(number)) {
            ("_bucket", Some(Some(bound))) => parts.buckets.push((bound, sample.value)),
            ("_count", None) => parts.count = Some(sample.value),
            ("_sum", None) => parts.sum = true,
            _ => return Err(format!("a wrong part of the histogram {name}: {sample:?}")),
        }
    }
    for (labels, Parts { buckets, count, sum }) in all {
        let rising = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let closed = buckets.last().is_some_and(|last| last.0 == f64::INFINITY && Some(last.1) == count);
        if !(rising && closed && sum) {
            return Err(format!("the histogram {name}{labels:?} is not whole: {buckets:?}, count {count:?}"));
        }
    }
    Ok(())
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let close = closing_quote(after)?;
            let plain = label.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !plain || labels.insert(label.into(), unescape(&after[..close], true)?).is_some() {
                return None;
            }
            rest = &after[close + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = number(rest.strip_prefix(' ')?)?;
    (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then(|| Sample {
        name: name.into(),
        labels,
        value,
    })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at)
    })
}

fn unescape(text: &str, quotes: bool) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                '"' if quotes => '"',
                _ => return None,
            },
            c => c,
        });
    }
    Some(plain)
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => text.parse().ok().filter(|n: &f64| n.is_finite()),
    }
}
