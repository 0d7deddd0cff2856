//! L1: the audit chain has no gap, every record links to the one before it, and every node tells the same chain.

use std::collections::BTreeMap;

use featureops_proto::v1::AuditRecord;

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// L1.
pub fn chain(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let mut told: BTreeMap<u64, &AuditRecord> = BTreeMap::new();
    for (machine, settled) in &seen.settled {
        if let Some(audit) = &settled.audit {
            finding.case(audit.intact, || format!("machine {machine}: {}", audit.fault));
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
    // They were read at different times: the longer chain begins with the shorter one.
    for (machine, settled) in &seen.settled {
        for record in &settled.records {
            let known = *told.entry(record.number).or_insert(record);
            finding.case(known == record, || {
                format!("machine {machine}: record {} is another one elsewhere", record.number)
            });
        }
    }
    finding
}
