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
    /// Values of covariates that came with exposures and are no numbers that can be kept.
    pub covariates_unusable: AtomicU64,
    /// Connections served now.
    pub connections: AtomicU64,
    /// Connections taken since the start.
    pub connections_taken: AtomicU64,
    /// Requests without a token that does for them, or too many of them.
    pub turned_away: AtomicU64,
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
