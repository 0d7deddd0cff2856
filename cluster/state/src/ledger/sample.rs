//! The sample of an experiment that declares dimensions: units under a hash threshold, each with its values of the
//! dimensions and its own sums.
//!
//! ```text
//!   mix(unit) has `level` leading zeros ──> sampled: tuple ──> dictionary, at most 4,096 tuples, else "other"
//!                                                    sums by slot, in its present arm and, if it crossed, in its first
//!   more than 65,536 units ──> level + 1: half of them leave
//! ```
//!
//! It answers who the units are: sizes, means and quantiles by segment. Variances and intervals of the experiment are never
//! taken from it: intervals from a sample cover too little. Its sums are its own, so that they outlive
//! whatever becomes of the ledger's.

use std::collections::BTreeMap;
use std::sync::Arc;

use featureops_proto::log::{SampleRecord, SampledRecord, SampledStayRecord, TupleRecord};

/// Dimensions of an experiment.
pub const MAX_DIMENSIONS: usize = 8;
/// Bytes of a dimension's name, and of a value of it.
pub const MAX_DIMENSION_BYTES: usize = 64;
/// Units of one sample.
pub const MAX_SAMPLED: u64 = 65_536;
/// Tuples of one dictionary.
pub const MAX_TUPLES: usize = 4_096;
/// A tuple that found no room.
const OTHER: u16 = MAX_TUPLES as u16;
/// No exposure told the unit's values.
const UNKNOWN: u16 = OTHER + 1;
/// Parts of the sample that are copied one by one when a snapshot holds them.
const SHARDS: usize = 64;

type Tuple = Arc<[Box<str>]>;

/// The unit's sums in one arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    /// The arm.
    pub arm: u8,
    /// By slot; 1 for a proportion that converted.
    pub sums: Box<[i64]>,
}

#[derive(Debug, Clone)]
struct Sampled {
    tuple: u16,
    stay: Stay,
    /// The unit crossed from here.
    first: Option<Box<Stay>>,
}

/// Tuples by index, with the units that have each.
#[derive(Debug, Clone, Default)]
struct Dictionary {
    tuples: BTreeMap<u16, (Tuple, u64)>,
    indices: BTreeMap<Tuple, u16>,
}

impl Dictionary {
    /// The tuple's index for one unit more; [`OTHER`] when there is no room.
    fn take(&mut self, values: Tuple) -> u16 {
        let index = match self.indices.get(&values) {
            Some(index) => *index,
            None if self.tuples.len() >= MAX_TUPLES => return OTHER,
            None => {
                let index = self.lowest_free();
                self.indices.insert(Arc::clone(&values), index);
                self.tuples.insert(index, (values, 0));
                index
            }
        };
        if let Some((_, units)) = self.tuples.get_mut(&index) {
            *units += 1;
        }
        index
    }

    /// One unit less; a tuple of no unit goes.
    fn leave(&mut self, index: u16) {
        let Some((_, units)) = self.tuples.get_mut(&index) else { return };
        *units = units.saturating_sub(1);
        if *units == 0
            && let Some((values, _)) = self.tuples.remove(&index)
        {
            self.indices.remove(&values);
        }
    }

    fn lowest_free(&self) -> u16 {
        let gapless =
            self.tuples.last_key_value().is_none_or(|(last, _)| usize::from(*last) + 1 == self.tuples.len());
        if gapless {
            return self.tuples.len() as u16;
        }
        (0..OTHER).find(|index| !self.tuples.contains_key(index)).unwrap_or(OTHER)
    }
}

/// Sampled units of equal values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// In the order of the dimensions; `None`: they found no room, or are not known.
    pub values: Option<Vec<String>>,
    /// They are not known.
    pub unknown: bool,
    /// By arm: stays, and their sums by slot.
    pub arms: Vec<(u64, Vec<i128>)>,
}

/// The sample of one experiment. Cloning shares what is not changed afterwards.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    dimensions: usize,
    slots: usize,
    level: u32,
    shards: Vec<Arc<BTreeMap<u64, Sampled>>>,
    dictionary: Arc<Dictionary>,
    len: u64,
    other: u64,
    unknown: u64,
    thinned: u64,
}

