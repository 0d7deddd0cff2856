//! The bucket map: 10,000 buckets, each an arm's, run-length encoded.
//!
//! A reallocation moves the fewest buckets, taken from the donor's tail, so that most units keep their arm. A map of
//! more than 128 runs would bloat what clients download; a move that would pass that is made only of boundaries between
//! a donor and a receiver and of whole runs, to the nearest weights reachable so. It never adds a run.

use featureops_proto::v1::Run;

/// Buckets in a map; a weight of one basis point is one bucket.
pub const BUCKETS: u32 = 10_000;
/// Most runs a map may have.
pub const MAX_RUNS: usize = 128;

/// The weight of each of `arms` arms, in basis points.
#[must_use]
pub fn weights_of(runs: &[Run], arms: usize) -> Vec<u32> {
    let mut weights = vec![0u32; arms];
    for run in runs {
        if let Some(weight) = weights.get_mut(run.arm as usize) {
            *weight = weight.saturating_add(run.length);
        }
    }
    weights
}

/// One run an arm, in the order of the arms.
#[must_use]
pub fn runs_of(weights: &[u32]) -> Vec<Run> {
    weights
        .iter()
        .enumerate()
        .filter(|(_, length)| **length > 0)
        .map(|(arm, length)| Run { arm: arm as u32, length: *length })
        .collect()
}

/// First weights of an experiment: arms that are not established share `cap` basis points at most, the others the rest.
///
/// `established[0]` is control and counts as established whatever it says. Control gets at least `floor`.
/// Returns `None` when floor and cap cannot both be met or there are fewer than two arms.
#[must_use]
pub fn initial_weights(established: &[bool], floor: u32, cap: u32) -> Option<Vec<u32>> {
    let arms = u32::try_from(established.len()).ok()?;
    if arms < 2 || floor > BUCKETS {
        return None;
    }
    let new = established.iter().skip(1).filter(|known| !**known).count() as u32;
    let equal = BUCKETS / arms;
    let new_share = (equal * new).min(cap).min(BUCKETS - floor).checked_div(new).unwrap_or(0);
    let known = arms - new;
    let rest = BUCKETS - new_share * new;
    let control = (rest / known).max(floor);
    let others = if known > 1 { (rest.checked_sub(control)?) / (known - 1) } else { 0 };
    let mut weights: Vec<u32> = established
        .iter()
        .enumerate()
        .map(|(arm, known)| match (arm, known) {
            (0, _) => control,
            (_, true) => others,
            (_, false) => new_share,
        })
        .collect();
    let sum: u32 = weights.iter().sum();
    // What rounding left over goes to control: it neither breaks the floor nor the cap.
    *weights.first_mut()? += BUCKETS.checked_sub(sum)?;
    Some(weights)
}

/// The map after moving from `runs` towards `targets` (basis points per arm, summing to 10,000).
///
/// Moves `sum |current - target| / 2` buckets. When that would take more than [`MAX_RUNS`] runs the targets are only
/// approached: read the weights of the result.
#[must_use]
pub fn move_buckets(runs: &[Run], targets: &[u32]) -> Vec<Run> {
    let free = move_freely(runs, targets);
    if free.len() <= MAX_RUNS { free } else { move_within_runs(runs, targets) }
}

/// The map after moving to the targets exactly. Where that would take more than [`MAX_RUNS`] runs, the shortest runs go to
/// their neighbours first, those of arms that do not grow before others: a few units more move, and the weights are met.
#[must_use]
pub fn move_exactly(runs: &[Run], targets: &[u32]) -> Vec<Run> {
    let mut from = merged(runs);
    loop {
        let to = move_freely(&from, targets);
        // Fewer runs each time round, and one run needs no more than an arm each.
        if to.len() <= MAX_RUNS || from.len() <= 1 {
            return to;
        }
        let surplus = surplus(&from, targets);
        let grows = |arm: u32| surplus.get(arm as usize).is_some_and(|s| *s < 0);
        let shortest = from.iter().enumerate().min_by_key(|(_, run)| (grows(run.arm), run.length));
        let Some((at, _)) = shortest else { return to };
        let before = at.checked_sub(1).and_then(|at| from.get(at)).copied();
        let neighbours = [before, from.get(at + 1).copied()];
        let heir = neighbours.into_iter().flatten().max_by_key(|run| run.length);
        if let (Some(run), Some(heir)) = (from.get_mut(at), heir) {
            run.arm = heir.arm;
        }
        from = merged(&from);
    }
}

