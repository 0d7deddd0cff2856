//! Placement: which node proposes for which experiment. Every assignment raises the epoch, and the old owner's
//! commands are fenced from then on.

use featureops_proto::ErrorCode;
use featureops_proto::log::{AssignOwners, OwnerRecord, Refusal};
use featureops_proto::v1::principal;

use super::{Context, Outcome, refuse};
use crate::State;
use crate::effect::Effect;
use crate::placement::MAX_ASSIGNMENTS;

impl State {
    pub(super) fn assign_owners(
        &mut self,
        ctx: &Context,
        c: &AssignOwners,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        if ctx.principal.kind() == principal::Kind::Agent {
            let message = "an agent does not place owners; act as human:<id>";
            return refuse(ErrorCode::NotPermitted, "principal", ctx.caller(), message);
        }
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
            let placed =
                self.assign_owner(assignment.experiment, assignment.node, assignment.from_epoch, effects);
            assigned += u32::from(placed);
        }
        Ok(Outcome { detail: format!("{assigned} experiments"), ..Outcome::default() })
    }

    /// Whether it was: one that ended, or never ran, has no owner, and one that was decided on another epoch has another owner by
    /// now.
    pub(super) fn assign_owner(
        &mut self,
        number: u32,
        node: u64,
        from_epoch: Option<u64>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(record) = self.experiment_mut(number) else { return false };
        if record.end_ms != 0 || record.generations.is_empty() {
            return false;
        }
        let held = record.owner.as_ref().map_or(0, |o| o.epoch);
        if from_epoch.is_some_and(|from| from != held) {
            return false;
        }
        let epoch = held + 1;
        record.owner = Some(OwnerRecord { node, epoch, last_sequence: 0, last_reply: None });
        effects.push(Effect::OwnerAssigned { number, node, epoch });
        if let Some(ledger) = self.ledgers.get_mut(&number) {
            ledger.dirty = true;
        }
        true
    }
}
