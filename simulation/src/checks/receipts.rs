//! H4: who sends an answer's receipt back gets the same arm, while the receipt's generation lives.

use super::Finding;
use super::history_of_flag::changes;
use crate::history::Seen;
use crate::plan::Plan;

/// H4.
pub fn flips(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let mut histories = std::collections::BTreeMap::new();
    for evaluated in &seen.evaluations {
        let Some(sent) = &evaluated.sent_receipt else { continue };
        let changes =
            histories.entry(evaluated.flag.as_str()).or_insert_with(|| changes(seen, &evaluated.flag));
        let (low, high) = (sent.flag_version, evaluated.answer.flag_version);
        // Another node may lag: the answer may be of an earlier version than the receipt.
        let (from, to) = (low.min(high), low.max(high));
        let ends = |change: &str| {
            matches!(
                change,
                "start" | "stop" | "trip" | "resume" | "archive" | "revert" | "shrink layer share"
            )
        };
        let kept = changes.first_key_value().is_some_and(|(oldest, _)| *oldest <= from.saturating_add(1));
        let lives =
            kept && !changes.range(from..=to).any(|(version, change)| *version > from && ends(change));
        // Without an arm in the answer the experiment does not serve: its flag's own rules do.
        if !lives || evaluated.answer.receipt.is_empty() {
            continue;
        }
        let served = evaluated.answer.variant.as_deref();
        finding.case(served == Some(sent.variant.as_str()), || {
            format!(
                "{} {}: {} at version {low}, then {served:?} at version {high} with its receipt",
                evaluated.flag, evaluated.unit, sent.variant
            )
        });
    }
    finding
}
