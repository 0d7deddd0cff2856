//! Erasure of one unit: its rows go, and the moments become what they would be had it never been seen.
//!
//! What cannot be told apart any more stays: sums that were folded with others', cells of the series, counters of events,
//! and marks that no exposure can lift any more, of which only the number is kept.

use super::Ledger;

/// What went with a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Erased {
    /// Stays in an arm: one, or two of a unit that crossed. 0: the ledger did not know it.
    pub stays: u32,
    /// Sums of its own that were not zero.
    pub sums: u32,
    /// Marks that an exposure could still have lifted.
    pub marks: u32,
    /// It was in the sample.
    pub sampled: bool,
}

impl Ledger {
    /// Takes the unit out.
    pub fn erase(&mut self, unit: u64) -> Erased {
        let sampled = self.sample.remove(unit);
        let marks = self.marks.erase(unit);
        let (stays, sums) = self.forget(unit);
        Erased { stays, sums, marks, sampled }
    }
}
