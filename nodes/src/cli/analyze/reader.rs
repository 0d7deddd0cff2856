//! A CSV file in one pass, as sums for each arm and segment that add up.
//!
//! Without `--unit` each row is a unit and nothing of it is kept but sums. With it, a unit's rows are added up first: 16 bytes of
//! the key's hash, its arm, its segments and a number for each column. Files are read as bytes; only what is asked for is parsed.

use std::collections::HashMap;
use std::path::Path;

use csv::ByteRecord;
use featureops_decision::analysis::arm::{Arm, Part};
use xxhash_rust::xxh3::xxh3_128;

use super::AnalyzeArgs;
use super::metrics::{Kind, Metric, parse};
use crate::cli::failure::Failure;
use crate::cli::reading::{open, shown};
use crate::nearest::suggestion;

/// Arms of a file.
const ARMS_MAX: usize = 32;
/// Values held for quantiles and cut means, over everything.
const VALUES_MAX: usize = 50_000_000;
/// A hash of a hash needs no secret; the order of this map is never looked at.
type ByHash<V> = HashMap<u128, V, std::hash::BuildHasherDefault<Folded>>;

/// The key is a hash already.
#[derive(Debug, Default, Clone, Copy)]
pub struct Folded(u64);

impl std::hash::Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

/// What is to be read, and how.
#[derive(Debug, Clone)]
pub struct Layout {
    pub arm: String,
    pub control: String,
    pub metrics: Vec<Metric>,
    pub unit: Option<String>,
    pub covariate: Option<String>,
    pub segments: Vec<String>,
    pub delimiter: Option<u8>,
    pub units_max: usize,
    pub segments_max: usize,
}

impl Layout {
    /// # Errors
    /// What is missing on the command line.
    pub fn of(args: &AnalyzeArgs) -> Result<Self, Failure> {
        let need = |value: &Option<String>, what: &str| {
            value.clone().ok_or_else(|| Failure::usage(format!("{what} is needed with a CSV file")))
        };
        let delimiter = args.delimiter.map(u8::try_from).transpose();
        Ok(Self {
            arm: need(&args.arm, "--arm COLUMN")?,
            control: need(&args.control, "--control ARM")?,
            metrics: parse(&args.metric, &args.guardrail, &args.lower_is_better)?,
            unit: args.unit.clone(),
            covariate: args.covariate.clone(),
            segments: args.segment.clone(),
            delimiter: delimiter.map_err(|_| Failure::usage("--delimiter must be one ASCII character"))?,
            units_max: args.max_units,
            segments_max: args.max_segments,
        })
    }
}

/// Sums of one metric for one arm.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// Units with a value.
    n: f64,
    sum: f64,
    squares: f64,
    /// Of the denominator, or the covariate.
    other: f64,
    other_squares: f64,
    products: f64,
    /// Units' values, where the metric needs them.
    values: Vec<f64>,
}

impl Cell {
    fn add(&mut self, value: f64, other: f64, hold: bool) {
        self.n += 1.0;
        self.sum += value;
        self.squares += value * value;
        self.other += other;
        self.other_squares += other * other;
        self.products += value * other;
        if hold {
            self.values.push(value);
        }
    }

    /// Units with a value.
    #[must_use]
    pub const fn units(&self) -> f64 {
        self.n
    }

    /// The arm as sums, without the covariate; `cut` where the mean is winsorised.
    #[must_use]
    pub fn arm(&self, kind: &Kind, cut: Option<f64>) -> Arm {
        match kind {
            Kind::Proportion => Arm::Single(Part::proportion(self.n, self.sum)),
            Kind::Mean => Arm::Single(Part::mean_of(self.n, self.sum, self.squares)),
            Kind::Ratio(_) => Arm::Ratio {
                numerator: Part::mean_of(self.n, self.sum, self.squares),
                denominator: Part::mean_of(self.n, self.other, self.other_squares),
                products: self.products,
            },
            Kind::Winsorised(_) => {
                let cut = cut.unwrap_or(f64::INFINITY);
                let (sum, squares) = self
                    .values
                    .iter()
                    .map(|value| value.min(cut))
                    .fold((0.0, 0.0), |(sum, squares), value| (sum + value, squares + value * value));
                Arm::Single(Part::mean_of(self.n, sum, squares))
            }
            Kind::Quantile(level) => quantile(self.values.clone(), *level),
        }
    }