/// Scatters the keyed hash anew: no bit of it says which bucket, shard or layer slot the unit has.
fn mixed(unit: u64) -> u64 {
    let mut x = unit ^ 0x5361_6d70_6c65_2e31;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn shard_of(unit: u64) -> usize {
    mixed(unit) as usize % SHARDS
}

impl Sample {
    /// An empty sample of so many dimensions, for sums of so many slots. Without dimensions nothing is ever sampled.
    pub fn new(dimensions: usize, slots: usize) -> Self {
        let shards = if dimensions == 0 { Vec::new() } else { vec![Arc::default(); SHARDS] };
        Self { dimensions, slots, shards, ..Self::default() }
    }

    /// Units held.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// One unit in 2^level is sampled.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Tuples held; units whose values found no room, whose values are not known, and that left.
    pub fn counters(&self) -> (u64, u64, u64, u64) {
        (self.dictionary.tuples.len() as u64, self.other, self.unknown, self.thinned)
    }

    /// Whether the unit is held.
    pub fn holds(&self, unit: u64) -> bool {
        self.shards.get(shard_of(unit)).is_some_and(|shard| shard.contains_key(&unit))
    }

    /// The unit counts in the arm: for the first time, or it crossed to it.
    pub fn expose(&mut self, unit: u64, arm: u8) {
        if mixed(unit).leading_zeros() < self.level {
            return;
        }
        let empty = Stay { arm, sums: vec![0; self.slots].into() };
        let Some(shard) = self.shards.get_mut(shard_of(unit)) else { return };
        let shard = Arc::make_mut(shard);
        if let Some(sampled) = shard.get_mut(&unit) {
            let first = std::mem::replace(&mut sampled.stay, empty);
            sampled.first.get_or_insert(Box::new(first));
            return;
        }
        shard.insert(unit, Sampled { tuple: UNKNOWN, stay: empty, first: None });
        self.len += 1;
        self.unknown += 1;
        while self.len > MAX_SAMPLED {
            self.halve();
        }
    }

    /// An exposure told the unit's values; the first that does is kept.
    pub fn describe(&mut self, unit: u64, values: &[String]) {
        if values.len() != self.dimensions || values.iter().any(|value| value.len() > MAX_DIMENSION_BYTES) {
            return;
        }
        let Some(shard) = self.shards.get_mut(shard_of(unit)) else { return };
        if shard.get(&unit).is_none_or(|sampled| sampled.tuple != UNKNOWN) {
            return;
        }
        let values: Tuple = values.iter().map(|value| value.as_str().into()).collect();
        let tuple = Arc::make_mut(&mut self.dictionary).take(values);
        if let Some(sampled) = Arc::make_mut(shard).get_mut(&unit) {
            sampled.tuple = tuple;
            self.unknown = self.unknown.saturating_sub(1);
            self.other += u64::from(tuple == OTHER);
        }
    }

    /// A value was added to the unit's sum in its present arm; a proportion's unit converted once.
    pub fn outcome(&mut self, unit: u64, slot: usize, value: i64) {
        let Some(shard) = self.shards.get_mut(shard_of(unit)) else { return };
        if value == 0 || !shard.contains_key(&unit) {
            return;
        }
        if let Some(sum) = Arc::make_mut(shard).get_mut(&unit).and_then(|s| s.stay.sums.get_mut(slot)) {
            // The ledger has checked the sum.
            *sum = sum.saturating_add(value);
        }
    }

    /// Takes the unit out. Returns whether it was held.
    pub fn remove(&mut self, unit: u64) -> bool {
        let Some(shard) = self.shards.get_mut(shard_of(unit)) else { return false };
        if !shard.contains_key(&unit) {
            return false;
        }
        let Some(gone) = Arc::make_mut(shard).remove(&unit) else { return false };
        self.leave(&gone);
        true
    }

    /// Lets units go that the ledger no longer counts.
    pub fn retain(&mut self, keeps: impl Fn(u64) -> bool) {
        for at in 0..self.shards.len() {
            let Some(shard) = self.shards.get_mut(at) else { continue };
            let gone: Vec<u64> = shard.keys().copied().filter(|unit| !keeps(*unit)).collect();
            for unit in gone {
                self.remove(unit);
                self.thinned += 1;
            }
        }
    }

    fn halve(&mut self) {
        self.level += 1;
        let level = self.level;
        self.retain(|unit| mixed(unit).leading_zeros() >= level);
    }

    fn leave(&mut self, gone: &Sampled) {
        self.len = self.len.saturating_sub(1);
        match gone.tuple {
            OTHER => self.other = self.other.saturating_sub(1),
            UNKNOWN => self.unknown = self.unknown.saturating_sub(1),
            index => Arc::make_mut(&mut self.dictionary).leave(index),
        }
    }

    /// The groups of equal values, most units first; of equally many, the lower index.
    pub fn groups(&self, arms: usize, most: usize) -> Vec<Group> {
        let mut by_tuple: BTreeMap<u16, (u64, Group)> = BTreeMap::new();
        for (_, sampled) in self.shards.iter().flat_map(|shard| shard.iter()) {
            let (units, group) = by_tuple.entry(sampled.tuple).or_insert_with(|| {
                let held = self.dictionary.tuples.get(&sampled.tuple);
                let values =
                    held.map(|(values, _)| values.iter().map(|value| String::from(value.as_ref())).collect());
                let arms = vec![(0, vec![0; self.slots]); arms];
                (0, Group { values, unknown: sampled.tuple == UNKNOWN, arms })
            });
            *units += 1;
            for stay in std::iter::once(&sampled.stay).chain(sampled.first.as_deref()) {
                let Some((stays, sums)) = group.arms.get_mut(usize::from(stay.arm)) else { continue };
                *stays += 1;
                for (into, from) in sums.iter_mut().zip(&stay.sums) {
                    *into += i128::from(*from);
                }
            }
        }
        let mut all: Vec<(u64, Group)> = by_tuple.into_values().collect();
        all.sort_by_key(|(units, _)| std::cmp::Reverse(*units));
        all.into_iter().take(most).map(|(_, group)| group).collect()
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        let unit = 8 + size_of::<Sampled>() + self.slots * 8;
        let tuple =
            |(values, _): &(Tuple, u64)| values.iter().map(|value| 16 + value.len()).sum::<usize>() + 64;
        self.len as usize * unit + self.dictionary.tuples.values().map(tuple).sum::<usize>()
    }

    /// The snapshot's record of it; none while it never held a unit.
    pub fn record(&self) -> Option<SampleRecord> {
        let dictionary = self.dictionary.tuples.iter().map(|(index, (values, _))| TupleRecord {
            index: u32::from(*index),
            values: values.iter().map(|value| String::from(value.as_ref())).collect(),
        });
        let used = self.len > 0 || self.level > 0 || self.thinned > 0;
        used.then(|| SampleRecord {
            level: self.level,
            thinned: self.thinned,
            dictionary: dictionary.collect(),
        })
    }

    /// Its units, in parts, each rising.
    pub fn parts(&self) -> impl Iterator<Item = (usize, Vec<SampledRecord>)> + '_ {
        let full = self.shards.iter().enumerate().filter(|(_, shard)| !shard.is_empty());
        full.map(|(at, shard)| {
            let record = |(unit, sampled): (&u64, &Sampled)| SampledRecord {
                unit: *unit,
                tuple: u32::from(sampled.tuple),
                stay: Some(stay_record(&sampled.stay)),
                first: sampled.first.as_deref().map(stay_record),
            };
            (at, shard.iter().map(record).collect())
        })
    }

    /// Takes a record in. `None`: it is malformed.
    pub fn restore(&mut self, record: SampleRecord) -> Option<()> {
        self.level = (record.level < 64).then_some(record.level)?;
        self.thinned = record.thinned;
        let dictionary = Arc::make_mut(&mut self.dictionary);
        for tuple in record.dictionary {
            let index = u16::try_from(tuple.index).ok().filter(|index| *index < OTHER)?;
            if tuple.values.len() != self.dimensions {
                return None;
            }
            let values: Tuple = tuple.values.into_iter().map(String::into_boxed_str).collect();
            if dictionary.indices.insert(Arc::clone(&values), index).is_some()
                || dictionary.tuples.insert(index, (values, 0)).is_some()
            {
                return None;
            }
        }
        Some(())
    }

    /// Takes a unit in, after [`Sample::restore`]. `None`: it is malformed.
    pub fn restore_unit(&mut self, record: &SampledRecord) -> Option<()> {
        let tuple = u16::try_from(record.tuple).ok()?;
        match tuple {
            OTHER => self.other += 1,
            UNKNOWN => self.unknown += 1,
            index => Arc::make_mut(&mut self.dictionary).tuples.get_mut(&index)?.1 += 1,
        }
        let slots = self.slots;
        let stay = |record: &SampledStayRecord| {
            let arm = u8::try_from(record.arm).ok()?;
            (record.sums.len() == slots).then(|| Stay { arm, sums: record.sums.clone().into() })
        };
        let first = match &record.first {
            Some(first) => Some(Box::new(stay(first)?)),
            None => None,
        };
        let sampled = Sampled { tuple, stay: stay(record.stay.as_ref()?)?, first };
        let shard = Arc::make_mut(self.shards.get_mut(shard_of(record.unit))?);
        self.len += 1;
        shard.insert(record.unit, sampled).is_none().then_some(())
    }
}

