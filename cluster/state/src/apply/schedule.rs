//! Schedules: created, cancelled, and made so by the leader's node once log time has come.
//!
//! ```text
//!   create ─> PENDING ─┬─ execute: not before its time, not in a freeze window, once ─┬─> DONE    as its author
//!                      │                                                              └─> FAILED  what its author may not,
//!                      └─ cancel ─> CANCELLED                                                     what cannot compile
//! ```
//!
//! A flag that changed between the leader's look and the entry is no failure: the entry is refused, and the leader looks again.

use std::sync::Arc;

use featureops_proto::log::{
    ArchiveFlag, CancelSchedule, CreateSchedule, Done, ExecuteSchedule, Refusal, ScheduleRecord, SetFlag,
};
use featureops_proto::v1::schedule::{Action, State as Phase};
use featureops_proto::v1::{Flag, Principal, Schedule, principal};
use featureops_proto::{Collection, ErrorCode, unix_ms};
use prost::Message as _;

use super::flag::known_enums;
use super::{Context, Outcome, caller_of, check_description, flag_name, refuse};
use crate::State;
use crate::effect::Effect;
use crate::environments;
use crate::flags::{check_etag, parse};
use crate::schedules::{
    MAX_PENDING, MAX_PENDING_OF_FLAG, MAX_SCHEDULE_BYTES, MAX_SCHEDULES_BYTES, etag, flag_of, time_ms,
};
use crate::state::{Before, Key, key};

/// Fields that one schedule names.
const MAX_PATHS: usize = 64;
/// Characters of a reason that are kept.
const MAX_REASON: usize = 500;

/// 9999-12-31T23:59:59Z: the last that RFC 3339, and so every client, can write.
const LAST_SECOND: i64 = 253_402_300_799;

impl State {
    pub(super) fn create_schedule(&mut self, ctx: &Context, c: &CreateSchedule) -> Result<Outcome, Refusal> {
        let Some(given) = &c.schedule else {
            return refuse(ErrorCode::InvalidArgument, "schedule", "", "missing");
        };
        let id = parse(&given.name, Collection::Schedules)?;
        let definition = self.checked_schedule(ctx, &id, given)?;
        let flag = key(&id.0, &definition.flag);
        let full = |field: &str, value: &str, message: String| {
            refuse(ErrorCode::LimitReached, field, value, message)
        };
        if self.schedules.pending() >= MAX_PENDING {
            return full("schedule", &given.name, format!("{MAX_PENDING} are to come; cancel some"));
        }
        if self.schedules.pending_of(&flag) >= MAX_PENDING_OF_FLAG {
            let message = format!("{MAX_PENDING_OF_FLAG} are to come of this flag; cancel some");
            return full("schedule.flag", &given.flag, message);
        }
        let bytes = definition.encoded_len();
        if self.schedules.bytes().saturating_add(bytes) > MAX_SCHEDULES_BYTES {
            let message = format!("schedules have at most {MAX_SCHEDULES_BYTES} bytes together; cancel some");
            return full("schedule", &given.name, message);
        }
        self.schedules.put(Arc::new(ScheduleRecord {
            environment: id.0.clone(),
            schedule: id.1.clone(),
            definition: Some(definition),
            state: Phase::Pending as i32,
            author: Some(ctx.principal.clone()),
            create_ms: ctx.now_ms,
            version: 1,
            ..ScheduleRecord::default()
        }));
        Ok(self.schedule_done(&id, given.name.clone(), Vec::new()))
    }

