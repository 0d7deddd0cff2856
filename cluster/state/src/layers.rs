//! Layers and holdouts: which units may be in an experiment at all, decided before its arms are.
//!
//! ```text
//!   layer "checkout-page"   [ a: 0..3000 )[ free )[ b: 4000..6000 )[ a: 6000..6500 )[ free          )
//!                            a unit falls into one slot of 10,000, by a hash of the layer's id and the unit
//!   holdout "h"             [ held 0..500 )[ may be in experiments                                  )
//! ```
//!
//! Wanted: a slot is one experiment's at most; an experiment keeps the slots it has while it runs, is paused or tripped, and
//! gets more behind them; what it gives back is what it took last. So a unit that is in an experiment stays in it. Slots
//! stand in the experiment's record, who is in which layer is derived from those.

use std::collections::{BTreeMap, BTreeSet};

use featureops_proto::log::{ExperimentRecord, HoldoutRecord, LayerRecord};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{Holdout, HoldoutShare, Layer, LayerOccupant, SlotRange};
use featureops_proto::{Collection, Name};

use crate::State;
use crate::allocation::BUCKETS;
use crate::flags::above;
use crate::state::{Key, key};

/// Layers over all environments.
pub const MAX_LAYERS: usize = 10_000;
/// Holdouts of an environment.
pub const MAX_HOLDOUTS: usize = 100;
/// Holdouts over all environments.
pub const MAX_ALL_HOLDOUTS: usize = 10_000;
/// Holdouts that an experiment names, and those of an environment that are everywhere.
pub const MAX_HOLDOUTS_OF_ONE: usize = 16;
/// Stretches of slots of one experiment: each is part of what clients download.
pub const MAX_RANGES: usize = 64;

/// Experiments by their layer, ended ones for a while among them.
#[derive(Debug, Clone, Default)]
pub struct Occupants(BTreeMap<Key, BTreeSet<u32>>);

impl Occupants {
    fn of(&self, layer: &Key) -> impl Iterator<Item = u32> + '_ {
        self.0.get(layer).into_iter().flatten().copied()
    }
}

/// It holds its flag: its slots are its own and its holdouts hold.
pub fn is_live(record: &ExperimentRecord) -> bool {
    matches!(record.state(), Phase::Running | Phase::Paused | Phase::Tripped)
}

/// Slots in all of them.
pub fn share_of(slots: &[SlotRange]) -> u32 {
    slots.iter().fold(0u32, |sum, range| sum.saturating_add(range.length))
}

/// What of a layer is in none of these, from the lowest slot on.
pub fn free_of(taken: impl Iterator<Item = SlotRange>) -> Vec<SlotRange> {
    let mut taken: Vec<(u32, u32)> =
        taken.map(|range| (range.start, range.start.saturating_add(range.length).min(BUCKETS))).collect();
    taken.sort_unstable();
    let mut free = Vec::new();
    let mut next = 0;
    for (start, end) in taken.into_iter().chain([(BUCKETS, BUCKETS)]) {
        if start > next {
            free.push(SlotRange { start: next, length: start - next });
        }
        next = next.max(end);
    }
    free
}

/// The slots with `more` of the free ones behind them, the lowest first; where those lie in too many pieces, the longest
/// pieces first. `None` when it takes too many even so.
pub fn grown(slots: &[SlotRange], free: &[SlotRange], more: u32) -> Option<Vec<SlotRange>> {
    let mut longest = free.to_vec();
    longest.sort_by_key(|range| (std::cmp::Reverse(range.length), range.start));
    [free, longest.as_slice()].into_iter().find_map(|order| {
        let mut all = slots.to_vec();
        let mut left = more;
        for range in order {
            let taken = SlotRange { start: range.start, length: range.length.min(left) };
            left -= taken.length;
            match all.last_mut() {
                _ if taken.length == 0 => break,
                Some(last) if last.start.saturating_add(last.length) == taken.start => {
                    last.length += taken.length;
                }
                _ => all.push(taken),
            }
        }
        (left == 0 && all.len() <= MAX_RANGES).then_some(all)
    })
}

/// The slots without the last ones, so that `keep` are left.
pub fn shrunk(slots: &[SlotRange], keep: u32) -> Vec<SlotRange> {
    let mut left = keep;
    let mut kept = Vec::with_capacity(slots.len());
    for range in slots {
        let length = range.length.min(left);
        if length == 0 {
            break;
        }
        left -= length;
        kept.push(SlotRange { start: range.start, length });
    }
    kept
}