    /// The arm with its covariate.
    #[must_use]
    pub fn adjusted(&self, kind: &Kind) -> Option<Arm> {
        matches!(kind, Kind::Proportion | Kind::Mean).then(|| Arm::Adjusted {
            post: Part::mean_of(self.n, self.sum, self.squares),
            pre: Part::mean_of(self.n, self.other, self.other_squares),
            products: self.products,
        })
    }

    /// The units' values.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// The value at place `level` of the sorted values, between neighbours by their distance (Hyndman & Fan 1996, type 7).
#[must_use]
pub fn at_level(sorted: &[f64], level: f64) -> f64 {
    let place = level.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let below = place.floor();
    let value = |at: f64| sorted.get(at as usize).copied().unwrap_or(0.0);
    value(below) + (place - below) * (value(place.ceil()) - value(below))
}

/// A quantile with its 95 % interval by order statistics (Woodruff 1952).
fn quantile(mut values: Vec<f64>, level: f64) -> Arm {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let reach = 1.959_963_984_540_054 * (level * (1.0 - level) / n.max(1.0)).sqrt();
    let estimate = at_level(&values, level);
    let (lower, upper) = (at_level(&values, level - reach), at_level(&values, level + reach));
    Arm::Quantile { n, level, estimate, lower: lower.min(estimate), upper: upper.max(estimate) }
}

/// One arm's sums.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// Units assigned.
    pub units: u64,
    /// By metric.
    pub cells: Vec<Cell>,
}

/// What a file held.
#[derive(Debug, Clone)]
pub struct Read {
    /// Names; the first is control.
    pub arms: Vec<String>,
    /// By arm.
    pub whole: Vec<Sums>,
    /// (column, value, by arm), by column and value.
    pub segments: Vec<(String, String, Vec<Sums>)>,
    /// Rows read.
    pub rows: u64,
    /// Rows without an arm.
    pub without_arm: u64,
    /// Units seen in two arms, left out.
    pub in_two_arms: u64,
    /// By metric: units or rows without a value, left out.
    pub without_value: Vec<u64>,
    /// The file's last row does not end.
    pub unfinished: bool,
}

/// Watches the last byte: a file that was cut ends within a row.
struct LastByte<R> {
    inner: R,
    last: std::rc::Rc<std::cell::Cell<u8>>,
}

impl<R: std::io::Read> std::io::Read for LastByte<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(last) = count.checked_sub(1).and_then(|at| buffer.get(at)) {
            self.last.set(*last);
        }
        Ok(count)
    }
}

/// Digits with at most one point, the most common fields, without the general parser. Up to 15 digits and their power of ten are exact
/// in binary, so one division rounds once: the same bits as the general parser's (Clinger 1990).
fn plain_decimal(field: &[u8]) -> Option<f64> {
    if field.is_empty() || field.len() > 16 {
        return None;
    }
    let (mut whole, mut digits, mut scale) = (0_u64, 0_u32, None::<f64>);
    for byte in field {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            whole = whole * 10 + u64::from(digit);
            digits += 1;
            scale = scale.map(|scale| scale * 10.0);
        } else if *byte == b'.' && scale.is_none() {
            scale = Some(1.0);
        } else {
            return None;
        }
    }
    let number = whole as f64;
    (1..=15).contains(&digits).then(|| scale.map_or(number, |scale| number / scale))
}

/// A field as a number; words of truth are 1 and 0, nothing is no value.
fn value_of(field: &[u8]) -> Result<Option<f64>, ()> {
    if let Some(number) = plain_decimal(field) {
        return Ok(Some(number));
    }
    let text = std::str::from_utf8(field).map_err(|_| ())?.trim();
    match text {
        "" | "NA" | "NaN" | "nan" | "null" | "NULL" | "None" => return Ok(None),
        "TRUE" | "True" | "true" => return Ok(Some(1.0)),
        "FALSE" | "False" | "false" => return Ok(Some(0.0)),
        _ => {}
    }
    text.parse().map(Some).map_err(|_| ())
}