    /// The definition without output fields, if it can be kept.
    fn checked_schedule(&self, ctx: &Context, id: &Key, given: &Schedule) -> Result<Schedule, Refusal> {
        let bad = |field: &str, value: String, message: &str| {
            refuse(ErrorCode::InvalidArgument, &format!("schedule.{field}"), value, message)
        };
        if self.schedules.get(id).is_some() {
            return refuse(ErrorCode::AlreadyExists, "schedule.name", &given.name, "choose another id");
        }
        let flag = flag_name(&key(&id.0, &given.flag));
        self.live_flag(&flag).map_err(|refusal| Refusal { field: "schedule.flag".to_owned(), ..refusal })?;
        let Some(time) = given.time else {
            return bad("time", String::new(), "say when, as 2026-12-01T08:00:00Z");
        };
        if !(0..1_000_000_000).contains(&time.nanos) || unix_ms(&time) <= ctx.now_ms {
            return bad(
                "time",
                time.to_string(),
                "lies in the past; write the flag instead, or choose a later time",
            );
        }
        if time.seconds > LAST_SECOND {
            return bad("time", time.seconds.to_string(), "lies beyond the year 9999");
        }
        match &given.action {
            Some(Action::Change(change)) => {
                let Some(flag) = &change.flag else {
                    return bad("change.flag", String::new(), "the fields that change");
                };
                if !flag.name.is_empty() && parse(&flag.name, Collection::Flags)? != key(&id.0, &given.flag) {
                    return bad("change.flag.name", flag.name.clone(), "is another flag than schedule.flag");
                }
                known_enums(flag).map_err(|refusal| Refusal {
                    field: format!("schedule.change.{}", refusal.field),
                    ..refusal
                })?;
                let paths = change.update_mask.as_ref().map_or(0, |mask| mask.paths.len());
                if paths > MAX_PATHS {
                    return bad("change.update_mask", paths.to_string(), "at most 64 paths");
                }
            }
            Some(Action::Archive(true)) => {}
            Some(Action::Archive(false)) | None => {
                return bad("action", String::new(), "a change, or archive: true");
            }
        }
        check_description(&given.description, "schedule.description")?;
        let bytes = given.encoded_len();
        if bytes > MAX_SCHEDULE_BYTES {
            return bad("change", format!("{bytes} bytes"), "at most 524288 bytes; name fewer fields");
        }
        Ok(Schedule {
            flag: given.flag.clone(),
            time: given.time,
            action: given.action.clone(),
            description: given.description.clone(),
            ..Schedule::default()
        })
    }

    pub(super) fn cancel_schedule(&mut self, ctx: &Context, c: &CancelSchedule) -> Result<Outcome, Refusal> {
        let (id, record) = self.pending_schedule(&c.name)?;
        check_etag(&c.etag, &etag(&record))?;
        let own = |author: &Principal| (author.kind, &author.id) == (ctx.principal.kind, &ctx.principal.id);
        if !record.author.as_ref().is_some_and(own) {
            ctx.require_human("cancelling what another has scheduled")?;
        }
        self.end_schedule(ctx, &record, Phase::Cancelled, String::new(), 0);
        Ok(self.schedule_done(&id, c.name.clone(), Vec::new()))
    }

    pub(super) fn execute_schedule(
        &mut self,
        ctx: &Context,
        c: &ExecuteSchedule,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        if ctx.principal.kind() != principal::Kind::System {
            let message = "schedules are executed by the leader's node; write the flag instead";
            return refuse(ErrorCode::NotPermitted, "principal", ctx.caller(), message);
        }
        let (id, record) = self.pending_schedule(&c.name)?;
        let due_ms = time_ms(&record);
        if ctx.now_ms < due_ms {
            let message = format!("its time comes at {due_ms} ms of log time, it is {}", ctx.now_ms);
            return refuse(ErrorCode::WrongState, "name", &c.name, message);
        }
        if let Some(until) = self.frozen_until(&id.0) {
            let message = format!("a freeze window ends at {until} ms of log time");
            return refuse(ErrorCode::Frozen, "name", &c.name, message);
        }
        let author = Context { principal: record.author.clone().unwrap_or_default(), ..ctx.clone() };
        let written = match c.failure.as_str() {
            "" => self.write_as(&author, &record, c, effects),
            failure => refuse(ErrorCode::InvalidArgument, "schedule", &c.name, failure),
        };
        let flag = flag_name(&flag_of(&record));
        let action = match record.definition.as_ref().and_then(|d| d.action.as_ref()) {
            Some(Action::Archive(_)) => "flag.archive",
            _ => "flag.set",
        };
        match written {
            Ok(outcome) => {
                let detail = format!("by {}: {}", c.name, outcome.detail);
                self.record(&author, action, flag, detail, String::new(), effects);
                self.end_schedule(ctx, &record, Phase::Done, String::new(), outcome.done.version);
                Ok(self.schedule_done(&id, c.name.clone(), outcome.touched))
            }
            // The flag or what it shares is another than the leader saw: it looks again.
            Err(refusal) if refusal.code == ErrorCode::EtagMismatch.as_str() => Err(refusal),
            Err(refusal) => {
                let reason = match refusal.field.as_str() {
                    "" | "schedule" => refusal.message,
                    field => format!("{field}: {}", refusal.message),
                };
                let detail = format!("by {}: {reason}", c.name);
                self.record(&author, action, flag, detail, refusal.code, effects);
                let reason = reason.chars().take(MAX_REASON).collect();
                self.end_schedule(ctx, &record, Phase::Failed, reason, 0);
                Ok(self.schedule_done(&id, c.name.clone(), Vec::new()))
            }
        }
    }

