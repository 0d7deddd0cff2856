//! Placement: which member owns which experiment, as a function of who may own and of nothing else.
//!
//! Wanted of it: every owner is on a member that is up; the shares follow the weights; a member that goes moves its own owners and
//! no other, one that comes takes its share and moves nothing else; every node computes the same, in any order.
//!
//! Weighted rendezvous hashing gives all of that without a table: each pair of experiment and member has a hash, and the member with the
//! best score owns (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
//! Networking 6(1), 1998). With weights w and hashes h uniform in (0, 1) the best has the least -ln(h)/w: then it is member i with
//! probability w_i over their sum (Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005, the logarithmic
//! method). The logarithm is made of integers, so that it is the same everywhere.
//!
//! Candidates are voters. A learner may be far away, or still behind: its owners would decide on an old view, and every decision would
//! cross to the leader. Who wants owners on it promotes it.

use featureops_proto::v1::member::Mark;

use crate::State;
use crate::liveness::weight_of;

/// Assignments of one command.
pub const MAX_ASSIGNMENTS: usize = 4_096;
/// Owners a second that are moved for a better spread alone: each begins a new epoch, and reads its view again.
pub const SPREAD_MOVES_A_SECOND: usize = 64;
/// Fractional bits of a logarithm.
const FRACTION: u32 = 48;

/// A member that may own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub node: u64,
    /// Its share beside the others': 1 to 10,000.
    pub weight: u32,
}

/// The owner of a running experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Number of the experiment.
    pub experiment: u32,
    /// Who owns it; 0: nobody.
    pub node: u64,
    /// Of that ownership.
    pub epoch: u64,
}

/// An owner that is to be elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// As it is.
    pub owned: Owned,
    /// Where it is to be.
    pub to: u64,
    /// Whether it is where it may stay meanwhile: it moves only for a better spread.
    pub may_wait: bool,
}

/// -log2((hash + 1/2) / 2^64), with [`FRACTION`] fractional bits: 0 to 65 of them. Bit by bit, by squaring (Turner, "A fast binary
/// logarithm algorithm", IEEE Signal Processing Magazine 27(5), 2010).
fn minus_log2(hash: u64) -> u64 {
    // Twice the hash and one: the half, without a fraction.
    let x = (u128::from(hash) << 1) | 1;
    let whole = 127 - x.leading_zeros();
    // In [1, 2), with 63 fractional bits.
    let mut y = if whole >= 63 { (x >> (whole - 63)) as u64 } else { (x << (63 - whole)) as u64 };
    let mut log = u64::from(whole) << FRACTION;
    for bit in (0..FRACTION).rev() {
        let square = (u128::from(y) * u128::from(y)) >> 63;
        if square >> 64 == 0 {
            y = square as u64;
        } else {
            y = (square >> 1) as u64;
            log |= 1 << bit;
        }
    }
    (65_u64 << FRACTION).saturating_sub(log)
}

/// Cost of a member for an experiment, before its weight.
fn cost(experiment: u32, node: u64) -> u64 {
    let mut pair = [0; 12];
    let (first, second) = pair.split_at_mut(4);
    first.copy_from_slice(&experiment.to_le_bytes());
    second.copy_from_slice(&node.to_le_bytes());
    minus_log2(xxhash_rust::xxh3::xxh3_64(&pair))
}

/// Who is to own an experiment; `None` when there is no candidate. Of equal ones the least number.
#[must_use]
pub fn owner_of(experiment: u32, candidates: &[Candidate]) -> Option<u64> {
    let scored = candidates.iter().filter(|candidate| candidate.weight > 0);
    let scored = scored.map(|candidate| (cost(experiment, candidate.node), candidate));
    let best = scored.min_by(|(a, first), (b, second)| {
        // a / w against b / v, without the division.
        let left = u128::from(*a) * u128::from(second.weight);
        let right = u128::from(*b) * u128::from(first.weight);
        left.cmp(&right).then(first.node.cmp(&second.node))
    });
    best.map(|(_, candidate)| candidate.node)
}

/// What is to move, by experiment's number. Whose owner is no candidate moves now; the others may wait.
#[must_use]
pub fn moves(owned: &[Owned], candidates: &[Candidate]) -> Vec<Move> {
    let is_candidate = |node: u64| candidates.iter().any(|candidate| candidate.node == node);
    let to_move = |owned: &Owned| {
        let to = owner_of(owned.experiment, candidates).filter(|to| *to != owned.node)?;
        Some(Move { owned: *owned, to, may_wait: is_candidate(owned.node) })
    };
    owned.iter().filter_map(to_move).collect()
}

