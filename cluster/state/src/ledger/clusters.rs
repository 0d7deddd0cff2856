//! Hash clusters: units by the top six bits of their hash, within each stratum and arm.
//!
//! ```text
//!   (stratum, arm) ── 64 clusters ──  units n_c, converted units        from the start
//!                                     sums S_c of every summed metric   from the fold on
//! ```
//!
//! The hash is keyed and has nothing to do with the assignment to arms, so clusters are random groups of units, common to
//! all arms. From clusters' sums the variance of a mean follows as from units' sums (see `actors/decision`, `moments.rs`), at
//! a fixed size: 64 clusters in each of 64 strata. Their units are counted before the fold too, because it must not
//! walk ten million rows, and nor must thinning, which lets whole clusters go.

use super::shape::{Shape, SlotKind};
use super::strata::{Cell, Change, Folded, Strata};

/// Clusters of a stratum and arm.
pub const CLUSTERS: usize = 64;
/// A cluster's sum may not be driven past this.
const MAX_CLUSTER_SUM: u64 = 1 << 62;

/// The cluster of a unit.
pub const fn cluster_of(unit: u64) -> usize {
    (unit >> 58) as usize
}

/// One arm in one stratum. Empty until it has units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    units: Vec<u32>,
    /// A bit's 64 counts after another's.
    seen: Vec<u32>,
    /// A table's 64 sums after another's; empty before the fold.
    sums: Vec<i64>,
}

/// The clusters of one experiment, stratum by stratum as [`Strata`] has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clusters {
    strata: Vec<Vec<Group>>,
    arms: usize,
    bits: usize,
    tables: usize,
    folded: bool,
}

impl Clusters {
    /// None yet.
    pub fn new(shape: &Shape) -> Self {
        let (arms, tables) = (shape.arms, shape.tables());
        Self { strata: Vec::new(), arms, bits: shape.slots.len() - tables, tables, folded: false }
    }

    /// Of as many strata, without units.
    pub fn of_strata(shape: &Shape, strata: usize, folded: bool) -> Self {
        let empty = Self::new(shape);
        Self { strata: vec![vec![Group::default(); shape.arms]; strata], folded, ..empty }
    }

    /// Sums are held here.
    pub fn folded(&self) -> bool {
        self.folded
    }

