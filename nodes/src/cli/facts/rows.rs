//! Rows of a CSV or JSONL file, each with its line number, so that every fault names its place.

use std::collections::BTreeMap;
use std::path::Path;

use clap::ValueEnum;
use prost_types::Timestamp;
use serde_json::Value as Json;

use crate::cli::failure::Failure;
use crate::cli::reading::{open, read_within, shown};
use crate::cli::render::value_of_json;
use crate::cli::span::parse_moment;
use crate::nearest::suggestion;

/// Bounds of a file that is held in memory; larger ones are split.
const MAX_FILE_BYTES: u64 = 1 << 30;
const MAX_ROWS: usize = 20_000_000;
const MAX_COLUMNS: usize = 1_000;

/// What a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Csv,
    Jsonl,
}

/// A file's rows.
#[derive(Debug)]
pub struct Table {
    digest: u128,
    /// Of a CSV; JSONL names its fields line by line.
    columns: Vec<String>,
    rows: Vec<Result<Row, String>>,
}

/// One row: fields by name.
#[derive(Debug, Clone)]
pub struct Row {
    pub line: u64,
    fields: BTreeMap<std::sync::Arc<str>, Json>,
}

impl Table {
    /// Reads a file, or standard input for `-`.
    ///
    /// # Errors
    /// When it cannot be read at all; single malformed rows are kept as faults.
    pub fn read(path: &Path, format: Option<Format>, delimiter: char) -> Result<Self, Failure> {
        let fault = |message: String| Failure::usage(format!("{}: {message}", shown(path)));
        let read = |source| read_within(source, MAX_FILE_BYTES, "; split it, and send the parts");
        let bytes = open(path).and_then(read).map_err(fault)?;
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        let format = format.unwrap_or(match (ending, first) {
            ("jsonl" | "ndjson" | "json", _) => Format::Jsonl,
            ("csv" | "tsv", _) => Format::Csv,
            (_, Some(b'{')) => Format::Jsonl,
            _ => Format::Csv,
        });
        let delimiter = if ending == "tsv" && delimiter == ',' { '\t' } else { delimiter };
        Self::parse(&bytes, format, delimiter).map_err(fault)
    }

    /// Parses a file's bytes.
    pub fn parse(bytes: &[u8], format: Format, delimiter: char) -> Result<Self, String> {
        let digest = xxhash_rust::xxh3::xxh3_128(bytes);
        // A spreadsheet's byte order mark is not part of the first column's name.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let (columns, rows) = match format {
            Format::Csv => parse_csv(bytes, delimiter)?,
            Format::Jsonl => (Vec::new(), parse_jsonl(bytes)?),
        };
        Ok(Self { digest, columns, rows })
    }

    /// Hash of the file's bytes.
    #[must_use]
    pub const fn digest(&self) -> u128 {
        self.digest
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn rows(&self) -> &[Result<Row, String>] {
        &self.rows
    }

    /// Whether a CSV has the column; a JSONL may have any.
    ///
    /// # Errors
    /// Names the nearest column there is.
    pub fn require_column(&self, column: &str) -> Result<(), Failure> {
        if self.columns.is_empty() || self.columns.iter().any(|known| known == column) {
            return Ok(());
        }
        let known: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let failure =
            Failure::usage(format!("there is no column '{column}'; {}", suggestion(column, &known)));
        Err(self.with_delimiter(failure))
    }

    /// A header that is one column with separators in it was cut by the wrong one.
    fn with_delimiter(&self, failure: Failure) -> Failure {
        let [only] = self.columns.as_slice() else { return failure };
        let known = [(';', "';'"), ('\t', "$'\\t'"), ('|', "'|'"), (',', "','")];
        match known.iter().find(|(delimiter, _)| only.contains(*delimiter)) {
            Some((_, shown)) => failure.note(format!("the header is one column; add --delimiter {shown}")),
            None => failure,
        }
    }

    /// Refuses columns that would silently be ignored: `vlaue` must not become the default value.
    pub fn check_columns(&self, known: &[&str]) -> Result<(), Failure> {
        let stranger = self
            .columns
            .iter()
            .find(|column| !known.contains(&column.as_str()) && !column.starts_with("attribute."));
        if let Some(stranger) = stranger {
            let failure =
                Failure::usage(format!("column '{stranger}' is not known; {}", suggestion(stranger, known)))
                    .note("a column that belongs to the event is named attribute.NAME");
            return Err(self.with_delimiter(failure));
        }
        // JSONL: the same, line by line, as faults of their rows would hide the one cause behind thousands.
        for row in self.rows.iter().flatten() {
            let stranger = row
                .fields
                .keys()
                .find(|field| !known.contains(&field.as_ref()) && !field.starts_with("attribute."));
            if let Some(stranger) = stranger {
                return Err(Failure::usage(format!(
                    "line {}: field '{stranger}' is not known; {}",
                    row.line,
                    suggestion(stranger, known)
                )));
            }
        }
        Ok(())
    }
}

