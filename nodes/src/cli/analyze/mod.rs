//! `analyze`: what an experiment showed, from a file; no server is asked.
//!
//! ```text
//!   FILE.csv  -> reader (one pass, sums that add up) -> report (effects, sample ratio, many tests) -> verdict -> page or JSON
//!   --stats   -> stats (sums in JSON)                -> both scales, every method
//!   --golden  -> golden (a folder of numbers by other tools) -> within its tolerance, or not
//! ```

mod golden;
mod metrics;
mod reader;
mod report;
mod show;
mod stats;
mod verdict;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::failure::Failure;
use super::page::{Cell, Page, Tone};
use super::reading::{open, shown, text_within};
use super::render::{number_text, yaml_text};
use super::session::print;
use super::settings::Output;

pub use metrics::{Kind as MetricKind, Metric};
pub use reader::{Layout, read_csv};

/// How an effect is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// One look at a size fixed beforehand (Welch's t).
    Fixed,
    /// Looks at any time: a confidence sequence, tightest at --horizon units [5000].
    Sequential,
    /// O'Brien-Fleming spending of the error up to --horizon units, with --look for each earlier look.
    Obf,
    /// A belief: normal posterior with --prior, or flat.
    Bayes,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  featureops analyze cookie_cats.csv --arm version --control gate_30 --metric retention_7=retention_7:proportion
  featureops analyze events.csv --unit user --arm variant --control A --metric spend=amount:mean \\
      --metric per_view=clicks:ratio/views --covariate spend_before --segment country --method sequential --horizon 40000
  featureops analyze --stats arms.json -o json
  featureops analyze --golden FOLDER")]
pub struct AnalyzeArgs {
    /// A CSV file, with a header; `-` for standard input.
    #[arg(value_name = "FILE", required_unless_present_any = ["stats", "golden"], conflicts_with_all = ["stats", "golden"])]
    file: Option<PathBuf>,
    /// Arms as sums in JSON instead: {"alpha", "control": {"type", "n", "sum" …}, "treatment": {…}}, or {"cases": […]}.
    #[arg(long, value_name = "FILE", conflicts_with = "golden")]
    stats: Option<PathBuf>,
    /// Compare every number of the golden files in a folder.
    #[arg(long, value_name = "FOLDER")]
    golden: Option<PathBuf>,
    /// Column that holds a unit's arm.
    #[arg(long, value_name = "COLUMN")]
    arm: Option<String>,
    /// The arm the others are compared with.
    #[arg(long, value_name = "ARM")]
    control: Option<String>,
    /// NAME=COLUMN:KIND, KIND one of proportion, mean, count, quantile@P, winsorised@P, ratio/COLUMN; the first is primary.
    #[arg(long, value_name = "METRIC")]
    metric: Vec<String>,
    /// Column that names the unit, where a unit has several rows; without it each row is a unit.
    #[arg(long, value_name = "COLUMN")]
    unit: Option<String>,
    /// A number known of each unit before it was exposed, to adjust by.
    #[arg(long, value_name = "COLUMN")]
    covariate: Option<String>,
    /// Column to look into as well; exploratory.
    #[arg(long, value_name = "COLUMN")]
    segment: Vec<String>,
    #[arg(long, value_enum, default_value_t = Method::Fixed)]
    method: Method,
    /// Units planned over both arms of a comparison.
    #[arg(long, value_name = "UNITS")]
    horizon: Option<u64>,
    /// Units at an earlier look, for obf.
    #[arg(long, value_name = "UNITS")]
    look: Vec<u64>,
    /// MEAN,SD of the belief about the relative lift, for bayes [default: flat].
    #[arg(long, value_name = "MEAN,SD")]
    prior: Option<String>,
    /// Error of the intervals.
    #[arg(long, default_value_t = 0.05)]
    alpha: f64,
    /// Smallest relative lift that would matter.
    #[arg(long, value_name = "LIFT", default_value_t = 0.02)]
    mde: f64,
    /// NAME or NAME=MARGIN: a metric that must not get worse by more than this relative margin.
    #[arg(long, value_name = "METRIC")]
    guardrail: Vec<String>,
    /// A metric of which less is better.
    #[arg(long, value_name = "METRIC")]
    lower_is_better: Vec<String>,
    /// ARM=SHARE for each arm that was to have another share than the others.
    #[arg(long, value_name = "ARM=SHARE")]
    share: Vec<String>,
    /// Below this p the arms' shares contradict the plan, and nothing is decided.
    #[arg(long, value_name = "P", default_value_t = 0.001)]
    srm_threshold: f64,
    /// The file's separator [default: found in its header].
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<char>,
    /// Units held at most, with --unit.
    #[arg(long, value_name = "UNITS", default_value_t = 20_000_000)]
    max_units: usize,
    /// Values of one segment column at most.
    #[arg(long, value_name = "VALUES", default_value_t = 200)]
    max_segments: usize,
}

impl AnalyzeArgs {
    fn check(&self) -> Result<(), Failure> {
        let inside = |name: &str, value: f64, low: f64, high: f64| {
            if value > low && value < high {
                Ok(())
            } else {
                Err(Failure::usage(format!("{name} is {value}; it must lie above {low} and below {high}")))
            }
        };
        inside("--alpha", self.alpha, 0.0, 0.5)?;
        inside("--mde", self.mde, 0.0, 100.0)?;
        inside("--srm-threshold", self.srm_threshold, 0.0, 1.0)?;
        if self.method == Method::Obf && self.horizon.is_none() {
            return Err(Failure::usage(
                "--method obf spends the error up to a size: name it with --horizon UNITS",
            ));
        }
        if self.horizon == Some(0) {
            return Err(Failure::usage("--horizon is 0; it is the number of units planned over both arms"));
        }
        Ok(())
    }
}

