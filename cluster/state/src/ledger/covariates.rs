//! Covariates of units, and metrics with a cap: what of a unit's values is not simply the sum of its events.
//!
//! ```text
//!   first exposure ──> a value a covariate, an entry if it is not 0 ──> moments, and products with every metric
//!   crossing       ──> the new arm gets what the first exposure told; once sums are folded, what the crossing's own exposure tells
//!   capped outcome ──> entry: the unit's sum ──> moments: the lesser of sum and cap
//! ```
//!
//! A missing covariate is 0. Whatever is known of a unit before its exposure may be adjusted by without bias, and 0 where
//! nothing was told is such a function; how many there are is counted, because they cost precision.

use std::sync::Arc;

use featureops_proto::v1::Verdict;

use super::entries::MAX_SUM;
use super::fold::value as valued;
use super::rows::Row;
use super::shape::Shape;
use super::strata::Cell;
use super::table::{Exposed, Ledger, Shard, key_of, shard_of};

/// A covariate's magnitude at its scale.
pub const MAX_COVARIATE: u64 = 1 << 53;

/// A proportion's unit converted, while sums are units' own: its products with covariates, and its square.
pub(super) fn see_products(shape: &Shape, shard: &Shard, row: Row, slot: usize, cell: &mut Cell) {
    if let Some(square) = shape.square_of(slot).and_then(|pair| cell.cross.get_mut(pair)) {
        *square += 1;
    }
    for (pair, other) in shape.pairs_of(slot) {
        if let Some(cross) = cell.cross.get_mut(pair) {
            // Checked when the covariate was added: the products with each metric are bounded by its squares and the units.
            *cross = cross.saturating_add(i128::from(shard.value(other, row.hash, row.arm, row.seen)));
        }
    }
}

impl Ledger {
    /// Takes the values of a unit's covariates in, which came with an exposure that ended so. Values too many or too few tell none.
    pub fn tell(&mut self, unit: u64, exposed: Exposed, values: &[Option<i64>]) {
        let shape = Arc::clone(&self.shape);
        if shape.covariates == 0 {
            return;
        }
        let Some(row) = self.row(unit) else { return };
        let told = if values.len() == shape.covariates { values } else { &[] };
        let folded = self.clusters.folded();
        // Who crossed has what its first exposure told, in both arms.
        let from = match exposed {
            Exposed::New => None,
            Exposed::Found if !row.crossed => None,
            Exposed::Crossed(crossing) => Some(crossing.from),
            _ => return,
        };
        for (at, (slot, table)) in shape.covariate_slots().enumerate() {
            let told = told.get(at).copied().flatten().filter(|value| value.unsigned_abs() <= MAX_COVARIATE);
            let value = match from {
                Some(arm) if !folded => Some(self.entry(unit, table, arm)),
                _ => told,
            };
            let taken = value.is_some_and(|value| {
                let verdict = if folded {
                    self.add_to_cluster(row, unit, slot, value)
                } else {
                    self.add(row, unit, slot, table, value)
                };
                verdict == Verdict::Counted
            });
            if let Some(missing) = self.missing.get_mut(at) {
                match exposed {
                    Exposed::New if !taken => *missing += 1,
                    Exposed::Found if taken => *missing = missing.saturating_sub(1),
                    _ => {}
                }
            }
        }
    }

    fn entry(&self, unit: u64, table: u8, arm: u8) -> i64 {
        let entries = self.shards.get(shard_of(unit)).and_then(|s| s.entries.get(usize::from(table)));
        entries.map_or(0, |entries| entries.get(key_of(unit), arm))
    }

    /// As [`Ledger::outcome`], at a time and for a window; where capped sums are full, half of the units leave, as often as it takes,
    /// and perhaps this one. Who did is told by `left`: how many, and the parts that were kept then.
    pub fn outcome_in_room(
        &mut self,
        unit: u64,
        slot: usize,
        value: i64,
        (unix_minute, window): (u32, u32),
        left: &mut Vec<(u64, usize)>,
    ) -> Verdict {
        loop {
            let verdict = self.outcome(unit, slot, value, unix_minute, window);
            let is_capped = self.shape.slots.get(slot).is_some_and(|(_, kind)| kind.is_capped());
            if verdict != Verdict::NoRoom || !is_capped || self.capped < self.capped_most {
                return verdict;
            }
            let Some(gone) = self.thin() else {
                // Its unit stays and its value does not: what is left is biased, as by a lost exposure, and blocks decisions alike.
                // Counted by value and not by unit: which units were refused nobody remembers where there is no room to.
                self.lose(1);
                return verdict;
            };
            left.push((gone, self.kept));
        }
    }