/// What each arm gives (positive) or receives (negative).
fn surplus(runs: &[Run], targets: &[u32]) -> Vec<i64> {
    weights_of(runs, targets.len())
        .iter()
        .zip(targets)
        .map(|(have, want)| i64::from(*have) - i64::from(*want))
        .collect()
}

fn move_freely(runs: &[Run], targets: &[u32]) -> Vec<Run> {
    let mut surplus = surplus(runs, targets);
    // Built from the last bucket to the first, then turned round: donors give from their tail.
    let mut reversed: Vec<Run> = Vec::with_capacity(runs.len() + targets.len());
    for run in runs.iter().rev() {
        let mut left = run.length;
        while left > 0 {
            let gives = surplus.get(run.arm as usize).copied().unwrap_or(0).max(0);
            if gives == 0 {
                break;
            }
            // The neighbour behind, if it still wants some: then no run is added.
            let neighbour = reversed
                .last()
                .map(|next| next.arm)
                .filter(|arm| surplus.get(*arm as usize).is_some_and(|s| *s < 0));
            let Some(receiver) = neighbour.or_else(|| neediest(&surplus)) else { break };
            let wants = surplus.get(receiver as usize).map_or(0, |s| -*s);
            let moved = gives.min(wants).min(i64::from(left));
            if let Some(s) = surplus.get_mut(run.arm as usize) {
                *s -= moved;
            }
            if let Some(s) = surplus.get_mut(receiver as usize) {
                *s += moved;
            }
            left -= moved as u32;
            push(&mut reversed, receiver, moved as u32);
        }
        push(&mut reversed, run.arm, left);
    }
    reversed.reverse();
    reversed
}

/// The arm that wants most; the lowest of equals.
fn neediest(surplus: &[i64]) -> Option<u32> {
    let (arm, least) = surplus.iter().enumerate().min_by_key(|(arm, s)| (**s, *arm))?;
    (*least < 0).then_some(arm as u32)
}

fn push(runs: &mut Vec<Run>, arm: u32, length: u32) {
    if length == 0 {
        return;
    }
    match runs.last_mut() {
        Some(last) if last.arm == arm => last.length += length,
        _ => runs.push(Run { arm, length }),
    }
}

fn move_within_runs(runs: &[Run], targets: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = runs.to_vec();
    let mut surplus = surplus(&runs, targets);
    // Every round moves at least one bucket for good, and arms never overshoot, so this ends; the bound is a backstop.
    for _ in 0..BUCKETS {
        let moved = shift_boundaries(&mut runs, &mut surplus) || hand_over_runs(&mut runs, &mut surplus);
        runs = merged(&runs);
        if !moved {
            break;
        }
    }
    runs
}

fn shift_boundaries(runs: &mut [Run], surplus: &mut [i64]) -> bool {
    let mut moved = false;
    for at in (1..runs.len()).rev() {
        let (head, tail) = runs.split_at_mut(at);
        let (Some(left), Some(right)) = (head.last_mut(), tail.first_mut()) else { continue };
        moved |= shift(left, right, surplus) || shift(right, left, surplus);
    }
    moved
}

fn shift(donor: &mut Run, receiver: &mut Run, surplus: &mut [i64]) -> bool {
    let gives = surplus.get(donor.arm as usize).copied().unwrap_or(0);
    let wants = surplus.get(receiver.arm as usize).map_or(0, |s| -*s);
    let amount = gives.min(wants).min(i64::from(donor.length));
    if amount <= 0 {
        return false;
    }
    donor.length -= amount as u32;
    receiver.length += amount as u32;
    settle(surplus, donor.arm, receiver.arm, amount);
    true
}

fn hand_over_runs(runs: &mut [Run], surplus: &mut [i64]) -> bool {
    for run in runs.iter_mut().rev() {
        let length = i64::from(run.length);
        let gives = surplus.get(run.arm as usize).copied().unwrap_or(0);
        let Some(receiver) = neediest(surplus) else { return false };
        let wants = surplus.get(receiver as usize).map_or(0, |s| -*s);
        if length > 0 && length <= gives && length <= wants {
            settle(surplus, run.arm, receiver, length);
            run.arm = receiver;
            return true;
        }
    }
    false
}

fn settle(surplus: &mut [i64], donor: u32, receiver: u32, amount: i64) {
    if let Some(s) = surplus.get_mut(donor as usize) {
        *s -= amount;
    }
    if let Some(s) = surplus.get_mut(receiver as usize) {
        *s += amount;
    }
}

