//! H8: a unit is on a segment's list when its addition was acknowledged last, and not when its removal was; at once, through
//! every fault, and at the end.

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// H8.
pub fn held(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for membership in &seen.memberships {
        finding.case(membership.expected == membership.told, || {
            let (unit, expected, told) = (&membership.unit, membership.expected, membership.told);
            format!("{unit}: on the list by what was acknowledged: {expected}; told: {told}")
        });
    }
    finding
}
