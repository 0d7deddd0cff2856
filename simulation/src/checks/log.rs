//! S1 and L1 by the log: what the nodes told is what their log says, folded again from the first entry.

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;
use crate::refold::Counted;

/// R1.
pub fn told(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (machine, refolded) in &seen.refolded {
        if let Some(violation) = &refolded.violation {
            finding.case(false, || format!("machine {machine}: the log does not fold: {violation}"));
        }
        let Some((_, settled)) = seen.settled.iter().find(|(number, _)| number == machine) else { continue };
        for (flag, _) in &settled.flags {
            let said = refolded.flags.iter().find(|said| said.name == flag.name);
            // Owners may have moved on after the auditor's read.
            if said.is_none_or(|said| said.flag_version == flag.flag_version) {
                finding.case(said == Some(flag), || {
                    format!("machine {machine}: told {flag:?}, the log says {said:?}")
                });
            }
        }
        for decision in &settled.decisions {
            let said = refolded.decisions.iter().find(|said| said.name == decision.name);
            if said.is_none_or(|said| said.status == decision.status) {
                finding.case(said == Some(decision), || {
                    format!("machine {machine}: told {} otherwise than the log says", decision.name)
                });
            }
        }
        for record in &settled.records {
            let said = refolded.audit.iter().find(|said| said.number == record.number);
            finding.case(said == Some(record), || {
                format!("machine {machine}: audit record {} is not what the log says", record.number)
            });
        }
        for status in &settled.experiments {
            let Some(experiment) = &status.experiment else { continue };
            let told = Counted {
                name: experiment.name.clone(),
                verdicts: status.verdicts.clone().into_iter().collect(),
                rows: status.rows,
                entries: status.entries,
                thinned: status.thinned_units,
                folded: status.folded,
                arms: status.arms.iter().map(|arm| arm.units).collect(),
            };
            let said = refolded.experiments.iter().find(|said| said.name == experiment.name);
            finding.case(said == Some(&told), || {
                format!("machine {machine}: told {told:?}, the log says {said:?}")
            });
        }
    }
    finding
}
