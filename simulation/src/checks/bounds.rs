//! Q1: what the nodes say of their own bounds, and that none of their parts stands still.

use super::Finding;
use crate::faults::Fault;
use crate::history::Seen;
use crate::plan::Plan;

/// Q1.
pub fn kept(plan: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (machine, settled) in &seen.settled {
        if let Some(health) = &settled.health {
            finding.case(health.ready, || format!("machine {machine} is not ready after healing"));
            for check in &health.checks {
                // A start takes the clock it finds. One that was ahead leaves log time ahead when it is mended, for log time
                // never goes back; that the node says so is what it owes.
                let explained =
                    check.name == "log time" && check.detail.contains("ahead of") && was_ahead(plan);
                // Nor does it say wrong that a ledger is nearly full where somebody left it no room.
                let explained = explained || (check.name == "ledger" && plan.brim.is_some());
                finding.case(check.ok || explained, || {
                    format!("machine {machine}: {} {}", check.name, check.detail)
                });
            }
        }
        for status in &settled.experiments {
            // One row per unit.
            let crowd = plan.brim.as_ref().map_or(0, |brim| brim.crowd);
            let rows_max = plan.units.saturating_add(crowd);
            finding.case(status.rows <= rows_max, || {
                format!("machine {machine}: {} rows for {rows_max} units", status.rows)
            });
        }
    }
    finding
}

fn was_ahead(plan: &Plan) -> bool {
    plan.faults.iter().any(|scheduled| matches!(scheduled.fault, Fault::Clock { ahead_ms } if ahead_ms > 0))
}
