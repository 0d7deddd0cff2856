//! `outcome send` and `exposure send`: facts from a file or standard input, each counted once.
//!
//! ```text
//! rows (CSV or JSONL, line numbers kept) -> batches of 1,000 -> sender (bounded window, same sequence on every retry)
//! ```
//!
//! A batch is named by (producer, sequence), and the server counts a name once. So that repeating the whole command after
//! a failure counts nothing twice, both follow from the content: the producer is a hash of what is sent, the sequence the
//! batch's place in it. The consequence is said in the help: the same events are the same facts. A file that grew is another
//! file; send only the new lines, or name the producer.

pub mod batch;
pub mod rows;
pub mod sender;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use featureops_proto::v1;
use prost_types::Timestamp;

use super::failure::{Exit, Failure};
use super::session::Session;
use batch::{Facts, batches};
use rows::{Row, Table};
use sender::Summary;

#[derive(Debug, Subcommand)]
pub enum OutcomeCommand {
    /// Send outcomes from a CSV or JSONL file.
    Send(SendOutcomes),
}

#[derive(Debug, Subcommand)]
pub enum ExposureCommand {
    /// Send exposures from a CSV or JSONL file.
    Send(SendExposures),
}

const EXACTLY_ONCE: &str = "Exactly once:
  Without --producer the batches are named after a hash of the content. Repeating the command, whatever happened the
  first time, counts every line once (names are kept for 96 hours). Equal content is the same facts: to count it again
  on purpose, or to send a file that grew, name the producer of the part you send: --producer shop-2025-03-01.";

#[derive(Debug, Args)]
#[command(after_help = format!("Columns: unit, metric, value (default 1), event_time or eventTime (RFC 3339, unix seconds or milliseconds),\n\
receipt, attribute.NAME. JSONL: one object a line with the same names; attributes may be an object.\n\n{EXACTLY_ONCE}"))]
pub struct SendOutcomes {
    #[command(flatten)]
    source: SourceArgs,
    /// The metric of rows without one.
    #[arg(long)]
    metric: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = format!("Columns: unit, variant, experiment, event_time (RFC 3339, unix seconds or milliseconds), receipt,\n\
forced, attribute.NAME. JSONL: one object a line with the same names; attributes may be an object.\n\n{EXACTLY_ONCE}"))]
pub struct SendExposures {
    #[command(flatten)]
    source: SourceArgs,
    /// The experiment of rows without one.
    #[arg(long)]
    experiment: Option<String>,
}

#[derive(Debug, Args)]
pub struct SourceArgs {
    /// A .csv, .tsv, .jsonl or .ndjson file, or `-` for standard input.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// What the content is [default: by the file's ending, else by its first character].
    #[arg(long, value_enum)]
    format: Option<rows::Format>,
    /// The column separator of a CSV.
    #[arg(long, default_value_t = ',')]
    delimiter: char,
    /// The name under which batches are counted once [default: a hash of the content].
    #[arg(long)]
    producer: Option<String>,
    /// Send the rows that can be read although others cannot.
    #[arg(long)]
    skip_malformed: bool,
    /// Check the file and send nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run_outcome(session: &Session, command: OutcomeCommand) -> Result<(), Failure> {
    let OutcomeCommand::Send(args) = command;
    let known = ["unit", "metric", "value", "event_time", "eventTime", "receipt", "attributes"];
    let rows = read(&args.source, &known, |row| outcome(row, args.metric.as_deref()))?;
    let (lines, events): (Vec<u64>, Vec<v1::Outcome>) = rows.into_iter().unzip();
    send(session, &args.source, &lines, Facts::Outcomes(events)).await
}

pub async fn run_exposure(session: &Session, command: ExposureCommand) -> Result<(), Failure> {
    let ExposureCommand::Send(args) = command;
    let known =
        ["unit", "variant", "experiment", "event_time", "eventTime", "receipt", "forced", "attributes"];
    let rows = read(&args.source, &known, |row| exposure(row, args.experiment.as_deref()))?;
    let (lines, events): (Vec<u64>, Vec<v1::Exposure>) = rows.into_iter().unzip();
    send(session, &args.source, &lines, Facts::Exposures(events)).await
}

fn outcome(row: &Row, metric: Option<&str>) -> Result<v1::Outcome, String> {
    let value = match row.text("value")? {
        None if row.is_empty("value") => {
            return Err("has an empty value; write the number, or leave the column out for 1 each".to_owned());
        }
        Some(text) => {
            Some(rows::number(&text).ok_or_else(|| format!("value '{text}' is not a finite number"))?)
        }
        None => None,
    };
    Ok(v1::Outcome {
        metric: row
            .text("metric")?
            .or_else(|| metric.map(ToOwned::to_owned))
            .ok_or("has no metric; add the column or --metric")?,
        unit: row.text("unit")?.ok_or("has no unit")?,
        value,
        event_time: event_time(row)?,
        attributes: row.attributes()?,
        receipt: row.text("receipt")?.unwrap_or_default(),
    })
}

