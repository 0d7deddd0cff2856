//! G1: who may decide for the machine. An agent's approval is refused, however often and whenever it is asked.

use super::Finding;
use crate::history::{CommandOutcome, Seen};
use crate::plan::Plan;

/// G1.
pub fn agents(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for command in seen.commands.iter().filter(|command| command.verb == "approve as agent") {
        let done = matches!(command.outcome, CommandOutcome::Done(_));
        finding.case(!done, || {
            format!("an agent approved a decision on {} at {} µs", command.flag, command.answered)
        });
    }
    finding
}
