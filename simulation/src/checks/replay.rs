//! H7: every decision is recomputed from its recorded inputs to the same bytes.

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// H7. Only the newest decisions of a flag keep their moments; an older one says that it cannot be recomputed.
pub fn decisions(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (_, settled) in &seen.settled {
        for (name, replay) in &settled.replays {
            let inputs = replay.recorded.as_ref().and_then(|recorded| recorded.inputs.as_ref());
            let keeps = inputs.is_some_and(|inputs| !inputs.strata.is_empty());
            if keeps {
                finding.case(replay.same, || format!("{name} does not replay: {:?}", replay.unavailable));
            } else {
                let says = replay.same || !replay.unavailable.is_empty();
                finding.case(says, || format!("{name} keeps no moments and does not say so"));
            }
        }
    }
    finding
}
