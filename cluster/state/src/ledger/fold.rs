//! What a ledger does when it is full: sums of units fold into clusters, units of half the hash space leave.
//!
//! Both are exact and the same on every replica, and neither walks the rows: the clusters count units and conversions from
//! the start, and at most some 131,072 sums are to be looked up.

use std::sync::Arc;

use super::clusters::{CLUSTERS, Clusters};
use super::table::{Ledger, SHARDS, Shard, key_of};

/// Shards of a cluster.
const CLUSTER_SHARDS: usize = SHARDS / CLUSTERS;
/// Shards that are always kept: those of four clusters, or no variance could be had from clusters' sums.
pub const LEAST_KEPT: usize = 4 * CLUSTER_SHARDS;

impl Ledger {
    /// Folds the sums of single units into those of clusters, for good.
    pub fn fold(&mut self) {
        if self.clusters.folded() {
            return;
        }
        let clusters = Arc::make_mut(&mut self.clusters);
        for (number, shard) in self.shards.iter().enumerate().take(self.kept) {
            for (table, entries) in shard.entries.iter().enumerate() {
                for (hash, arm, value) in entries.iter() {
                    let stay = shard.stay(hash, arm);
                    let Some(at) = stay.and_then(|(generation, minute)| self.strata.find(generation, minute))
                    else {
                        continue;
                    };
                    clusters.take(at, arm, unit_of(number, hash), table, value);
                }
            }
        }
        clusters.write(&self.shape, Arc::make_mut(&mut self.strata));
        for shard in self.shards.iter_mut().filter(|shard| shard.entries.iter().any(|e| e.len() > 0)) {
            Arc::make_mut(shard).entries.fill_with(Default::default);
        }
        self.entries = 0;
        self.dirty = true;
    }

    /// Halves the part of the hash space that is counted: the units of the upper half leave, with all that they added to
    /// any moment. Returns how many; `None` when no smaller part is left.
    pub fn thin(&mut self) -> Option<u64> {
        if self.kept <= LEAST_KEPT || self.released {
            return None;
        }
        let kept = (self.kept / 2).max(LEAST_KEPT);
        let strata = Arc::make_mut(&mut self.strata);
        let shape = Arc::clone(&self.shape);
        // Sums of single units first: each needs its row to say whose moments it is in.
        for shard in self.shards.iter().skip(kept) {
            for (slot, table) in shape.summed() {
                let Some(entries) = shard.entries.get(table) else { continue };
                for (hash, arm, value) in entries.iter() {
                    let stay = shard.stay(hash, arm);
                    let at = stay.and_then(|(generation, minute)| strata.find(generation, minute));
                    let Some(cell) = at.and_then(|at| strata.cell_at(at, arm)) else { continue };
                    let value = i128::from(value);
                    if let Some((sum, squares)) = cell.slots.get_mut(slot) {
                        *sum -= value;
                        *squares -= value * value;
                    }
                    // A pair's product once, with its first half.
                    for (pair, other) in shape.pairs_of(slot) {
                        if shape.pairs.get(pair).is_some_and(|(first, _)| *first == slot)
                            && let Some(cross) = cell.cross.get_mut(pair)
                        {
                            let other = shard.entries.get(other).map_or(0, |e| e.get(hash, arm));
                            *cross -= value * i128::from(other);
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
            self.entries -= shard.entries.iter().map(|entries| entries.len() as u64).sum::<u64>();
            *shard = Arc::clone(&empty);
        }
        self.rows -= rows;
        self.crossed -= crossed;
        self.thinned += rows;
        self.kept = kept;
        self.dirty = true;
        Some(rows)
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
        self.entries = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            self.entries += shard.entries.iter().map(|entries| entries.len() as u64).sum::<u64>();
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

impl Shard {
    /// Generation and minute of the unit's first exposure to an arm it is or was in.
    fn stay(&self, hash: u64, arm: u8) -> Option<(u8, u32)> {
        let row = self.rows.get(hash)?;
        if row.arm == arm {
            return Some((row.generation, row.minute));
        }
        let side = self.side.get(&hash)?;
        (side.arm == arm).then_some((side.generation, side.minute))
    }
}

/// The unit's hash, but for the bits that neither says.
fn unit_of(shard: usize, hash: u64) -> u64 {
    ((shard as u64) << 56) | key_of(hash)
}