impl State {
    /// Who may own: voters that are up and not draining; if there are none, those that drain, for a decision that nobody makes
    /// protects nobody.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        let voters = self.members().iter().filter_map(|record| record.member.as_ref());
        let up = voters.filter(|member| member.voter).filter_map(|member| {
            let record = self.liveness_of(member.node)?;
            let stands = record.incarnation == member.incarnation && record.mark() == Mark::Up;
            stands.then(|| (record.draining, Candidate { node: member.node, weight: weight_of(record) }))
        });
        let (draining, staying): (Vec<_>, Vec<_>) = up.partition(|(draining, _)| *draining);
        let candidates = if staying.is_empty() { draining } else { staying };
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn equal(nodes: &[u64]) -> Vec<Candidate> {
        nodes.iter().map(|node| Candidate { node: *node, weight: 100 }).collect()
    }

    fn placed(candidates: &[Candidate], experiments: u32) -> BTreeMap<u32, u64> {
        (1..=experiments).map(|number| (number, owner_of(number, candidates).unwrap())).collect()
    }

    fn counts(placed: &BTreeMap<u32, u64>) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for node in placed.values() {
            *counts.entry(*node).or_default() += 1;
        }
        counts
    }

    #[test]
    fn the_logarithm_is_that_of_floating_point() {
        for hash in [0, 1, 2, 3, 1 << 31, 1 << 63, u64::MAX / 3, u64::MAX - 1, u64::MAX] {
            let exact = -((hash as f64 + 0.5) / 2f64.powi(64)).log2();
            let made = minus_log2(hash) as f64 / 2f64.powi(48);
            assert!((made - exact).abs() < 1e-9 * exact.max(1.0), "{hash}: {made} for {exact}");
        }
        // Frozen: another release must place alike.
        assert_eq!((minus_log2(0), minus_log2(u64::MAX)), (65 << 48, 1));
        let first: Vec<u64> = (1..=8).map(|number| owner_of(number, &equal(&[1, 2, 3])).unwrap()).collect();
        assert_eq!(first, FIRST);
    }

    const FIRST: [u64; 8] = [2, 1, 3, 3, 2, 1, 2, 2];

    #[test]
    fn a_thousand_experiments_spread_evenly_over_five_members() {
        let counts = counts(&placed(&equal(&[1, 2, 3, 4, 5]), 1_000));
        let most = counts.values().max().unwrap();
        assert_eq!(counts.len(), 5);
        // Binomial with n = 1,000 and p = 1/5: a standard deviation is 12.6.
        assert!(*most <= 240, "most over mean {:.2}: {counts:?}", *most as f64 / 200.0);
    }

    #[test]
    fn weights_are_respected() {
        let candidates = [(1, 100), (2, 200), (3, 700)].map(|(node, weight)| Candidate { node, weight });
        let counts = counts(&placed(&candidates, 10_000));
        for (node, expected) in [(1, 1_000.0), (2, 2_000.0), (3, 7_000.0)] {
            let off = (counts[&node] as f64 - expected).abs();
            assert!(off < 0.1 * expected, "node {node}: {} for {expected}", counts[&node]);
        }
    }

    #[test]
    fn what_may_not_stay_moves_now_and_the_rest_may_wait() {
        let candidates = equal(&[1, 2]);
        let right = owner_of(1, &candidates).unwrap();
        let other = 3 - right;
        let owned = |node| Owned { experiment: 1, node, epoch: 4 };
        assert_eq!(moves(&[owned(right)], &candidates), []);
        let waits = |node| moves(&[owned(node)], &candidates).first().map(|found| (found.to, found.may_wait));
        assert_eq!(waits(other), Some((right, true)));
        assert_eq!((waits(0), waits(9)), (Some((right, false)), Some((right, false))));
        assert_eq!(moves(&[owned(9)], &[]), []);
    }

    proptest! {
        #[test]
        fn who_goes_moves_its_own_alone_and_who_comes_takes_its_share(
            nodes in proptest::collection::btree_set(1_u64..65_536, 2..9),
            pick in any::<prop::sample::Index>(),
            weights in proptest::collection::vec(1_u32..10_001, 9),
        ) {
            let all: Vec<Candidate> =
                nodes.iter().zip(&weights).map(|(node, weight)| Candidate { node: *node, weight: *weight }).collect();
            let gone = all[pick.index(all.len())];
            let rest: Vec<Candidate> = all.iter().copied().filter(|one| one.node != gone.node).collect();
            let (with, without) = (placed(&all, 500), placed(&rest, 500));
            for (number, node) in &with {
                // Read backwards: what changes when it comes goes to it, and to nobody else.
                prop_assert!(*node == gone.node || without[number] == *node);
            }
            let mut turned = all.clone();
            turned.reverse();
            prop_assert_eq!(placed(&turned, 500), with);
        }

        #[test]
        fn one_of_n_equal_members_holds_about_a_share(count in 2_u64..9, first in 1_u64..1_000) {
            let nodes: Vec<u64> = (first..first + count).collect();
            let counts = counts(&placed(&equal(&nodes), 2_000));
            let share = 2_000.0 / count as f64;
            for node in nodes {
                let held = counts.get(&node).copied().unwrap_or(0) as f64;
                // Five standard deviations.
                prop_assert!((held - share).abs() < 5.0 * share.sqrt(), "{held} for {share}");
            }
        }
    }
}