type Csv = (Vec<String>, Vec<Result<Row, String>>);

fn parse_csv(bytes: &[u8], delimiter: char) -> Result<Csv, String> {
    let delimiter =
        u8::try_from(delimiter).map_err(|_| format!("delimiter '{delimiter}' is not one byte"))?;
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(bytes);
    let headers = reader.headers().map_err(|error| error.to_string())?.clone();
    let columns: Vec<String> = headers.iter().map(|name| name.trim().to_owned()).collect();
    if columns.len() > MAX_COLUMNS {
        return Err(format!("has more than {MAX_COLUMNS} columns"));
    }
    let mut unique = std::collections::BTreeSet::new();
    if let Some(twice) = columns.iter().find(|column| !unique.insert(column.as_str())) {
        return Err(format!("column '{twice}' stands there twice"));
    }
    let names: Vec<std::sync::Arc<str>> = columns.iter().map(|name| name.as_str().into()).collect();
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        let row = match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let line = record.position().map_or(0, |position| line_of(bytes, position));
                if record.len() == columns.len() {
                    let fields = names
                        .iter()
                        .cloned()
                        .zip(record.iter().map(|field| Json::String(field.trim().to_owned())));
                    Ok(Row { line, fields: fields.collect() })
                } else {
                    Err(format!("line {line}: has {} fields, the header {}", record.len(), columns.len()))
                }
            }
            Err(error) => {
                let line = error.position().map_or(0, |position| line_of(bytes, position));
                Err(format!("line {line}: {}", csv_fault(&error)))
            }
        };
        rows.push(row);
        if rows.len() > MAX_ROWS {
            return Err(format!("has more than {MAX_ROWS} rows; split it, and send the parts"));
        }
    }
    Ok((columns, rows))
}

/// The line a record begins in. The reader's position stands before the blank lines it skips.
fn line_of(bytes: &[u8], position: &csv::Position) -> u64 {
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let blank =
        bytes.get(start..).unwrap_or_default().iter().take_while(|byte| matches!(byte, b'\n' | b'\r'));
    position.line() + blank.filter(|byte| **byte == b'\n').count() as u64
}

fn csv_fault(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Utf8 { err, .. } => format!("field {} is not UTF-8", err.field() + 1),
        _ => error.to_string(),
    }
}

fn parse_jsonl(bytes: &[u8]) -> Result<Vec<Result<Row, String>>, String> {
    let mut rows = Vec::new();
    for (place, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let number = place as u64 + 1;
        rows.push(match serde_json::from_slice::<Json>(line) {
            Ok(Json::Object(fields)) => Ok(Row {
                line: number,
                fields: fields.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            }),
            Ok(_) => Err(format!("line {number}: is not an object, as {{\"unit\":\"u1\"}}")),
            Err(error) => Err(format!("line {number}: column {}: {error}", error.column())),
        });
        if rows.len() > MAX_ROWS {
            return Err(format!("has more than {MAX_ROWS} rows; split it, and send the parts"));
        }
    }
    Ok(rows)
}

impl Row {
    /// A field as text; empty and null are absent. Numbers in JSON are text as they stand: unit 7 is unit "7".
    pub fn text(&self, name: &str) -> Result<Option<String>, String> {
        match self.fields.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) if text.is_empty() => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.clone())),
            Some(scalar @ (Json::Number(_) | Json::Bool(_))) => Ok(Some(scalar.to_string())),
            Some(_) => Err(format!("{name} must be text or a number")),
        }
    }

    /// The field is there and holds nothing.
    pub fn is_empty(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| value.as_str() == Some(""))
    }

    /// A field as a time.
    pub fn moment(&self, name: &str) -> Result<Option<Timestamp>, String> {
        match self.text(name)? {
            Some(text) => parse_moment(&text).map(Some).map_err(|message| format!("{name} {message}")),
            None => Ok(None),
        }
    }

    /// `attribute.NAME` columns, and in JSONL an `attributes` object.
    pub fn attributes(&self) -> Result<BTreeMap<String, prost_types::Value>, String> {
        let mut attributes = BTreeMap::new();
        match self.fields.get("attributes") {
            None | Some(Json::Null) => {}
            Some(Json::Object(fields)) => {
                attributes.extend(fields.iter().map(|(name, value)| (name.clone(), value_of_json(value))));
            }
            Some(Json::String(text)) => match serde_json::from_str(text) {
                Ok(Json::Object(fields)) => {
                    attributes
                        .extend(fields.iter().map(|(name, value)| (name.clone(), value_of_json(value))));
                }
                _ if text.is_empty() => {}
                _ => return Err("attributes must be a JSON object".to_owned()),
            },
            Some(_) => return Err("attributes must be an object".to_owned()),
        }
        for (name, value) in &self.fields {
            if let Some(attribute) = name.strip_prefix("attribute.")
                && value.as_str() != Some("")
            {
                attributes.insert(attribute.to_owned(), value_of_json(value));
            }
        }
        Ok(attributes)
    }

    /// A fault of this row, with its line.
    #[must_use]
    pub fn fault(&self, message: &str) -> String {
        format!("line {}: {message}", self.line)
    }
}

