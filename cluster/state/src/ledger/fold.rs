//! What a ledger does when it is full: sums of units fold into clusters, units of half the hash space leave.
//!
//! Both are exact and the same on every replica, and neither walks the rows: the clusters count units and conversions from
//! the start, and only as many sums are looked up as the budget lets an experiment hold (131,072 unless people set more), and
//! those of the entry that passed it.

use std::sync::Arc;

use super::clusters::{CLUSTERS, Clusters};
use super::entries::Entries;
use super::shape::{Shape, SlotKind};
use super::table::{Ledger, SHARDS, Shard, key_of, shard_of};

/// Shards of a cluster.
const CLUSTER_SHARDS: usize = SHARDS / CLUSTERS;
/// Shards that are always kept: those of four clusters, or no variance could be had from clusters' sums.
pub const LEAST_KEPT: usize = 4 * CLUSTER_SHARDS;

impl Ledger {
    /// Folds the sums of single units into those of clusters, for good; but for capped metrics', of which a sum is not the value.
    pub fn fold(&mut self) {
        if self.clusters.folded() {
            return;
        }
        let clusters = Arc::make_mut(&mut self.clusters);
        for (number, shard) in self.shards.iter().enumerate().take(self.kept) {
            for (slot, table) in self.shape.summed() {
                let (Some(entries), Some((_, kind))) = (shard.entries.get(table), self.shape.slots.get(slot))
                else {
                    continue;
                };
                for (hash, arm, sum) in entries.iter() {
                    let stay = shard.stay(hash, arm);
                    let Some(at) = stay.and_then(|stay| self.strata.find(stay.generation, stay.minute))
                    else {
                        continue;
                    };
                    clusters.take(at, arm, unit_of(number, hash), table, value(*kind, sum));
                }
            }
        }
        clusters.write(&self.shape, Arc::make_mut(&mut self.strata));
        for shard in self.shards.iter_mut().filter(|shard| shard.entries.iter().any(|e| e.len() > 0)) {
            let shard = Arc::make_mut(shard);
            for (slot, table) in self.shape.summed() {
                let capped = self.shape.slots.get(slot).is_some_and(|(_, kind)| kind.is_capped());
                if let Some(entries) = shard.entries.get_mut(table).filter(|_| !capped) {
                    *entries = Entries::default();
                }
            }
        }
        self.entries = 0;
        self.dirty = true;
    }

    /// A smaller part than the present one may be counted.
    pub fn may_thin(&self) -> bool {
        self.kept > LEAST_KEPT && !self.released
    }

    /// Halves the part of the hash space that is counted: the units of the upper half leave, with all that they added to
    /// any moment. Returns how many; `None` when no smaller part is left.
    pub fn thin(&mut self) -> Option<u64> {
        if !self.may_thin() {
            return None;
        }
        let kept = (self.kept / 2).max(LEAST_KEPT);
        let strata = Arc::make_mut(&mut self.strata);
        let shape = Arc::clone(&self.shape);
        // Sums of single units first: each needs its row to say whose moments it is in.
        for shard in self.shards.iter().skip(kept) {
            for (slot, table) in shape.summed() {
                let (Some(entries), Some((_, kind))) = (shard.entries.get(table), shape.slots.get(slot))
                else {
                    continue;
                };
                for (hash, arm, sum) in entries.iter() {
                    let Some(stay) = shard.stay(hash, arm) else { continue };
                    let at = strata.find(stay.generation, stay.minute);
                    let Some(cell) = at.and_then(|at| strata.cell_at(at, arm)) else { continue };
                    let value = i128::from(value(*kind, sum));
                    if let Some((sum, squares)) = cell.slots.get_mut(slot) {
                        *sum -= value;
                        *squares -= value * value;
                    }
                    // A pair's product once, with its first half, which is always a sum. After the fold all are written anew.
                    if let Some(square) = shape.square_of(slot).and_then(|pair| cell.cross.get_mut(pair)) {
                        *square -= value * value;
                    }
                    for (pair, other) in shape.pairs_of(slot) {
                        if shape.pairs.get(pair).is_some_and(|(first, _)| *first == slot)
                            && let Some(cross) = cell.cross.get_mut(pair)
                        {
                            *cross -= value * i128::from(shard.value(other, hash, arm, stay.seen));
                        }
                    }
                }
            }
        }
        Arc::make_mut(&mut self.clusters).thin(kept / CLUSTER_SHARDS, &shape, strata);
        let empty = self.empty_shard();
        let (mut rows, mut crossed) = (0u64, 0u64);
        for shard in self.shards.iter_mut().skip(kept) {
            rows += shard.rows.len() as u64;
            crossed += shard.side.len() as u64;
            let (sums, capped) = shard.lengths(&self.shape);
            self.entries -= sums;
            self.capped -= capped;
            *shard = Arc::clone(&empty);
        }
        self.sample.retain(|unit| shard_of(unit) < kept);
        self.rows -= rows;
        self.crossed -= crossed;
        self.thinned += rows;
        self.kept = kept;
        self.dirty = true;
        Some(rows)
    }