    /// Adds to a capped metric's sum of a unit: what the moments gain is what the lesser of sum and cap gains.
    pub(super) fn add_capped(&mut self, row: Row, unit: u64, slot: usize, value: i64) -> Verdict {
        if value == 0 {
            return Verdict::Counted;
        }
        let shape = Arc::clone(&self.shape);
        let (Some((_, kind)), Some((_, table))) =
            (shape.slots.get(slot), shape.summed().find(|(at, _)| *at == slot))
        else {
            return Verdict::UnknownMetric;
        };
        let Some(shard) = self.shards.get(shard_of(unit)) else { return Verdict::NoRoom };
        let old = shard.entries.get(table).map_or(0, |entries| entries.get(row.hash, row.arm));
        if old == 0 && self.capped >= self.capped_most {
            return Verdict::NoRoom;
        }
        let Some(new) = old.checked_add(value).filter(|sum| sum.unsigned_abs() <= MAX_SUM.unsigned_abs())
        else {
            return Verdict::SumOverflow;
        };
        let (before, after) = (valued(*kind, old), valued(*kind, new));
        let change = after - before;
        let strata = Arc::make_mut(&mut self.strata);
        let at = strata.find(row.generation, row.minute);
        let Some((at, cell)) = at.and_then(|at| Some((at, strata.cell_at(at, row.arm)?))) else {
            return Verdict::NoRoom;
        };
        let squares_added = (i128::from(before) + i128::from(after)) * i128::from(change);
        let moments = cell.slots.get(slot).and_then(|(sum, squares)| {
            Some((sum.checked_add(i128::from(change))?, squares.checked_add(squares_added)?))
        });
        let Some(moments) = moments else { return Verdict::SumOverflow };
        if cell.folded.is_some() {
            let clusters = Arc::make_mut(&mut self.clusters);
            if clusters.add_capped(at, row.arm, unit, (slot, change), &shape, cell).is_none() {
                return Verdict::SumOverflow;
            }
        } else {
            if let Some(square) = shape.square_of(slot).and_then(|pair| cell.cross.get_mut(pair)) {
                *square = square.saturating_add(squares_added);
            }
            for (pair, other) in shape.pairs_of(slot) {
                if let Some(cross) = cell.cross.get_mut(pair) {
                    let other = i128::from(shard.value(other, row.hash, row.arm, row.seen));
                    *cross = cross.saturating_add(i128::from(change) * other);
                }
            }
        }
        if let Some(place) = cell.slots.get_mut(slot) {
            *place = moments;
        }
        if let Some(shard) = self.shards.get_mut(shard_of(unit))
            && let Some(entries) = Arc::make_mut(shard).entries.get_mut(table)
        {
            entries.put(row.hash, row.arm, new);
        }
        self.capped = self.capped + u64::from(old == 0) - u64::from(new == 0);
        self.dirty = true;
        Verdict::Counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::fold::LEAST_KEPT;
    use featureops_proto::v1::metric::Kind;

    #[test]
    fn a_value_that_finds_no_room_and_a_unit_that_stays_is_a_lost_one() {
        let mut shape = Shape { arms: 2, ..Shape::default() };
        let slot = shape.slot(1, Kind::Count, 3).unwrap();
        let mut ledger = Ledger::new(0, shape);
        ledger.capped_most = 1;
        let mut left = Vec::new();
        for unit in 1..=3 {
            ledger.expose(unit, 0, 1, 1, None);
            let verdict = ledger.outcome_in_room(unit, slot, 1, (1, 60), &mut left);
            assert_eq!(verdict, if unit == 1 { Verdict::Counted } else { Verdict::NoRoom });
        }
        assert_eq!((ledger.kept, ledger.capped, ledger.lost), (LEAST_KEPT, 1, 2));
    }
}
