//! Schedules: created, read, listed, cancelled. Who executes them is `schedules.rs`.

use std::sync::Arc;

use featureops_proto::log::{self, Done, Entry, Refusal, entry, reply};
use featureops_proto::v1::schedule::Action;
use featureops_proto::v1::{
    CancelScheduleRequest, CreateScheduleRequest, Flag, GetScheduleRequest, ListSchedulesRequest,
    ListSchedulesResponse, Principal, Schedule, ScheduledChange,
};
use featureops_proto::{Collection, ErrorCode, Name, environment_of, id_of, unix_ms};
use featureops_state::State;
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::access::grant::granted;
use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::schedule_service_server::ScheduleService;
use crate::sent::{Sent, sent};
use crate::services::flag::{definition, merge};
use crate::services::{name, required};

/// The service.
pub struct Schedules(pub Arc<Host>);

fn named_schedule(state: &State, done: &Done) -> Option<Schedule> {
    let name = Name::parse(&done.name, Collection::Schedules).ok()?;
    state.schedule(name.environment, name.id)
}

/// The flag as the change leaves it: its fields over those of the flag as it stands, or all of it.
///
/// # Errors
/// A path of the mask is no field that can be written.
pub fn changed(held: Flag, change: &ScheduledChange) -> Result<Flag, Status> {
    let written = Flag { name: held.name.clone(), ..change.flag.clone().unwrap_or_default() };
    let paths = change.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
    let whole = paths.is_empty() || paths.iter().any(|path| path == "*");
    Ok(definition(if whole { written } else { merge(held, written, paths)? }))
}

#[tonic::async_trait]
impl ScheduleService for Schedules {
    async fn create_schedule(
        &self,
        request: Request<CreateScheduleRequest>,
    ) -> Result<Response<Schedule>, Status> {
        let (from, request) = sent(request);
        let mut schedule = required(request.schedule, "schedule")?;
        name(&schedule.name, Collection::Schedules, "schedule.name")?;
        let flag = self.writable(&from, &schedule).await?;
        if let Some(Action::Change(change)) = &mut schedule.action {
            let written = change.flag.take().unwrap_or_default();
            change.flag = Some(Flag { name: flag, ..definition(written) });
        }
        let command = entry::Command::CreateSchedule(log::CreateSchedule { schedule: Some(schedule) });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, named_schedule).await.map(Response::new)
    }

    async fn get_schedule(&self, request: Request<GetScheduleRequest>) -> Result<Response<Schedule>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Schedules, "name")?;
        let schedule = self.0.replica.read(|state| state.schedule(name.environment, name.id));
        schedule.map(Response::new).ok_or_else(|| refusal::not_found("name", &request.name))
    }

    async fn list_schedules(
        &self,
        request: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let shown = if request.show_finished { "finished" } else { "pending" };
        let scope = ["schedules", environment, &request.flag, shown];
        let page = Page::of(request.page_size, &request.page_token, &scope)?;
        let read = |after: &str, limit| {
            let (flag, finished) = (&request.flag, request.show_finished);
            self.0.replica.read(|state| state.schedules(environment, after, limit, flag, finished))
        };
        let (mut schedules, next_page_token) =
            page.read(read, |schedule| id_of(&schedule.name, Collection::Schedules).to_owned());
        if let Some(grant) = granted(&extensions) {
            schedules.retain(|schedule| grant.covers_flag(&schedule.flag));
        }
        Ok(Response::new(ListSchedulesResponse { schedules, next_page_token }))
    }

    async fn cancel_schedule(
        &self,
        request: Request<CancelScheduleRequest>,
    ) -> Result<Response<Schedule>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Schedules, "name")?;
        let command =
            entry::Command::CancelSchedule(log::CancelSchedule { name: request.name, etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, named_schedule).await.map(Response::new)
    }
}

impl Schedules {
    /// Refuses what could not be written so, and says the flag's name.
    async fn writable(&self, from: &Sent, schedule: &Schedule) -> Result<String, Status> {
        let parsed = name(&schedule.name, Collection::Schedules, "schedule.name")?;
        let flag = Name::format(parsed.environment, Collection::Flags, &schedule.flag);
        let named = name(&flag, Collection::Flags, "schedule.flag")?;
        let Some(Action::Change(change)) = &schedule.action else { return Ok(flag) };
        if let Some(given) = change.flag.as_ref().filter(|given| !given.name.is_empty() && given.name != flag)
        {
            let message = format!("is not {flag}, the flag of the schedule; leave it out");
            return Err(refusal::invalid("schedule.change.flag.name", &given.name, message));
        }
        // What there is no flag for the fold refuses.
        if self.0.replica.read(|state| state.flag(named.environment, named.id)).is_none() {
            return Ok(flag);
        }
        let author = self.0.principal(from)?;
        let (replica, schedule, environment) =
            (self.0.replica.clone(), schedule.clone(), named.environment.to_owned());
        let rehearsed = move || rehearse(replica.copy(), &author, &schedule, &environment);
        self.0.beside(rehearsed).await?.map(|()| flag)
    }
}

/// Writes the change over the flag as it stands, after the flag's schedules that come before it, as each would be written. An
/// experiment, a trip or a right may be another by then, so only what is wrong with the content is refused.
fn rehearse(
    mut state: State,
    author: &Principal,
    schedule: &Schedule,
    environment: &str,
) -> Result<(), Status> {
    let place = |schedule: &Schedule| (schedule.time.as_ref().map_or(0, unix_ms), schedule.name.clone());
    let mut earlier = state.schedules(environment, "", usize::MAX, &schedule.flag, false);
    earlier.retain(|other| place(other) < place(schedule));
    earlier.sort_by_key(place);
    for other in &earlier {
        // What fails then leaves the flag as it was.
        let _ = write(&mut state, &other.author.clone().unwrap_or_default(), other, environment);
    }
    write(&mut state, author, schedule, environment)
}

fn write(
    state: &mut State,
    author: &Principal,
    schedule: &Schedule,
    environment: &str,
) -> Result<(), Status> {
    let Some(Action::Change(change)) = &schedule.action else { return Ok(()) };
    let Some(held) = state.flag(environment, &schedule.flag) else { return Ok(()) };
    let flag = changed(held, change)?;
    featureops_evaluation::check(&flag, &state.environment(environment)).map_err(|error| {
        let field = format!("schedule.change.flag.{}", error.path);
        refusal::invalid(&field, &error.value, &error.message)
    })?;
    let entry = Entry {
        principal: Some(author.clone()),
        command: Some(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() })),
        ..Entry::default()
    };
    let position = state.position().saturating_add(1);
    let reply = state.apply(position, &entry.encode_to_vec(), &mut Vec::new());
    match reply.map(|reply| reply.result) {
        Ok(Some(reply::Result::Refusal(refused))) if refused.code == ErrorCode::InvalidArgument.as_str() => {
            let field = format!("schedule.change.{}", refused.field);
            Err(refusal::refused(&Refusal { field, ..refused }))
        }
        Ok(_) => Ok(()),
        Err(violation) => {
            Err(Status::internal(format!("the change would stop the fold: {}", violation.detail)))
        }
    }
}