/// Where a metric's fields are.
struct Columns {
    arm: usize,
    unit: Option<usize>,
    covariate: Option<usize>,
    segments: Vec<usize>,
    /// (value, denominator) of each metric.
    metrics: Vec<(usize, Option<usize>)>,
}

/// Values of a column, in the order they came.
#[derive(Default)]
struct Words {
    /// The first of them, found faster by looking at each than by a tree: arms are few.
    first: Vec<Vec<u8>>,
    by_name: std::collections::BTreeMap<Vec<u8>, usize>,
}

/// Words that are looked at one by one.
const FIRST_WORDS: usize = 8;

impl Words {
    fn place(&mut self, word: &[u8]) -> usize {
        if let Some(place) = self.first.iter().position(|known| known == word) {
            return place;
        }
        if let Some(place) = self.by_name.get(word) {
            return *place;
        }
        let place = self.by_name.len();
        self.by_name.insert(word.to_vec(), place);
        if place < FIRST_WORDS {
            self.first.push(word.to_vec());
        }
        place
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<(usize, String)> = self
            .by_name
            .iter()
            .map(|(word, place)| (*place, String::from_utf8_lossy(word).into_owned()))
            .collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect()
    }
}

/// A unit's numbers so far: segments, then (covariate), then (value, denominator) a metric; NaN is "none yet".
struct Units {
    places: ByHash<u32>,
    arms: Vec<u8>,
    segments: Vec<u32>,
    numbers: Vec<f64>,
}

/// Arm of a unit seen in two.
const TWO_ARMS: u8 = u8::MAX;

struct Pass<'a> {
    layout: &'a Layout,
    columns: Columns,
    file: String,
    arms: Words,
    segments: Vec<Words>,
    /// By arm.
    whole: Vec<Sums>,
    /// By segment column, then value, then arm.
    parts: Vec<Vec<Vec<Sums>>>,
    units: Option<Units>,
    held: usize,
    without_arm: u64,
    in_two_arms: u64,
    without_value: Vec<u64>,
    hold: Vec<bool>,
    row: Vec<f64>,
    row_segments: Vec<u32>,
}