    /// Does what was done to the strata.
    pub fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Opened(at) => {
                    self.strata.insert(at.min(self.strata.len()), vec![Group::default(); self.arms]);
                }
                Change::Merged(at) if at + 1 < self.strata.len() => {
                    let later = self.strata.remove(at + 1);
                    for (into, from) in self.strata.get_mut(at).into_iter().flatten().zip(later) {
                        into.absorb(from);
                    }
                }
                Change::Merged(_) => {}
            }
        }
    }

    /// Counts a unit and the seen bits it comes with.
    pub fn recount(&mut self, at: usize, arm: u8, unit: u64, seen: u16) {
        let bits = self.bits;
        let Some(group) = self.strata.get_mut(at).and_then(|arms| arms.get_mut(usize::from(arm))) else {
            return;
        };
        add(&mut group.units, CLUSTERS, cluster_of(unit), 1);
        for bit in (0..bits).filter(|bit| seen >> bit & 1 == 1) {
            add(&mut group.seen, bits * CLUSTERS, bit * CLUSTERS + cluster_of(unit), 1);
        }
    }

    /// Counts a new unit of the arm, and keeps the cell's moments.
    pub fn unit(&mut self, at: usize, arm: u8, unit: u64, shape: &Shape, cell: &mut Cell) {
        self.recount(at, arm, unit, 0);
        let Some(folded) = &mut cell.folded else { return };
        let Some(group) = self.strata.get(at).and_then(|arms| arms.get(usize::from(arm))) else { return };
        let cluster = cluster_of(unit);
        let units = u64::from(group.units.get(cluster).copied().unwrap_or(1));
        folded.clusters += u64::from(units == 1);
        folded.units_squared += 2 * units - 1;
        for (slot, kind) in shape.with_units() {
            if let Some(with_units) = folded.with_units.get_mut(slot) {
                *with_units = with_units.saturating_add(i128::from(group.total(kind, cluster)));
            }
        }
    }

    /// Counts a unit's first conversion; of folded sums it keeps the cell's products, too.
    pub fn see(
        &mut self,
        at: usize,
        arm: u8,
        unit: u64,
        (slot, bit): (usize, u8),
        shape: &Shape,
        cell: &mut Cell,
    ) {
        let (bits, cluster) = (self.bits, cluster_of(unit));
        let Some(group) = self.strata.get_mut(at).and_then(|arms| arms.get_mut(usize::from(arm))) else {
            return;
        };
        if cell.folded.is_some() && shape.covariates > 0 {
            group.shift(shape, slot, cluster, 1, cell);
        }
        add(&mut group.seen, bits * CLUSTERS, usize::from(bit) * CLUSTERS + cluster, 1);
    }

    /// Takes a unit and its seen bits out, and keeps the cell's moments. Sums that were folded stay: whose they are is not
    /// known any more.
    pub fn forget(
        &mut self,
        at: usize,
        arm: u8,
        unit: u64,
        (seen, values): (u16, &[i128]),
        shape: &Shape,
        cell: &mut Cell,
    ) {
        let cluster = cluster_of(unit);
        let Some(group) = self.strata.get_mut(at).and_then(|arms| arms.get_mut(usize::from(arm))) else {
            return;
        };
        if let Some(units) = group.units.get_mut(cluster) {
            *units = units.saturating_sub(1);
        }
        for bit in (0..self.bits).filter(|bit| seen >> bit & 1 == 1) {
            if let Some(count) = group.seen.get_mut(bit * CLUSTERS + cluster) {
                *count = count.saturating_sub(1);
            }
        }
        if cell.folded.is_some() {
            // Values of capped metrics are still known.
            for (slot, table) in shape.summed() {
                let value = values.get(slot).and_then(|value| i64::try_from(*value).ok()).unwrap_or(0);
                if let Some(sum) = group.sums.get_mut(table * CLUSTERS + cluster) {
                    *sum = sum.saturating_sub(value);
                }
            }
            group.write(shape, cell);
        }
    }

    /// Adds to a capped metric's sum of a cluster, of folded sums, and keeps the cell's products; its sum and squares are those of
    /// units. `None`, and nothing is changed, when one would overflow.
    pub fn add_capped(
        &mut self,
        at: usize,
        arm: u8,
        unit: u64,
        (slot, change): (usize, i64),
        shape: &Shape,
        cell: &mut Cell,
    ) -> Option<()> {
        let (_, SlotKind::Sum { table, .. }) = *shape.slots.get(slot)? else { return None };
        let (tables, cluster) = (self.tables, cluster_of(unit));
        let group = self.strata.get_mut(at)?.get_mut(usize::from(arm))?;
        let old = group.sum(usize::from(table), cluster);
        let new = old.checked_add(change).filter(|sum| sum.unsigned_abs() <= MAX_CLUSTER_SUM)?;
        group.shift(shape, slot, cluster, change, cell);
        put(&mut group.sums, tables, usize::from(table), cluster, new);
        Some(())
    }

    /// Adds to a cluster's sum and keeps the cell's moments; `None`, and nothing is changed, when one would overflow.
    pub fn add(
        &mut self,
        at: usize,
        arm: u8,
        unit: u64,
        (slot, value): (usize, i64),
        shape: &Shape,
        cell: &mut Cell,
    ) -> Option<()> {
        let (_, SlotKind::Sum { table, .. }) = *shape.slots.get(slot)? else { return None };
        let tables = self.tables;
        let group = self.strata.get_mut(at)?.get_mut(usize::from(arm))?;
        let cluster = cluster_of(unit);
        let old = group.sum(usize::from(table), cluster);
        let new = old.checked_add(value).filter(|sum| sum.unsigned_abs() <= MAX_CLUSTER_SUM)?;
        let units = i128::from(group.units.get(cluster).copied().unwrap_or(0));
        let change = i128::from(value);
        let (sum, squares) = *cell.slots.get(slot)?;
        let sum = sum.checked_add(change)?;
        let squares = squares.checked_add((2 * i128::from(old)).checked_add(change)?.checked_mul(change)?)?;
        let with_units =
            cell.folded.as_ref()?.with_units.get(slot)?.checked_add(change.checked_mul(units)?)?;
        let mut products = Vec::new();
        for (pair, other) in shape.pairs_of(slot) {
            let product = change.checked_mul(i128::from(group.total(other, cluster)))?;
            products.push((pair, cell.cross.get(pair)?.checked_add(product)?));
        }
        for (pair, product) in products {
            *cell.cross.get_mut(pair)? = product;
        }
        *cell.folded.as_mut()?.with_units.get_mut(slot)? = with_units;
        *cell.slots.get_mut(slot)? = (sum, squares);
        put(&mut group.sums, tables, usize::from(table), cluster, new);
        Some(())
    }

    /// Takes a unit's sum in: a step of the fold, after which [`Self::write`] makes the moments anew.
    pub fn take(&mut self, at: usize, arm: u8, unit: u64, table: usize, value: i64) {
        let tables = self.tables;
        if let Some(group) = self.strata.get_mut(at).and_then(|arms| arms.get_mut(usize::from(arm))) {
            let cluster = cluster_of(unit);
            // A unit's sum stays below 2^57: beyond an i64 there are only absurd ones.
            let sum = group.sum(table, cluster).saturating_add(value);
            put(&mut group.sums, tables, table, cluster, sum);
        }
    }

    /// Makes the clusters' part of all cells' moments anew. Counts and sums over units are not touched.
    pub fn write(&mut self, shape: &Shape, strata: &mut Strata) {
        self.folded = true;
        for (groups, stratum) in self.strata.iter().zip(strata.all_mut()) {
            for (group, cell) in groups.iter().zip(&mut stratum.cells) {
                group.write(shape, cell);
            }
        }
    }

    /// Lets the clusters from `kept` on go, with what they had in the moments; sums only once they are folded.
    pub fn thin(&mut self, kept: usize, shape: &Shape, strata: &mut Strata) {
        for (groups, stratum) in self.strata.iter_mut().zip(strata.all_mut()) {
            for (group, cell) in groups.iter_mut().zip(&mut stratum.cells) {
                group.thin(kept, shape, cell);
                if self.folded {
                    group.write(shape, cell);
                }
            }
        }
    }

    /// The sums of each stratum, for a snapshot.
    pub fn sums(&self) -> impl Iterator<Item = impl Iterator<Item = i64>> {
        let length = self.tables * CLUSTERS;
        self.strata.iter().map(move |arms| {
            arms.iter()
                .flat_map(move |group| (0..length).map(move |at| group.sums.get(at).copied().unwrap_or(0)))
        })
    }

    /// Restores the sums of a stratum; `None` when they are not as many as there must be.
    pub fn restore_sums(&mut self, at: usize, sums: &[i64]) -> Option<()> {
        let length = self.tables * CLUSTERS;
        let groups = self.strata.get_mut(at)?;
        if length == 0 || sums.len() != groups.len() * length {
            return None;
        }
        for (group, sums) in groups.iter_mut().zip(sums.chunks(length)) {
            if sums.iter().any(|sum| *sum != 0) {
                group.sums = sums.to_vec();
            }
        }
        Some(())
    }

    /// No cluster's sum has this magnitude.
    pub fn are_below(&self, bound: u64) -> bool {
        let mut sums = self.strata.iter().flatten().flat_map(|group| &group.sums);
        sums.all(|sum| sum.unsigned_abs() < bound)
    }

    /// Units of all clusters of a stratum's arm.
    pub fn units(&self, at: usize, arm: usize) -> u64 {
        let group = self.strata.get(at).and_then(|arms| arms.get(arm));
        group.into_iter().flat_map(|group| &group.units).map(|units| u64::from(*units)).sum()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let bytes = |group: &Group| 72 + (group.units.len() + group.seen.len()) * 4 + group.sums.len() * 8;
        self.strata.iter().flatten().map(bytes).sum()
    }
}