    /// Takes a unit out, with what its sums added to the moments while they are its own. Returns its stays, and how many sums
    /// of its own they had.
    pub fn forget(&mut self, unit: u64) -> (u32, u32) {
        let hash = key_of(unit);
        let Some(row) = self.row(unit) else { return (0, 0) };
        let side = self.side(unit);
        let mut stays = vec![(row.arm, row.generation, row.minute, row.seen)];
        stays.extend(side.map(|side| (side.arm, side.generation, side.minute, side.seen)));
        let Some(shard) = self.shards.get_mut(shard_of(unit)) else { return (0, 0) };
        let shard = Arc::make_mut(shard);
        shard.rows.remove(hash);
        shard.side.remove(&hash);
        self.rows -= 1;
        self.crossed -= u64::from(side.is_some());
        self.dirty = true;
        let shape = Arc::clone(&self.shape);
        let strata = Arc::make_mut(&mut self.strata);
        let clusters = Arc::make_mut(&mut self.clusters);
        let (mut own, mut capped) = (0, 0);
        for (arm, generation, minute, seen) in &stays {
            let sums: Vec<i128> = shape
                .slots
                .iter()
                .map(|(_, kind)| match kind {
                    SlotKind::Seen { bit } => i128::from(seen >> bit & 1),
                    SlotKind::Sum { table, .. } => {
                        let entries = shard.entries.get_mut(usize::from(*table));
                        let sum = entries.map_or(0, |entries| entries.remove(hash, *arm));
                        own += u32::from(sum != 0);
                        capped += u32::from(sum != 0 && kind.is_capped());
                        i128::from(value(*kind, sum))
                    }
                })
                .collect();
            let Some(at) = strata.find(*generation, *minute) else { continue };
            let Some(cell) = strata.cell_at(at, *arm) else { continue };
            cell.units = cell.units.saturating_sub(1);
            for ((whole, squares), sum) in cell.slots.iter_mut().zip(&sums) {
                // These were added when the sum grew, so they are in there.
                *whole -= sum;
                *squares -= sum * sum;
            }
            for (cross, (a, b)) in cell.cross.iter_mut().zip(&shape.pairs) {
                if let (Some(a), Some(b)) = (sums.get(*a), sums.get(*b)) {
                    *cross -= a * b;
                }
            }
            clusters.forget(at, *arm, unit, (*seen, &sums), &shape, cell);
        }
        self.entries -= u64::from(own - capped);
        self.capped -= u64::from(capped);
        (stays.len() as u32, own)
    }

    /// Exposures that never came to the log. Their units are not known: as many of them count as would have been counted.
    pub fn lose(&mut self, exposures: u64) {
        let (kept, shards) = (self.kept as u128, SHARDS as u128);
        let counted = (u128::from(exposures) * kept).div_ceil(shards);
        self.lost = self.lost.saturating_add(u64::try_from(counted).unwrap_or(u64::MAX));
        self.dirty = true;
    }

    /// Counts rows, sums and clusters' units anew, as a snapshot leaves that to its reader; `folded` as it says.
    pub fn recount(&mut self, folded: bool) {
        let mut clusters = Clusters::of_strata(&self.shape, self.strata.all().len(), folded);
        (self.entries, self.capped) = (0, 0);
        for (number, shard) in self.shards.iter().enumerate() {
            let (sums, capped) = shard.lengths(&self.shape);
            self.entries += sums;
            self.capped += capped;
            for row in shard.rows.iter() {
                if let Some(at) = self.strata.find(row.generation, row.minute) {
                    clusters.recount(at, row.arm, unit_of(number, row.hash), row.seen);
                }
            }
            for (hash, side) in &shard.side {
                if let Some(at) = self.strata.find(side.generation, side.minute) {
                    clusters.recount(at, side.arm, unit_of(number, *hash), side.seen);
                }
            }
        }
        self.clusters = Arc::new(clusters);
    }
}

/// A unit in an arm that it is or was in.
struct Stay {
    /// Of its first exposure to the arm.
    generation: u8,
    minute: u32,
    seen: u16,
}

impl Shard {
    fn stay(&self, hash: u64, arm: u8) -> Option<Stay> {
        let row = self.rows.get(hash)?;
        if row.arm == arm {
            return Some(Stay { generation: row.generation, minute: row.minute, seen: row.seen });
        }
        let side = self.side.get(&hash)?;
        (side.arm == arm).then_some(Stay {
            generation: side.generation,
            minute: side.minute,
            seen: side.seen,
        })
    }

    /// What a slot's moments have of a unit in an arm, whose seen bits are given, while its sums are its own.
    pub(super) fn value(&self, kind: SlotKind, hash: u64, arm: u8, seen: u16) -> i64 {
        match kind {
            SlotKind::Seen { bit } => i64::from(seen >> bit & 1),
            SlotKind::Sum { table, .. } => {
                value(kind, self.entries.get(usize::from(table)).map_or(0, |e| e.get(hash, arm)))
            }
        }
    }

