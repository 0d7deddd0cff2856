//! After healing, service is demanded: nodes run, evaluations are answered, facts and commands are acknowledged, reads work.

use super::Finding;
use crate::history::{CommandOutcome, Seen};
use crate::plan::Plan;

/// Time after healing in which a node may still be starting.
const GRACE_MICROS: u64 = 2_000_000;

/// Liveness.
pub fn served(plan: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for refused in &seen.refused_starts {
        finding.case(false, || format!("a node with an honest disk did not start: {refused}"));
    }
    for ended in &seen.ended {
        finding.case(false, || format!("a node ended by itself: {ended}"));
    }
    for (machine, settled) in &seen.settled {
        for failure in &settled.failures {
            finding.case(false, || format!("machine {machine}: {failure}"));
        }
    }
    finding.case(!seen.settled.is_empty(), || "the auditor never came to its end".to_owned());
    let healed = plan.faults_ms.saturating_mul(1_000).saturating_add(GRACE_MICROS);
    let evaluations = seen.evaluations.iter().filter(|evaluated| evaluated.asked > healed).count();
    finding.case(evaluations > 0, || "no evaluation was answered after healing".to_owned());
    let done = |outcome: &CommandOutcome| !matches!(outcome, CommandOutcome::Unknown);
    let commands = seen.commands.iter().filter(|command| command.answered > healed && done(&command.outcome));
    finding.case(commands.count() > 0, || "no command was answered after healing".to_owned());
    let answered = seen.reports.iter().filter(|report| !report.answers.is_empty()).count();
    finding.case(answered > 0, || "no facts were acknowledged".to_owned());
    finding
}
