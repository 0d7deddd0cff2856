//! L1: the audit chain has no gap, every record links to the one before it, and every node tells the same chain.

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// L1.
pub fn chain(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let mut heads = Vec::new();
    for (machine, settled) in &seen.settled {
        if let Some(audit) = &settled.audit {
            finding.case(audit.intact, || format!("machine {machine}: {}", audit.fault));
            heads.push((audit.last, audit.head.clone()));
        }
        for pair in settled.records.windows(2) {
            let [before, after] = pair else { continue };
            let follows =
                after.number == before.number.saturating_add(1) && after.position >= before.position;
            finding.case(follows && after.previous_hash == before.hash, || {
                format!("machine {machine}: record {} does not follow record {}", after.number, before.number)
            });
        }
    }
    finding.case(heads.windows(2).all(|pair| matches!(pair, [one, two] if one == two)), || {
        "the machines tell different chains".to_owned()
    });
    finding
}