/// By the column's name, or as `-o json` prints it.
fn event_time(row: &Row) -> Result<Option<Timestamp>, String> {
    match (row.moment("event_time")?, row.moment("eventTime")?) {
        (Some(_), Some(_)) => Err("event_time and eventTime are the same: give one".to_owned()),
        (one, other) => Ok(one.or(other)),
    }
}

fn exposure(row: &Row, experiment: Option<&str>) -> Result<v1::Exposure, String> {
    let forced = match row.text("forced")? {
        Some(text) => {
            rows::truth(&text).ok_or_else(|| format!("forced '{text}' is neither true nor false"))?
        }
        None => false,
    };
    Ok(v1::Exposure {
        experiment: row
            .text("experiment")?
            .or_else(|| experiment.map(ToOwned::to_owned))
            .ok_or("has no experiment; add the column or --experiment")?,
        unit: row.text("unit")?.ok_or("has no unit")?,
        variant: row.text("variant")?.ok_or("has no variant")?,
        event_time: event_time(row)?,
        attributes: row.attributes()?,
        receipt: row.text("receipt")?.unwrap_or_default(),
        forced,
    })
}

/// Reads everything before anything is sent: a fault in line 90,000 should not leave 89,999 lines counted.
fn read<T>(
    args: &SourceArgs,
    known: &[&str],
    event: impl Fn(&Row) -> Result<T, String>,
) -> Result<Vec<(u64, T)>, Failure> {
    let table = Table::read(&args.file, args.format, args.delimiter)?;
    table.check_columns(known)?;
    let mut faults: Vec<String> = Vec::new();
    let mut fault_count = 0_usize;
    let mut events = Vec::with_capacity(table.len());
    for row in table.rows() {
        match row
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|row| Ok((row.line, event(row).map_err(|m| row.fault(&m))?)))
        {
            Ok(event) => events.push(event),
            Err(fault) => {
                fault_count += 1;
                if faults.len() < MAX_SHOWN {
                    faults.push(fault);
                }
            }
        }
    }
    if fault_count > 0 {
        let failure = rows::malformed(&args.file, fault_count, table.len(), faults);
        if !args.skip_malformed {
            return Err(failure.note("nothing was sent; correct the file, or add --skip-malformed"));
        }
        super::session::progress(&failure.render().replacen("error", "skipped", 1));
    }
    if events.is_empty() {
        return Err(Failure::usage(format!("{}: no rows to send", args.file.display())));
    }
    Ok(events)
}

/// Faults and refusals listed by line; the rest is counted.
pub const MAX_SHOWN: usize = 10;

async fn send(session: &Session, args: &SourceArgs, lines: &[u64], facts: Facts) -> Result<(), Failure> {
    let count = facts.len();
    if args.dry_run {
        return session.show_value(&serde_json::json!({ "events": count, "sent": 0 }), |page| {
            page.line(super::page::Tone::Good, format!("would send {count} events; nothing was sent"));
        });
    }
    // A producer chosen by name still must not mix exposures and outcomes under one sequence.
    let producer = match &args.producer {
        Some(name) => format!("{name}:{}", facts.word()),
        None => format!("content-{:032x}:{}", facts.digest(&session.parent()), facts.word()),
    };
    let batches = batches(&session.parent(), &producer, facts);
    let mut summary = Summary::default();
    sender::send(session, batches, lines, &mut summary).await?;
    session.show_value(&summary.json(), |page| summary.describe(page))?;
    if summary.refused() > 0 {
        return Err(Failure::new(
            Exit::Refused,
            format!("{} of {count} events were not counted", summary.refused()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Result<v1::Outcome, String> {
        let table = Table::parse(text.as_bytes(), rows::Format::Jsonl, ',')?;
        outcome(table.rows()[0].as_ref().map_err(Clone::clone)?, None)
    }

    #[test]
    fn an_empty_value_is_no_value_of_one() {
        assert!(first(r#"{"unit":"u","metric":"m","value":""}"#).unwrap_err().contains("empty value"));
        assert_eq!(first(r#"{"unit":"u","metric":"m"}"#).unwrap().value, None);
        assert_eq!(first(r#"{"unit":"u","metric":"m","value":2}"#).unwrap().value, Some(2.0));
    }

    #[test]
    fn an_outcome_as_json_prints_it_can_be_sent() {
        let plain = first(r#"{"unit":"u","metric":"m","event_time":"2026-01-02T03:04:05Z"}"#).unwrap();
        let printed = first(r#"{"unit":"u","metric":"m","eventTime":"2026-01-02T03:04:05Z"}"#).unwrap();
        assert!(plain.event_time.is_some());
        assert_eq!(plain, printed);
        let twice = first(r#"{"unit":"u","metric":"m","event_time":1,"eventTime":2}"#);
        assert!(twice.unwrap_err().contains("give one"));
    }
}