    /// Writes the flag in the author's name, exactly as the author's own command would.
    fn write_as(
        &mut self,
        author: &Context,
        record: &ScheduleRecord,
        c: &ExecuteSchedule,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        // Of a token that was revoked since, nothing is done any more.
        self.check_verified(author)?;
        let name = flag_name(&flag_of(record));
        // Setting an archived flag would bring it back, which nobody asked for.
        self.live_flag(&name)?;
        match record.definition.as_ref().and_then(|d| d.action.as_ref()) {
            Some(Action::Change(_)) => {
                let present = self.environments.get(&record.environment).map(AsRef::as_ref);
                check_etag(&c.environment_etag, &environments::etag(present))?;
                let Some(flag) = c.flag.as_ref().filter(|flag| flag.name == name) else {
                    return refuse(ErrorCode::InvalidArgument, "flag.name", "", "is not the schedule's flag");
                };
                let flag = Flag { imported: false, ..flag.clone() };
                self.set_flag(author, &SetFlag { flag: Some(flag), etag: c.etag.clone() }, effects)
            }
            Some(Action::Archive(_)) => {
                self.archive_flag(author, &ArchiveFlag { name, etag: c.etag.clone() }, effects)
            }
            None => refuse(ErrorCode::InvalidArgument, "action", "", "nothing to do"),
        }
    }

    fn pending_schedule(&self, name: &str) -> Result<(Key, Arc<ScheduleRecord>), Refusal> {
        let id = parse(name, Collection::Schedules)?;
        match self.schedules.get(&id) {
            Some(record) if record.state() == Phase::Pending => Ok((id, Arc::clone(record))),
            Some(record) => {
                let state = record.state().as_str_name();
                refuse(ErrorCode::WrongState, "name", name, format!("it is over: {state}"))
            }
            None => refuse(ErrorCode::NotFound, "name", name, "no such schedule, or no longer kept"),
        }
    }

    fn end_schedule(
        &mut self,
        ctx: &Context,
        record: &Arc<ScheduleRecord>,
        state: Phase,
        reason: String,
        flag_version: u64,
    ) {
        self.before.push(Before::Schedule(Arc::clone(record)));
        self.schedules.put(Arc::new(ScheduleRecord {
            state: state as i32,
            reason,
            flag_version,
            finish_ms: ctx.now_ms,
            finish_position: ctx.position,
            version: record.version + 1,
            ..record.as_ref().clone()
        }));
        let gone = self.schedules.forget_oldest();
        self.before.extend(gone.into_iter().map(Before::Schedule));
    }

    fn schedule_done(&self, id: &Key, name: String, touched: Vec<u32>) -> Outcome {
        let Some(record) = self.schedules.get(id) else { return Outcome::default() };
        let took_effect = record.state() != Phase::Failed;
        let done = Done { name, version: record.version, etag: etag(record), took_effect, ..Done::default() };
        let state = record.state().as_str_name();
        let author = record.author.as_ref().map(caller_of).unwrap_or_default();
        let detail = match record.state() {
            Phase::Pending => format!("at {} ms of log time", time_ms(record)),
            Phase::Failed => format!("as {author}: {state}: {}", record.reason),
            _ => format!("as {author}: {state}"),
        };
        Outcome { done, detail, touched }
    }
}
