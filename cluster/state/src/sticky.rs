//! Sticky splits: a split that keeps its map of buckets over the writes of its rule.
//!
//! A plain split is cut anew at every write: when its first variant grows, every boundary behind it moves, and units change
//! between variants whose weights stayed. A sticky one is written as what must move: of each variant that shrinks its last
//! buckets, to those that grow. The map stands in the definition, so that history and a revert have it too.

use featureops_proto::ErrorCode;
use featureops_proto::log::Refusal;
use featureops_proto::v1::{Flag, Rule, Run, Split, rule};

use crate::allocation::{BUCKETS, MAX_RUNS, move_exactly, runs_of, weights_of};
use crate::apply::refuse;

/// Gives every sticky split of a definition its map: from the one that its rule has at present, if it has one. A map that comes
/// with the definition, as from another environment, counts only where there is none yet, and when it is of these weights.
pub fn settle(definition: &mut Flag, present: Option<&Flag>) -> Result<(), Refusal> {
    for (at, rule) in definition.rules.iter_mut().enumerate() {
        let held = present.and_then(|flag| flag.rules.iter().find(|held| held.id == rule.id));
        let Some(rule::Serve::Split(split)) = &mut rule.serve else { continue };
        let brought = std::mem::take(&mut split.runs);
        if split.sticky {
            check(split, at)?;
            split.runs = match held.and_then(split_of) {
                None if is_map(split, &brought) => brought,
                held => map(split, held),
            };
        }
    }
    Ok(())
}

fn split_of(rule: &Rule) -> Option<&Split> {
    match &rule.serve {
        Some(rule::Serve::Split(split)) => Some(split),
        _ => None,
    }
}

fn check(split: &Split, rule: usize) -> Result<(), Refusal> {
    let field = format!("flag.rules[{rule}].split.variants");
    let count = split.variants.len();
    if count > MAX_RUNS {
        let message = format!("at most {MAX_RUNS} variants");
        return refuse(ErrorCode::InvalidArgument, &field, count, message);
    }
    let sum: u64 = split.variants.iter().map(|entry| u64::from(entry.weight_basis_points)).sum();
    if sum != u64::from(BUCKETS) {
        let message = "weights are basis points and must sum to 10000";
        return refuse(ErrorCode::InvalidArgument, &field, sum, message);
    }
    for (nth, entry) in split.variants.iter().enumerate() {
        if split.variants.iter().take(nth).any(|earlier| earlier.variant == entry.variant) {
            let message = "a sticky split names each variant once: add the weights up";
            let field = format!("{field}[{nth}].variant");
            return refuse(ErrorCode::InvalidArgument, &field, &entry.variant, message);
        }
    }
    Ok(())
}

/// Whether the runs give each variant exactly its weight.
fn is_map(split: &Split, runs: &[Run]) -> bool {
    let weights: Vec<u32> = split.variants.iter().map(|entry| entry.weight_basis_points).collect();
    let known = |run: &Run| run.length > 0 && (run.arm as usize) < weights.len();
    (1..=MAX_RUNS).contains(&runs.len())
        && runs.iter().all(known)
        && weights_of(runs, weights.len()) == weights
}

fn map(split: &Split, held: Option<&Split>) -> Vec<Run> {
    let weights: Vec<u32> = split.variants.iter().map(|entry| entry.weight_basis_points).collect();
    match held.and_then(|held| moved(split, held, weights.clone())) {
        Some(runs) => runs,
        None => runs_of(&weights),
    }
}

/// The held map with the fewest buckets moved to the new weights. A variant that is no longer named gives all it has.
fn moved(split: &Split, held: &Split, mut targets: Vec<u32>) -> Option<Vec<Run>> {
    let mut names: Vec<&str> = split.variants.iter().map(|entry| entry.variant.as_str()).collect();
    let stretches: Vec<(u32, u32)> = if held.runs.is_empty() {
        let entries = held.variants.iter().enumerate();
        entries.map(|(at, entry)| (at as u32, entry.weight_basis_points)).collect()
    } else {
        held.runs.iter().map(|run| (run.arm, run.length)).collect()
    };
    let mut runs = Vec::with_capacity(stretches.len());
    for (at, length) in stretches.into_iter().filter(|(_, length)| *length > 0) {
        let name = held.variants.get(at as usize)?.variant.as_str();
        let arm = match names.iter().position(|known| *known == name) {
            Some(arm) => arm,
            None => {
                names.push(name);
                targets.push(0);
                names.len() - 1
            }
        };
        runs.push(Run { arm: arm as u32, length });
    }
    let sum: u64 = runs.iter().map(|run| u64::from(run.length)).sum();
    (sum == u64::from(BUCKETS)).then(|| move_exactly(&runs, &targets))
}
