//! `flag get|list|set|archive|explain|history|revert`, and the way to `flag force|unforce|import|export|test|lint`.

mod definition;
mod definitions;
mod document;
mod findings;
mod forced;
mod lint;
mod nature;
mod ramps;
mod segments;
mod shadow;
mod table;
mod test;

use clap::{Args, Subcommand};
use featureops_proto::Collection::Flags;
use featureops_proto::v1;

pub use definition::{Fields, metadata, named};

use super::failure::Failure;
use super::listing::{MAX_LISTED, listed, parse_limit};
use super::page::{Cell, Page, Tone};
use super::render::{self, key_of, value_of_json, value_text, word_of};
use super::rule::describe_rule;
use super::session::{Session, WriteArgs, principal_text, verb};
use super::span::{moment_text, span_text};
use crate::rpc::evaluation_service_client::EvaluationServiceClient;
use crate::rpc::flag_service_client::FlagServiceClient;

#[derive(Debug, Subcommand)]
pub enum FlagCommand {
    /// Show a flag.
    Get { key: String },
    /// List the environment's flags.
    List {
        /// Archived ones too.
        #[arg(long)]
        archived: bool,
    },
    /// Define a flag, from a file or from options.
    Set(Box<definition::SetArgs>),
    /// Archive a flag: it evaluates like an unknown one and keeps its history.
    Archive {
        key: String,
        /// Refuse if the flag changed since this etag was read.
        #[arg(long)]
        etag: Option<String>,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Evaluate a flag for one unit and show every step. Counts as no exposure.
    Explain(ExplainArgs),
    /// List a flag's versions, newest first.
    History {
        key: String,
        #[arg(long, default_value_t = 20, value_parser = parse_limit)]
        limit: usize,
    },
    /// Write an earlier version's definition as a new version.
    Revert {
        key: String,
        /// The version to return to.
        #[arg(long, value_name = "VERSION")]
        to: u64,
        /// Refuse if the flag changed since this etag was read.
        #[arg(long)]
        etag: Option<String>,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Serve a unit one variant, whatever the flag's rules, prerequisites and experiment say: for trying out. It is no
    /// assignment and counts in no experiment. Units are kept in clear.
    Force(forced::ForceArgs),
    /// Serve a unit what everybody like it gets, again.
    Unforce(forced::UnforceArgs),
    /// Take in a flagd document, whole or not at all.
    Import(document::ImportArgs),
    /// Print the environment's flags as a flagd document.
    Export,
    /// Compare answers with a table of contexts and what is expected, on the server or on a file of definitions.
    Test(test::TestArgs),
    /// Find what can never happen: rules that never match, variants never served, shared rules nobody refers to.
    Lint(lint::LintArgs),
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    key: String,
    #[command(flatten)]
    context: ContextArgs,
}

/// Who is asked about.
#[derive(Debug, Args)]
pub struct ContextArgs {
    /// The targeting key.
    #[arg(long)]
    unit: Option<String>,
    /// A context attribute; a value that reads as JSON is one (18, true, "18"), else it is text. Repeatable.
    #[arg(long = "attribute", short = 'a', value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    /// The whole context as a JSON object.
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
}

pub async fn run(session: &Session, command: FlagCommand) -> Result<(), Failure> {
    match command {
        FlagCommand::Get { key } => {
            let flag = fetch(session, &key).await?;
            session.show(&flag, |page| describe(page, &flag))
        }
        FlagCommand::List { archived } => list(session, archived).await,
        FlagCommand::Set(args) => definition::set(session, *args).await,
        FlagCommand::Archive { key, etag, write } => {
            let id = write.request.id()?;
            let request = v1::ArchiveFlagRequest {
                name: session.name(Flags, &key)?,
                request_id: id.clone(),
                validate_only: write.dry_run,
                etag: etag.unwrap_or_default(),
            };
            let flag = session
                .client
                .write(&id, request, |channel, request| async move {
                    FlagServiceClient::new(channel).archive_flag(request).await
                })
                .await?;
            show_written(session, &flag, verb(write.dry_run, "archived", "would archive"))
        }
        FlagCommand::Explain(args) => explain(session, args).await,
        FlagCommand::Force(args) => forced::force(session, args).await,
        FlagCommand::Unforce(args) => forced::unforce(session, args).await,
        FlagCommand::Import(args) => document::import(session, args).await,
        FlagCommand::Export => document::export(session).await,
        FlagCommand::Test(args) => test::run(session, args).await,
        FlagCommand::Lint(args) => lint::run(session, args).await,
        FlagCommand::History { key, limit } => history(session, &key, limit).await,
        FlagCommand::Revert { key, to, etag, write } => {
            let id = write.request.id()?;
            let request = v1::RevertFlagRequest {
                name: session.name(Flags, &key)?,
                to_version: to,
                request_id: id.clone(),
                validate_only: write.dry_run,
                etag: etag.unwrap_or_default(),
            };
            let flag = session
                .client
                .write(&id, request, |channel, request| async move {
                    FlagServiceClient::new(channel).revert_flag(request).await
                })
                .await?;
            show_written(session, &flag, verb(write.dry_run, "reverted", "would revert"))
        }
    }
}

/// Reads one flag.
pub async fn fetch(session: &Session, key: &str) -> Result<v1::Flag, Failure> {
    let request = v1::GetFlagRequest { name: session.name(Flags, key)? };
    session
        .client
        .read(
            request,
            |channel, request| async move { FlagServiceClient::new(channel).get_flag(request).await },
        )
        .await
}

/// Reads all flags of the environment.
async fn fetch_all(session: &Session, archived: bool) -> Result<v1::ListFlagsResponse, Failure> {
    listed(MAX_LISTED, 200, async |page_size, page_token| {
        let request =
            v1::ListFlagsRequest { parent: session.parent(), page_size, page_token, show_archived: archived };
        let act = |channel, request| async move { FlagServiceClient::new(channel).list_flags(request).await };
        session.client.read(request, act).await
    })
    .await
}

async fn list(session: &Session, archived: bool) -> Result<(), Failure> {
    let all = fetch_all(session, archived).await?;
    session.show(&all, |page| {
        let rows = all
            .flags
            .iter()
            .map(|flag| {
                vec![
                    Cell::new(key_of(&flag.name)),
                    Cell::new(word_of(flag.r#type().as_str_name(), "VALUE_TYPE_")),
                    state_cell(flag),
                    Cell::new(flag.default_variant.as_deref().unwrap_or("(code)")),
                    Cell::number(flag.rules.len().to_string()),
                    Cell::number(flag.flag_version.to_string()),
                    Cell::new(moment_text(flag.update_time.as_ref())),
                    Cell::new(&flag.owner),
                ]
            })
            .collect();
        let headings = ["FLAG", "TYPE", "STATE", "DEFAULT", "RULES", "VERSION", "CHANGED", "OWNER"];
        page.table(&headings, rows, "no flags in this environment; create one with: featureops flag set");
    })
}

fn state_cell(flag: &v1::Flag) -> Cell {
    let (text, tone) = state(flag);
    Cell::new(text).tone(tone)
}

fn state(flag: &v1::Flag) -> (&'static str, Tone) {
    if flag.archived {
        ("archived", Tone::Faint)
    } else if flag.trip.is_some() {
        ("tripped", Tone::Bad)
    } else if flag.disabled {
        ("disabled", Tone::Warn)
    } else if flag.allocation.is_some() {
        ("experiment", Tone::Good)
    } else {
        ("active", Tone::Good)
    }
}

/// One flag, for people.
pub fn describe(page: &mut Page, flag: &v1::Flag) {
    let (state, tone) = state(flag);
    page.line(tone, format!("{} is {state}", key_of(&flag.name)));
    let autonomy = flag.autonomy.map(|levels| super::autonomy::levels_text(&levels)).unwrap_or_default();
    let purpose = if flag.purpose == 0 { "" } else { flag.purpose().as_str_name() };
    page.facts([
        ("name", flag.name.clone()),
        ("type", word_of(flag.r#type().as_str_name(), "VALUE_TYPE_")),
        ("default", flag.default_variant.clone().unwrap_or_else(|| "(the caller's code default)".to_owned())),
        ("safe", flag.safe_variant.clone().unwrap_or_default()),
        ("description", flag.description.clone()),
        ("owner", flag.owner.clone()),
        ("tags", flag.tags.join(", ")),
        (
            "stale after",
            if flag.stale_after_seconds > 0 { span_text(flag.stale_after_seconds) } else { String::new() },
        ),
        ("purpose", word_of(purpose, "PURPOSE_")),
        ("metadata", flag.metadata.as_ref().map(metadata_text).unwrap_or_default()),
        (
            "imported",
            if flag.imported { "yes, kept as flagd would keep it".to_owned() } else { String::new() },
        ),
        ("autonomy", autonomy),
        ("version", format!("{}, {}", flag.flag_version, moment_text(flag.update_time.as_ref()))),
        ("etag", flag.etag.clone()),
    ]);
    if let Some(trip) = &flag.trip {
        page.heading("Tripped");
        page.line(
            Tone::Bad,
            format!(
                "{} by {}: {}",
                moment_text(trip.time.as_ref()),
                principal_text(trip.principal.as_ref()),
                trip.reason
            ),
        );
        page.line(Tone::Plain, format!("resume with: featureops resume {} --reason ...", key_of(&flag.name)));
    }
    page.heading("Variants");
    let rows =
        flag.variants.iter().map(|(name, value)| vec![Cell::new(name), value_text(value).into()]).collect();
    page.table(&["VARIANT", "VALUE"], rows, "no variants");
    if !flag.targeting.is_empty() {
        page.heading("Targeting");
        page.line(Tone::Plain, &flag.targeting);
        for warning in &flag.warnings {
            page.line(Tone::Warn, warning);
        }
    }
    if !flag.forced.is_empty() {
        page.heading("Forced units");
        let rows =
            flag.forced.iter().map(|(unit, variant)| vec![Cell::new(unit), Cell::new(variant)]).collect();
        page.table(&["UNIT", "VARIANT"], rows, "none");
    }
    if !flag.prerequisites.is_empty() {
        page.heading("Prerequisites, all must hold");
        let row = |p: &v1::Prerequisite| vec![Cell::new(&p.flag), Cell::new(p.variants.join(", "))];
        page.table(&["FLAG", "SERVES"], flag.prerequisites.iter().map(row).collect(), "none");
    }
    page.heading("Rules, first match serves");
    let rows = flag.rules.iter().map(|rule| vec![Cell::new(&rule.id), describe_rule(rule).into()]).collect();
    page.table(&["ID", "RULE"], rows, "no rules");
    if let Some(allocation) = &flag.allocation {
        page.heading("Allocation of the running experiment");
        let rows = allocation
            .variants
            .iter()
            .zip(&allocation.weights_basis_points)
            .map(|(variant, weight)| vec![Cell::new(variant), Cell::number(render::share_text(*weight))])
            .collect();
        page.table(&["ARM", "TRAFFIC"], rows, "no arms");
    }
}

/// `team="payments", level=3`.
pub fn metadata_text(metadata: &prost_types::Struct) -> String {
    let fields = metadata.fields.iter().map(|(name, value)| format!("{name}={}", value_text(value)));
    fields.collect::<Vec<_>>().join(", ")
}

fn show_written(session: &Session, flag: &v1::Flag, verb: &str) -> Result<(), Failure> {
    session.show(flag, |page| {
        page.line(
            Tone::Good,
            format!("{verb} flag {}, version {}, etag {}", key_of(&flag.name), flag.flag_version, flag.etag),
        );
    })
}

impl ContextArgs {
    /// The context of `--context`, `--attribute` and `--unit`, the later overruling the earlier.
    pub fn context(&self) -> Result<prost_types::Struct, Failure> {
        context(self)
    }
}

fn context(args: &ContextArgs) -> Result<prost_types::Struct, Failure> {
    let mut fields = match &args.context {
        Some(text) => match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(fields)) => fields,
            Ok(_) => return Err(Failure::usage("--context must be a JSON object")),
            Err(error) => return Err(Failure::usage(format!("--context: {error}"))),
        },
        None => serde_json::Map::new(),
    };
    for text in &args.attributes {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Failure::usage(format!("--attribute '{text}' must be NAME=VALUE, as country=DE")));
        };
        let value =
            serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::String(value.to_owned()));
        fields.insert(name.to_owned(), value);
    }
    if let Some(unit) = &args.unit {
        fields.insert("targetingKey".to_owned(), serde_json::Value::String(unit.clone()));
    }
    Ok(prost_types::Struct {
        fields: fields.iter().map(|(key, value)| (key.clone(), value_of_json(value))).collect(),
    })
}

async fn explain(session: &Session, args: ExplainArgs) -> Result<(), Failure> {
    let request = v1::ExplainRequest {
        environment: session.parent(),
        flag: key_of(&args.key).to_owned(),
        context: Some(args.context.context()?),
    };
    let explained = session
        .client
        .read(request, |channel, request| async move {
            EvaluationServiceClient::new(channel).explain(request).await
        })
        .await?;
    session.show(&explained, |page| {
        if let Some(answer) = &explained.evaluation {
            let served = match (&answer.variant, &answer.value) {
                (Some(variant), Some(value)) => format!("{variant} = {}", value_text(value)),
                (Some(variant), None) => variant.clone(),
                _ => "the caller's code default".to_owned(),
            };
            let tone = if answer.error_message.is_empty() { Tone::Good } else { Tone::Bad };
            page.line(tone, format!("{served}, because {}", word_of(answer.reason().as_str_name(), "")));
            page.facts([
                ("error", answer.error_message.clone()),
                ("flag version", answer.flag_version.to_string()),
                ("bucket", explained.bucket.map(|b| format!("{b} of 10000")).unwrap_or_default()),
                ("propensity", answer.propensity_basis_points.map(render::share_text).unwrap_or_default()),
                ("state age", format!("{} ms", answer.state_age_ms)),
            ]);
        }
        show_steps(page, &explained.steps);
    })
}

/// What an explanation looked at.
pub fn show_steps(page: &mut Page, steps: &[v1::ExplainStep]) {
    page.heading("Steps");
    let rows = steps
        .iter()
        .map(|step| {
            let (mark, tone) = if step.matched { ("yes", Tone::Good) } else { ("no", Tone::Faint) };
            vec![Cell::new(&step.subject), Cell::new(mark).tone(tone), Cell::new(&step.finding)]
        })
        .collect();
    page.table(&["LOOKED AT", "MATCHED", "FINDING"], rows, "no steps");
}

async fn history(session: &Session, key: &str, limit: usize) -> Result<(), Failure> {
    let all = listed(limit, 100, async |page_size, page_token| {
        let request = v1::ListFlagVersionsRequest { name: session.name(Flags, key)?, page_size, page_token };
        let act = |channel, request| async move {
            FlagServiceClient::new(channel).list_flag_versions(request).await
        };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let rows = all
            .versions
            .iter()
            .map(|version| {
                vec![
                    Cell::number(version.flag_version.to_string()),
                    Cell::new(moment_text(version.time.as_ref())),
                    Cell::new(&version.change),
                    Cell::new(principal_text(version.principal.as_ref())),
                    Cell::new(key_of(&version.decision)),
                    Cell::new(if version.definition.is_some() { "yes" } else { "" }),
                ]
            })
            .collect();
        page.table(&["VERSION", "TIME", "CHANGE", "BY", "DECISION", "REVERTIBLE"], rows, "no versions");
    })
}
