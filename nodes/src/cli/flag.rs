//! `flag get|list|set|archive|explain|history|revert`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use featureops_proto::Collection::Flags;
use featureops_proto::v1;

use super::failure::{Exit, Failure};
use super::page::{Cell, Page, Tone};
use super::render::{self, key_of, value_of_json, value_text, word_of};
use super::rule::{describe_rule, parse_rule};
use super::session::{MAX_LISTED, Session, WriteArgs, principal_text, verb};
use super::span::{moment_text, parse_span, span_text};
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
    Set(Box<SetArgs>),
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
        #[arg(long, default_value_t = 20)]
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
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Type {
    Boolean,
    String,
    Number,
    Object,
}

impl Type {
    const fn message(self) -> v1::ValueType {
        match self {
            Self::Boolean => v1::ValueType::Boolean,
            Self::String => v1::ValueType::String,
            Self::Number => v1::ValueType::Number,
            Self::Object => v1::ValueType::Object,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  featureops flag set checkout --type boolean --variant on=true --variant off=false \\
    --default off --safe off --rule 'country = \"DE\" -> on' \\
    --rule 'plan in [\"pro\",\"team\"] and age >= 18 -> split on=2500,off=7500'
  featureops flag set checkout --update --disabled
  featureops flag get checkout -o yaml > flag.yaml && featureops flag set checkout --file flag.yaml

Rules: conditions joined by 'and', an arrow, and a variant or a split in basis points (or percent).
Operators: = != < <= > >= in, not in, starts_with, ends_with, contains, exists, not exists.
'id: ...' names a rule. Text stands in quotes. An alternative ('or') is another --rule.")]
pub struct SetArgs {
    key: String,
    /// The whole definition as JSON or YAML, as `flag get -o yaml` prints it; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["type", "variant", "default", "safe", "rule", "owner", "tag", "description", "disabled", "stale_after", "update"])]
    file: Option<PathBuf>,
    /// The type of every variant's value.
    #[arg(long = "type", id = "type", value_enum)]
    kind: Option<Type>,
    /// A variant and its value, as on=true; objects as JSON. Repeatable.
    #[arg(long, value_name = "NAME=VALUE")]
    variant: Vec<String>,
    /// Served when no rule matches; without one the caller's code default is used.
    #[arg(long, value_name = "VARIANT")]
    default: Option<String>,
    /// Served to everybody when the flag trips.
    #[arg(long, value_name = "VARIANT")]
    safe: Option<String>,
    /// A targeting rule; the first that matches serves. Repeatable, in order.
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    #[arg(long)]
    owner: Option<String>,
    /// Repeatable.
    #[arg(long)]
    tag: Vec<String>,
    #[arg(long)]
    description: Option<String>,
    /// Turn the flag off (or, with --update --disabled=false, on again).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    disabled: Option<bool>,
    /// Serve the safe variant once a node's state is older than this.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    stale_after: Option<std::time::Duration>,
    /// Change only what is given; without it the whole definition is replaced.
    #[arg(long)]
    update: bool,
    /// Refuse if the flag changed since this etag was read.
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    key: String,
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
        FlagCommand::Set(args) => set(session, *args).await,
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

async fn list(session: &Session, archived: bool) -> Result<(), Failure> {
    let mut all = v1::ListFlagsResponse::default();
    loop {
        let request = v1::ListFlagsRequest {
            parent: session.parent(),
            page_size: 200,
            page_token: std::mem::take(&mut all.next_page_token),
            show_archived: archived,
        };
        let mut page = session
            .client
            .read(request, |channel, request| async move {
                FlagServiceClient::new(channel).list_flags(request).await
            })
            .await?;
        all.flags.append(&mut page.flags);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.flags.len() >= MAX_LISTED {
            break;
        }
    }
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

fn show_written(session: &Session, flag: &v1::Flag, verb: &str) -> Result<(), Failure> {
    session.show(flag, |page| {
        page.line(
            Tone::Good,
            format!("{verb} flag {}, version {}, etag {}", key_of(&flag.name), flag.flag_version, flag.etag),
        );
    })
}

async fn set(session: &Session, args: SetArgs) -> Result<(), Failure> {
    let name = session.name(Flags, &args.key)?;
    let mut read_etag = String::new();
    let (flag, mask) = match &args.file {
        Some(path) => {
            let mut flag: v1::Flag = render::read_message(path)?;
            if !flag.name.is_empty() && flag.name != name {
                return Err(Failure::usage(format!("the file defines {}, not {name}", flag.name)));
            }
            flag.name = name;
            // What `flag get` printed carries the etag of what was read: between reading and writing nobody else's
            // change is lost. A file kept as the truth has none.
            read_etag = std::mem::take(&mut flag.etag);
            (flag, Vec::new())
        }
        None => definition(&args, name)?,
    };
    let guarded = args.file.is_some() && args.etag.is_none() && !read_etag.is_empty();
    let etag = args.etag.clone().unwrap_or(read_etag);
    let id = args.write.request.id()?;
    let request = v1::SetFlagRequest {
        flag: Some(flag),
        update_mask: args.update.then_some(prost_types::FieldMask { paths: mask }),
        request_id: id.clone(),
        validate_only: args.write.dry_run,
        etag,
    };
    let flag = session
        .client
        .write(&id, request, |channel, request| async move {
            FlagServiceClient::new(channel).set_flag(request).await
        })
        .await
        .map_err(|failure| match failure.exit {
            Exit::Conflict if guarded => failure.note(
                "the file carries the etag it was read with: read it again, or remove the etag to overwrite",
            ),
            _ => failure,
        })?;
    show_written(session, &flag, verb(args.write.dry_run, "set", "would set"))
}

/// The flag the options describe, and the fields they name.
fn definition(args: &SetArgs, name: String) -> Result<(v1::Flag, Vec<String>), Failure> {
    let mut flag = v1::Flag { name, ..v1::Flag::default() };
    let mut mask = Vec::new();
    let mut named = |field: &str| mask.push(field.to_owned());
    if let Some(kind) = args.kind {
        flag.r#type = kind.message().into();
        named("type");
    }
    if !args.variant.is_empty() {
        named("variants");
    }
    for text in &args.variant {
        let (variant, value) = variant(text, args.kind)?;
        if flag.variants.insert(variant.clone(), value).is_some() {
            return Err(Failure::usage(format!("--variant {variant} is given twice")));
        }
    }
    if let Some(default) = &args.default {
        flag.default_variant = Some(default.clone());
        named("default_variant");
    }
    if let Some(safe) = &args.safe {
        flag.safe_variant = Some(safe.clone());
        named("safe_variant");
    }
    for (place, text) in args.rule.iter().enumerate() {
        let rule = parse_rule(text, &format!("rule-{}", place + 1))
            .map_err(|error| Failure::usage(format!("--rule {}: {error}", place + 1)))?;
        flag.rules.push(rule);
    }
    if !args.rule.is_empty() {
        named("rules");
    }
    if let Some(owner) = &args.owner {
        flag.owner.clone_from(owner);
        named("owner");
    }
    if !args.tag.is_empty() {
        flag.tags.clone_from(&args.tag);
        named("tags");
    }
    if let Some(description) = &args.description {
        flag.description.clone_from(description);
        named("description");
    }
    if let Some(disabled) = args.disabled {
        flag.disabled = disabled;
        named("disabled");
    }
    if let Some(span) = args.stale_after {
        flag.stale_after_seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        named("stale_after_seconds");
    }
    if !args.update && (args.kind.is_none() || args.variant.is_empty()) {
        return Err(Failure::usage("a definition needs --type and --variant, or --file")
            .note("to change only what is given, add --update"));
    }
    if args.update && mask.is_empty() {
        return Err(Failure::usage("--update needs something to change"));
    }
    Ok((flag, mask))
}

/// `on=true` by the flag's type. Without a type (an update) a value that reads as JSON is one.
fn variant(text: &str, kind: Option<Type>) -> Result<(String, prost_types::Value), Failure> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(Failure::usage(format!("--variant '{text}' must be NAME=VALUE, as on=true")));
    };
    let wrong = |wanted: &str| Failure::usage(format!("--variant {name}: '{value}' is not {wanted}"));
    let json: Option<serde_json::Value> = serde_json::from_str(value).ok();
    let json = match (kind, json) {
        (Some(Type::String), _) => serde_json::Value::String(value.to_owned()),
        (Some(Type::Boolean), Some(json)) if json.is_boolean() => json,
        (Some(Type::Boolean), _) => return Err(wrong("true or false")),
        (Some(Type::Number), Some(json)) if json.is_number() => json,
        (Some(Type::Number), _) => return Err(wrong("a number")),
        (Some(Type::Object), Some(json)) if json.is_object() => json,
        (Some(Type::Object), _) => return Err(wrong("a JSON object")),
        (None, Some(json)) => json,
        (None, None) => serde_json::Value::String(value.to_owned()),
    };
    Ok((name.to_owned(), value_of_json(&json)))
}

/// The context of `--context`, `--attribute` and `--unit`, the later overruling the earlier.
fn context(args: &ExplainArgs) -> Result<prost_types::Struct, Failure> {
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
        context: Some(context(&args)?),
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
        page.heading("Steps");
        let rows = explained
            .steps
            .iter()
            .map(|step| {
                let (mark, tone) = if step.matched { ("yes", Tone::Good) } else { ("no", Tone::Faint) };
                vec![Cell::new(&step.subject), Cell::new(mark).tone(tone), Cell::new(&step.finding)]
            })
            .collect();
        page.table(&["LOOKED AT", "MATCHED", "FINDING"], rows, "no steps");
    })
}

async fn history(session: &Session, key: &str, limit: usize) -> Result<(), Failure> {
    let mut all = v1::ListFlagVersionsResponse::default();
    loop {
        let request = v1::ListFlagVersionsRequest {
            name: session.name(Flags, key)?,
            page_size: 100,
            page_token: std::mem::take(&mut all.next_page_token),
        };
        let mut page = session
            .client
            .read(request, |channel, request| async move {
                FlagServiceClient::new(channel).list_flag_versions(request).await
            })
            .await?;
        all.versions.append(&mut page.versions);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.versions.len() >= limit.min(MAX_LISTED) {
            break;
        }
    }
    all.versions.truncate(limit);
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Harness {
        #[command(flatten)]
        set: SetArgs,
    }

    fn parsed(args: &[&str]) -> Result<(v1::Flag, Vec<String>), Failure> {
        let harness =
            Harness::try_parse_from(["set"].iter().chain(args)).unwrap_or_else(|error| panic!("{error}"));
        definition(&harness.set, "environments/production/flags/checkout".to_owned())
    }

    #[test]
    fn quick_options_make_a_definition() {
        let (flag, _) = parsed(&[
            "checkout",
            "--type",
            "boolean",
            "--variant",
            "on=true",
            "--variant",
            "off=false",
            "--default",
            "off",
            "--safe",
            "off",
            "--rule",
            "country = \"DE\" -> on",
            "--rule",
            "beta: vip exists -> split on=25%,off=75%",
            "--owner",
            "payments",
            "--tag",
            "a",
            "--tag",
            "b",
            "--stale-after",
            "5m",
        ])
        .unwrap();
        assert_eq!(flag.r#type(), v1::ValueType::Boolean);
        assert_eq!(flag.variants.len(), 2);
        assert_eq!(flag.rules.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["rule-1", "beta"]);
        assert_eq!((flag.tags.len(), flag.stale_after_seconds), (2, 300));
        let mut page = Page::new(false);
        describe(&mut page, &flag);
        let text = page.into_text();
        assert!(text.starts_with("checkout is active\n"), "{text}");
        assert!(text.contains("rule-1  country = \"DE\" -> on\n"), "{text}");
        assert!(text.contains("beta    vip exists -> split on=2500,off=7500\n"), "{text}");
    }

    #[test]
    fn an_update_names_only_what_is_given() {
        let (flag, mask) = parsed(&["checkout", "--update", "--disabled=false"]).unwrap();
        assert_eq!((flag.disabled, mask), (false, vec!["disabled".to_owned()]));
        assert!(parsed(&["checkout", "--disabled"]).unwrap_err().render().contains("--update"));
        assert!(parsed(&["checkout", "--update"]).is_err());
    }

    #[test]
    fn variants_have_the_flags_type() {
        for (text, kind, part) in [
            ("on", Some(Type::Boolean), "NAME=VALUE"),
            ("on=yes", Some(Type::Boolean), "true or false"),
            ("n=x", Some(Type::Number), "a number"),
            ("o=[1]", Some(Type::Object), "a JSON object"),
        ] {
            assert!(variant(text, kind).unwrap_err().message.contains(part), "{text}");
        }
        assert_eq!(value_text(&variant("s=true", Some(Type::String)).unwrap().1), "\"true\"");
        assert_eq!(value_text(&variant("o={\"a\":1}", Some(Type::Object)).unwrap().1), "{\"a\":1}");
        let error =
            parsed(&["c", "--type", "boolean", "--variant", "on=true", "--rule", "x = y -> on"]).unwrap_err();
        assert!(error.render().contains("--rule 1: text stands in quotes"), "{}", error.render());
    }
}
