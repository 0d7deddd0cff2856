//! Who may be in an experiment: units of its slots of a layer, less those that a holdout holds.
//!
//! A layer and a holdout divide units by hashes of their own, over one text of which the unit is the end:
//!
//! ```text
//!   hash("layer:checkout-page:user-1")  -> slot of 10,000 -> one of the experiment's, or the default is served
//!   hash("holdout:q3:user-1")           -> slot of 10,000 -> one of the first 500:    the default is served
//! ```
//!
//! The bytes are those that `fractional` hashes of `cat("layer:checkout-page:", targetingKey)`, so that clients that
//! evaluate the exported rule by themselves find the same slot. Environment and flag are no part of it: a layer divides units
//! alike for all its experiments, and independently of every flag's own buckets.

use featureops_proto::v1;

use crate::bucket::{BUCKETS, spread};
use crate::explain::{Trace, step};
use crate::limits;
use crate::logic::Generation;
use crate::refusal::{Outcome, refused, within};

/// What stands before an experiment's arms.
#[derive(Debug)]
pub(crate) struct Placement {
    generation: Generation,
    layer: Option<Layer>,
    holdouts: Box<[Holdout]>,
}

#[derive(Debug)]
struct Layer {
    id: Box<str>,
    hashed: Box<str>,
    /// First slot and the one after the last, rising.
    slots: Box<[(u16, u16)]>,
}

#[derive(Debug)]
struct Holdout {
    id: Box<str>,
    hashed: Box<str>,
    /// Slots below it are held out.
    end: u16,
}

/// What is hashed before the unit.
pub(crate) fn layer_text(id: &str) -> String {
    format!("layer:{id}:")
}

/// What is hashed before the unit.
pub(crate) fn holdout_text(id: &str) -> String {
    format!("holdout:{id}:")
}

/// Slots of the allocation as first and one after the last, rising.
pub(crate) fn ranges(given: &v1::Allocation) -> Vec<(u32, u32)> {
    let end = |range: &v1::SlotRange| range.start.saturating_add(range.length);
    let mut ranges: Vec<(u32, u32)> =
        given.slots.iter().filter(|range| range.length > 0).map(|range| (range.start, end(range))).collect();
    ranges.sort_unstable();
    ranges
}

impl Placement {
    /// `None`: every unit may be in the experiment.
    pub(crate) fn of(given: &v1::Allocation, generation: Generation) -> Outcome<Option<Box<Self>>> {
        if given.layer.is_empty() && !given.slots.is_empty() {
            return refused("allocation.slots", given.slots.len(), "slots of no layer: name it in layer");
        }
        if given.layer.is_empty() && given.holdouts.is_empty() {
            return Ok(None);
        }
        within("allocation.slots", given.slots.len(), limits::MAX_SLOT_RANGES, "stretches")?;
        within("allocation.holdouts", given.holdouts.len(), limits::MAX_HOLDOUTS, "holdouts")?;
        let ranges = ranges(given);
        let overlap = ranges.iter().zip(ranges.iter().skip(1)).any(|((_, end), (next, _))| next < end);
        if overlap || ranges.last().is_some_and(|(_, end)| *end > BUCKETS) {
            let message = "slots lie apart from each other, from 0 to 9999";
            return refused("allocation.slots", format_args!("{ranges:?}"), message);
        }
        let id = given.layer.as_str();
        // At most 10,000: checked just above.
        let slots = ranges.into_iter().map(|(start, end)| (start as u16, end as u16)).collect();
        let layer = Layer { id: id.into(), hashed: layer_text(id).into(), slots };
        let holdout = |(nth, share): (usize, &v1::HoldoutShare)| {
            if share.basis_points > BUCKETS {
                let path = format!("allocation.holdouts[{nth}].basis_points");
                return refused(path, share.basis_points, "a holdout holds 0 to 10000 of 10,000");
            }
            let id = share.holdout.as_str();
            Ok(Holdout { id: id.into(), hashed: holdout_text(id).into(), end: share.basis_points as u16 })
        };
        let holdouts = given.holdouts.iter().enumerate().map(holdout).collect::<Outcome<_>>()?;
        let layer = (!id.is_empty()).then_some(layer);
        Ok(Some(Box::new(Self { generation, layer, holdouts })))
    }

