//! Schedules: created, read, listed, cancelled. Who executes them is `schedules.rs`.

use std::sync::Arc;

use featureops_proto::log::{self, Done, entry};
use featureops_proto::v1::schedule::Action;
use featureops_proto::v1::{
    CancelScheduleRequest, CreateScheduleRequest, Flag, GetScheduleRequest, ListSchedulesRequest,
    ListSchedulesResponse, Schedule, ScheduledChange,
};
use featureops_proto::{Collection, Name, environment_of, unix_ms};
use featureops_state::State;
use tonic::{Request, Response, Status};

use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::schedule_service_server::ScheduleService;
use crate::sent::sent;
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
        let flag = self.compiles(&schedule)?;
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
        let request = request.into_inner();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let shown = if request.show_finished { "finished" } else { "pending" };
        let scope = ["schedules", environment, &request.flag, shown];
        let page = Page::of(request.page_size, &request.page_token, &scope)?;
        let read = |after: &str, limit| {
            let (flag, finished) = (&request.flag, request.show_finished);
            self.0.replica.read(|state| state.schedules(environment, after, limit, flag, finished))
        };
        let (schedules, next_page_token) = page.read(read, |schedule| {
            let name = Name::parse(&schedule.name, Collection::Schedules);
            name.map(|name| name.id.to_owned()).unwrap_or_default()
        });
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
    /// Refuses what could not be made so with the flag as it stands, unless an earlier schedule may change that. Says the
    /// flag's name.
    fn compiles(&self, schedule: &Schedule) -> Result<String, Status> {
        let parsed = name(&schedule.name, Collection::Schedules, "schedule.name")?;
        let flag = Name::format(parsed.environment, Collection::Flags, &schedule.flag);
        let named = name(&flag, Collection::Flags, "schedule.flag")?;
        let Some(Action::Change(change)) = &schedule.action else { return Ok(flag) };
        if let Some(given) = change.flag.as_ref().filter(|given| !given.name.is_empty() && given.name != flag)
        {
            let message = format!("is not {flag}, the flag of the schedule; leave it out");
            return Err(refusal::invalid("schedule.change.flag.name", &given.name, message));
        }
        let time_ms = schedule.time.as_ref().map_or(0, unix_ms);
        let (held, environment, earlier) = self.0.replica.read(|state| {
            let all = state.schedules(named.environment, "", usize::MAX, named.id, false);
            let earlier = all.iter().any(|other| other.time.as_ref().map_or(0, unix_ms) <= time_ms);
            (state.flag(named.environment, named.id), state.environment(named.environment), earlier)
        });
        // What there is no flag for the fold refuses.
        let Some(held) = held else { return Ok(flag) };
        let after = changed(held, change)?;
        if !earlier {
            featureops_evaluation::check(&after, &environment).map_err(|error| {
                let field = format!("schedule.change.flag.{}", error.path);
                refusal::invalid(&field, &error.value, &error.message)
            })?;
        }
        Ok(flag)
    }
}
