//! H1 for facts: a batch that is sent again is answered as a duplicate, with the answer it had.

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// H1.
pub fn repeats(plan: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for report in &seen.reports {
        let name = format!("batch {} {}", report.producer, report.sequence);
        let Some((first, later)) = report.answers.split_first() else {
            finding.case(report.refused.is_some(), || {
                format!("{name} was never answered in {} sends", report.sends)
            });
            continue;
        };
        // A node that hands a batch to the leader and hears nothing sends it again by itself.
        finding.case(plan.machines > 1 || report.sends > 1 || !first.duplicate, || {
            format!("{name}: called a duplicate at its first send")
        });
        for again in later {
            finding.case(again.duplicate, || format!("{name}: counted again at a repeat"));
            // Beyond the last sixteen batches of a producer only the fact that it was answered is kept.
            let same = again.counted == first.counted && again.verdicts == first.verdicts;
            let forgotten =
                again.verdicts.iter().all(|said| said.verdict() == featureops_proto::v1::Verdict::Duplicate);
            finding.case(same || forgotten, || format!("{name}: {first:?}, then {again:?}"));
        }
    }
    finding
}
