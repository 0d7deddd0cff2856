//! S1: two states at one position have one digest, on every machine and over every restart.

use std::collections::BTreeMap;

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// S1.
pub fn equal(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let mut first = BTreeMap::new();
    for checkpoint in &seen.checkpoints {
        let known = first.entry(checkpoint.position).or_insert(checkpoint);
        finding.case(known.digest == checkpoint.digest, || {
            format!(
                "position {}: machine {} in life {} has digest {:016x}, machine {} in life {} has {:016x}",
                checkpoint.position,
                known.machine,
                known.life,
                known.digest,
                checkpoint.machine,
                checkpoint.life,
                checkpoint.digest
            )
        });
    }
    finding
}
