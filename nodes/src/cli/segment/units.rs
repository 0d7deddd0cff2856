//! `segment add` and `segment remove`: units from the command line or from a file, in chunks.
//!
//! ```text
//! file ── line by line ──> chunk (5,000 units or 1 MiB) ──> UpdateSegmentUnits, under --request-id and the chunk's number
//! ```
//!
//! A file is streamed, so it may be of any length. What is on the list already, or not there, is no error: so a run that ended
//! in the middle is simply repeated, and under its own request id its first chunks are not even looked at again.

use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use featureops_evaluation::limits::MAX_UNIT_BYTES;
use featureops_proto::Collection::Segments;
use featureops_proto::v1;

use crate::cli::client::Intent;
use crate::cli::failure::Failure;
use crate::cli::page::Tone;
use crate::cli::reading::{open, shown};
use crate::cli::render::{count_text, key_of};
use crate::cli::session::{Session, WriteArgs, progress, verb};
use crate::nearest::suggestion;
use crate::rpc::segment_service_client::SegmentServiceClient;

/// Units and bytes of one request, far below what a node takes.
const CHUNK_UNITS: usize = 5_000;
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of a line around a unit.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Units between two lines about how far it is.
const PROGRESS_UNITS: u64 = 100_000;
/// Bytes of a request id, so that a chunk's number fits behind it.
const REQUEST_ID_BYTES_MAX: usize = 100;

#[derive(Debug, Args)]
#[command(
    after_help = "A file has a unit a line, or is a CSV of which --column names the column of units. In both, spaces and tabs
around a unit are no part of it, and those within it are; a line without a unit is passed over. A file is streamed in chunks; what ended in the middle is repeated as it was, and takes effect once.
Only keyed hashes of units are kept: a list can be asked about, and never be read."
)]
pub struct UnitsArgs {
    key: String,
    /// A targeting key. Repeatable.
    #[arg(long, required_unless_present = "file", conflicts_with = "file")]
    unit: Vec<String>,
    /// A file of units; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The file is a CSV, and units stand in this column.
    #[arg(long, requires = "file")]
    column: Option<String>,
    /// The column separator of a CSV.
    #[arg(long, default_value_t = ',', requires = "column")]
    delimiter: char,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

pub async fn change(session: &Session, args: UnitsArgs, change: Change) -> Result<(), Failure> {
    let id = args.write.request.id()?;
    if id.len() > REQUEST_ID_BYTES_MAX {
        return Err(Failure::usage(format!("--request-id has at most {REQUEST_ID_BYTES_MAX} bytes here")));
    }
    let mut sending = Sending {
        session,
        name: session.name(Segments, &args.key)?,
        change,
        dry_run: args.write.dry_run,
        id,
        chunk: Vec::new(),
        bytes: 0,
        chunks: 0,
        sent: 0,
        told: v1::UpdateSegmentUnitsResponse::default(),
    };
    for unit in units(&args)? {
        let unit = unit.map_err(|failure| sending.so_far(failure))?;
        if sending.put(unit) {
            sending.send().await?;
        }
    }
    if !sending.chunk.is_empty() {
        sending.send().await?;
    }
    if sending.sent == 0 {
        return Err(Failure::usage("there are no units in the file"));
    }
    let Sending { told, sent, dry_run, .. } = sending;
    session.show(&told, |page| {
        let (count, what, sign) = match change {
            Change::Add => (told.added, "added", "already"),
            Change::Remove => (told.removed, "removed", "not"),
        };
        let verb = verb(dry_run, what, if change == Change::Add { "would add" } else { "would remove" });
        let others = sent.saturating_sub(u64::from(count));
        let (count, others, now) =
            (count_text(count.into()), count_text(others), count_text(told.unit_count));
        let key = key_of(&args.key);
        page.line(
            Tone::Good,
            format!("{verb} {count} units; {others} were {sign} on the list of {key}, which has {now}"),
        );
    })
}

struct Sending<'s> {
    session: &'s Session,
    name: String,
    change: Change,
    dry_run: bool,
    id: String,
    chunk: Vec<String>,
    bytes: usize,
    chunks: u64,
    sent: u64,
    told: v1::UpdateSegmentUnitsResponse,
}

impl Sending<'_> {
    /// Says whether the chunk is full.
    fn put(&mut self, unit: String) -> bool {
        self.bytes += unit.len();
        self.chunk.push(unit);
        self.chunk.len() >= CHUNK_UNITS || self.bytes >= CHUNK_BYTES
    }

    async fn send(&mut self) -> Result<(), Failure> {
        self.bytes = 0;
        let units = std::mem::take(&mut self.chunk);
        let count = units.len() as u64;
        let (add, remove) = match self.change {
            Change::Add => (units, Vec::new()),
            Change::Remove => (Vec::new(), units),
        };
        let request = v1::UpdateSegmentUnitsRequest {
            name: self.name.clone(),
            add,
            remove,
            request_id: format!("{}.{}", self.id, self.chunks),
            validate_only: self.dry_run,
        };
        let way_out = format!("repeat the command with --request-id {}: it takes effect once", self.id);
        let call = self.session.client.call(
            Intent::Write { repeat_with: &way_out },
            request,
            |channel, request| async move {
                SegmentServiceClient::new(channel).update_segment_units(request).await
            },
        );
        let told = call.await.map_err(|failure| self.so_far(failure))?;
        self.told.added += told.added;
        self.told.removed += told.removed;
        self.told.unit_count = told.unit_count;
        let before = self.sent;
        self.chunks += 1;
        self.sent += count;
        if before / PROGRESS_UNITS != self.sent / PROGRESS_UNITS {
            progress(&format!("{} units sent", count_text(self.sent)));
        }
        Ok(())
    }

    fn so_far(&self, failure: Failure) -> Failure {
        match self.sent {
            0 => failure,
            sent => failure.note(format!(
                "{} units before were taken; those that are there again are no error",
                count_text(sent)
            )),
        }
    }
}

