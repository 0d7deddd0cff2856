//! Schedules made so: the leader's node looks after each tick for those whose time has come, and proposes them.
//!
//! ```text
//!   tick applied ─> bell ─> due, in no freeze window ─> fields over the flag as it stands ─> compiled ─> ExecuteSchedule
//!                                                                        └─ cannot be ──────────────────> ... with why
//! ```
//!
//! What is true stays in the log: the fold executes each once, not before its time, in its author's name. A proposal
//! that came to nothing, or of which nobody knows, is looked at again with the next tick.

use std::sync::Arc;
use std::time::Duration;

use featureops_proto::log::{Entry, ExecuteSchedule, entry, reply};
use featureops_proto::v1::Schedule;
use featureops_proto::v1::schedule::Action;
use featureops_proto::{Collection, Name};
use featureops_state::{Effect, State};
use prost::Message as _;
use tokio::sync::Notify;

use crate::caller;
use crate::replica::Replica;
use crate::services::schedule::changed;

/// Schedules looked at in one go.
const DUE_MAX: usize = 64;
/// How often it looks without a bell: a leader that changed rings none.
const LOOK: Duration = Duration::from_secs(5);

/// Rung by apply.
#[derive(Default)]
pub struct Bell(Notify);

impl Bell {
    /// Hears what was applied. Called by apply: never waits.
    pub fn note(&self, state: &State, effects: &[Effect]) {
        let ticked = effects.iter().any(|effect| matches!(effect, Effect::Ticked { .. }));
        if ticked && state.is_schedule_due() {
            self.0.notify_one();
        }
    }
}

/// Executes until it is dropped.
pub async fn run(replica: Replica, bell: Arc<Bell>) {
    loop {
        if replica.health().leads {
            // One after the other: of two for one flag the second rests on what the first has made.
            for schedule in replica.read(|state| state.due_schedules(DUE_MAX)) {
                execute(&replica, &schedule).await;
            }
        }
        let _ = tokio::time::timeout(LOOK, bell.0.notified()).await;
    }
}

async fn execute(replica: &Replica, schedule: &Schedule) {
    let command = entry::Command::ExecuteSchedule(merged(replica, schedule));
    let entry =
        Entry { principal: Some(caller::system("schedule")), command: Some(command), ..Entry::default() };
    match replica.propose(entry.encode_to_vec()).await {
        Ok((_, reply)) => {
            if let Some(reply::Result::Refusal(refusal)) = reply.result {
                let (name, code, message) = (&schedule.name, refusal.code, refusal.message);
                tracing::info!(name, code, message, "schedule not executed yet");
            }
        }
        Err(failure) => tracing::debug!(name = schedule.name, ?failure, "schedule not executed yet"),
    }
}

/// The schedule's fields over the flag as it stands, compiled as a write's are; or why that cannot be.
fn merged(replica: &Replica, schedule: &Schedule) -> ExecuteSchedule {
    let name = schedule.name.clone();
    let failed =
        |failure: String| ExecuteSchedule { name: name.clone(), failure, ..ExecuteSchedule::default() };
    let Ok(parsed) = Name::parse(&schedule.name, Collection::Schedules) else {
        return failed("its name is malformed".to_owned());
    };
    let (held, environment) = replica.read(|state| {
        (state.flag(parsed.environment, &schedule.flag), state.environment(parsed.environment))
    });
    let Some(held) = held else { return failed(format!("flag {} is gone", schedule.flag)) };
    let etag = held.etag.clone();
    let environment_etag = environment.etag.clone();
    let empty = || ExecuteSchedule {
        name: name.clone(),
        etag: etag.clone(),
        environment_etag: environment_etag.clone(),
        ..ExecuteSchedule::default()
    };
    // What the fold refuses of an archived flag it says itself.
    let Some(Action::Change(change)) = schedule.action.as_ref().filter(|_| !held.archived) else {
        return empty();
    };
    let flag = match changed(held, change) {
        Ok(flag) => flag,
        Err(status) => return failed(status.message().to_owned()),
    };
    match featureops_evaluation::check(&flag, &environment) {
        Ok(()) => ExecuteSchedule { flag: Some(flag), ..empty() },
        Err(error) => failed(error.to_string()),
    }
}