impl Pass<'_> {
    fn fault(&self, message: impl std::fmt::Display) -> Failure {
        Failure::usage(format!("{}: {message}", self.file))
    }

    fn number(&self, record: &ByteRecord, column: usize, name: &str) -> Result<Option<f64>, Failure> {
        let field = record.get(column).unwrap_or_default();
        let line = || record.position().map_or(0, csv::Position::line);
        let shown = || String::from_utf8_lossy(field).into_owned();
        match value_of(field) {
            Ok(Some(value)) if !value.is_finite() => Err(self.fault(format!(
                "line {}, column '{name}': '{}' is infinite; leave the row out or write a number",
                line(),
                shown()
            ))),
            Ok(value) => Ok(value),
            Err(()) => {
                Err(self.fault(format!("line {}, column '{name}': '{}' is no number", line(), shown())))
            }
        }
    }

    fn take(&mut self, record: &ByteRecord) -> Result<(), Failure> {
        let word = record.get(self.columns.arm).unwrap_or_default();
        if word.is_empty() {
            self.without_arm += 1;
            return Ok(());
        }
        let arm = self.arms.place(word);
        if arm >= ARMS_MAX {
            return Err(self.fault(format!(
                "column '{}' has more than {ARMS_MAX} values; is it the column of the arms?",
                self.layout.arm
            )));
        }
        let mut segments = std::mem::take(&mut self.row_segments);
        segments.clear();
        for (at, (words, column)) in self.segments.iter_mut().zip(&self.columns.segments).enumerate() {
            let place = words.place(record.get(*column).unwrap_or_default());
            if place >= self.layout.segments_max {
                let name = self.layout.segments.get(at).cloned().unwrap_or_default();
                return Err(self.fault(format!(
                    "segment column '{name}' has more than {} values; group them into fewer, or raise --max-segments",
                    self.layout.segments_max
                )));
            }
            segments.push(u32::try_from(place).unwrap_or(u32::MAX));
        }
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        if let Some(column) = self.columns.covariate {
            let name = self.layout.covariate.as_deref().unwrap_or_default();
            row.push(self.number(record, column, name)?.unwrap_or(f64::NAN));
        }
        for (metric, (value, below)) in self.layout.metrics.iter().zip(&self.columns.metrics) {
            let number = self.number(record, *value, &metric.column)?;
            if metric.kind == Kind::Proportion && number.is_some_and(|value| value != 0.0 && value != 1.0) {
                return Err(self.fault(format!(
                    "line {}, column '{}': {} is no proportion's value (0, 1, true, false); use :mean for amounts",
                    record.position().map_or(0, csv::Position::line),
                    metric.column,
                    number.unwrap_or_default()
                )));
            }
            row.push(number.unwrap_or(f64::NAN));
            if let (Some(column), Kind::Ratio(name)) = (below, &metric.kind) {
                row.push(self.number(record, *column, name)?.unwrap_or(f64::NAN));
            }
        }
        let done = match self.columns.unit {
            None => self.count(arm, &segments, &row),
            Some(column) => self.merge(record.get(column).unwrap_or_default(), arm, &segments, &row),
        };
        self.row = row;
        self.row_segments = segments;
        done
    }

    /// Adds a row to its unit.
    fn merge(&mut self, key: &[u8], arm: usize, segments: &[u32], row: &[f64]) -> Result<(), Failure> {
        let Some(mut units) = self.units.take() else { return Ok(()) };
        let next = u32::try_from(units.arms.len()).unwrap_or(u32::MAX);
        let place = *units.places.entry(xxh3_128(key)).or_insert(next);
        if place == next {
            if units.arms.len() >= self.layout.units_max {
                return Err(self.fault(format!(
                    "has more than {} units; raise --max-units (about {} bytes each), or add up the file's rows first",
                    self.layout.units_max,
                    64 + 8 * row.len() + 4 * segments.len()
                )));
            }
            units.arms.push(u8::try_from(arm).unwrap_or(TWO_ARMS));
            units.segments.extend_from_slice(segments);
            units.numbers.extend_from_slice(row);
        } else {
            let at = place as usize;
            if let Some(own) = units.arms.get_mut(at)
                && usize::from(*own) != arm
            {
                *own = TWO_ARMS;
            }
            let from = at * row.len();
            let known = units.numbers.get_mut(from..from + row.len()).unwrap_or_default();
            let first = usize::from(self.columns.covariate.is_some());
            if let (true, Some(known), Some(new)) = (first == 1, known.first_mut(), row.first())
                && known.is_nan()
            {
                *known = *new;
            }
            for (known, new) in known.iter_mut().zip(row).skip(first) {
                if known.is_nan() {
                    *known = *new;
                } else if !new.is_nan() {
                    *known += new;
                }
            }
        }
        self.units = Some(units);
        Ok(())
    }

    /// Adds a unit to the sums.
    fn count(&mut self, arm: usize, segments: &[u32], row: &[f64]) -> Result<(), Failure> {
        let metrics = self.layout.metrics.len();
        let covariate = self.columns.covariate.is_some();
        let grown = |list: &mut Vec<Sums>| {
            while list.len() <= arm {
                list.push(Sums { units: 0, cells: vec![Cell::default(); metrics] });
            }
        };
        grown(&mut self.whole);
        for (column, value) in self.parts.iter_mut().zip(segments) {
            let value = *value as usize;
            while column.len() <= value {
                column.push(Vec::new());
            }
            if let Some(list) = column.get_mut(value) {
                grown(list);
            }
        }
        let mut add = |at: usize, cell: Option<(f64, f64)>, hold: bool| {
            let whole = self.whole.get_mut(arm).into_iter();
            let parts = self.parts.iter_mut().zip(segments).filter_map(|(column, value)| {
                column.get_mut(*value as usize).and_then(|list| list.get_mut(arm))
            });
            for sums in whole.chain(parts) {
                match cell {
                    None => sums.units += 1,
                    Some((value, other)) => {
                        if let Some(cell) = sums.cells.get_mut(at) {
                            cell.add(value, other, hold);
                        }
                    }
                }
            }
        };
        add(0, None, false);
        let mut fields = row.iter().copied();
        let before = if covariate { fields.next().unwrap_or(f64::NAN) } else { 0.0 };
        for (at, metric) in self.layout.metrics.iter().enumerate() {
            let value = fields.next().unwrap_or(f64::NAN);
            let value =
                if metric.kind == Kind::Proportion && !value.is_nan() { value.min(1.0) } else { value };
            let other = if matches!(metric.kind, Kind::Ratio(_)) {
                fields.next().unwrap_or(f64::NAN)
            } else {
                before
            };
            if value.is_nan() || other.is_nan() {
                if let Some(count) = self.without_value.get_mut(at) {
                    *count += 1;
                }
                continue;
            }
            let hold = self.hold.get(at).copied().unwrap_or_default();
            add(at, Some((value, other)), hold);
            if hold {
                self.held += 1 + segments.len();
            }
        }
        if self.held > VALUES_MAX {
            // Values of all segments count, too.
            return Err(self.fault(format!(
                "a quantile or a cut mean holds every value, at most {VALUES_MAX}; ask for the mean, or for fewer segments"
            )));
        }
        Ok(())
    }

    /// Units into sums, at the end of a file with several rows a unit.
    fn close(&mut self) -> Result<(), Failure> {
        let Some(units) = self.units.take() else { return Ok(()) };
        let width = units.numbers.len().checked_div(units.arms.len()).unwrap_or(0);
        let segments = self.columns.segments.len();
        for (at, arm) in units.arms.iter().enumerate() {
            if *arm == TWO_ARMS {
                self.in_two_arms += 1;
                continue;
            }
            let row = units.numbers.get(at * width..(at + 1) * width).unwrap_or_default();
            let own = units.segments.get(at * segments..(at + 1) * segments).unwrap_or_default();
            self.count(usize::from(*arm), own, row)?;
        }
        Ok(())
    }
}

