//! The Grafana dashboard as its viewer's Grafana reads it: panels, queries, and variables put in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The dashboard as it is shipped.
pub const SHIPPED: &str = include_str!("../../config/grafana/netring.json");

/// The values of variables, by name. Several values stand as Grafana writes them: `(tcp|http)`.
pub type Choice = BTreeMap<String, String>;

/// A dashboard.
#[derive(Clone, Debug)]
pub struct Dashboard(pub Value);

/// How a query is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For this moment.
    Instant,
    /// For each step of the time shown.
    Range,
}

/// A query of a panel, or of the annotations.
#[derive(Clone, Debug)]
pub struct Query {
    /// Where it stands, as in `Failing now/A`.
    pub place: String,
    /// The expression, with its variables.
    pub expression: String,
    /// How it is asked.
    pub kind: Kind,
    /// The labels that its legend or its table shows.
    pub labels: BTreeSet<String>,
}

impl Dashboard {
    /// Reads one.
    ///
    /// # Panics
    ///
    /// Where the text is no JSON.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).expect("a dashboard is JSON"))
    }

    /// What stands on the page itself: rows, and all panels but those of closed rows.
    #[must_use]
    pub fn page(&self) -> Vec<&Value> {
        list(&self.0["panels"])
    }

    /// All panels, also those of closed rows; rows themselves are none.
    #[must_use]
    pub fn panels(&self) -> Vec<&Value> {
        let (rows, panels): (Vec<_>, Vec<_>) = self.page().into_iter().partition(|panel| panel["type"] == "row");
        panels.into_iter().chain(rows.into_iter().flat_map(|row| list(&row["panels"]))).collect()
    }

    /// The variables.
    #[must_use]
    pub fn variables(&self) -> Vec<&Value> {
        list(&self.0["templating"]["list"])
    }

    /// All queries of panels and annotations.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        let of_panels = self.panels().into_iter().flat_map(|panel| {
            list(&panel["targets"]).into_iter().map(|target| Query {
                place: format!("{}/{}", text(&panel["title"]), text(&target["refId"])),
                expression: text(&target["expr"]).to_owned(),
                kind: if target["instant"] == true { Kind::Instant } else { Kind::Range },
                labels: if panel["type"] == "table" { columns(panel) } else { braced(text(&target["legendFormat"])) },
            })
        });
        let annotations = list(&self.0["annotations"]["list"]).into_iter().filter(|a| a["expr"].is_string());
        let of_annotations = annotations.map(|annotation| Query {
            place: format!("annotations/{}", text(&annotation["name"])),
            expression: text(&annotation["expr"]).to_owned(),
            kind: Kind::Range,
            labels: ["titleFormat", "textFormat"].iter().flat_map(|key| braced(text(&annotation[key]))).collect(),
        });
        of_panels.chain(of_annotations).collect()
    }
}

/// The members of a list; none where there is no list.
#[must_use]
pub fn list(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(Vec::new, |list| list.iter().collect())
}

/// The text that stands there; empty where none does.
#[must_use]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The labels that a table gives a column: what its transformations name, values and times left out.
fn columns(panel: &Value) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for options in list(&panel["transformations"]).into_iter().map(|transformation| &transformation["options"]) {
        named.extend(options["renameByName"].as_object().into_iter().flat_map(|names| names.keys().cloned()));
        named.extend(["columnField", "rowField"].iter().map(|key| text(&options[key]).to_owned()));
    }
    named.retain(|name| !name.is_empty() && !name.starts_with("Value"));
    named
}

/// The names in `{{ }}`.
fn braced(legend: &str) -> BTreeSet<String> {
    legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim().to_owned())).collect()
}

/// A text with the variables put in, written as `$name`; `$1` is a part of a pattern and stays.
///
/// # Errors
///
/// The variable that has no value.
pub fn filled(text: &str, choice: &Choice) -> Result<String, String> {
    let mut parts = text.split('$');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        let (name, rest) = part.split_at(end);
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
            filled.push('$');
            filled.push_str(name);
        } else {
            filled.push_str(choice.get(name).ok_or_else(|| format!("no variable ${name}"))?);
        }
        filled.push_str(rest);
    }
    Ok(filled)
}

/// The series and the label of `label_values(series, label)`, which gives a variable its values.
#[must_use]
pub fn label_values(query: &str) -> Option<(&str, &str)> {
    let (series, label) = query.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(',')?;
    Some((series.trim(), label.trim()))
}
