//! `segment set|get|list|delete|add|remove|test`.

mod units;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use featureops_proto::Collection::Segments;
use featureops_proto::v1;

use super::failure::{Failure, present};
use super::flag::{ContextArgs, show_steps};
use super::listing::{MAX_LISTED, listed};
use super::page::{Cell, Page, Tone};
use super::render::{self, count_text, key_of};
use super::rule::{describe_clause, parse_clause};
use super::session::{Session, WriteArgs, verb};
use super::span::moment_text;
use crate::rpc::segment_service_client::SegmentServiceClient;

#[derive(Debug, Subcommand)]
pub enum SegmentCommand {
    /// Show a segment, and who asks about it.
    Get { key: String },
    /// List the environment's segments.
    List,
    /// Define a segment, or change what is named of it; its list of units stays.
    Set(Box<SetArgs>),
    /// Delete a segment with its list. Refused while a flag or another segment asks about it.
    Delete {
        key: String,
        /// Refuse if the segment changed since this etag was read.
        #[arg(long)]
        etag: Option<String>,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Put units on a segment's list.
    Add(units::UnitsArgs),
    /// Take units off a segment's list.
    Remove(units::UnitsArgs),
    /// Ask whether a unit is in a segment, and show every step.
    Test {
        key: String,
        #[command(flatten)]
        context: ContextArgs,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "A unit is in a segment when one of its clauses holds, or when it is on its list (segment add).

Examples:
  featureops segment set staff --clause 'email ends_with \"@example.com\"'
  featureops segment set beta --clause 'in-segment(staff)' --clause 'country = \"DE\" and plan = \"pro\"'
  featureops segment add beta --file units.txt
  featureops flag set checkout --update --rule 'in-segment(beta) and not in-segment(blocked) -> on'

Clauses: conditions joined by 'and', as in flag rules; an alternative is another --clause."
)]
pub struct SetArgs {
    key: String,
    /// The whole segment as JSON or YAML, as `segment get -o yaml` prints it; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["clause", "no_clauses", "description", "owner", "tag"])]
    file: Option<PathBuf>,
    /// Conditions that all hold; these replace the clauses that were there. Repeatable.
    #[arg(long, value_name = "CONDITIONS")]
    clause: Vec<String>,
    /// Take all clauses away: only the list counts.
    #[arg(long, conflicts_with = "clause")]
    no_clauses: bool,
    #[arg(long)]
    description: Option<String>,
    #[arg(long)]
    owner: Option<String>,
    /// These replace what was there. Repeatable.
    #[arg(long)]
    tag: Vec<String>,
    /// Refuse if the segment changed since this etag was read.
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(session: &Session, command: SegmentCommand) -> Result<(), Failure> {
    match command {
        SegmentCommand::Get { key } => {
            let segment = fetch(session, &key).await?;
            session.show(&segment, |page| describe(page, &segment))
        }
        SegmentCommand::List => list(session).await,
        SegmentCommand::Set(args) => set(session, *args).await,
        SegmentCommand::Delete { key, etag, write } => delete(session, &key, etag, &write).await,
        SegmentCommand::Add(args) => units::change(session, args, units::Change::Add).await,
        SegmentCommand::Remove(args) => units::change(session, args, units::Change::Remove).await,
        SegmentCommand::Test { key, context } => test(session, &key, &context).await,
    }
}

async fn fetch(session: &Session, key: &str) -> Result<v1::Segment, Failure> {
    let request = v1::GetSegmentRequest { name: session.name(Segments, key)? };
    session
        .client
        .read(request, |channel, request| async move {
            SegmentServiceClient::new(channel).get_segment(request).await
        })
        .await
}

/// All of the environment.
pub async fn fetch_all(session: &Session) -> Result<v1::ListSegmentsResponse, Failure> {
    listed(MAX_LISTED, 100, async |page_size, page_token| {
        let request = v1::ListSegmentsRequest { parent: session.parent(), page_size, page_token };
        let act =
            |channel, request| async move { SegmentServiceClient::new(channel).list_segments(request).await };
        session.client.read(request, act).await
    })
    .await
}

async fn list(session: &Session) -> Result<(), Failure> {
    let all = fetch_all(session).await?;
    session.show(&all, |page| {
        let row = |segment: &v1::Segment| {
            vec![
                Cell::new(key_of(&segment.name)),
                Cell::number(segment.clauses.len().to_string()),
                Cell::number(count_text(segment.unit_count)),
                Cell::number(segment.used_by_flags.len().to_string()),
                Cell::number(segment.used_by_segments.len().to_string()),
                Cell::number(segment.segment_version.to_string()),
                Cell::new(moment_text(segment.update_time.as_ref())),
                Cell::new(&segment.owner),
            ]
        };
        let headings = ["SEGMENT", "CLAUSES", "UNITS", "FLAGS", "SEGMENTS", "VERSION", "CHANGED", "OWNER"];
        let none = "no segments in this environment; create one with: featureops segment set";
        page.table(&headings, all.segments.iter().map(row).collect(), none);
    })
}

fn describe(page: &mut Page, segment: &v1::Segment) {
    page.line(Tone::Strong, key_of(&segment.name));
    page.facts([
        ("name", segment.name.clone()),
        ("description", segment.description.clone()),
        ("owner", segment.owner.clone()),
        ("tags", segment.tags.join(", ")),
        ("units on its list", count_text(segment.unit_count)),
        ("asked by flags", segment.used_by_flags.join(", ")),
        ("asked by segments", segment.used_by_segments.join(", ")),
        ("version", format!("{}, {}", segment.segment_version, moment_text(segment.update_time.as_ref()))),
        ("etag", segment.etag.clone()),
    ]);
    page.heading("Clauses, any one holds");
    let rows = segment
        .clauses
        .iter()
        .enumerate()
        .map(|(at, clause)| vec![Cell::number(at.to_string()), describe_clause(&clause.conditions).into()])
        .collect();
    page.table(&["CLAUSE", "CONDITIONS"], rows, "no clauses: only the list counts");
}

async fn set(session: &Session, args: SetArgs) -> Result<(), Failure> {
    let name = session.name(Segments, &args.key)?;
    let segment = match &args.file {
        Some(path) => {
            let segment: v1::Segment = render::read_message(path)?;
            if !segment.name.is_empty() && segment.name != name {
                return Err(Failure::usage(format!("the file defines {}, not {name}", segment.name)));
            }
            v1::Segment { name, ..segment }
        }
        None => {
            let held = present(fetch(session, &args.key).await)?;
            changed(held.unwrap_or(v1::Segment { name, ..v1::Segment::default() }), &args)?
        }
    };
    // What was read, from the node or from the file, is what is changed: nobody else's change is lost in between.
    let etag = args.etag.unwrap_or_else(|| segment.etag.clone());
    let id = args.write.request.id()?;
    let request = v1::SetSegmentRequest {
        segment: Some(segment),
        request_id: id.clone(),
        validate_only: args.write.dry_run,
        etag,
    };
    let segment = session
        .client
        .write(&id, request, |channel, request| async move {
            SegmentServiceClient::new(channel).set_segment(request).await
        })
        .await?;
    session.show(&segment, |page| {
        let verb = verb(args.write.dry_run, "set", "would set");
        let (version, etag) = (segment.segment_version, &segment.etag);
        page.line(
            Tone::Good,
            format!("{verb} segment {}, version {version}, etag {etag}", key_of(&segment.name)),
        );
    })
}

/// The segment with what the options name.
fn changed(mut segment: v1::Segment, args: &SetArgs) -> Result<v1::Segment, Failure> {
    if !args.clause.is_empty() || args.no_clauses {
        let clause = |(at, text): (usize, &String)| {
            parse_clause(text)
                .map(|conditions| v1::SegmentClause { conditions })
                .map_err(|error| Failure::usage(format!("--clause {}: {error}", at + 1)))
        };
        segment.clauses = args.clause.iter().enumerate().map(clause).collect::<Result<_, _>>()?;
    }
    if let Some(description) = &args.description {
        segment.description.clone_from(description);
    }
    if let Some(owner) = &args.owner {
        segment.owner.clone_from(owner);
    }
    if !args.tag.is_empty() {
        segment.tags.clone_from(&args.tag);
    }
    Ok(segment)
}

async fn delete(
    session: &Session,
    key: &str,
    etag: Option<String>,
    write: &WriteArgs,
) -> Result<(), Failure> {
    let (name, id) = (session.name(Segments, key)?, write.request.id()?);
    let request = v1::DeleteSegmentRequest {
        name,
        request_id: id.clone(),
        validate_only: write.dry_run,
        etag: etag.unwrap_or_default(),
    };
    let deleted = session
        .client
        .write(&id, request, |channel, request| async move {
            SegmentServiceClient::new(channel).delete_segment(request).await
        })
        .await?;
    session.show(&deleted, |page| {
        let verb = verb(write.dry_run, "deleted", "would delete");
        page.line(Tone::Good, format!("{verb} segment {} and its list", key_of(key)));
    })
}

async fn test(session: &Session, key: &str, context: &ContextArgs) -> Result<(), Failure> {
    let request =
        v1::TestSegmentRequest { name: session.name(Segments, key)?, context: Some(context.context()?) };
    let tested = session
        .client
        .read(request, |channel, request| async move {
            SegmentServiceClient::new(channel).test_segment(request).await
        })
        .await?;
    session.show(&tested, |page| {
        let (word, tone) = if tested.contained { ("is in", Tone::Good) } else { ("is not in", Tone::Plain) };
        page.line(tone, format!("the unit {word} {}", key_of(key)));
        show_steps(page, &tested.steps);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let args = |clause: &[&str], no_clauses| SetArgs {
            key: "beta".to_owned(),
            file: None,
            clause: clause.iter().map(|text| (*text).to_owned()).collect(),
            no_clauses,
            description: None,
            owner: Some("people".to_owned()),
            tag: Vec::new(),
            etag: None,
            write: WriteArgs {
                request: super::super::session::RequestArgs { request_id: None },
                dry_run: false,
            },
        };
        let held = v1::Segment { description: "d".to_owned(), ..v1::Segment::default() };
        let two = changed(held, &args(&["in-segment(staff)", "a = 1 and b = 2"], false)).unwrap();
        assert_eq!((two.description.as_str(), two.owner.as_str(), two.clauses.len()), ("d", "people", 2));
        assert_eq!(describe_clause(&two.clauses[1].conditions), "a = 1 and b = 2");
        assert_eq!(changed(two.clone(), &args(&[], false)).unwrap().clauses, two.clauses);
        assert!(changed(two.clone(), &args(&[], true)).unwrap().clauses.is_empty());
        let error = changed(two, &args(&["a = 1", "a = 1 -> on"], false)).unwrap_err();
        assert!(error.message.starts_with("--clause 2: conditions are joined by 'and'"), "{}", error.message);
    }
}
