//! E1: every unit is counted once in each arm it stayed in: the moments' units are the rows plus the crossings.

use crate::State;

pub fn check(state: &State) -> Result<(), String> {
    for (number, ledger) in &state.ledgers {
        let counted: u64 = ledger.strata.all().iter().flat_map(|s| &s.cells).map(|cell| cell.units).sum();
        if counted != ledger.rows + ledger.crossed {
            let (rows, crossed) = (ledger.rows, ledger.crossed);
            return Err(format!("experiment {number}: {counted} counted, {rows} rows and {crossed} crossed"));
        }
    }
    Ok(())
}