impl Group {
    /// Of the cluster's units: those that converted, or their sum.
    fn total(&self, kind: SlotKind, cluster: usize) -> i64 {
        match kind {
            SlotKind::Seen { bit } => {
                let at = usize::from(bit) * CLUSTERS + cluster;
                i64::from(self.seen.get(at).copied().unwrap_or(0))
            }
            SlotKind::Sum { table, .. } => self.sum(usize::from(table), cluster),
        }
    }

    /// Keeps the products that a slot's total is in while it changes; saturating, as [`Group::write`] is. Of a slot that stays
    /// exact: its sum and squares are the units'.
    fn shift(&self, shape: &Shape, slot: usize, cluster: usize, change: i64, cell: &mut Cell) {
        let Some((_, kind)) = shape.slots.get(slot) else { return };
        let (old, change) = (i128::from(self.total(*kind, cluster)), i128::from(change));
        if let Some(cross) = shape.square_of(slot).and_then(|pair| cell.cross.get_mut(pair)) {
            *cross = cross.saturating_add((2 * old + change).saturating_mul(change));
        }
        for (pair, other) in shape.pairs_of(slot) {
            if let Some(cross) = cell.cross.get_mut(pair) {
                *cross = cross.saturating_add(change.saturating_mul(i128::from(self.total(other, cluster))));
            }
        }
        let units = i128::from(self.units.get(cluster).copied().unwrap_or(0));
        if let Some(with_units) = cell.folded.as_mut().and_then(|folded| folded.with_units.get_mut(slot)) {
            *with_units = with_units.saturating_add(change.saturating_mul(units));
        }
    }