/// The separator that parts the header most often.
fn separator(header: &[u8]) -> u8 {
    let count = |own: u8| header.iter().filter(|byte| **byte == own).count();
    [b',', b';', b'\t', b'|'].into_iter().rev().max_by_key(|own| count(*own)).unwrap_or(b',')
}

/// Reads the file.
///
/// # Errors
/// What is wrong with it, with line and column.
pub fn read_csv(path: &Path, layout: &Layout) -> Result<Read, Failure> {
    let file = shown(path);
    let fault = |message: String| Failure::usage(format!("{file}: {message}"));
    let mut source = std::io::BufReader::with_capacity(1 << 20, open(path).map_err(fault)?);
    let start = std::io::BufRead::fill_buf(&mut source).map_err(|error| fault(error.to_string()))?;
    if start.is_empty() {
        return Err(fault("is empty".to_owned()));
    }
    if start.starts_with(b"PAR1") {
        return Err(fault("is Parquet, which is not read; write it as CSV first".to_owned()));
    }
    if start.starts_with(&[0x1f, 0x8b]) {
        return Err(fault(
            "is compressed; give it through a pipe: gzip -dc FILE | featureops analyze - …".to_owned(),
        ));
    }
    let mark = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let delimiter = layout.delimiter.unwrap_or_else(|| separator(line));
    std::io::BufRead::consume(&mut source, mark);
    let last = std::rc::Rc::new(std::cell::Cell::new(b'\n'));
    let source = LastByte { inner: source, last: std::rc::Rc::clone(&last) };
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).buffer_capacity(1 << 18).from_reader(source);
    let headers = reader.byte_headers().map_err(|error| fault(error.to_string()))?.clone();
    let names: Vec<String> =
        headers.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
    let find = |column: &str, option: &str| {
        names.iter().position(|name| name == column).ok_or_else(|| {
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            fault(format!(
                "has no column '{column}' ({option}){}; it has {}",
                suggestion(column, &known),
                names.join(", ")
            ))
        })
    };
    let mut metrics = Vec::new();
    for metric in &layout.metrics {
        let below = match &metric.kind {
            Kind::Ratio(column) => Some(find(column, "--metric")?),
            _ => None,
        };
        metrics.push((find(&metric.column, "--metric")?, below));
    }
    let columns = Columns {
        arm: find(&layout.arm, "--arm")?,
        unit: layout.unit.as_ref().map(|column| find(column, "--unit")).transpose()?,
        covariate: layout.covariate.as_ref().map(|column| find(column, "--covariate")).transpose()?,
        segments: layout.segments.iter().map(|column| find(column, "--segment")).collect::<Result<_, _>>()?,
        metrics,
    };
    let units = columns.unit.map(|_| Units {
        places: ByHash::default(),
        arms: Vec::new(),
        segments: Vec::new(),
        numbers: Vec::new(),
    });
    let mut pass = Pass {
        layout,
        file: file.clone(),
        arms: Words::default(),
        segments: columns.segments.iter().map(|_| Words::default()).collect(),
        whole: Vec::new(),
        parts: columns.segments.iter().map(|_| Vec::new()).collect(),
        units,
        held: 0,
        without_arm: 0,
        in_two_arms: 0,
        without_value: vec![0; layout.metrics.len()],
        hold: layout.metrics.iter().map(|metric| metric.kind.holds_values()).collect(),
        row: Vec::new(),
        row_segments: Vec::new(),
        columns,
    };
    let mut record = ByteRecord::new();
    let mut rows = 0_u64;
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {
                rows += 1;
                pass.take(&record)?;
            }
            Ok(false) => break,
            Err(error) => {
                let csv::ErrorKind::UnequalLengths { pos, expected_len, len } = error.kind() else {
                    return Err(fault(error.to_string()));
                };
                let line = pos.as_ref().map_or(0, csv::Position::line);
                let cut = if last.get() == b'\n' {
                    ""
                } else {
                    ", and the file ends within a row: it looks cut off"
                };
                return Err(fault(format!("line {line} has {len} fields, its header {expected_len}{cut}")));
            }
        }
    }
    pass.close()?;
    let mut arms = pass.arms.names();
    let Some(control) = arms.iter().position(|arm| *arm == layout.control) else {
        let list = if arms.is_empty() { "none".to_owned() } else { arms.join(", ") };
        return Err(fault(format!(
            "has no arm '{}' in column '{}' (--control); there are: {list}",
            layout.control, layout.arm
        )));
    };
    if arms.len() < 2 {
        return Err(fault(format!(
            "has one arm only, '{}', in column '{}'; nothing to compare it with",
            layout.control, layout.arm
        )));
    }
    let count = arms.len();
    let metrics = layout.metrics.len();
    let whole_of = |mut list: Vec<Sums>| {
        list.resize(count, Sums { units: 0, cells: vec![Cell::default(); metrics] });
        // Control comes first, the others as the file had them.
        list.get_mut(..=control).unwrap_or_default().rotate_right(1);
        list
    };
    arms.get_mut(..=control).unwrap_or_default().rotate_right(1);
    let mut segments = Vec::new();
    for ((name, words), values) in layout.segments.iter().zip(&pass.segments).zip(pass.parts) {
        let mut own: Vec<_> = words.names().into_iter().zip(values).collect();
        own.sort_by(|left, right| left.0.cmp(&right.0));
        segments.extend(own.into_iter().map(|(value, sums)| (name.clone(), value, whole_of(sums))));
    }
    Ok(Read {
        arms,
        whole: whole_of(pass.whole),
        segments,
        rows,
        without_arm: pass.without_arm,
        in_two_arms: pass.in_two_arms,
        without_value: pass.without_value,
        unfinished: last.get() != b'\n' && last.get() != b'\r',
    })
}
