//! The report as an analyst would write it.

use super::report::{Line, Report, method_word};
use super::verdict::p_text;
use crate::cli::page::{Cell, Page, Tone};
use crate::cli::render::{count_text, number_text, part_text, percent_text};

/// Segments shown; JSON has them all.
const SEGMENTS_SHOWN: usize = 40;

/// Writes the report.
pub fn table(page: &mut Page, report: &Report) {
    let units: u64 = report.arms.iter().map(|(_, units)| units).sum();
    let rows = report
        .arms
        .iter()
        .map(|(arm, own)| {
            let share = part_text(*own as f64 / units.max(1) as f64);
            vec![Cell::new(arm), Cell::number(count_text(*own)), Cell::number(share)]
        })
        .collect();
    page.table(&["ARM", "UNITS", "SHARE"], rows, "no arms");
    let (text, tone) = match report.srm {
        None => ("sample ratio: nothing to test".to_owned(), Tone::Warn),
        Some(p) if p < report.srm_threshold => (
            format!("sample ratio: MISMATCH, p = {} < {}", number_text(p), number_text(report.srm_threshold)),
            Tone::Bad,
        ),
        Some(p) => (
            format!("sample ratio: p = {} (threshold {})", number_text(p), number_text(report.srm_threshold)),
            Tone::Good,
        ),
    };
    page.line(tone, text);
    let level = number_text((1.0 - report.alpha) * 100.0);
    let plain: Vec<&Line> = report.lines.iter().filter(|line| line.segment.is_none()).collect();
    page.heading(&format!("Effects ({}, {level} % intervals)", method_word(report.method)));
    page.table(&HEADS, plain.iter().map(|line| row(line, String::new())).collect(), "none");
    let mut segments: Vec<&Line> = report.lines.iter().filter(|line| line.segment.is_some()).collect();
    if !segments.is_empty() {
        segments.sort_by(|left, right| left.adjusted_p.total_cmp(&right.adjusted_p));
        let hidden = segments.len().saturating_sub(SEGMENTS_SHOWN);
        segments.truncate(SEGMENTS_SHOWN);
        page.heading("Segments (exploratory: believe none without a run of its own)");
        let named = |line: &&Line| {
            let segment = line.segment.as_ref().map(|(column, value)| format!("{column}={value}"));
            row(line, segment.unwrap_or_default())
        };
        page.table(&HEADS, segments.iter().map(named).collect(), "none");
        if hidden > 0 {
            page.line(Tone::Faint, format!("{hidden} more; -o json has them all"));
        }
    }
    if !report.hygiene.is_empty() {
        page.heading("Hygiene");
        for (_, text, blocks) in &report.hygiene {
            page.line(if *blocks { Tone::Bad } else { Tone::Warn }, format!("- {text}"));
        }
    }
    for verdict in &report.verdicts {
        page.heading(&format!("{}: {}", verdict.arm, verdict.decision.replace('_', " ").to_uppercase()));
        for sentence in &verdict.sentences {
            page.line(Tone::Plain, format!("{} [{}]", sentence.text, sentence.statistics.join(", ")));
        }
    }
}

const HEADS: [&str; 9] =
    ["METRIC", "ARM", "SEGMENT", "CONTROL", "TREATMENT", "LIFT", "INTERVAL", "P", "P (BH)"];

fn row(line: &Line, segment: String) -> Vec<Cell> {
    let mean = |value: f64| number_text(value);
    let (lift, interval, p) = match (&line.relative, &line.absolute) {
        (Ok(scaled), _) => {
            let (lower, upper) = scaled.ends();
            let end =
                |value: f64| if value.is_finite() { percent_text(value) } else { "unbounded".to_owned() };
            let p = match &scaled.belief {
                Some(belief) => format!("win {}", part_text(belief.chance_to_win)),
                None => p_text(scaled),
            };
            (percent_text(scaled.estimate()), format!("{} to {}", end(lower), end(upper)), p)
        }
        (Err(_), Ok(scaled)) => {
            let (lower, upper) = scaled.ends();
            let text = format!("{} to {} (absolute)", number_text(lower), number_text(upper));
            (number_text(scaled.estimate()), text, p_text(scaled))
        }
        (Err(_), Err(undefined)) => (String::new(), undefined.name().to_owned(), String::new()),
    };
    let tone = match line.direction() {
        1 => Tone::Good,
        -1 => Tone::Bad,
        _ => Tone::Plain,
    };
    vec![
        Cell::new(&line.metric.name),
        Cell::new(&line.arm),
        Cell::new(segment),
        Cell::number(mean(line.control_mean)),
        Cell::number(mean(line.treatment_mean)),
        Cell::number(lift).tone(tone),
        Cell::number(interval),
        Cell::number(p),
        Cell::number(number_text(line.adjusted_p)),
    ]
}
