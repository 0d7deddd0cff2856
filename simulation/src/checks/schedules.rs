//! P2: what was scheduled happened once, not before its time; and nothing is overdue once all is healed.

use std::collections::BTreeMap;

use featureops_proto::unix_ms;
use featureops_proto::v1::schedule::State;

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// Log time within which a schedule that is due has happened, when nothing is wrong.
const SLACK_MS: i64 = 3_000;

/// P2.
pub fn once(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (machine, settled) in &seen.settled {
        let log_time = settled.health.as_ref().and_then(|health| health.log_time.as_ref());
        let log_time_ms = log_time.map_or(0, unix_ms);
        let mut executed: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for record in &settled.records {
            if record.action == "schedule.execute" && record.refused.is_empty() {
                let times = executed.entry(&record.resource).or_default();
                times.push(record.time.as_ref().map_or(0, unix_ms));
            }
        }
        for schedule in &settled.schedules {
            let due_ms = schedule.time.as_ref().map_or(0, unix_ms);
            let times = executed.get(schedule.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let finish_ms = schedule.finish_time.as_ref().map_or(0, unix_ms);
            let holds = match (schedule.state(), times) {
                (State::Done | State::Failed, [time_ms]) => *time_ms == finish_ms && due_ms <= finish_ms,
                (State::Pending, []) => log_time_ms < due_ms.saturating_add(SLACK_MS),
                (State::Cancelled, []) => true,
                _ => false,
            };
            let state = schedule.state().as_str_name();
            finding.case(holds, || {
                format!(
                    "machine {machine} {}: {state}, due at {due_ms}, finished at {finish_ms}, executed at {times:?}, \
                     log time {log_time_ms}",
                    schedule.name
                )
            });
        }
    }
    finding
}
