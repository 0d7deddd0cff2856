//! H9: whoever was erased is in no row, no sample, no waiting outcome and on no list, by what the log says when it is folded
//! anew. The eraser's last act on each of its units is an erasure; one that was refused, or a unit of something that was sent and never
//! answered, says nothing.

use std::collections::BTreeMap;

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// H9.
pub fn gone(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    // Whom an erasure found, so that a case is one in which there was something to erase.
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for erased in seen.erased.iter().filter(|erased| !seen.unsure.contains(&erased.unit)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Erased;
    use crate::refold::Refolded;

    #[test]
    fn a_unit_of_which_nothing_is_known_is_no_finding() {
        let plan = Plan::of(1, None);
        let held = Refolded { held: vec!["u".to_owned()], ..Refolded::default() };
        let mut seen = Seen {
            erased: vec![Erased { unit: "u".to_owned(), stays: 1 }],
            refolded: vec![(1, held)],
            ..Seen::default()
        };
        assert_eq!(gone(&plan, &seen).violations.len(), 1);
        // Refused later, or reported again without an answer.
        seen.unsure.insert("u".to_owned());
        assert_eq!(gone(&plan, &seen), Finding::default());
    }
}
