//! What a benchmark row is, and how rows are shown: as a table for people and as JSON for machines.

use serde_json::{Value, json};

/// What a figure should be. Both bounds count as reached when met exactly.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// More is better.
    AtLeast {
        /// What must be reached.
        reach: f64,
        /// What would be better still.
        stretch: f64,
    },
    /// Less is better.
    AtMost {
        /// What must be reached.
        reach: f64,
        /// What would be better still.
        stretch: f64,
    },
}

/// One row of the table: a figure with its goal, and how to measure it.
pub struct Row<B> {
    /// What the command line calls it.
    pub name: &'static str,
    /// What is measured, for people.
    pub what: &'static str,
    /// The unit of the figure and of its goal, such as `x`, `%`, `ms`, `/CPU-s`.
    pub unit: &'static str,
    /// What it should be.
    pub goal: Goal,
    /// Measures it.
    pub measure: fn(&B) -> Figures,
}

/// What was measured, all in one run.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The figure that the goal is about, in the unit of its row.
    pub ours: f64,
    /// What it was computed from, for people: `27,100 probes a CPU-second; median of 5`.
    pub detail: String,
    /// The same of another tool.
    pub peer: Option<Side>,
    /// The same of the least that the machine needs for it.
    pub limit: Option<Side>,
}

/// A figure to compare with.
#[derive(Clone, Debug)]
pub struct Side {
    /// Whose it is: `bare epoll loop`.
    pub name: &'static str,
    /// The figure.
    pub value: f64,
    /// Its unit, which may be another than the row's where that is a ratio.
    pub unit: &'static str,
}

/// How a figure stands to its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Not even half of what must be reached, or more than twice of what may be.
    Lost,
    /// Short of what must be reached.
    Missed,
    /// Reached.
    Reached,
    /// Better than that.
    Stretched,
}

impl Goal {
    /// How `figure` stands to this goal.
    #[must_use]
    pub fn standing(self, figure: f64) -> Standing {
        // Turned round, less is better becomes more is better.
        let (figure, reach, stretch) = match self {
            Self::AtLeast { reach, stretch } => (figure, reach, stretch),
            Self::AtMost { reach, stretch } => (-figure, -reach, -stretch),
        };
        let lost = if reach < 0.0 { reach * 2.0 } else { reach / 2.0 };
        match figure {
            f if f >= stretch => Standing::Stretched,
            f if f >= reach => Standing::Reached,
            f if f >= lost => Standing::Missed,
            _ => Standing::Lost,
        }
    }

    const fn bounds(self) -> (&'static str, f64, f64) {
        match self {
            Self::AtLeast { reach, stretch } => ("at least", reach, stretch),
            Self::AtMost { reach, stretch } => ("at most", reach, stretch),
        }
    }
}

impl Standing {
    const fn word(self) -> &'static str {
        match self {
            Self::Lost => "LOST",
            Self::Missed => "missed",
            Self::Reached => "reached",
            Self::Stretched => "stretched",
        }
    }
}

impl<B> Row<B> {
    /// The row as a line of the table.
    #[must_use]
    pub fn line(&self, figures: &Figures) -> String {
        let (than, reach, stretch) = self.goal.bounds();
        let side = |side: &Option<Side>| {
            side.as_ref().map_or_else(|| "-".into(), |s| format!("{} {} {}", s.name, number(s.value), s.unit))
        };
        format!(
            "| {} | {} {} | {} | {} | {than} {} | {} | {} |",
            self.what,
            number(figures.ours),
            self.unit,
            side(&figures.peer),
            side(&figures.limit),
            number(reach),
            number(stretch),
            self.goal.standing(figures.ours).word(),
        )
    }

    /// The row as JSON.
    #[must_use]
    pub fn json(&self, figures: &Figures) -> Value {
        let (than, reach, stretch) = self.goal.bounds();
        let side =
            |side: &Option<Side>| side.as_ref().map(|s| json!({ "name": s.name, "value": s.value, "unit": s.unit }));
        json!({
            "row": self.name,
            "what": self.what,
            "unit": self.unit,
            "ours": figures.ours,
            "detail": figures.detail,
            "peer": side(&figures.peer),
            "limit": side(&figures.limit),
            "goal": { "is": than, "reach": reach, "stretch": stretch },
            "standing": self.goal.standing(figures.ours).word(),
        })
    }
}

/// The lines above the rows.
pub const HEAD: &str =
    "| what | netring | peer | limit | reach | stretch | standing |\n| --- | --- | --- | --- | --- | --- | --- |";

/// A figure with three digits that mean something: `27,100`, `0.83`, `4.12`.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        let digits = format!("{:.0}", value.abs());
        let mut text = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        return if value < 0.0 { format!("-{text}") } else { text };
    }
    let places = match size {
        s if s >= 100.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
