//! What must always hold, numbered. Each stands in a file of its own. `apply` asks A1 to A4 of what a command touched; the
//! simulation and tests ask all of them of the whole state; `fold_halted` is the metric of a fold that one of them stopped.

use std::fmt;

use crate::State;

mod a1_weights;
mod a2_trip;
mod a3_caps;
mod a4_layers;
mod e1_counted;
mod l1_audit;
mod n1_segments;
mod o1_epoch;
mod q1_bounds;

/// The fold's invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A1: weights sum to 10,000.
    A1Weights,
    /// A2: a tripped flag serves its safe variant, which exists.
    A2Trip,
    /// A3: floor, cap and budget hold.
    A3Caps,
    /// A4: experiments of one layer share no slot.
    A4Layers,
    /// O1: an owner's epoch and sequence rise.
    O1Epoch,
    /// E1: what the moments count is what the rows hold.
    E1Counted,
    /// L1: the audit chain is gap-free and linked.
    L1Audit,
    /// L2: every entry decodes to a known command, in the order of positions.
    L2Entry,
    /// Q1: every bound is kept.
    Q1Bounds,
    /// N1: segments that are asked about exist, in no circle.
    N1Segments,
}

impl Invariant {
    /// Number and name, as in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A1Weights => "A1 weights sum to 10,000",
            Self::A2Trip => "A2 tripped serves the safe variant",
            Self::A3Caps => "A3 caps and budgets hold",
            Self::A4Layers => "A4 experiments of a layer share no slot",
            Self::O1Epoch => "O1 owner epochs and sequences rise",
            Self::E1Counted => "E1 counted = recorded",
            Self::L1Audit => "L1 audit gap-free and linked",
            Self::L2Entry => "L2 entries decode and come in order",
            Self::Q1Bounds => "Q1 every bound kept",
            Self::N1Segments => "N1 segments that are asked about exist",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An invariant broke: the fold stops at this position. The process goes on serving what was good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// The entry that was not applied.
    pub position: u64,
    /// What was found.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at position {}: {}", self.invariant, self.position, self.detail)
    }
}

impl std::error::Error for Violation {}

type Check = fn(&State) -> Result<(), String>;

const CHECKS: [(Invariant, Check); 9] = [
    (Invariant::A1Weights, a1_weights::check),
    (Invariant::A2Trip, a2_trip::check),
    (Invariant::A3Caps, a3_caps::check),
    (Invariant::A4Layers, a4_layers::check),
    (Invariant::O1Epoch, o1_epoch::check),
    (Invariant::E1Counted, e1_counted::check),
    (Invariant::L1Audit, l1_audit::check),
    (Invariant::Q1Bounds, q1_bounds::check),
    (Invariant::N1Segments, n1_segments::check),
];

impl State {
    /// Every invariant over the whole state. Its cost grows with the state: for tests, simulation and `doctor`.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(&self) -> Result<(), Violation> {
        for (invariant, check) in CHECKS {
            check(self).map_err(|detail| Violation { invariant, position: self.position, detail })?;
        }
        Ok(())
    }

    /// The invariants of one experiment, after a command touched it.
    pub(crate) fn check_experiment(&self, number: u32) -> Result<(), Violation> {
        let Some(record) = self.experiments.get(&number) else { return Ok(()) };
        let violation = |invariant| move |detail| Violation { invariant, position: self.position, detail };
        a1_weights::check_one(record).map_err(violation(Invariant::A1Weights))?;
        a2_trip::check_one(self, record).map_err(violation(Invariant::A2Trip))?;
        a3_caps::check_one(self, record).map_err(violation(Invariant::A3Caps))?;
        a4_layers::check_one(self, record).map_err(violation(Invariant::A4Layers))
    }
}
