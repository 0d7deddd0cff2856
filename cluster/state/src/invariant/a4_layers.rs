//! A4: the slots of a live experiment are as many as its share says, and no other live experiment of the layer has one of
//! them; its layer and the holdouts it names are there.

use featureops_proto::log::ExperimentRecord;
use featureops_proto::v1::SlotRange;

use crate::State;
use crate::allocation::BUCKETS;
use crate::layers::{MAX_RANGES, is_live};
use crate::state::key;

pub fn check(state: &State) -> Result<(), String> {
    state.experiments.values().try_for_each(|record| check_one(state, record))
}

pub fn check_one(state: &State, record: &ExperimentRecord) -> Result<(), String> {
    let Some(definition) = record.definition.as_ref().filter(|_| is_live(record)) else { return Ok(()) };
    let number = record.number;
    for holdout in &definition.holdouts {
        if !state.holdouts.contains_key(&key(&record.environment, holdout)) {
            return Err(format!("experiment {number}: holdout {holdout} is gone"));
        }
    }
    let slots = &record.layer_slots;
    let layer = key(&record.environment, &definition.layer);
    if definition.layer.is_empty() {
        let message = || format!("experiment {number} has slots and is in no layer");
        return if slots.is_empty() { Ok(()) } else { Err(message()) };
    }
    if !state.layers.contains_key(&layer) {
        return Err(format!("experiment {number}: layer {} is gone", layer.1));
    }
    if slots.len() > MAX_RANGES {
        return Err(format!("experiment {number}: {} stretches of slots", slots.len()));
    }
    let sum: u64 = slots.iter().map(|range| u64::from(range.length)).sum();
    if sum != u64::from(definition.layer_share_basis_points) {
        let share = definition.layer_share_basis_points;
        return Err(format!("experiment {number}: {sum} slots, its share is {share}"));
    }
    for (at, range) in slots.iter().enumerate() {
        if range.length == 0 || end(range) > u64::from(BUCKETS) {
            return Err(format!("experiment {number}: slots from {} are {}", range.start, range.length));
        }
        if slots.iter().skip(at + 1).any(|other| overlap(range, other)) {
            return Err(format!("experiment {number}: slot {} twice", range.start));
        }
    }
    for other in state.occupants(&layer).filter(|other| other.number != number) {
        if slots.iter().any(|range| other.layer_slots.iter().any(|taken| overlap(range, taken))) {
            return Err(format!(
                "experiments {number} and {} share slots of layer {}",
                other.number, layer.1
            ));
        }
    }
    Ok(())
}

fn end(range: &SlotRange) -> u64 {
    u64::from(range.start) + u64::from(range.length)
}

fn overlap(a: &SlotRange, b: &SlotRange) -> bool {
    u64::from(a.start) < end(b) && u64::from(b.start) < end(a)
}