/// The failure of a file with malformed rows.
#[must_use]
pub fn malformed(path: &Path, count: usize, of: usize, faults: Vec<String>) -> Failure {
    let more = count.saturating_sub(faults.len());
    let mut failure = Failure::usage(format!("{}: {count} of {of} rows are malformed", shown(path)));
    failure.notes = faults;
    if more > 0 {
        failure.notes.push(format!("and {more} more"));
    }
    failure
}

/// A finite number.
#[must_use]
pub fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|number| number.is_finite())
}

/// TRUE/FALSE, yes/no, 1/0 in any case.
#[must_use]
pub fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "1" | "1.0" => Some(true),
        "false" | "f" | "no" | "n" | "0" | "0.0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_rows_keep_their_line_numbers_and_faults() {
        let text = "\u{feff}unit;value\nu1;1\n\n\"u\n2\";3\nu3\nu4;5\n";
        let table = Table::parse(text.as_bytes(), Format::Csv, ';').unwrap();
        let rows: Vec<_> = table.rows().iter().map(|row| row.as_ref().map(|row| row.line)).collect();
        assert_eq!(rows[0], Ok(2));
        assert_eq!(rows[1], Ok(4));
        assert!(rows[2].unwrap_err().contains("line 6: has 1 fields, the header 2"), "{rows:?}");
        assert_eq!(rows[3], Ok(7));
        let row = table.rows()[0].as_ref().unwrap();
        assert_eq!(row.text("unit").unwrap().as_deref(), Some("u1"));
        let table = Table::parse(b"unit,value\r\nu1,1\r\n\r\nu2,2\r\nu3,3\r\n", Format::Csv, ',').unwrap();
        let lines: Vec<_> = table.rows().iter().flatten().map(|row| row.line).collect();
        assert_eq!(lines, [2, 4, 5]);
    }

    #[test]
    fn unknown_columns_are_named_with_their_nearest() {
        let table = Table::parse(b"unit,vlaue\nu1,1\n", Format::Csv, ',').unwrap();
        let failure = table.check_columns(&["unit", "value"]).unwrap_err();
        assert!(
            failure.message.contains("'vlaue' is not known; did you mean 'value'?"),
            "{}",
            failure.message
        );
        let table = Table::parse(b"{\"unti\":\"u1\"}\n", Format::Jsonl, ',').unwrap();
        let failure = table.check_columns(&["unit", "value"]).unwrap_err();
        assert!(failure.message.contains("line 1: field 'unti'"), "{}", failure.message);
        assert!(Table::parse(b"a,a\n1,2\n", Format::Csv, ',').unwrap_err().contains("twice"));
    }

    #[test]
    fn a_header_that_is_cut_by_the_wrong_separator_is_told_which_one_is_right() {
        for (text, way) in [
            ("userid;version;retention_1\n1;gate_30;TRUE\n", "add --delimiter ';'"),
            ("userid\tversion\n1\tgate_30\n", "add --delimiter $'\\t'"),
        ] {
            let table = Table::parse(text.as_bytes(), Format::Csv, ',').unwrap();
            for failure in [table.require_column("userid"), table.check_columns(&["userid"])] {
                assert!(failure.as_ref().unwrap_err().render().contains(way), "{failure:?}");
            }
        }
        let table = Table::parse(b"unit,version\n1,a\n", Format::Csv, ',').unwrap();
        assert!(!table.require_column("userid").unwrap_err().render().contains("--delimiter"));
    }

    #[test]
    fn jsonl_rows_have_scalars_attributes_and_faults() {
        let text = b"{\"unit\":7,\"attributes\":{\"plan\":\"pro\"},\"attribute.age\":3}\n\n[1]\n{\"unit\n";
        let table = Table::parse(text, Format::Jsonl, ',').unwrap();
        let row = table.rows()[0].as_ref().unwrap();
        assert_eq!(row.text("unit").unwrap().as_deref(), Some("7"));
        assert_eq!(row.attributes().unwrap().len(), 2);
        assert!(table.rows()[1].as_ref().unwrap_err().starts_with("line 3: is not an object"));
        assert!(table.rows()[2].as_ref().unwrap_err().starts_with("line 4: column"));
    }

    #[test]
    fn truths_and_numbers() {
        assert_eq!(
            (truth("TRUE"), truth("no"), truth("0"), truth("maybe")),
            (Some(true), Some(false), Some(false), None)
        );
        assert_eq!((number("1e3"), number("NaN"), number("")), (Some(1_000.0), None, None));
    }
}