/// The holdout holds units out of the experiment.
pub fn is_held(record: &ExperimentRecord, id: &str, everywhere: bool) -> bool {
    everywhere || named_holdouts(record).any(|named| named == id)
}

fn named_holdouts(record: &ExperimentRecord) -> impl Iterator<Item = &str> {
    record.definition.iter().flat_map(|definition| &definition.holdouts).map(String::as_str)
}

/// Changes whenever the layer is written, also when it was deleted in between.
pub fn layer_etag(record: &LayerRecord) -> String {
    format!("l{}", record.position)
}

/// Changes whenever the holdout is written, also when it was deleted in between.
pub fn holdout_etag(record: &HoldoutRecord) -> String {
    format!("h{}", record.position)
}

impl State {
    /// Live experiments in a layer, by number.
    pub(crate) fn occupants<'a>(&'a self, layer: &'a Key) -> impl Iterator<Item = &'a ExperimentRecord> {
        let named = |record: &&ExperimentRecord| {
            is_live(record) && record.definition.as_ref().is_some_and(|d| d.layer == layer.1)
        };
        self.occupants.of(layer).filter_map(|n| self.experiments.get(&n)).map(AsRef::as_ref).filter(named)
    }

    /// Notes that an experiment is in its layer, and forgets those of the layer that have ended.
    pub(crate) fn occupy(&mut self, record: &ExperimentRecord) {
        let layer = record.definition.as_ref().map_or("", |definition| definition.layer.as_str());
        if layer.is_empty() {
            return;
        }
        let experiments = &self.experiments;
        let numbers = self.occupants.0.entry(key(&record.environment, layer)).or_default();
        numbers.retain(|number| experiments.get(number).is_some_and(|e| is_live(e)));
        numbers.insert(record.number);
    }

    /// Live experiments of an environment, by id.
    pub(crate) fn live_in<'a>(&'a self, environment: &'a str) -> impl Iterator<Item = &'a ExperimentRecord> {
        let numbers = above(&self.experiment_numbers, environment, "");
        numbers.filter_map(|number| self.experiments.get(number)).map(AsRef::as_ref).filter(|r| is_live(r))
    }

    /// Holdouts of an environment that are everywhere.
    pub(crate) fn everywhere<'a>(&'a self, environment: &'a str) -> impl Iterator<Item = &'a HoldoutRecord> {
        let is_everywhere =
            |record: &&HoldoutRecord| record.definition.as_ref().is_some_and(|d| d.everywhere);
        above(&self.holdouts, environment, "").map(AsRef::as_ref).filter(is_everywhere)
    }

    /// What holds units out of an experiment, sorted by id.
    pub(crate) fn holdouts_of(&self, record: &ExperimentRecord) -> Vec<HoldoutShare> {
        let named = named_holdouts(record)
            .filter_map(|id| self.holdouts.get(&key(&record.environment, id)))
            .map(AsRef::as_ref);
        let shares = self.everywhere(&record.environment).chain(named).map(|holdout| {
            let basis_points = holdout.definition.as_ref().map_or(0, |d| d.basis_points);
            (holdout.holdout.clone(), basis_points)
        });
        let shares: BTreeMap<String, u32> = shares.filter(|(_, basis_points)| *basis_points > 0).collect();
        shares.into_iter().map(|(holdout, basis_points)| HoldoutShare { holdout, basis_points }).collect()
    }

    /// A layer with its output fields.
    #[must_use]
    pub fn layer(&self, environment: &str, layer: &str) -> Option<Layer> {
        self.layers.get(&key(environment, layer)).map(|record| self.layer_message(record))
    }

    /// Layers of an environment whose id is above `after`, by id.
    #[must_use]
    pub fn layers(&self, environment: &str, after: &str, limit: usize) -> Vec<Layer> {
        above(&self.layers, environment, after).take(limit).map(|record| self.layer_message(record)).collect()
    }