    /// Whether the unit may be in the experiment.
    pub(crate) fn admits(&self, unit: &str, trace: &mut impl Trace) -> bool {
        if let Some(layer) = &self.layer {
            let slot = self.slot(&layer.hashed, unit);
            let at = layer.slots.partition_point(|(_, end)| *end <= slot);
            let own = layer.slots.get(at).is_some_and(|(start, _)| *start <= slot);
            trace.step(|| {
                let whose = if own { "the experiment's" } else { "not the experiment's" };
                step(format!("layer {}", layer.id), format!("slot {slot} of 10,000 is {whose}"), own)
            });
            if !own {
                return false;
            }
        }
        self.holdouts.iter().all(|holdout| {
            let slot = self.slot(&holdout.hashed, unit);
            let held = slot < holdout.end;
            trace.step(|| {
                let verdict = if held { "held out" } else { "not held out" };
                let finding =
                    format!("slot {slot} of 10,000, of which {} are held out: {verdict}", holdout.end);
                step(format!("holdout {}", holdout.id), finding, !held)
            });
            !held
        })
    }

    fn slot(&self, hashed: &str, unit: &str) -> u16 {
        spread(self.generation.hash_of_joined(hashed, unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::bucket_after;

    /// Two divisions of units are independent: 10 by 10 groups of 1,000,000 units, 81 degrees of freedom.
    fn chi_square(first: impl Fn(&str) -> u16, second: impl Fn(&str) -> u16) -> f64 {
        let mut counts = [[0u32; 10]; 10];
        let units = 1_000_000;
        for n in 0..units {
            let unit = format!("user-{n}");
            counts[usize::from(first(&unit) / 1_000)][usize::from(second(&unit) / 1_000)] += 1;
        }
        let rows: Vec<f64> = counts.iter().map(|row| f64::from(row.iter().sum::<u32>())).collect();
        let columns: Vec<f64> =
            (0..10).map(|at| f64::from(counts.iter().map(|row| row[at]).sum::<u32>())).collect();
        let mut chi = 0.0;
        for (row, counts) in rows.iter().zip(&counts) {
            for (column, count) in columns.iter().zip(counts) {
                let expected = row * column / f64::from(units);
                chi += (f64::from(*count) - expected).powi(2) / expected;
            }
        }
        chi
    }

    #[test]
    fn layers_holdouts_and_a_flags_buckets_are_independent() {
        for generation in [Generation::V2, Generation::V3] {
            let of = |text: String| move |unit: &str| spread(generation.hash_of_joined(&text, unit));
            let seed = generation.seed("checkout");
            let bucket = |unit: &str| bucket_after(generation, seed, unit);
            // Mean 81 and standard deviation sqrt(2 * 81) = 12.7: beyond 5 of them would be p < 1e-6.
            let bound = 81.0 + 5.0 * 12.7;
            let pairs = [
                ("layer and bucket", chi_square(of(layer_text("page")), bucket)),
                ("holdout and bucket", chi_square(of(holdout_text("q3")), bucket)),
                ("layer and layer", chi_square(of(layer_text("page")), of(layer_text("page2")))),
                ("layer and holdout of one id", chi_square(of(layer_text("page")), of(holdout_text("page")))),
            ];
            for (pair, chi) in pairs {
                assert!(chi < bound, "{generation:?} {pair}: {chi}");
            }
        }
    }

    #[test]
    fn slots_that_overlap_or_lie_beyond_the_layer_are_refused() {
        let given = |slots: &[(u32, u32)]| v1::Allocation {
            layer: "page".to_owned(),
            slots: slots
                .iter()
                .map(|(start, length)| v1::SlotRange { start: *start, length: *length })
                .collect(),
            ..v1::Allocation::default()
        };
        for slots in [&[(0, 2), (1, 1)][..], &[(9_999, 2)], &[(u32::MAX, u32::MAX)], &[(5, 1), (0, 6)]] {
            let error = Placement::of(&given(slots), Generation::V2).unwrap_err();
            assert_eq!(error.path, "allocation.slots");
        }
        assert!(Placement::of(&given(&[(5, 1), (0, 5), (9_999, 1)]), Generation::V2).is_ok());
        let of_none = v1::Allocation { layer: String::new(), ..given(&[(0, 1)]) };
        assert!(Placement::of(&of_none, Generation::V2).is_err());
    }
}
