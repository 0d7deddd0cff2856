//! O1: an owner that has answered a sequence has an epoch, and nobody decides on an experiment that was never assigned.

use crate::State;

pub fn check(state: &State) -> Result<(), String> {
    for record in state.experiments.values() {
        let owner = record.owner.clone().unwrap_or_default();
        if owner.epoch == 0 && owner.last_sequence > 0 {
            return Err(format!(
                "experiment {}: sequence {} without an epoch",
                record.number, owner.last_sequence
            ));
        }
    }
    Ok(())
}
