//! `schedule create|list|get|cancel`: changes of a flag at a time to come.

use clap::{Args, Subcommand};
use featureops_cluster::environment::{Clock as _, SystemClock};
use featureops_proto::Collection::Schedules;
use featureops_proto::v1::schedule::{Action, State};
use featureops_proto::v1::{self, ScheduledChange};
use prost_types::{FieldMask, Timestamp};

use super::failure::Failure;
use super::flag::{Fields, named};
use super::listing::{MAX_LISTED, listed};
use super::page::{Cell, Page, Tone};
use super::render::{key_of, word_of};
use super::session::{Session, WriteArgs, principal_text, verb};
use super::span::{moment_text, parse_moment_from};
use crate::rpc::schedule_service_client::ScheduleServiceClient;

#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Change or archive a flag at a time to come.
    Create(Box<CreateArgs>),
    /// List what is to come.
    List {
        /// Of this flag only.
        #[arg(long, value_name = "FLAG")]
        flag: Option<String>,
        /// Those that are done, failed or cancelled, too.
        #[arg(long)]
        finished: bool,
    },
    /// Show a schedule.
    Get { id: String },
    /// Cancel a schedule that is to come.
    Cancel {
        id: String,
        /// Refuse if the schedule changed since this etag was read.
        #[arg(long)]
        etag: Option<String>,
        #[command(flatten)]
        write: WriteArgs,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  featureops schedule create checkout --at 2026-12-01T08:00:00Z --default on
  featureops schedule create checkout --at 2026-12-24T00:00:00Z --disabled --id christmas
  featureops schedule create checkout --at +2h --default on
  featureops schedule create checkout --at 2027-01-01T00:00:00Z --archive

What is named is written over the flag as it stands then, in your name. What you may not do then, or what does
not compile then, fails: the schedule says why, and the flag stays as it is. In a freeze window it waits.")]
pub struct CreateArgs {
    /// The flag.
    flag: String,
    /// When: RFC 3339, unix seconds or milliseconds, or a span from now on, as +2h.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Timestamp,
    /// The schedule's id [default: the flag's and the time].
    #[arg(long)]
    id: Option<String>,
    /// Archive the flag.
    #[arg(long)]
    archive: bool,
    /// Why; not the flag's own description.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    write: WriteArgs,
}

/// A span counts from this machine's clock; the node's log time decides when it is over.
fn moment(text: &str) -> Result<Timestamp, String> {
    parse_moment_from(text, SystemClock::start().unix_ms())
}

pub async fn run(session: &Session, command: ScheduleCommand) -> Result<(), Failure> {
    match command {
        ScheduleCommand::Create(args) => create(session, *args).await,
        ScheduleCommand::List { flag, finished } => list(session, flag.unwrap_or_default(), finished).await,
        ScheduleCommand::Get { id } => {
            let request = v1::GetScheduleRequest { name: session.name(Schedules, &id)? };
            let schedule = session
                .client
                .read(request, |channel, request| async move {
                    ScheduleServiceClient::new(channel).get_schedule(request).await
                })
                .await?;
            session.show(&schedule, |page| describe(page, &schedule))
        }
        ScheduleCommand::Cancel { id, etag, write } => {
            let request_id = write.request.id()?;
            let request = v1::CancelScheduleRequest {
                name: session.name(Schedules, &id)?,
                request_id: request_id.clone(),
                validate_only: write.dry_run,
                etag: etag.unwrap_or_default(),
            };
            let schedule = session
                .client
                .write(&request_id, request, |channel, request| async move {
                    ScheduleServiceClient::new(channel).cancel_schedule(request).await
                })
                .await?;
            session.show(&schedule, |page| {
                let verb = verb(write.dry_run, "cancelled", "would cancel");
                page.line(Tone::Good, format!("{verb} {}: {}", key_of(&schedule.name), what(&schedule)));
            })
        }
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let (flag, paths) = named(&args.fields, String::new())?;
    let action = match (args.archive, paths.is_empty()) {
        (true, true) => Action::Archive(true),
        (true, false) => {
            return Err(Failure::usage("--archive stands alone: an archived flag serves nothing"));
        }
        (false, true) => {
            return Err(Failure::usage("name what changes, as --default on, or --archive")
                .note("the options are those of flag set --update"));
        }
        (false, false) => {
            let update_mask = Some(FieldMask { paths });
            Action::Change(ScheduledChange { flag: Some(flag), update_mask })
        }
    };
    let id = args.id.unwrap_or_else(|| format!("{}-{}", args.flag, args.at.seconds));
    let request_id = args.write.request.id()?;
    let request = v1::CreateScheduleRequest {
        schedule: Some(v1::Schedule {
            name: session.name(Schedules, &id)?,
            flag: args.flag,
            time: Some(args.at),
            description: args.note.unwrap_or_default(),
            action: Some(action),
            ..v1::Schedule::default()
        }),
        request_id: request_id.clone(),
        validate_only: args.write.dry_run,
    };
    let schedule = session
        .client
        .write(&request_id, request, |channel, request| async move {
            ScheduleServiceClient::new(channel).create_schedule(request).await
        })
        .await?;
    session.show(&schedule, |page| {
        let verb = verb(args.write.dry_run, "scheduled", "would schedule");
        let (id, when) = (key_of(&schedule.name), moment_text(schedule.time.as_ref()));
        page.line(Tone::Good, format!("{verb} {id} at {when}: {}", what(&schedule)));
    })
}

async fn list(session: &Session, flag: String, show_finished: bool) -> Result<(), Failure> {
    let all = listed(MAX_LISTED, 200, async |page_size, page_token| {
        let request = v1::ListSchedulesRequest {
            parent: session.parent(),
            page_size,
            page_token,
            flag: flag.clone(),
            show_finished,
        };
        let act = |channel, request| async move {
            ScheduleServiceClient::new(channel).list_schedules(request).await
        };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let mut sorted: Vec<&v1::Schedule> = all.schedules.iter().collect();
        sorted.sort_by_key(|schedule| schedule.time.map(|time| (time.seconds, time.nanos)));
        let rows = sorted
            .into_iter()
            .map(|schedule| {
                vec![
                    Cell::new(moment_text(schedule.time.as_ref())),
                    Cell::new(key_of(&schedule.name)),
                    Cell::new(&schedule.flag),
                    Cell::new(state(schedule)).tone(tone(schedule)),
                    Cell::new(what(schedule)),
                    Cell::new(principal_text(schedule.author.as_ref())),
                    Cell::new(&schedule.reason),
                ]
            })
            .collect();
        let headings = ["TIME", "SCHEDULE", "FLAG", "STATE", "WHAT", "AUTHOR", "REASON"];
        page.table(&headings, rows, "nothing is scheduled; see: featureops schedule create --help");
    })
}

fn state(schedule: &v1::Schedule) -> String {
    word_of(schedule.state().as_str_name(), "STATE_")
}

fn tone(schedule: &v1::Schedule) -> Tone {
    match schedule.state() {
        State::Failed => Tone::Bad,
        State::Done => Tone::Good,
        _ => Tone::Plain,
    }
}

/// `set default_variant`, or `archive`.
fn what(schedule: &v1::Schedule) -> String {
    match &schedule.action {
        Some(Action::Archive(_)) => "archive".to_owned(),
        Some(Action::Change(change)) => match &change.update_mask {
            Some(mask) if !mask.paths.is_empty() => format!("set {}", mask.paths.join(", ")),
            _ => "set the whole definition".to_owned(),
        },
        None => "-".to_owned(),
    }
}

fn describe(page: &mut Page, schedule: &v1::Schedule) {
    page.line(Tone::Strong, format!("{} is {}", key_of(&schedule.name), state(schedule)));
    page.facts([
        ("name", schedule.name.clone()),
        ("flag", schedule.flag.clone()),
        ("time", moment_text(schedule.time.as_ref())),
        ("what", what(schedule)),
        ("reason", schedule.reason.clone()),
        (
            "flag version",
            if schedule.flag_version > 0 { schedule.flag_version.to_string() } else { String::new() },
        ),
        ("author", principal_text(schedule.author.as_ref())),
        ("note", schedule.description.clone()),
        ("created", moment_text(schedule.create_time.as_ref())),
        ("finished", schedule.finish_time.as_ref().map(|time| moment_text(Some(time))).unwrap_or_default()),
        ("etag", schedule.etag.clone()),
    ]);
    page.line(Tone::Plain, "all of what it changes: -o yaml");
}
