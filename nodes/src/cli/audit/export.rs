//! The audit as a file, and such a file checked by anybody: JSON lines or CSV, oldest first, each record with its position, its
//! hash and that of the record before. What was changed, left out or put in breaks the chain; what was cut off at the end
//! does not, so the head is printed, to be kept elsewhere and compared.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use featureops_proto::v1::{self, AuditRecord, Principal, principal};
use featureops_state::audit_hash;

use super::super::failure::{Exit, Failure};
use super::super::page::Tone;
use super::super::reading::{open, shown};
use super::super::render::{count_text, json_line, parse_message, word_of};
use super::super::session::{Session, progress};
use crate::backup::hex;
use crate::rpc::administration_service_client::AdministrationServiceClient;

/// Longest line of an export, in bytes: a record's texts are bounded at a tenth of it.
const LINE_BYTES_MAX: u64 = 1 << 20;
const COLUMNS: [&str; 12] = [
    "number",
    "position",
    "time",
    "principal_kind",
    "principal_id",
    "verified",
    "action",
    "resource",
    "detail",
    "refused",
    "previous_hash",
    "hash",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One record of the API a line.
    Jsonl,
    /// A line of names, then one record a line.
    Csv,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where to; - for standard output. A file that is there is not replaced.
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// [default: by the file's ending, else jsonl]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

fn format_of(path: &Path, given: Option<Format>) -> Format {
    let by_ending = || match path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
        true => Format::Csv,
        false => Format::Jsonl,
    };
    given.unwrap_or_else(by_ending)
}

/// Follows records, each of which must be linked to the one before.
#[derive(Default)]
struct Chain {
    first: u64,
    last: u64,
    head: Vec<u8>,
    /// Hash of the record before the first.
    begins_behind: Vec<u8>,
}

impl Chain {
    fn add(&mut self, record: &AuditRecord) -> Result<(), String> {
        let number = record.number;
        if audit_hash(record) != record.hash {
            return Err(format!("record {number} does not match its hash: it was changed"));
        }
        if self.first == 0 {
            self.first = number;
            self.begins_behind.clone_from(&record.previous_hash);
            if number == 1 && !record.previous_hash.is_empty() {
                return Err("record 1 names a record before it".to_owned());
            }
        } else if number != self.last + 1 || record.previous_hash != self.head {
            return Err(format!(
                "record {number} is not linked to record {}: one is missing, or was put in",
                self.last
            ));
        }
        self.last = number;
        self.head.clone_from(&record.hash);
        Ok(())
    }
}

fn csv_row(record: &AuditRecord) -> [String; 12] {
    let principal = record.principal.clone().unwrap_or_default();
    [
        record.number.to_string(),
        record.position.to_string(),
        record.time.map(|time| time.to_string()).unwrap_or_default(),
        word_of(principal.kind().as_str_name(), "KIND_"),
        principal.id,
        principal.verified.to_string(),
        record.action.clone(),
        record.resource.clone(),
        record.detail.clone(),
        record.refused.clone(),
        hex(&record.previous_hash),
        hex(&record.hash),
    ]
}

