//! A rule's split as stretches of buckets: cut by its weights, or the map that a sticky one keeps.

use featureops_proto::v1;

use crate::bucket::{BUCKETS, Stretch};
use crate::limits;
use crate::refusal::{Outcome, refused, within};

/// Variants and lengths in the order of their buckets.
pub(crate) fn stretches(split: &v1::Split) -> impl Iterator<Item = (&str, u32)> {
    let keeps = split.sticky && !split.runs.is_empty();
    let cut = split.variants.iter().map(|entry| (entry.variant.as_str(), entry.weight_basis_points));
    let kept = split.runs.iter().map(|run| {
        let entry = split.variants.get(run.arm as usize);
        (entry.map_or("", |entry| entry.variant.as_str()), run.length)
    });
    cut.filter(move |_| !keeps).chain(kept.filter(move |_| keeps))
}

/// The map of a sticky split, given the stretches that its weights alone would make. `None` when there is no map yet.
pub(crate) fn kept(split: &v1::Split, cut: &[Stretch], path: &str) -> Outcome<Option<Vec<Stretch>>> {
    if !split.sticky {
        return Ok(None);
    }
    for (nth, entry) in split.variants.iter().enumerate() {
        if split.variants.iter().take(nth).any(|earlier| earlier.variant == entry.variant) {
            let message = "a sticky split names each variant once: add the weights up";
            return refused(format_args!("{path}.variants[{nth}].variant"), &entry.variant, message);
        }
    }
    if split.runs.is_empty() {
        return Ok(None);
    }
    let path = format!("{path}.runs");
    within(&path, split.runs.len(), limits::MAX_SPLIT, "runs")?;
    let mut weights = vec![0u64; split.variants.len()];
    let mut stretches = Vec::with_capacity(split.runs.len());
    let mut end = 0u64;
    for run in &split.runs {
        let place = run.arm as usize;
        let (Some(weight), Some(cut)) = (weights.get_mut(place), cut.get(place)) else {
            return refused(path, run.arm, "no such variant in the split; leave runs out");
        };
        *weight += u64::from(run.length);
        end += u64::from(run.length);
        stretches.push(Stretch { end: end.min(u64::from(BUCKETS)) as u16, target: cut.target });
    }
    let stated = split.variants.iter().map(|entry| u64::from(entry.weight_basis_points));
    if !stated.eq(weights.iter().copied()) {
        let message = "must add up to the weights; leave runs out, they are the server's to write";
        return refused(path, format_args!("{weights:?}"), message);
    }
    Ok(Some(stretches))
}
