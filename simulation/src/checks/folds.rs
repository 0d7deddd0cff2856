//! F1: what a fold made of an experiment's sums is what a recomputation from every unit's row and sums makes of them.

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// F1.
pub fn recomputed(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (machine, refolded) in &seen.refolded {
        for fold in &refolded.folds {
            let place = || format!("machine {machine} {} at entry {}", fold.experiment, fold.position);
            let Some(expected) = &fold.expected else {
                finding.case(false, || format!("{}: the units before it cannot be read", place()));
                continue;
            };
            finding.case(fold.held.len() == expected.len() && !expected.is_empty(), || {
                format!("{}: {} strata, not {}", place(), fold.held.len(), expected.len())
            });
            for (held, expected) in fold.held.iter().zip(expected) {
                for (arm, (held, expected)) in held.arms.iter().zip(&expected.arms).enumerate() {
                    finding.case(held == expected, || {
                        format!("{} arm {arm}: held {held:?}, must be {expected:?}", place())
                    });
                }
            }
        }
    }
    finding
}