/// Prints a value, or the page that stands for it.
pub fn print_value(
    output: Option<Output>,
    value: &Value,
    table: impl FnOnce(&mut Page),
) -> Result<(), Failure> {
    let text = match output.unwrap_or(Output::Table) {
        Output::Json => format!("{value:#}\n"),
        Output::Yaml => yaml_text(value)?,
        Output::Table => {
            let mut page = Page::new(false);
            table(&mut page);
            page.into_text()
        }
    };
    print(&text)
}

pub fn run(output: Option<Output>, args: &AnalyzeArgs) -> Result<(), Failure> {
    if let Some(folder) = &args.golden {
        return run_golden(output, folder);
    }
    if let Some(file) = &args.stats {
        return run_stats(output, file);
    }
    args.check()?;
    let Some(file) = &args.file else {
        return Err(Failure::usage("name a file, --stats FILE or --golden FOLDER"));
    };
    let layout = Layout::of(args)?;
    let read = read_csv(file, &layout)?;
    let report = report::Report::of(&read, &layout, args)?;
    print_value(output, &report.json(), |page| show::table(page, &report))
}

/// Largest file of sums.
const STATS_MAX: u64 = 256 << 20;

fn run_stats(output: Option<Output>, file: &Path) -> Result<(), Failure> {
    let fault = |message: String| Failure::usage(format!("{}: {message}", shown(file)));
    let text = open(file).and_then(|source| text_within(source, STATS_MAX, "; split it")).map_err(fault)?;
    let value: Value = serde_json::from_str(&text).map_err(|error| fault(format!("is no JSON: {error}")))?;
    let Some(cases) = value.get("cases").and_then(Value::as_array) else {
        let question = stats::Question::read(&value).map_err(fault)?;
        let answer = question.answer();
        return print_value(output, &answer, |page| stats_table(page, "", &answer));
    };
    let mut answers = Vec::with_capacity(cases.len());
    for (at, case) in cases.iter().enumerate() {
        let question =
            stats::Question::read(case).map_err(|message| fault(format!("cases[{at}]: {message}")))?;
        let id = question.id.clone().unwrap_or_else(|| at.to_string());
        answers.push((id, question.answer()));
    }
    let all: Vec<Value> = answers.iter().map(|(id, answer)| json!({ "id": id, "result": answer })).collect();
    print_value(output, &json!({ "cases": all }), |page| {
        for (id, answer) in &answers {
            stats_table(page, id, answer);
        }
    })
}

fn stats_table(page: &mut Page, id: &str, answer: &Value) {
    if !id.is_empty() {
        page.heading(id);
    }
    let mut rows = Vec::new();
    for scale in ["relative", "absolute"] {
        for (method, fields) in answer.get(scale).and_then(Value::as_object).into_iter().flatten() {
            let text = |value: Option<&Value>| match value {
                Some(Value::Number(number)) => number_text(number.as_f64().unwrap_or(f64::NAN)),
                Some(Value::String(word)) => word.clone(),
                _ => String::new(),
            };
            let end = |at: usize| text(fields.get("ci").and_then(|ends| ends.get(at)));
            if fields.is_object() {
                rows.push(vec![
                    Cell::new(scale),
                    Cell::new(method),
                    Cell::number(text(fields.get("estimate"))),
                    Cell::number(end(0)),
                    Cell::number(end(1)),
                    Cell::number(text(fields.get("p_value"))),
                    Cell::number(text(fields.get("chance_to_win"))),
                    Cell::new(text(fields.get("error"))),
                ]);
            }
        }
    }
    let heads = ["SCALE", "METHOD", "ESTIMATE", "LOWER", "UPPER", "P", "CHANCE TO WIN", "ERROR"];
    page.table(&heads, rows, "nothing");
}

fn run_golden(output: Option<Output>, folder: &Path) -> Result<(), Failure> {
    let all = golden::run(folder).map_err(Failure::usage)?;
    let outside: Vec<_> = all.iter().filter(|comparison| !comparison.within).collect();
    let mut counts: Vec<(&str, usize, usize)> = Vec::new();
    for comparison in &all {
        match counts.iter_mut().find(|(file, ..)| *file == comparison.file) {
            Some((_, within, total)) => {
                *within += usize::from(comparison.within);
                *total += 1;
            }
            None => counts.push((comparison.file, usize::from(comparison.within), 1)),
        }
    }
    let value = json!({
        "files": counts.iter().map(|(file, within, total)| json!({ "file": file, "within": within, "compared": total })).collect::<Vec<_>>(),
        "outside": outside.iter().map(|each| json!({ "file": each.file, "at": each.at, "ours": each.ours, "theirs": each.theirs })).collect::<Vec<_>>(),
    });
    print_value(output, &value, |page| {
        let rows = counts.iter().map(|(file, within, total)| {
            let tone = if within == total { Tone::Good } else { Tone::Bad };
            let word = if within == total { "within" } else { "OUTSIDE" };
            vec![
                Cell::new(file),
                Cell::number(total.to_string()),
                Cell::number(within.to_string()),
                Cell::new(word).tone(tone),
            ]
        });
        page.table(&["FILE", "COMPARED", "WITHIN", ""], rows.collect(), "nothing");
        for each in &outside {
            page.line(
                Tone::Bad,
                format!("{} {}: ours {}, theirs {}", each.file, each.at, each.ours, each.theirs),
            );
        }
    })?;
    if outside.is_empty() {
        Ok(())
    } else {
        Err(Failure::found(format!("{} of {} numbers are outside their tolerance", outside.len(), all.len())))
    }
}