fn merged(runs: &[Run]) -> Vec<Run> {
    let mut out = Vec::with_capacity(runs.len());
    for run in runs {
        push(&mut out, run.arm, run.length);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buckets(runs: &[Run]) -> Vec<u32> {
        runs.iter().flat_map(|r| std::iter::repeat_n(r.arm, r.length as usize)).collect()
    }

    fn weights(arms: usize) -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0u32..1_000, arms).prop_map(|parts| {
            let total: u32 = parts.iter().sum::<u32>().max(1);
            let mut out: Vec<u32> = parts.iter().map(|p| p * BUCKETS / total).collect();
            let sum: u32 = out.iter().sum();
            out[0] += BUCKETS - sum;
            out
        })
    }

    #[test]
    fn the_donor_gives_its_tail() {
        let runs = runs_of(&[5_000, 5_000]);
        let after = move_buckets(&runs, &[4_000, 6_000]);
        assert_eq!(after, vec![Run { arm: 0, length: 4_000 }, Run { arm: 1, length: 6_000 }]);
        let back = move_buckets(&runs, &[6_000, 4_000]);
        assert_eq!(
            back,
            vec![Run { arm: 0, length: 5_000 }, Run { arm: 1, length: 4_000 }, Run { arm: 0, length: 1_000 }]
        );
    }

    #[test]
    fn new_arms_share_the_cap() {
        assert_eq!(initial_weights(&[true, false], 0, 2_000), Some(vec![8_000, 2_000]));
        assert_eq!(initial_weights(&[true, true, true, true], 0, 2_000), Some(vec![2_500; 4]));
        assert_eq!(
            initial_weights(&[true, true, false, false], 5_000, 2_000),
            Some(vec![5_000, 3_000, 1_000, 1_000])
        );
        assert_eq!(initial_weights(&[true], 0, 2_000), None);
    }

    proptest! {
        #[test]
        fn a_long_history_keeps_the_map_whole_and_small(
            steps in proptest::collection::vec(weights(5), 1..200)
        ) {
            let mut runs = runs_of(&[10_000, 0, 0, 0, 0]);
            for target in &steps {
                let before = buckets(&runs);
                let current = weights_of(&runs, 5);
                let next = move_buckets(&runs, target);
                let after = buckets(&next);
                prop_assert_eq!(after.len(), BUCKETS as usize);
                prop_assert!(next.len() <= MAX_RUNS);
                let reached = weights_of(&next, 5);
                let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as i64;
                let needed: i64 = current.iter().zip(&reached)
                    .map(|(a, b)| (i64::from(*a) - i64::from(*b)).abs()).sum::<i64>() / 2;
                prop_assert_eq!(moved, needed, "no bucket moves that need not");
                for ((c, t), r) in current.iter().zip(target).zip(&reached) {
                    prop_assert!(r >= c.min(t) && r <= c.max(t), "an arm never overshoots");
                }
                let free = move_freely(&runs, target);
                if free.len() <= MAX_RUNS {
                    prop_assert_eq!(&reached, target);
                } else {
                    prop_assert!(next.len() <= runs.len());
                }
                runs = next;
            }
        }

        #[test]
        fn a_long_history_of_exact_moves_meets_every_weight(
            steps in proptest::collection::vec(weights(7), 1..200)
        ) {
            let mut runs = runs_of(&[10_000]);
            for target in &steps {
                let before = buckets(&runs);
                let current = weights_of(&runs, 7);
                let next = move_exactly(&runs, target);
                prop_assert_eq!(&weights_of(&next, 7), target);
                prop_assert!(next.len() <= MAX_RUNS);
                if move_freely(&runs, target).len() <= MAX_RUNS {
                    let grows = |arm: u32| target[arm as usize] >= current[arm as usize];
                    prop_assert!(before.iter().zip(buckets(&next)).all(|(b, a)| *b == a || !grows(*b)));
                }
                runs = next;
            }
        }

        #[test]
        fn initial_weights_keep_floor_and_cap(
            established in proptest::collection::vec(any::<bool>(), 2..32),
            floor in 0u32..=10_000, cap in 0u32..=10_000,
        ) {
            if let Some(weights) = initial_weights(&established, floor, cap) {
                prop_assert_eq!(weights.iter().sum::<u32>(), BUCKETS);
                prop_assert!(weights[0] >= floor);
                let new: u32 = weights.iter().zip(&established).skip(1).filter(|(_, e)| !**e).map(|(w, _)| w).sum();
                prop_assert!(new <= cap);
            }
        }
    }
}
