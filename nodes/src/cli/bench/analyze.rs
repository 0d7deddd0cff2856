//! A file's analysis beside a bare loop over the same records: what reading costs without any statistics.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::Instant;

use featureops_decision::chance::Chance;

use super::Plan;
use super::report::{Bar, Figure};
use crate::cli::analyze::{Layout, Metric, MetricKind, read_csv};
use crate::cli::failure::Failure;

/// Rows of the file.
const ROWS: u32 = 10_000_000;
/// Times each is read.
const ROUNDS: usize = 3;

fn layout(unit: Option<&str>) -> Layout {
    let metric = |name: &str, kind: MetricKind| Metric {
        name: name.to_owned(),
        column: name.to_owned(),
        kind,
        lower_is_better: false,
        guardrail: None,
    };
    Layout {
        arm: "arm".to_owned(),
        control: "a".to_owned(),
        metrics: vec![metric("converted", MetricKind::Proportion), metric("spend", MetricKind::Mean)],
        unit: unit.map(ToOwned::to_owned),
        covariate: None,
        segments: Vec::new(),
        delimiter: None,
        units_max: 20_000_000,
        segments_max: 200,
    }
}

/// Reads a file of ten million rows, in turns with the bare loop.
#[allow(clippy::disallowed_methods, reason = "a benchmark reads the machine's clock")]
pub fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let fault =
        |error: &dyn std::fmt::Display| Failure::internal(format!("analysis could not be measured: {error}"));
    let folder = tempfile::tempdir_in(&plan.data).map_err(|error| fault(&error))?;
    let path = folder.path().join("rows.csv");
    let mut chance = Chance::from_seed(1);
    let mut file = BufWriter::new(File::create(&path).map_err(|error| fault(&error))?);
    writeln!(file, "user,arm,converted,spend").map_err(|error| fault(&error))?;
    for user in 0..ROWS {
        let bits = chance.bits();
        let arm = if bits & 1 == 0 { 'a' } else { 'b' };
        let spend = (bits >> 32) % 10_000;
        writeln!(file, "u{user},{arm},{},{}.{:02}", u8::from(bits & 62 == 0), spend / 100, spend % 100)
            .map_err(|error| fault(&error))?;
    }
    file.flush().map_err(|error| fault(&error))?;
    let rate = |started: Instant| f64::from(ROWS) / started.elapsed().as_secs_f64();
    let (mut bare, mut rows, mut units) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let mut reader = csv::ReaderBuilder::new().from_path(&path).map_err(|error| fault(&error))?;
        let mut record = csv::ByteRecord::new();
        let mut bytes = 0;
        while reader.read_byte_record(&mut record).map_err(|error| fault(&error))? {
            bytes += record.as_slice().len();
        }
        std::hint::black_box(bytes);
        bare.push(rate(started));
        let started = Instant::now();
        std::hint::black_box(read_csv(&path, &layout(None))?);
        rows.push(rate(started));
        let started = Instant::now();
        std::hint::black_box(read_csv(&path, &layout(Some("user")))?);
        units.push(rate(started));
    }
    Ok(vec![
        // 1.5 times as long is two thirds as fast.
        Figure::beside("rows analysed", "rows/s", &rows, "bare csv records", &bare)
            .bar(Bar::Share(2.0 / 3.0)),
        Figure::beside("rows analysed by unit", "rows/s", &units, "bare csv records", &bare)
            .bar(Bar::Share(0.2))
            .note("every row a unit of its own"),
    ])
}
