//! Erasure of one unit: its rows go, and the moments become what they would be had it never been seen.
//!
//! What cannot be told apart any more stays: sums that were folded with others', cells of the series, counters of events,
//! and marks that no exposure can lift any more, of which only the number is kept.

use std::sync::Arc;

use super::Ledger;
use super::shape::SlotKind;
use super::table::{key_of, shard_of};

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

/// A stay in an arm, as far as the moments know it.
struct Stay {
    arm: u8,
    generation: u8,
    minute: u32,
    seen: u16,
}

impl Ledger {
    /// Takes the unit out.
    pub fn erase(&mut self, unit: u64) -> Erased {
        let hash = key_of(unit);
        let mut erased = Erased { sampled: self.sample.remove(unit), ..Erased::default() };
        erased.marks = self.marks.erase(unit);
        let Some(row) = self.row(unit) else { return erased };
        let present = Stay { arm: row.arm, generation: row.generation, minute: row.minute, seen: row.seen };
        let side = self.side(unit);
        if let Some(shard) = self.shards.get_mut(shard_of(unit)) {
            let shard = Arc::make_mut(shard);
            shard.rows.remove(hash);
            shard.side.remove(&hash);
        }
        self.rows = self.rows.saturating_sub(1);
        erased.sums += self.take_stay(unit, &present);
        erased.stays += 1;
        if let Some(side) = side {
            let first =
                Stay { arm: side.arm, generation: side.generation, minute: side.minute, seen: side.seen };
            self.crossed = self.crossed.saturating_sub(1);
            erased.sums += self.take_stay(unit, &first);
            erased.stays += 1;
        }
        self.dirty = true;
        erased
    }

    /// Takes one stay out of its cell. Returns how many sums were not zero.
    fn take_stay(&mut self, unit: u64, stay: &Stay) -> u32 {
        let hash = key_of(unit);
        let shape = Arc::clone(&self.shape);
        let mut taken = 0;
        let sums: Vec<i64> = match self.shards.get_mut(shard_of(unit)) {
            None => return 0,
            Some(shard) => {
                let shard = Arc::make_mut(shard);
                let mut of = |kind: &SlotKind| match kind {
                    SlotKind::Seen { bit } => i64::from(stay.seen >> bit & 1),
                    SlotKind::Sum { table, .. } => {
                        let entries = shard.entries.get_mut(usize::from(*table));
                        let sum = entries.map_or(0, |entries| entries.remove(hash, stay.arm));
                        taken += u32::from(sum != 0);
                        sum
                    }
                };
                shape.slots.iter().map(|(_, kind)| of(kind)).collect()
            }
        };
        let strata = Arc::make_mut(&mut self.strata);
        let Some(cell) = strata.cell(stay.generation, stay.minute, stay.arm) else { return taken };
        cell.units = cell.units.saturating_sub(1);
        for (moments, sum) in cell.slots.iter_mut().zip(&sums) {
            let sum = i128::from(*sum);
            // These were added when the sum grew, so they are in there.
            *moments = (moments.0 - sum, moments.1 - sum * sum);
        }
        for (cross, (a, b)) in cell.cross.iter_mut().zip(&shape.pairs) {
            if let (Some(a), Some(b)) = (sums.get(*a), sums.get(*b)) {
                *cross -= i128::from(*a) * i128::from(*b);
            }
        }
        taken
    }
}
