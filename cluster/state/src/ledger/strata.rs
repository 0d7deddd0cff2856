//! Time strata and their moments.
//!
//! Allocation moves with time, and so does behaviour: moments pooled over time are wrong. A unit's values stand in the
//! stratum of its arm's first exposure. Strata begin as hours, and a generation opens strata of its own.
//!
//! Past 64 of them two neighbours of one generation are merged: those whose arms' shares of units differ least, because
//! what pooling confounds is exactly that difference. Merging the shortest neighbours instead leaves an any-look error
//! of 6.8 % where a day swings by half and 250,000 units come in a fortnight; this leaves 3.0 %
//! (`FEATUREOPS_LONG=1 cargo test -p featureops-decision --test swing many_units -- --nocapture`).

use featureops_proto::v1;

/// Strata kept.
pub const MAX_STRATA: usize = 64;
/// Length a stratum begins with.
pub const HOUR_MINUTES: u32 = 60;

/// Sums over the units of one arm in one stratum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// Distinct exposed units.
    pub units: u64,
    /// Per metric slot: sum of values, sum of their squares.
    pub slots: Vec<(i128, i128)>,
    /// Per declared pair: sum of products.
    pub cross: Vec<i128>,
    /// Present once the experiment's sums are folded: then squares and products are of clusters' sums, but for
    /// proportions, which stay exact by unit.
    pub folded: Option<Box<Folded>>,
}

/// What the moments of clusters need beside their sums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folded {
    /// Clusters that have units.
    pub clusters: u64,
    /// Over clusters: units squared.
    pub units_squared: u64,
    /// Per metric slot, over clusters: sum times units.
    pub with_units: Vec<i128>,
}

/// What opening a stratum did to their list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new one stands here.
    Opened(usize),
    /// The one behind this became part of it.
    Merged(usize),
}

/// One stratum: its span and a cell an arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stratum {
    /// The generation it belongs to.
    pub generation: u8,
    /// First minute since the ledger's base.
    pub start: u32,
    /// Length in minutes.
    pub minutes: u32,
    /// In the order of the arms.
    pub cells: Vec<Cell>,
}

/// All strata of an experiment, by (generation, start).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strata {
    all: Vec<Stratum>,
    arms: usize,
    slots: usize,
    pairs: usize,
}

impl Strata {
    /// None yet, for a ledger of so many arms, metric slots and pairs.
    pub fn new(arms: usize, slots: usize, pairs: usize) -> Self {
        Self { all: Vec::new(), arms, slots, pairs }
    }

    /// Restores them from a snapshot.
    pub fn restore(all: Vec<Stratum>, arms: usize, slots: usize, pairs: usize) -> Self {
        Self { all, arms, slots, pairs }
    }

    /// By (generation, start).
    pub fn all(&self) -> &[Stratum] {
        &self.all
    }

    /// Units of a generation by arm.
    pub fn units(&self, generation: u8, arms: usize) -> Vec<u64> {
        let mut units = vec![0_u64; arms];
        for stratum in self.all.iter().filter(|stratum| stratum.generation == generation) {
            for (sum, cell) in units.iter_mut().zip(&stratum.cells) {
                *sum = sum.saturating_add(cell.units);
            }
        }
        units
    }

    /// For changes that lose no stratum and add none.
    pub fn all_mut(&mut self) -> &mut [Stratum] {
        &mut self.all
    }

    /// Opens the minute's hour if need be. Returns what that did, in order.
    pub fn open(&mut self, generation: u8, minute: u32) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.find(generation, minute).is_none() {
            let start = minute - minute % HOUR_MINUTES;
            let at = self.all.partition_point(|s| (s.generation, s.start) < (generation, start));
            let cell =
                Cell { slots: vec![(0, 0); self.slots], cross: vec![0; self.pairs], ..Cell::default() };
            let cells = vec![cell; self.arms];
            self.all.insert(at, Stratum { generation, start, minutes: HOUR_MINUTES, cells });
            changes.push(Change::Opened(at));
            while self.all.len() > MAX_STRATA {
                let Some(at) = self.merge_most_alike() else { break };
                changes.push(Change::Merged(at));
            }
        }
        changes
    }

    /// The cell of an arm in a stratum.
    pub fn cell_at(&mut self, at: usize, arm: u8) -> Option<&mut Cell> {
        self.all.get_mut(at)?.cells.get_mut(usize::from(arm))
    }

    /// The stratum of a first exposure at that minute.
    pub fn find(&self, generation: u8, minute: u32) -> Option<usize> {
        let after = self.all.partition_point(|s| (s.generation, s.start) <= (generation, minute));
        let at = after.checked_sub(1)?;
        let stratum = self.all.get(at)?;
        (stratum.generation == generation && minute < stratum.start + stratum.minutes).then_some(at)
    }

    /// Merges the two neighbours whose shares differ least, the oldest of equals; a gap between them becomes theirs.
    /// The newest hour is still filling and is left alone while any other pair can be merged.
    fn merge_most_alike(&mut self) -> Option<usize> {
        let settled = self.all.len().saturating_sub(1);
        let pairs = |strata: &[Stratum]| {
            strata
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| match pair {
                    [a, b] if a.generation == b.generation => Some((a.apart(b), at)),
                    _ => None,
                })
                .min()
        };
        let found = self.all.get(..settled).and_then(pairs).or_else(|| pairs(&self.all));
        let (_, at) = found?;
        let later = self.all.remove(at + 1);
        if let Some(earlier) = self.all.get_mut(at) {
            earlier.minutes = later.start + later.minutes - earlier.start;
            for (into, from) in earlier.cells.iter_mut().zip(later.cells) {
                into.absorb(&from);
            }
        }
        Some(at)
    }

    /// As the messages that decisions embed; `base` is the ledger's base in unix minutes.
    pub fn messages(&self, base: u32, generation: Option<u8>) -> Vec<v1::Stratum> {
        self.all
            .iter()
            .filter(|s| generation.is_none_or(|g| g == s.generation))
            .map(|s| v1::Stratum {
                generation: u32::from(s.generation),
                start_minute: base + s.start,
                minutes: s.minutes,
                arms: s.cells.iter().map(Cell::message).collect(),
            })
            .collect()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.all.len() * (24 + self.arms * (72 + self.slots * 32 + self.pairs * 16))
    }
}