type Units<'a> = Box<dyn Iterator<Item = Result<String, Failure>> + 'a>;

/// The units, each checked.
fn units(args: &UnitsArgs) -> Result<Units<'_>, Failure> {
    let Some(path) = &args.file else {
        let units = args.unit.iter();
        return Ok(Box::new(
            units.map(|unit| checked(unit.clone()).map_err(|why| Failure::usage(format!("--unit {why}")))),
        ));
    };
    let source = open(path).map_err(|error| fault(path, &error))?;
    match &args.column {
        None => Ok(Box::new(lines(BufReader::new(source), path))),
        Some(column) => cells(source, path, column, args.delimiter),
    }
}

fn fault(path: &Path, what: &str) -> Failure {
    Failure::usage(format!("{}: {what}", shown(path)))
}

fn checked(unit: String) -> Result<String, String> {
    match unit.len() {
        0 => Err("is empty".to_owned()),
        bytes if bytes > MAX_UNIT_BYTES => Err(format!("has {bytes} bytes, a unit at most {MAX_UNIT_BYTES}")),
        _ => Ok(unit),
    }
}

/// A unit a line; empty lines are none.
fn lines<'a>(
    mut source: impl BufRead + 'a,
    path: &'a Path,
) -> impl Iterator<Item = Result<String, Failure>> + 'a {
    let mut line = 0u64;
    std::iter::from_fn(move || {
        loop {
            line += 1;
            let mut bytes = Vec::new();
            let at = |what: &str| Some(Err(fault(path, &format!("line {line}: {what}"))));
            match source.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return at(&error.to_string()),
            }
            let text = if line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes };
            let Ok(text) = std::str::from_utf8(text) else { return at("is not UTF-8") };
            let unit = text.trim_ascii();
            if unit.is_empty() {
                continue;
            }
            return match checked(unit.to_owned()) {
                Ok(unit) => Some(Ok(unit)),
                Err(why) => at(&why),
            };
        }
    })
}

/// A column of a CSV.
fn cells<'a>(
    source: Box<dyn std::io::Read>,
    path: &'a Path,
    column: &'a str,
    delimiter: char,
) -> Result<Units<'a>, Failure> {
    let delimiter = u8::try_from(delimiter)
        .map_err(|_| Failure::usage(format!("--delimiter '{delimiter}' is not one byte")))?;
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(source);
    let headers = reader.headers().map_err(|error| fault(path, &error.to_string()))?;
    let names: Vec<&str> = headers.iter().map(|name| name.trim_start_matches('\u{feff}').trim()).collect();
    let Some(place) = names.iter().position(|name| *name == column) else {
        return Err(fault(path, &format!("there is no column '{column}'; {}", suggestion(column, &names))));
    };
    let units = reader.into_records().enumerate().map(move |(nth, record)| {
        let at = |what: &str| fault(path, &format!("row {}: {what}", nth + 1));
        let record = record.map_err(|error| at(&error.to_string()))?;
        let unit = record.get(place).unwrap_or_default().trim_ascii().to_owned();
        checked(unit).map_err(|why| at(&format!("{column} {why}")))
    });
    Ok(Box::new(units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_a_line_or_a_column() {
        let of = |text: &'static str| -> Vec<_> { lines(text.as_bytes(), Path::new("f")).collect() };
        let plain: Vec<String> =
            of("\u{feff}ada\r\n\n bob,x \neve").into_iter().map(Result::unwrap).collect();
        assert_eq!(plain, ["ada", "bob,x", "eve"]);
        let spaced: Vec<String> =
            of(" \t\n\tada lovelace \n\u{a0}bob\n").into_iter().map(Result::unwrap).collect();
        assert_eq!(spaced, ["ada lovelace", "\u{a0}bob"], "what is not ASCII is part of a unit");
        let long = Box::leak(format!("ada\n{}\n", "x".repeat(2_000)).into_boxed_str());
        let error = of(long)[1].clone().unwrap_err();
        assert_eq!(error.message, "f: line 2: has 2000 bytes, a unit at most 1024");
        let csv = |text: &'static str, column| {
            let cells = cells(Box::new(text.as_bytes()), Path::new("f"), column, ';')?;
            cells.collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(csv("id; unit\n1;ada\n2; bob \n", "unit").unwrap(), ["ada", "bob"]);
        assert!(csv("id;unit\n1;ada\n", "unti").unwrap_err().message.contains("did you mean 'unit'?"));
        assert!(csv("id;unit\n1;ada\n2\n", "unit").unwrap_err().message.contains("row 2: unit is empty"));
    }
}