    fn sum(&self, table: usize, cluster: usize) -> i64 {
        self.sums.get(table * CLUSTERS + cluster).copied().unwrap_or(0)
    }

    fn absorb(&mut self, from: Self) {
        fn join<T: Copy>(into: &mut Vec<T>, from: Vec<T>, sum: impl Fn(T, T) -> T) {
            if into.is_empty() {
                *into = from;
                return;
            }
            for (into, from) in into.iter_mut().zip(from) {
                *into = sum(*into, from);
            }
        }
        join(&mut self.units, from.units, u32::saturating_add);
        join(&mut self.seen, from.seen, u32::saturating_add);
        join(&mut self.sums, from.sums, i64::saturating_add);
    }

    fn write(&self, shape: &Shape, cell: &mut Cell) {
        let mut folded = Folded { with_units: vec![0; shape.slots.len()], ..Folded::default() };
        for units in self.units.iter().filter(|units| **units > 0) {
            folded.clusters += 1;
            folded.units_squared += u64::from(*units) * u64::from(*units);
        }
        let products = |left: &mut dyn Iterator<Item = i128>, kind: SlotKind| {
            left.enumerate().fold(0i128, |sum, (cluster, left)| {
                sum.saturating_add(left.saturating_mul(i128::from(self.total(kind, cluster))))
            })
        };
        let totals = |kind: SlotKind| (0..CLUSTERS).map(move |cluster| i128::from(self.total(kind, cluster)));
        for (slot, kind) in shape.with_units() {
            if !kind.stays_exact()
                && let Some((_, squares)) = cell.slots.get_mut(slot)
            {
                *squares = products(&mut totals(kind), kind);
            }
            if let Some(with_units) = folded.with_units.get_mut(slot) {
                *with_units = products(&mut self.units.iter().map(|units| i128::from(*units)), kind);
            }
        }
        for (pair, cross) in cell.cross.iter_mut().enumerate() {
            if let Some((left, right)) = shape.kinds_of(pair) {
                *cross = products(&mut totals(left), right);
            }
        }
        cell.folded = Some(Box::new(folded));
    }

    fn thin(&mut self, kept: usize, shape: &Shape, cell: &mut Cell) {
        let gone = |counts: &mut Vec<u32>, from: usize| {
            let gone = counts.iter_mut().skip(from + kept).take(CLUSTERS - kept);
            gone.map(|count| u64::from(std::mem::take(count))).sum::<u64>()
        };
        cell.units = cell.units.saturating_sub(gone(&mut self.units, 0));
        for (slot, ((_, kind), (sum, squares))) in shape.slots.iter().zip(&mut cell.slots).enumerate() {
            match *kind {
                SlotKind::Seen { bit } => {
                    let converted = i128::from(gone(&mut self.seen, usize::from(bit) * CLUSTERS));
                    *sum -= converted;
                    *squares -= converted;
                    // Before the fold it is the same; after it, it is written anew.
                    if let Some(square) = shape.square_of(slot).and_then(|pair| cell.cross.get_mut(pair)) {
                        *square -= converted;
                    }
                }
                SlotKind::Sum { table, .. } => {
                    let from = usize::from(table) * CLUSTERS + kept;
                    for gone in self.sums.iter_mut().skip(from).take(CLUSTERS - kept) {
                        let gone = i128::from(std::mem::take(gone));
                        // A capped metric's have left one by one.
                        *sum -= if kind.is_capped() { 0 } else { gone };
                    }
                }
            }
        }
    }
}

fn add(counts: &mut Vec<u32>, length: usize, at: usize, more: u32) {
    if counts.is_empty() {
        *counts = vec![0; length];
    }
    if let Some(count) = counts.get_mut(at) {
        *count = count.saturating_add(more);
    }
}

fn put(sums: &mut Vec<i64>, tables: usize, table: usize, cluster: usize, sum: i64) {
    if sums.is_empty() {
        *sums = vec![0; tables * CLUSTERS];
    }
    if let Some(place) = sums.get_mut(table * CLUSTERS + cluster) {
        *place = sum;
    }
}
