//! What the node counts of its own work. Fixed arrays of counters: no label ever comes from a caller.

use std::sync::atomic::{AtomicU64, Ordering};

use featureops_proto::v1::{Reason, Verdict};

/// Reasons an evaluation may have, by number.
const REASONS: usize = Reason::Error as usize + 1;
/// Verdicts an event may get, by number.
const VERDICTS: usize = Verdict::WaitingFull as usize + 1;

/// How a proposal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposed {
    /// Applied.
    Done,
    /// Refused by the fold.
    Refused,
    /// Not proposed.
    Failed,
    /// No answer.
    Unknown,
}

impl Proposed {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Done, "done"),
        (Self::Refused, "refused"),
        (Self::Failed, "failed"),
        (Self::Unknown, "unknown"),
    ];
}

/// The counters.
#[derive(Default)]
pub struct Observation {
    evaluations: [AtomicU64; REASONS],
    facts: [AtomicU64; VERDICTS],
    proposals: [AtomicU64; 4],
    /// Exposures implied by evaluations and not known before.
    pub exposures_implied: AtomicU64,
    /// Of those, lost: the queue was full or the log refused them.
    pub exposures_lost: AtomicU64,
    /// Connections served now.
    pub connections: AtomicU64,
    /// Connections taken since the start.
    pub connections_taken: AtomicU64,
}

fn add(counters: &[AtomicU64], index: usize, amount: u64) {
    // A number this release does not know counts as unspecified.
    if let Some(counter) = counters.get(index).or_else(|| counters.first()) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

impl Observation {
    /// One evaluation.
    pub fn evaluated(&self, reason: Reason) {
        add(&self.evaluations, reason as usize, 1);
    }

    /// Events with a verdict.
    pub fn judged(&self, verdict: i32, events: u64) {
        add(&self.facts, usize::try_from(verdict).unwrap_or(0), events);
    }

    /// One proposal.
    pub fn proposed(&self, outcome: Proposed) {
        add(&self.proposals, outcome as usize, 1);
    }

    /// Evaluations by reason.
    pub fn evaluations(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let name = |index| i32::try_from(index).ok().and_then(|n| Reason::try_from(n).ok());
        read(&self.evaluations, move |index| name(index).map(|reason| reason.as_str_name()))
    }

    /// Facts by verdict.
    pub fn facts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let name = |index| i32::try_from(index).ok().and_then(|n| Verdict::try_from(n).ok());
        read(&self.facts, move |index| name(index).map(|verdict| verdict.as_str_name()))
    }

    /// Proposals by outcome.
    pub fn proposals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        read(&self.proposals, |index| Proposed::ALL.get(index).map(|(_, name)| *name))
    }
}

fn read(
    counters: &[AtomicU64],
    name: impl Fn(usize) -> Option<&'static str>,
) -> impl Iterator<Item = (&'static str, u64)> {
    counters
        .iter()
        .enumerate()
        .map(move |(index, counter)| (name(index).unwrap_or("UNSPECIFIED"), counter.load(Ordering::Relaxed)))
}

/// Prometheus text, one family at a time.
#[derive(Default)]
pub struct Exposition(String);

impl Exposition {
    /// A family with one unlabelled value.
    pub fn value(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.push(format_args!("featureops_{name} {value}\n"));
    }

    /// A family with one label.
    pub fn labelled<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.head(name, kind, help);
        for (of, value) in values {
            self.push(format_args!("featureops_{name}{{{label}=\"{of}\"}} {value}\n"));
        }
    }

    /// A family with two labels.
    pub fn labelled_twice<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        labels: (&str, &str),
        values: impl IntoIterator<Item = (&'a str, &'a str, u64)>,
    ) {
        self.head(name, kind, help);
        for (first, second, value) in values {
            let (one, two) = labels;
            self.push(format_args!("featureops_{name}{{{one}=\"{first}\",{two}=\"{second}\"}} {value}\n"));
        }
    }

    /// The text.
    #[must_use]
    pub fn text(self) -> String {
        self.0
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP featureops_{name} {help}\n# TYPE featureops_{name} {kind}\n"));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut self.0, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_by_the_names_of_the_api() {
        let observation = Observation::default();
        observation.evaluated(Reason::Split);
        observation.judged(Verdict::Oversized.into(), 3);
        observation.judged(9_999, 1);
        observation.proposed(Proposed::Unknown);
        let mut text = Exposition::default();
        text.labelled("evaluations_total", "counter", "evaluations", "reason", observation.evaluations());
        text.labelled("facts_total", "counter", "events", "verdict", observation.facts());
        text.labelled("proposals_total", "counter", "commands", "outcome", observation.proposals());
        let text = text.text();
        for line in [
            "# TYPE featureops_evaluations_total counter",
            "featureops_evaluations_total{reason=\"SPLIT\"} 1",
            "featureops_facts_total{verdict=\"OVERSIZED\"} 3",
            "featureops_facts_total{verdict=\"VERDICT_UNSPECIFIED\"} 1",
            "featureops_proposals_total{outcome=\"unknown\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
