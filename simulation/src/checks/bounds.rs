//! Q1: what the nodes say of their own bounds, and that none of their parts stands still.

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// Q1.
pub fn kept(plan: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (machine, settled) in &seen.settled {
        if let Some(health) = &settled.health {
            finding.case(health.ready, || format!("machine {machine} is not ready after healing"));
            for check in &health.checks {
                finding.case(check.ok, || format!("machine {machine}: {} {}", check.name, check.detail));
            }
        }
        for status in &settled.experiments {
            // One row per unit, and no more entries than metrics and arms allow.
            let rows_max = plan.units;
            finding.case(status.rows <= rows_max, || {
                format!("machine {machine}: {} rows for {rows_max} units", status.rows)
            });
        }
    }
    finding
}