    /// Sums held that may be folded, and those of capped metrics.
    fn lengths(&self, shape: &Shape) -> (u64, u64) {
        let mut lengths = (0, 0);
        for (slot, table) in shape.summed() {
            let length = self.entries.get(table).map_or(0, |entries| entries.len() as u64);
            let capped = shape.slots.get(slot).is_some_and(|(_, kind)| kind.is_capped());
            *(if capped { &mut lengths.1 } else { &mut lengths.0 }) += length;
        }
        lengths
    }
}

/// A sum as the moments have it.
pub(super) fn value(kind: SlotKind, sum: i64) -> i64 {
    match kind {
        SlotKind::Sum { cap, .. } => sum.min(cap),
        SlotKind::Seen { .. } => sum,
    }
}

/// The unit's hash, but for the bits that neither says.
fn unit_of(shard: usize, hash: u64) -> u64 {
    ((shard as u64) << 56) | key_of(hash)
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::super::shape::NO_CAP;
    use super::*;
    use featureops_proto::v1;
    use featureops_proto::v1::metric::Kind;

    /// A proportion, two sums and their pair; every third unit crosses.
    fn lived(units: impl Iterator<Item = u64>) -> Ledger {
        let mut shape = Shape { arms: 2, ..Shape::default() };
        shape.slot(1, Kind::Proportion, NO_CAP);
        let (revenue, clicks) =
            (shape.slot(2, Kind::Mean, NO_CAP).unwrap(), shape.slot(3, Kind::Count, NO_CAP).unwrap());
        shape.pair(revenue, clicks);
        let mut ledger = Ledger::new(0, shape);
        for number in units {
            let (unit, minute) = (hash(number), 1 + (number % 90 * 60) as u32);
            ledger.expose(unit, (number % 2) as u8, 1, minute, None);
            for (slot, value) in [(0, 1), (1, number as i64), (2, 1), (1, -3)] {
                ledger.outcome(unit, slot, value, minute, 1_000);
            }
            if number % 3 == 0 {
                ledger.expose(unit, (number % 2) as u8 ^ 1, 1, minute + 1, None);
                ledger.outcome(unit, 1, 7, minute + 1, 1_000);
                ledger.outcome(unit, 2, 1, minute + 1, 1_000);
            }
        }
        ledger
    }

    fn hash(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn opened(ledger: &Ledger) -> Vec<v1::ArmMoments> {
        ledger.strata.messages(0, None).into_iter().flat_map(|stratum| stratum.arms).collect()
    }

    #[test]
    fn a_unit_that_is_forgotten_leaves_what_would_be_without_it() {
        let gone = |number: u64| number % 5 == 2;
        let mut ledger = lived(0..400);
        for number in (0..400).filter(|number| gone(*number)) {
            let (stays, sums) = ledger.forget(hash(number));
            assert_eq!(stays, if number % 3 == 0 { 2 } else { 1 });
            assert_eq!(sums, stays * 2 - u32::from(number == 3));
            assert_eq!(ledger.forget(hash(number)), (0, 0));
        }
        let without = lived((0..400).filter(|number| !gone(*number)));
        assert_eq!(
            (ledger.rows, ledger.crossed, ledger.entries),
            (without.rows, without.crossed, without.entries)
        );
        let pooled = |ledger: &Ledger| {
            let mut sums = [(0, 0, 0, 0); 2];
            for (at, arm) in opened(ledger).iter().enumerate() {
                let get = |v: &Option<v1::Int128>| v.as_ref().unwrap().get();
                let sum = &mut sums[at % 2];
                *sum = (
                    sum.0 + arm.units,
                    sum.1 + get(&arm.slots[0].sum),
                    sum.2 + get(&arm.slots[1].squares),
                    sum.3 + arm.cross[0].get(),
                );
            }
            sums
        };
        assert_eq!(pooled(&ledger), pooled(&without));
        ledger.fold();
        let counted = ledger.clusters.clone();
        let sums: Vec<Vec<i64>> = counted.sums().map(Iterator::collect).collect();
        ledger.recount(true);
        let clusters = Arc::make_mut(&mut ledger.clusters);
        for (at, sums) in sums.iter().enumerate() {
            clusters.restore_sums(at, sums).unwrap();
        }
        let before = opened(&ledger);
        let mut strata = (*ledger.strata).clone();
        ledger.clusters.as_ref().clone().write(&ledger.shape, &mut strata);
        ledger.strata = Arc::new(strata);
        assert_eq!(opened(&ledger), before, "what was kept one by one is what a recount makes");
        // A unit that leaves after the fold leaves its sums behind, and nothing else.
        let units: u64 = before.iter().map(|arm| arm.units).sum();
        let (stays, sums) = ledger.forget(hash(0));
        assert_eq!((stays, sums), (2, 0));
        let after = opened(&ledger);
        assert_eq!(after.iter().map(|arm| arm.units).sum::<u64>(), units - 2);
        let squared = |arms: &[v1::ArmMoments]| arms.iter().map(|arm| arm.units_squared).sum::<u64>();
        assert!(squared(&after) < squared(&before));
    }
}