fn record_of(row: &csv::StringRecord) -> Result<AuditRecord, String> {
    let field = |at: usize| row.get(at).unwrap_or_default();
    let number = |at: usize| {
        let name = COLUMNS.get(at).copied().unwrap_or_default();
        field(at).parse::<u64>().map_err(|_| format!("{name} '{}' is no number", field(at)))
    };
    let kind = field(3).to_ascii_uppercase();
    // As the table shows it: without what stands before each name, if anything does.
    let kind = principal::Kind::from_str_name(&kind)
        .or_else(|| principal::Kind::from_str_name(&format!("KIND_{kind}")))
        .ok_or_else(|| format!("principal_kind '{}'", field(3)))?;
    Ok(AuditRecord {
        number: number(0)?,
        position: number(1)?,
        time: match field(2) {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("time '{text}' is no time"))?),
        },
        principal: Some(Principal {
            kind: kind.into(),
            id: field(4).to_owned(),
            verified: field(5).parse().map_err(|_| format!("verified '{}'", field(5)))?,
        }),
        action: field(6).to_owned(),
        resource: field(7).to_owned(),
        detail: field(8).to_owned(),
        refused: field(9).to_owned(),
        previous_hash: unhex(field(10)).ok_or("previous_hash is no hash")?,
        hash: unhex(field(11)).ok_or("hash is no hash")?,
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// Writes the records, from the first that is kept to the last of now.
pub async fn export(session: &Session, args: ExportArgs) -> Result<(), Failure> {
    let ExportArgs { to, format } = args;
    let format = format_of(&to, format);
    let said = |error: std::io::Error| {
        Failure::new(Exit::Refused, format!("'{}' cannot be written: {error}", to.display()))
    };
    if to.as_os_str() == "-" {
        let chain = written(session, std::io::stdout().lock(), format).await?;
        progress(&format!("records {} to {}, head {}", chain.first, chain.last, hex(&chain.head)));
        return Ok(());
    }
    let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if to.symlink_metadata().is_ok() {
        return Err(said(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "there is such a file")));
    }
    let draft = tempfile::NamedTempFile::new_in(folder).map_err(said)?;
    let chain = written(session, draft.as_file(), format).await?;
    draft.as_file().sync_all().map_err(said)?;
    draft.persist_noclobber(&to).map_err(|error| said(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(said)?;
    let value = serde_json::json!({
        "file": to.display().to_string(),
        "first": chain.first,
        "last": chain.last,
        "head": hex(&chain.head),
    });
    session.show_value(&value, |page| {
        let (first, last) = (count_text(chain.first), count_text(chain.last));
        page.line(Tone::Good, format!("records {first} to {last} written to {}", to.display()));
        page.facts([("head", hex(&chain.head))]);
    })
}

async fn written(session: &Session, to: impl Write, format: Format) -> Result<Chain, Failure> {
    let kept = session
        .client
        .read(v1::VerifyAuditRequest {}, |channel, request| async move {
            AdministrationServiceClient::new(channel).verify_audit(request).await
        })
        .await?;
    let broken = |why: String| Failure::new(Exit::Refused, format!("the audit chain is broken: {why}"));
    if !kept.intact {
        return Err(broken(kept.fault));
    }
    let mut to = BufWriter::new(to);
    let mut chain = Chain::default();
    let mut put = |line: &str| to.write_all(line.as_bytes()).map_err(|error| Failure::output(&error));
    if format == Format::Csv {
        put(&csv_line(&COLUMNS)?)?;
    }
    if kept.last > 0 {
        let request = v1::TailAuditRequest { from: kept.first.max(1) };
        let mut records = session
            .client
            .stream(request, |channel, request| async move {
                AdministrationServiceClient::new(channel).tail_audit(request).await
            })
            .await?;
        while chain.last < kept.last {
            let record = match records.message().await {
                Ok(Some(record)) => record,
                Ok(None) => return Err(broken(format!("it ended behind record {}", chain.last))),
                Err(status) => return Err(session.client.stream_failure(&status)),
            };
            if chain.first == 0 && record.number != kept.first {
                return Err(Failure::new(
                    Exit::Refused,
                    "the oldest records left while they were read: try again",
                ));
            }
            chain.add(&record).map_err(broken)?;
            match format {
                Format::Jsonl => put(&format!("{}\n", json_line(&record)?))?,
                Format::Csv => put(&csv_line(&csv_row(&record))?)?,
            }
        }
        if chain.head != kept.head {
            return Err(broken("its head is not the one that the node named".to_owned()));
        }
    }
    to.flush().map_err(|error| Failure::output(&error))?;
    Ok(chain)
}

fn csv_line<T: AsRef<[u8]>>(fields: &[T]) -> Result<String, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fault = |error: String| Failure::internal(format!("a line of CSV: {error}"));
    writer.write_record(fields).map_err(|error| fault(error.to_string()))?;
    let bytes = writer.into_inner().map_err(|error| fault(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| fault(error.to_string()))
}

/// Checks an export, by itself and against a head that was kept elsewhere.
pub fn verify(session: &Session, path: &Path, head: Option<&str>) -> Result<(), Failure> {
    let refused = |why: String| Failure::new(Exit::Refused, format!("{}: {why}", shown(path)));
    let source = open(path).map_err(|error| Failure::usage(format!("{}: {error}", shown(path))))?;
    let chain = checked(source).map_err(refused)?;
    let is_whole = chain.first == 1;
    let found = hex(&chain.head);
    let value = serde_json::json!({
        "intact": true,
        "first": chain.first,
        "last": chain.last,
        "head": found,
        "previousHash": hex(&chain.begins_behind),
    });
    if let Some(head) = head
        && !found.eq_ignore_ascii_case(head)
    {
        return Err(refused(format!(
            "its head is {found}, of record {}, not {head}: records at its end are missing, or it is another chain",
            chain.last
        )));
    }
    session.show_value(&value, |page| {
        let (first, last) = (count_text(chain.first), count_text(chain.last));
        page.line(Tone::Good, format!("intact: records {first} to {last}"));
        page.facts([("head", found.clone())]);
        if !is_whole {
            page.line(Tone::Plain, format!("it begins behind hash {}", hex(&chain.begins_behind)));
        }
        if head.is_none() {
            page.line(Tone::Warn, "that nothing is missing at its end only the head says: give --head HASH, as 'audit verify' prints it");
        }
    })
}

fn checked(source: impl Read) -> Result<Chain, String> {
    let mut source = BufReader::new(source);
    let mut chain = Chain::default();
    let begin = source.fill_buf().map_err(|error| error.to_string())?;
    if begin.first().is_some_and(|first| *first == b'{') {
        for number in 1.. {
            let mut line = Vec::new();
            let read = source.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.map_err(|error| error.to_string())? == 0 {
                break;
            }
            let text = String::from_utf8(line).map_err(|_| format!("line {number} is not UTF-8"))?;
            if text.trim().is_empty() {
                continue;
            }
            let record: AuditRecord = parse_message(text.trim())
                .map_err(|why| format!("line {number} is no audit record: {why}"))?;
            chain.add(&record).map_err(|why| format!("line {number}: {why}"))?;
        }
    } else {
        let mut reader = csv::ReaderBuilder::new().from_reader(source.take(u64::MAX));
        let names = reader.headers().map_err(|error| error.to_string())?;
        if !names.iter().eq(COLUMNS) {
            let mut wanted = String::new();
            let _ = write!(wanted, "{}", COLUMNS.join(","));
            return Err(format!("it is no export: its first line is neither a record in JSON nor {wanted}"));
        }
        for (number, row) in reader.records().enumerate() {
            let at = number + 2;
            let row = row.map_err(|error| format!("line {at}: {error}"))?;
            let record = record_of(&row).map_err(|why| format!("line {at} is no audit record: {why}"))?;
            chain.add(&record).map_err(|why| format!("line {at}: {why}"))?;
        }
    }
    if chain.first == 0 {
        return Err("it holds no record".to_owned());
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: u64) -> Vec<AuditRecord> {
        let mut before = Vec::new();
        (1..=count)
            .map(|number| {
                let mut record = AuditRecord {
                    number,
                    position: number * 3,
                    time: Some(prost_types::Timestamp { seconds: 1_780_272_000, nanos: 123_000_000 }),
                    principal: Some(Principal {
                        kind: principal::Kind::Human.into(),
                        id: "ada, \"the\" first\nof all".into(),
                        verified: number % 2 == 0,
                    }),
                    action: "flag.set".into(),
                    detail: if number == 2 { "=1+1".into() } else { String::new() },
                    refused: if number == 3 { "NOT_FOUND".into() } else { String::new() },
                    previous_hash: before.clone(),
                    ..AuditRecord::default()
                };
                record.hash = audit_hash(&record);
                before.clone_from(&record.hash);
                record
            })
            .collect()
    }

    fn lines(records: &[AuditRecord], format: Format) -> Vec<String> {
        match format {
            Format::Jsonl => records.iter().map(|record| json_line(record).unwrap() + "\n").collect(),
            Format::Csv => std::iter::once(csv_line(&COLUMNS).unwrap())
                .chain(records.iter().map(|record| csv_line(&csv_row(record)).unwrap()))
                .collect(),
        }
    }

    #[test]
    fn an_export_is_checked_by_itself_in_both_forms() {
        let all = records(5);
        for format in [Format::Jsonl, Format::Csv] {
            let of = |records: &[AuditRecord]| lines(records, format).concat();
            let text = of(&all);
            let chain = checked(text.as_bytes()).unwrap_or_else(|why| panic!("{format:?}: {why}"));
            assert_eq!((chain.first, chain.last, &chain.head), (1, 5, &all[4].hash));
            assert_eq!(checked(of(&all[2..]).as_bytes()).unwrap().begins_behind, all[1].hash);
            let mut changed = all.clone();
            changed[2].detail = "x".into();
            let without = [&all[..2], &all[3..]].concat();
            let doubled = [&all[..2], &all[1..]].concat();
            for (wrong, part) in [
                (changed, "record 3 does not match"),
                (without, "not linked to record 2"),
                (doubled, "not linked"),
            ] {
                let why = checked(of(&wrong).as_bytes()).err().unwrap();
                assert!(why.contains(part), "{format:?}: {why}");
            }
            // At the end only the head tells.
            assert_ne!(checked(of(&all[..4]).as_bytes()).unwrap().head, all[4].hash);
        }
        for wrong in ["", "a,b\n1,2\n", "{}\n", "{\"number\": \"x\"}\n", "\u{0}\n"] {
            assert!(checked(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
