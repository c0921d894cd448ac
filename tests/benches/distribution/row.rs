//! What a row came to: figures beside their targets, and what others took.

use serde::Serialize;

use crate::others::Theirs;

/// The share of the machine's time below which a row on links with rates measured the processor instead of the links.
pub(crate) const IDLE_SHARE_MIN: f64 = 0.10;

/// One row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// What was measured, in words.
    pub(crate) what: String,
    pub(crate) figures: Vec<Figure>,
    /// What else brings bytes to hosts, on the same links.
    pub(crate) others: Vec<Theirs>,
    /// What else there is to know.
    pub(crate) notes: Vec<String>,
    /// Everything that was measured, as the row has it.
    pub(crate) details: serde_json::Value,
    /// The share of the processors' time that nobody used while ours ran; `None` where nothing ran on links.
    pub(crate) machine_idle_share: Option<f64>,
    /// Too few idle processors on links that should have been the limit: the row counts as not met.
    pub(crate) is_cpu_bound: bool,
    /// The most memory that one process of an agent held.
    pub(crate) agent_peak_rss_bytes: Option<u64>,
    /// Whether every target is met, and the processors were not the limit; `None` where there is no target.
    pub(crate) is_met: Option<bool>,
}

/// One number.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) target: Option<Target>,
    pub(crate) is_met: Option<bool>,
}

/// What is wanted of a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("at most {limit}"),
            Self::AtLeast(limit) => format!("at least {limit}"),
        }
    }
}

impl Row {
    pub(crate) fn new(name: &str, what: String) -> Self {
        Self {
            name: name.to_owned(),
            what,
            figures: Vec::new(),
            others: Vec::new(),
            notes: Vec::new(),
            details: serde_json::Value::Null,
            machine_idle_share: None,
            is_cpu_bound: false,
            agent_peak_rss_bytes: None,
            is_met: None,
        }
    }

    /// A number that nothing is wanted of.
    pub(crate) fn tell(&mut self, what: impl Into<String>, value: f64) {
        self.figures.push(Figure {
            what: what.into(),
            value,
            target: None,
            is_met: None,
        });
    }

    /// A number beside what is wanted of it.
    pub(crate) fn judge(&mut self, what: impl Into<String>, value: f64, target: Target) {
        self.figures.push(Figure {
            what: what.into(),
            value,
            target: Some(target),
            is_met: Some(target.is_met_by(value)),
        });
    }

    /// Says how idle the machine was; `is_shaped` where links were to be the limit.
    pub(crate) fn idled(&mut self, share: f64, is_shaped: bool) {
        self.machine_idle_share = Some(share);
        self.is_cpu_bound = is_shaped && share < IDLE_SHARE_MIN;
    }

    /// Draws the sum of all figures.
    pub(crate) fn finish(mut self) -> Self {
        let mut verdicts = self.figures.iter().filter_map(|figure| figure.is_met);
        let first = verdicts.next();
        self.is_met = first.map(|first| first && verdicts.all(|it| it) && !self.is_cpu_bound);
        self
    }

    /// Prints it for people.
    pub(crate) fn print(&self) {
        eprintln!("\n{}: {}", self.name, self.what);
        for figure in &self.figures {
            let target = figure.target.map(Target::text).unwrap_or_default();
            let verdict = match figure.is_met {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None => "",
            };
            let line = format!(
                "  {:<46}{:>12}  {target:<16}{verdict}",
                figure.what,
                number(figure.value)
            );
            eprintln!("{}", line.trim_end());
        }
        if let Some(share) = self.machine_idle_share {
            let bound = match self.is_cpu_bound {
                true => "  CPU-bound: the row counts as not met",
                false => "",
            };
            eprintln!("  {:<46}{:>12}{bound}", "machine idle share", number(share));
        }
        for other in &self.others {
            eprintln!("  {other}");
        }
        for note in &self.notes {
            eprintln!("  note: {note}");
        }
    }
}

/// With as many digits as it deserves.
pub(crate) fn number(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}
