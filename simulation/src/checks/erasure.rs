//! H9: whoever was erased is in no row, no sample, no waiting outcome and on no list, by what the log says when it is folded
//! anew. The eraser's last act on each of its units is an erasure.

use std::collections::BTreeMap;

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// H9.
pub fn gone(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    // Whom an erasure found, so that a case is one in which there was something to erase.
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for erased in &seen.erased {
        let stays = found.entry(&erased.unit).or_default();
        *stays = stays.saturating_add(erased.stays);
    }
    for (machine, refolded) in &seen.refolded {
        for (unit, stays) in &found {
            let held = refolded.held.iter().any(|held| held == unit);
            if *stays > 0 || held {
                finding.case(!held, || format!("machine {machine}: {unit} was erased and is held"));
            }
        }
    }
    finding
}
