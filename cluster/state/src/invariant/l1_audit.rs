//! L1: the audit chain is gap-free and hash-linked up to its head.

use crate::State;

pub fn check(state: &State) -> Result<(), String> {
    let verdict = state.verify_audit();
    if verdict.intact { Ok(()) } else { Err(verdict.fault) }
}
