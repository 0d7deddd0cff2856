//! Time strata and their moments.
//!
//! Allocation moves with time, and so does behaviour: moments pooled over time are wrong. A unit's values stand in the
//! stratum of its arm's first exposure. Strata begin as hours; past 64 of them the two neighbours of one generation
//! that are shortest together are merged, the oldest of equals first. A generation opens strata of its own.

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

    /// The cell of an arm's first exposure at that minute, opening its hour if need be.
    pub fn open(&mut self, generation: u8, minute: u32, arm: u8) -> Option<&mut Cell> {
        if self.find(generation, minute).is_none() {
            let start = minute - minute % HOUR_MINUTES;
            let at = self.all.partition_point(|s| (s.generation, s.start) < (generation, start));
            let cell = Cell { units: 0, slots: vec![(0, 0); self.slots], cross: vec![0; self.pairs] };
            let cells = vec![cell; self.arms];
            self.all.insert(at, Stratum { generation, start, minutes: HOUR_MINUTES, cells });
            while self.all.len() > MAX_STRATA {
                if !self.merge_shortest() {
                    break;
                }
            }
        }
        self.cell(generation, minute, arm)
    }

    /// The cell of an arm's first exposure at that minute.
    pub fn cell(&mut self, generation: u8, minute: u32, arm: u8) -> Option<&mut Cell> {
        let at = self.find(generation, minute)?;
        self.all.get_mut(at)?.cells.get_mut(usize::from(arm))
    }

    fn find(&self, generation: u8, minute: u32) -> Option<usize> {
        let after = self.all.partition_point(|s| (s.generation, s.start) <= (generation, minute));
        let at = after.checked_sub(1)?;
        let stratum = self.all.get(at)?;
        (stratum.generation == generation && minute < stratum.start + stratum.minutes).then_some(at)
    }

    /// Merges the neighbours with the shortest span together; a gap between them becomes theirs.
    fn merge_shortest(&mut self) -> bool {
        let span = |pair: &[Stratum]| match pair {
            [a, b] if a.generation == b.generation => Some(b.start + b.minutes - a.start),
            _ => None,
        };
        let shortest = self
            .all
            .windows(2)
            .enumerate()
            .filter_map(|(at, pair)| span(pair).map(|minutes| (minutes, at)))
            .min();
        let Some((minutes, at)) = shortest else { return false };
        let later = self.all.remove(at + 1);
        if let Some(earlier) = self.all.get_mut(at) {
            earlier.minutes = minutes;
            for (into, from) in earlier.cells.iter_mut().zip(later.cells) {
                into.absorb(&from);
            }
        }
        true
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
        self.all.len() * (24 + self.arms * (64 + self.slots * 32 + self.pairs * 16))
    }
}

impl Cell {
    fn absorb(&mut self, other: &Cell) {
        self.units += other.units;
        // Bounded: a sum stays below 2^57 a unit and there are fewer than 2^26 units; squares are checked when added.
        for (into, from) in self.slots.iter_mut().zip(&other.slots) {
            into.0 = into.0.saturating_add(from.0);
            into.1 = into.1.saturating_add(from.1);
        }
        for (into, from) in self.cross.iter_mut().zip(&other.cross) {
            *into = into.saturating_add(*from);
        }
    }

    fn message(&self) -> v1::ArmMoments {
        v1::ArmMoments {
            units: self.units,
            slots: self
                .slots
                .iter()
                .map(|(sum, squares)| v1::SlotMoments {
                    sum: Some(v1::Int128::new(*sum)),
                    squares: Some(v1::Int128::new(*squares)),
                })
                .collect(),
            cross: self.cross.iter().map(|c| v1::Int128::new(*c)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_merge_pairwise_oldest_first_and_lose_nothing() {
        let mut strata = Strata::new(2, 1, 0);
        let hours = 300u32;
        for hour in 0..hours {
            let cell = strata.open(1, 1 + hour * 60, (hour % 2) as u8).unwrap();
            cell.units += 1;
            cell.slots[0].0 += 1;
        }
        assert_eq!(strata.all().len(), MAX_STRATA);
        let units: u64 = strata.all().iter().flat_map(|s| &s.cells).map(|c| c.units).sum();
        assert_eq!(units, u64::from(hours));
        // Every minute still finds its stratum, and spans do not overlap.
        for hour in 0..hours {
            assert!(strata.cell(1, 1 + hour * 60, 0).is_some());
        }
        for pair in strata.all().windows(2) {
            assert!(pair[0].start + pair[0].minutes <= pair[1].start);
        }
        // Lengths differ by a factor of two at most, but for the newest.
        let spans: Vec<u32> = strata.all().iter().map(|s| s.minutes).collect();
        assert!(spans.iter().max().unwrap() / 60 <= 8);
    }

    #[test]
    fn a_generation_has_strata_of_its_own() {
        let mut strata = Strata::new(2, 0, 0);
        strata.open(1, 30, 0).unwrap().units += 1;
        strata.open(2, 30, 0).unwrap().units += 1;
        assert_eq!(strata.all().len(), 2);
    }
}