fn stay_record(stay: &Stay) -> SampledStayRecord {
    SampledStayRecord { arm: u32::from(stay.arm), sums: stay.sums.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    fn again(sample: &Sample) -> Sample {
        let mut restored = Sample::new(sample.dimensions, sample.slots);
        restored.restore(sample.record().unwrap()).unwrap();
        for (_, part) in sample.parts() {
            part.iter().for_each(|unit| restored.restore_unit(unit).unwrap());
        }
        restored
    }

    #[test]
    fn it_halves_when_it_is_full_and_what_stays_depends_on_the_hash_alone() {
        let mut forward = Sample::new(1, 1);
        let mut backward = Sample::new(1, 1);
        let units: Vec<u64> = (0..200_000u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        units.iter().for_each(|unit| forward.expose(*unit, 0));
        units.iter().rev().for_each(|unit| backward.expose(*unit, 0));
        assert_eq!((forward.level(), backward.level()), (2, 2));
        assert!((MAX_SAMPLED / 2..=MAX_SAMPLED).contains(&forward.len()), "{}", forward.len());
        assert!(units.iter().all(|unit| forward.holds(*unit) == backward.holds(*unit)));
        // Of what was seen, all that is not held has left; some never came in.
        assert_eq!(forward.record().unwrap(), again(&forward).record().unwrap());
        assert_eq!(forward.counters(), again(&forward).counters());
    }

    #[test]
    fn a_full_dictionary_counts_the_rest_and_finds_room_again() {
        let mut sample = Sample::new(1, 1);
        for unit in 0..5_000u64 {
            sample.expose(unit, 0);
            sample.describe(unit, &values(&format!("v{unit}")));
        }
        assert_eq!(sample.counters(), (4_096, 904, 0, 0));
        assert!(sample.remove(17));
        sample.expose(9_999, 1);
        sample.describe(9_999, &values("new"));
        assert_eq!(sample.counters(), (4_096, 904, 0, 0));
        assert_eq!(sample.dictionary.indices.get(&Tuple::from(vec![Box::from("new")])), Some(&17));
        let restored = again(&sample);
        assert_eq!(restored.groups(2, 10_000), sample.groups(2, 10_000));
    }

    #[test]
    fn a_unit_that_crossed_has_its_sums_in_both_arms() {
        let mut sample = Sample::new(1, 2);
        sample.expose(1, 0);
        sample.describe(1, &values("DE"));
        sample.describe(1, &values("FR"));
        sample.outcome(1, 1, 5);
        sample.expose(1, 1);
        sample.outcome(1, 0, 1);
        sample.outcome(1, 1, -2);
        let groups = sample.groups(2, 9);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].values, Some(values("DE")), "the first that was told");
        assert_eq!(groups[0].arms, [(1, vec![0, 5]), (1, vec![1, -2])]);
        sample.describe(2, &values("x"));
        assert_eq!(sample.len(), 1, "who is not exposed is not described");
    }

    #[test]
    fn without_dimensions_there_is_none() {
        let mut sample = Sample::new(0, 1);
        sample.expose(1, 0);
        assert!(sample.len() == 0 && sample.record().is_none() && !sample.remove(1));
    }
}
