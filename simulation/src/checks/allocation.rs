//! A1, A3 and A4: every map of buckets that was ever seen, and the slots of a layer as each machine settled on them.

use featureops_proto::v1;

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// As the operator creates its experiments.
const CAP: u32 = 6_000;
const FLOOR: u32 = 1_000;

fn allocations(seen: &Seen) -> impl Iterator<Item = (String, &v1::Allocation)> {
    seen.settled.iter().flat_map(|(machine, settled)| {
        let flags = settled.flags.iter().filter_map(move |(flag, _)| {
            Some((format!("machine {machine} {}", flag.name), flag.allocation.as_ref()?))
        });
        let experiments = settled.experiments.iter().filter_map(move |status| {
            let experiment = status.experiment.as_ref()?;
            Some((format!("machine {machine} {}", experiment.name), experiment.allocation.as_ref()?))
        });
        flags.chain(experiments)
    })
}

fn applied(seen: &Seen) -> impl Iterator<Item = &v1::Decision> {
    let decisions = seen.settled.iter().flat_map(|(_, settled)| &settled.decisions);
    decisions.filter(|decision| !decision.weights_applied.is_empty())
}

/// A1.
pub fn weights(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (place, allocation) in allocations(seen) {
        let weights: u32 = allocation.weights_basis_points.iter().sum();
        let buckets: u32 = allocation.runs.iter().map(|run| run.length).sum();
        finding.case((weights, buckets) == (10_000, 10_000), || {
            format!("{place}: weights sum to {weights}, runs to {buckets}")
        });
    }
    for decision in applied(seen) {
        let sum: u32 = decision.weights_applied.iter().sum();
        finding.case(sum == 10_000, || format!("{}: applied weights sum to {sum}", decision.name));
    }
    finding
}

/// A3.
pub fn caps(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let holds = |weights: &[u32]| match weights {
        [control, treatment] => *control >= FLOOR && *treatment <= CAP,
        _ => false,
    };
    for (place, allocation) in allocations(seen) {
        let weights = &allocation.weights_basis_points;
        finding.case(holds(weights), || format!("{place}: {weights:?}"));
    }
    for decision in applied(seen) {
        let weights = &decision.weights_applied;
        finding.case(holds(weights), || format!("{}: {weights:?}", decision.name));
    }
    for evaluated in seen.evaluations.iter().filter(|evaluated| evaluated.sent_receipt.is_none()) {
        let answer = &evaluated.answer;
        if let (Some("treatment"), Some(share)) = (answer.variant.as_deref(), answer.propensity_basis_points)
        {
            finding.case(share <= CAP, || format!("{} was served at a share of {share}", evaluated.flag));
        }
    }
    finding
}

/// A4.
pub fn layers(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (machine, settled) in &seen.settled {
        let mut taken: Vec<(u32, u32)> = Vec::new();
        for (flag, _) in &settled.flags {
            for range in flag.allocation.iter().flat_map(|allocation| &allocation.slots) {
                let end = range.start.saturating_add(range.length);
                let free = taken.iter().all(|(first, last)| end <= *first || *last <= range.start);
                finding.case(free && end <= 10_000, || {
                    format!(
                        "machine {machine} {}: slots {} to {end} are another's too",
                        flag.name, range.start
                    )
                });
                taken.push((range.start, end));
            }
        }
    }
    finding
}
