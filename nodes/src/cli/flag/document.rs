//! `flag import|export`: sets of flags as a flagd document.

use std::path::PathBuf;

use clap::Args;
use featureops_proto::v1;

use crate::cli::failure::Failure;
use crate::cli::page::Tone;
use crate::cli::render::{self, key_of};
use crate::cli::session::{Session, WriteArgs, print, progress, verb};
use crate::cli::settings::Output;
use crate::rpc::environment_service_client::EnvironmentServiceClient;

/// An export is one message, and larger than most.
const EXPORT_BYTES_MAX: usize = 256 << 20;
/// Names on a line of the table; `-o json` has all.
const NAMES_SHOWN: usize = 20;

#[derive(Debug, Args)]
#[command(
    after_help = "The document is taken in whole or not at all. What flagd would load is kept: where it cannot compile, a
warning says so and the flag answers PARSE_ERROR. `flag set` on an imported flag ends that.
A document has at most 4 MiB; a larger set is split by flags and imported part by part, without --prune."
)]
pub struct ImportArgs {
    /// A flagd document as JSON or YAML; `-` reads standard input.
    file: PathBuf,
    /// Archive the environment's flags that the document does not hold, unless a trip or an experiment holds them.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn import(session: &Session, args: ImportArgs) -> Result<(), Failure> {
    let text = render::read_text(&args.file)
        .map_err(|failure| failure.note("import a larger set part by part, without --prune"))?;
    // JSON goes as it is, so that what is said of it (a key written twice) is said of the file.
    let document = if text.trim_start().starts_with('{') {
        text
    } else {
        let parsed = render::parse_object(&text);
        parsed.map_err(|error| Failure::usage(format!("{}: {error}", args.file.display())))?.to_string()
    };
    let id = args.write.request.id()?;
    let request = v1::ImportFlagsRequest {
        parent: session.parent(),
        document,
        prune: args.prune,
        request_id: id.clone(),
        validate_only: args.write.dry_run,
    };
    let done = session
        .client
        .write(&id, request, |channel, request| async move {
            EnvironmentServiceClient::new(channel)
                .max_decoding_message_size(EXPORT_BYTES_MAX)
                .import_flags(request)
                .await
        })
        .await?;
    session.show(&done, |page| {
        let verb = verb(args.write.dry_run, "imported", "would import");
        let into = done.environment.as_ref().map_or_else(String::new, |e| key_of(&e.name).to_owned());
        let (changed, archived) = (done.changed_count, done.archived_count);
        let summary = format!(
            "{verb} into {into}: {changed} changed, {archived} archived, {} unchanged, {} warnings",
            done.unchanged,
            done.warnings.len()
        );
        page.line(if done.warnings.is_empty() { Tone::Good } else { Tone::Warn }, summary);
        page.facts([("changed", shortened(&done.changed)), ("archived", shortened(&done.archived))]);
        for warning in &done.warnings {
            page.line(Tone::Warn, format!("{}: {}", warning.path, warning.message));
        }
    })
}

fn shortened(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

pub async fn export(session: &Session) -> Result<(), Failure> {
    let request = v1::ExportFlagsRequest { parent: session.parent() };
    let written = session
        .client
        .read(request, |channel, request| async move {
            EnvironmentServiceClient::new(channel)
                .max_decoding_message_size(EXPORT_BYTES_MAX)
                .export_flags(request)
                .await
        })
        .await?;
    for warning in &written.warnings {
        progress(&format!("warning: {}: {}", warning.path, warning.message));
    }
    match session.settings.output {
        // A table of a document is the document.
        Output::Table | Output::Json => print(&written.document),
        Output::Yaml => {
            let parsed: serde_json::Value = serde_json::from_str(&written.document)
                .map_err(|error| Failure::internal(format!("the export is not JSON: {error}")))?;
            session.show_value(&parsed, |_| {})
        }
    }
}