impl Stratum {
    /// What pooling two strata would confound: N M / (N + M) times the sum over arms of (n/N - m/M) squared, in 2^-20
    /// units. Counts are at most 2^28, so nothing here passes 2^125.
    fn apart(&self, other: &Self) -> u128 {
        let total = |stratum: &Self| stratum.cells.iter().map(|cell| u128::from(cell.units)).sum::<u128>();
        let (left, right) = (total(self), total(other));
        if left == 0 || right == 0 {
            return 0;
        }
        let squares: u128 = self
            .cells
            .iter()
            .zip(&other.cells)
            .map(|(a, b)| (u128::from(a.units) * right).abs_diff(u128::from(b.units) * left))
            .map(|difference| difference.saturating_mul(difference))
            .fold(0, u128::saturating_add);
        (squares / (left * right)).saturating_mul(1 << 20) / (left + right)
    }
}

impl Cell {
    /// Of clusters it is only a beginning: their part is made anew from the merged clusters.
    fn absorb(&mut self, other: &Cell) {
        self.units += other.units;
        // Bounded: a sum stays below 2^57 a unit and there are at most 2^28 units (`budgets::MOST`); squares are checked when added.
        for (into, from) in self.slots.iter_mut().zip(&other.slots) {
            into.0 = into.0.saturating_add(from.0);
            into.1 = into.1.saturating_add(from.1);
        }
        for (into, from) in self.cross.iter_mut().zip(&other.cross) {
            *into = into.saturating_add(*from);
        }
    }

    fn message(&self) -> v1::ArmMoments {
        let folded = self.folded.as_deref();
        let with_units = |slot: usize| folded?.with_units.get(slot).copied().filter(|sum| *sum != 0);
        v1::ArmMoments {
            units: self.units,
            slots: self
                .slots
                .iter()
                .enumerate()
                .map(|(slot, (sum, squares))| v1::SlotMoments {
                    sum: Some(v1::Int128::new(*sum)),
                    squares: Some(v1::Int128::new(*squares)),
                    with_units: with_units(slot).map(v1::Int128::new),
                })
                .collect(),
            cross: self.cross.iter().map(|c| v1::Int128::new(*c)).collect(),
            clusters: folded.map_or(0, |folded| folded.clusters),
            units_squared: folded.map_or(0, |folded| folded.units_squared),
        }
    }

    /// From such a message; `folded` when the experiment's sums are.
    pub fn restore(message: &v1::ArmMoments, folded: bool) -> Self {
        let value = |v: &Option<v1::Int128>| v.as_ref().map_or(0, v1::Int128::get);
        Self {
            units: message.units,
            slots: message.slots.iter().map(|slot| (value(&slot.sum), value(&slot.squares))).collect(),
            cross: message.cross.iter().map(v1::Int128::get).collect(),
            folded: folded.then(|| {
                Box::new(Folded {
                    clusters: message.clusters,
                    units_squared: message.units_squared,
                    with_units: message.slots.iter().map(|slot| value(&slot.with_units)).collect(),
                })
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(strata: &mut Strata, generation: u8, minute: u32, arm: u8) -> &mut Cell {
        strata.open(generation, minute);
        let at = strata.find(generation, minute).unwrap();
        strata.cell_at(at, arm).unwrap()
    }

    #[test]
    fn merging_loses_nothing_and_every_minute_finds_its_stratum() {
        let mut strata = Strata::new(2, 1, 0);
        let hours = 300u32;
        for hour in 0..hours {
            let cell = open(&mut strata, 1, 1 + hour * 60, (hour % 2) as u8);
            cell.units += 1;
            cell.slots[0].0 += 1;
        }
        assert_eq!(strata.all().len(), MAX_STRATA);
        let units: u64 = strata.all().iter().flat_map(|s| &s.cells).map(|c| c.units).sum();
        assert_eq!(units, u64::from(hours));
        for hour in 0..hours {
            assert!(strata.find(1, 1 + hour * 60).is_some());
        }
        for pair in strata.all().windows(2) {
            assert!(pair[0].start + pair[0].minutes <= pair[1].start);
        }
    }

    #[test]
    fn hours_of_equal_shares_merge_before_hours_of_different_ones() {
        let mut strata = Strata::new(2, 0, 0);
        // Shares change once, after 40 hours; every hour has 100 units.
        for hour in 0..100u32 {
            let first = if hour < 40 { 50 } else { 90 };
            open(&mut strata, 1, 1 + hour * 60, 0).units += first;
            open(&mut strata, 1, 1 + hour * 60, 1).units += 100 - first;
        }
        assert_eq!(strata.all().len(), MAX_STRATA);
        let change = 40 * 60;
        assert!(strata.all().iter().any(|s| s.start == change), "no stratum spans the change of shares");
        assert_eq!(strata.all().last().unwrap().minutes, HOUR_MINUTES, "the open hour is left alone");
    }

    #[test]
    fn a_generation_has_strata_of_its_own() {
        let mut strata = Strata::new(2, 0, 0);
        open(&mut strata, 1, 30, 0).units += 1;
        open(&mut strata, 2, 30, 0).units += 1;
        assert_eq!(strata.all().len(), 2);
    }
}
