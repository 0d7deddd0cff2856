//! Placement: which node proposes for which experiment. Every assignment raises the epoch, and the old owner's
//! commands are fenced from then on.

use featureops_proto::ErrorCode;
use featureops_proto::log::{AssignOwners, OwnerRecord, Refusal};

use super::{Outcome, refuse};
use crate::State;
use crate::effect::Effect;

/// Experiments assigned by one command.
const MAX_ASSIGNMENTS: usize = 4_096;

impl State {
    pub(super) fn assign_owners(
        &mut self,
        c: &AssignOwners,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        if c.assignments.len() > MAX_ASSIGNMENTS {
            let count = c.assignments.len();
            return refuse(
                ErrorCode::LimitReached,
                "assignments",
                count,
                format!("at most {MAX_ASSIGNMENTS} a command"),
            );
        }
        let mut assigned = 0u32;
        for assignment in &c.assignments {
            let number = assignment.experiment;
            let Some(record) = self.experiment_mut(number) else { continue };
            if record.end_ms != 0 || record.generations.is_empty() {
                continue;
            }
            let epoch = record.owner.as_ref().map_or(0, |o| o.epoch) + 1;
            record.owner =
                Some(OwnerRecord { node: assignment.node, epoch, last_sequence: 0, last_reply: None });
            effects.push(Effect::OwnerAssigned { number, node: assignment.node, epoch });
            if let Some(ledger) = self.ledgers.get_mut(&number) {
                ledger.dirty = true;
            }
            assigned += 1;
        }
        Ok(Outcome { detail: format!("{assigned} experiments"), ..Outcome::default() })
    }
}
