//! `environment get|list|set|promote`.

mod promote;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use featureops_proto::{environment_of, v1};

use super::failure::Failure;
use super::flag::{metadata, metadata_text};
use super::listing::{MAX_LISTED, listed};
use super::page::{Cell, Page, Tone};
use super::render::{self, key_of};
use super::session::{Session, WriteArgs, verb};
use super::span::moment_text;
use crate::rpc::environment_service_client::EnvironmentServiceClient;

#[derive(Debug, Subcommand)]
pub enum EnvironmentCommand {
    /// Show what the flags of an environment share.
    Get {
        /// [default: the one of --environment]
        id: Option<String>,
    },
    /// List the environments that hold anything or were set.
    List,
    /// Change what the flags of an environment share; what is not named stays as it is.
    Set(Box<SetArgs>),
    /// Write flags of one environment into another, as one change.
    Promote(promote::PromoteArgs),
}

/// Which bytes `fractional` and the allocation hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generation {
    /// Of text, as flagd 0.16 and its clients up to October 2026.
    #[value(name = "2")]
    Second,
    /// Of deterministic CBOR, as newer clients.
    #[value(name = "3")]
    Third,
}

impl Generation {
    const fn message(self) -> v1::FractionalVersion {
        match self {
            Self::Second => v1::FractionalVersion::FractionalVersion2,
            Self::Third => v1::FractionalVersion::FractionalVersion3,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  featureops environment set --source flags.json --metadata flagSetId=shop --fractional 3
  featureops environment set staging --evaluators evaluators.json
  featureops environment set --evaluator staff=staff.json --dry-run
  featureops environment get -o yaml > environment.yaml && featureops environment set --file environment.yaml")]
pub struct SetArgs {
    /// [default: the one of --environment]
    id: Option<String>,
    /// The whole environment as JSON or YAML, as `environment get -o yaml` prints it; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "metadata", "no_metadata", "fractional", "evaluators", "evaluator", "no_evaluators", "description"])]
    file: Option<PathBuf>,
    /// What selectors call source; empty for the environment's id.
    #[arg(long)]
    source: Option<String>,
    /// Added to every flag's metadata, as flagSetId=shop; these replace what was there. Repeatable.
    #[arg(long, value_name = "NAME=VALUE")]
    metadata: Vec<String>,
    /// Take all metadata away.
    #[arg(long, conflicts_with = "metadata")]
    no_metadata: bool,
    /// The generation of `fractional`; it cannot change while an experiment runs.
    #[arg(long, value_enum)]
    fractional: Option<Generation>,
    /// A file of all shared rules, {"NAME": JsonLogic}, or a flagd document that holds them as "$evaluators".
    #[arg(long, value_name = "FILE")]
    evaluators: Option<PathBuf>,
    /// One shared rule from a file of JsonLogic; the others stay. Repeatable.
    #[arg(long, value_name = "NAME=FILE")]
    evaluator: Vec<String>,
    /// Take all shared rules away.
    #[arg(long, conflicts_with_all = ["evaluators", "evaluator"])]
    no_evaluators: bool,
    #[arg(long)]
    description: Option<String>,
    /// Refuse if the environment changed since this etag was read.
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(session: &Session, command: EnvironmentCommand) -> Result<(), Failure> {
    match command {
        EnvironmentCommand::Get { id } => {
            let environment = fetch(session, &name(session, id.as_deref())?).await?;
            session.show(&environment, |page| describe(page, &environment))
        }
        EnvironmentCommand::List => list(session).await,
        EnvironmentCommand::Set(args) => set(session, *args).await,
        EnvironmentCommand::Promote(args) => promote::promote(session, args).await,
    }
}

/// `environments/{id}`, of the environment of the session unless another is named.
fn name(session: &Session, id: Option<&str>) -> Result<String, Failure> {
    let name = match id {
        Some(id) if id.starts_with("environments/") => id.to_owned(),
        Some(id) => format!("environments/{id}"),
        None => session.parent(),
    };
    environment_of(&name).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(name)
}

/// Reads one environment by its name.
pub async fn fetch(session: &Session, name: &str) -> Result<v1::Environment, Failure> {
    let request = v1::GetEnvironmentRequest { name: name.to_owned() };
    session
        .client
        .read(request, |channel, request| async move {
            EnvironmentServiceClient::new(channel).get_environment(request).await
        })
        .await
}

async fn list(session: &Session) -> Result<(), Failure> {
    let all = listed(MAX_LISTED, 100, async |page_size, page_token| {
        let request = v1::ListEnvironmentsRequest { page_size, page_token };
        let act = |channel, request| async move {
            EnvironmentServiceClient::new(channel).list_environments(request).await
        };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let rows = all
            .environments
            .iter()
            .map(|environment| {
                vec![
                    Cell::new(key_of(&environment.name)),
                    Cell::new(source(environment)),
                    Cell::new(generation(environment)),
                    Cell::number(environment.evaluators.len().to_string()),
                    Cell::new(environment.metadata.as_ref().map(metadata_text).unwrap_or_default()),
                    Cell::number(environment.environment_version.to_string()),
                    Cell::new(&environment.description),
                ]
            })
            .collect();
        let headings =
            ["ENVIRONMENT", "SOURCE", "FRACTIONAL", "EVALUATORS", "METADATA", "VERSION", "DESCRIPTION"];
        page.table(&headings, rows, "no environments; one is there as soon as it holds a flag");
    })
}

fn source(environment: &v1::Environment) -> &str {
    if environment.source.is_empty() { key_of(&environment.name) } else { &environment.source }
}

const fn generation(environment: &v1::Environment) -> &'static str {
    match environment.fractional {
        3 => "3",
        _ => "2",
    }
}

fn describe(page: &mut Page, environment: &v1::Environment) {
    page.line(Tone::Strong, key_of(&environment.name));
    page.facts([
        ("name", environment.name.clone()),
        ("source", source(environment).to_owned()),
        ("fractional", generation(environment).to_owned()),
        ("metadata", environment.metadata.as_ref().map(metadata_text).unwrap_or_default()),
        ("description", environment.description.clone()),
        (
            "version",
            match environment.environment_version {
                0 => "0, never set: these are the defaults".to_owned(),
                version => format!("{version}, {}", moment_text(environment.update_time.as_ref())),
            },
        ),
        ("etag", environment.etag.clone()),
    ]);
    page.heading("Shared rules");
    let rows =
        environment.evaluators.iter().map(|(name, rule)| vec![Cell::new(name), Cell::new(rule)]).collect();
    page.table(&["NAME", "RULE"], rows, "no shared rules");
}

async fn set(session: &Session, args: SetArgs) -> Result<(), Failure> {
    let name = name(session, args.id.as_deref())?;
    let environment = match &args.file {
        Some(path) => {
            let environment: v1::Environment = render::read_message(path)?;
            if !environment.name.is_empty() && environment.name != name {
                return Err(Failure::usage(format!("the file defines {}, not {name}", environment.name)));
            }
            v1::Environment { name, ..environment }
        }
        None => changed(fetch(session, &name).await?, &args)?,
    };
    // What was read, from the node or from the file, is what is changed: nobody else's change is lost in between.
    let etag = args.etag.unwrap_or_else(|| environment.etag.clone());
    let id = args.write.request.id()?;
    let request = v1::SetEnvironmentRequest {
        environment: Some(environment),
        request_id: id.clone(),
        validate_only: args.write.dry_run,
        etag,
    };
    let environment = session
        .client
        .write(&id, request, |channel, request| async move {
            EnvironmentServiceClient::new(channel).set_environment(request).await
        })
        .await?;
    session.show(&environment, |page| {
        let verb = verb(args.write.dry_run, "set", "would set");
        let key = key_of(&environment.name);
        let (version, etag) = (environment.environment_version, &environment.etag);
        page.line(Tone::Good, format!("{verb} environment {key}, version {version}, etag {etag}"));
    })
}

/// The environment with what the options name.
fn changed(mut environment: v1::Environment, args: &SetArgs) -> Result<v1::Environment, Failure> {
    let before = environment.clone();
    let mut named = args.no_metadata || args.no_evaluators;
    if let Some(source) = &args.source {
        environment.source.clone_from(source);
        named = true;
    }
    if let Some(description) = &args.description {
        environment.description.clone_from(description);
        named = true;
    }
    if let Some(generation) = args.fractional {
        environment.fractional = generation.message().into();
        named = true;
    }
    if !args.metadata.is_empty() {
        environment.metadata = Some(metadata(&args.metadata)?);
        named = true;
    }
    if args.no_metadata {
        environment.metadata = None;
    }
    if args.no_evaluators {
        environment.evaluators = BTreeMap::new();
    }
    if let Some(path) = &args.evaluators {
        environment.evaluators = evaluators(path)?;
        named = true;
    }
    for text in &args.evaluator {
        let Some((name, path)) = text.split_once('=') else {
            return Err(Failure::usage(format!(
                "--evaluator '{text}' must be NAME=FILE, as staff=staff.json"
            )));
        };
        let rule = render::read_text(Path::new(path))?;
        let rule = render::parse_object(&rule).map_err(|error| Failure::usage(format!("{path}: {error}")))?;
        if rule.get("$evaluators").is_some() {
            let message =
                format!("{path}: holds \"$evaluators\", shared rules by their names, and not one rule");
            return Err(Failure::usage(message).note(format!("give all of them: --evaluators {path}")));
        }
        environment.evaluators.insert(name.to_owned(), rule.to_string());
        named = true;
    }
    if !named && before == environment {
        return Err(Failure::usage("nothing is named that could change; see environment set --help"));
    }
    Ok(environment)
}

/// Shared rules by name, from a file of them or from a document that holds them.
fn evaluators(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let fault = |message: String| Failure::usage(format!("{}: {message}", path.display()));
    let mut parsed = render::parse_object(&render::read_text(path)?).map_err(fault)?;
    if let Some(inner) = parsed.get_mut("$evaluators") {
        parsed = inner.take();
    } else if parsed.get("flags").is_some() {
        return Err(fault("is a flagd document without \"$evaluators\"; it has no shared rules".to_owned()));
    }
    match parsed {
        serde_json::Value::Object(rules) => {
            Ok(rules.into_iter().map(|(name, rule)| (name, rule.to_string())).collect())
        }
        _ => Err(fault("must be an object of shared rules by their names".to_owned())),
    }
}