    fn layer_message(&self, record: &LayerRecord) -> Layer {
        let id = key(&record.environment, &record.layer);
        let mut occupants: Vec<LayerOccupant> = self
            .occupants(&id)
            .map(|experiment| LayerOccupant {
                experiment: experiment_name(experiment),
                basis_points: share_of(&experiment.layer_slots),
                slots: experiment.layer_slots.clone(),
            })
            .collect();
        occupants.sort_by(|a, b| a.experiment.cmp(&b.experiment));
        Layer {
            name: Name::format(&record.environment, Collection::Layers, &record.layer),
            version: record.version,
            etag: layer_etag(record),
            free_basis_points: share_of(&self.free_slots(&id)),
            occupants,
            ..record.definition.clone().unwrap_or_default()
        }
    }

    /// Slots of a layer that no experiment has, from the lowest on.
    pub(crate) fn free_slots(&self, layer: &Key) -> Vec<SlotRange> {
        free_of(self.occupants(layer).flat_map(|record| &record.layer_slots).copied())
    }

    /// A holdout with its output fields.
    #[must_use]
    pub fn holdout(&self, environment: &str, holdout: &str) -> Option<Holdout> {
        let record = self.holdouts.get(&key(environment, holdout))?;
        Some(holdout_message(record, &self.live_in(environment).collect::<Vec<_>>()))
    }

    /// Holdouts of an environment whose id is above `after`, by id.
    #[must_use]
    pub fn holdouts(&self, environment: &str, after: &str, limit: usize) -> Vec<Holdout> {
        let live: Vec<_> = self.live_in(environment).collect();
        let records = above(&self.holdouts, environment, after).take(limit);
        records.map(|record| holdout_message(record, &live)).collect()
    }
}

fn holdout_message(record: &HoldoutRecord, live: &[&ExperimentRecord]) -> Holdout {
    let definition = record.definition.clone().unwrap_or_default();
    let held = live.iter().filter(|e| is_held(e, &record.holdout, definition.everywhere));
    Holdout {
        name: Name::format(&record.environment, Collection::Holdouts, &record.holdout),
        version: record.version,
        etag: holdout_etag(record),
        experiments: held.map(|e| experiment_name(e)).collect(),
        ..definition
    }
}

fn experiment_name(record: &ExperimentRecord) -> String {
    Name::format(&record.environment, Collection::Experiments, &record.experiment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(given: &[(u32, u32)]) -> Vec<SlotRange> {
        given.iter().map(|(start, length)| SlotRange { start: *start, length: *length }).collect()
    }

    #[test]
    fn the_lowest_free_slots_are_taken_and_the_last_ones_given_back() {
        let taken = ranges(&[(6_000, 500), (0, 1_000), (2_000, 1_000)]);
        let free = free_of(taken.into_iter());
        assert_eq!(free, ranges(&[(1_000, 1_000), (3_000, 3_000), (6_500, 3_500)]));
        let own = grown(&[], &free, 2_500).unwrap();
        assert_eq!(own, ranges(&[(1_000, 1_000), (3_000, 1_500)]));
        let free = free_of(own.iter().copied());
        assert_eq!(
            grown(&own, &free, 1_500).unwrap(),
            ranges(&[(1_000, 1_000), (3_000, 1_500), (0, 1_000), (2_000, 500)])
        );
        assert_eq!(shrunk(&own, 1_200), ranges(&[(1_000, 1_000), (3_000, 200)]));
        assert_eq!(shrunk(&own, 1_000), ranges(&[(1_000, 1_000)]));
        assert_eq!(grown(&own, &free, 7_501), None, "more than are free");
    }

    #[test]
    fn slots_that_lie_side_by_side_are_one_stretch_and_stretches_are_bounded() {
        let own = ranges(&[(0, 100)]);
        assert_eq!(grown(&own, &ranges(&[(100, 9_900)]), 50).unwrap(), ranges(&[(0, 150)]));
        // A hundred single slots, then a long stretch: the lowest would be too many pieces.
        let mut free: Vec<SlotRange> = (0..100).map(|n| SlotRange { start: n * 2, length: 1 }).collect();
        free.push(SlotRange { start: 5_000, length: 90 });
        assert_eq!(grown(&[], &free, 60).unwrap().len(), 60);
        assert_eq!(grown(&[], &free, 92).unwrap(), ranges(&[(5_000, 90), (0, 1), (2, 1)]));
        assert_eq!(grown(&[], &free, 190), None, "only in 101 pieces");
    }
}
