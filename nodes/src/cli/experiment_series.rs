//! `experiment series` and `experiment sample`: what arrived when, and who the units are.

use clap::Args;
use featureops_proto::Collection::Experiments;
use featureops_proto::v1;
use featureops_proto::v1::get_experiment_series_request::Resolution;

use super::failure::Failure;
use super::page::{Cell, Page, Tone};
use super::render::{count_text, key_of, number_text};
use super::session::Session;
use super::span::moment_text;
use crate::rpc::ledger_service_client::LedgerServiceClient;

#[derive(Debug, Args)]
pub struct SeriesArgs {
    key: String,
    /// A metric of the experiment [default: the primary one].
    #[arg(long)]
    metric: Option<String>,
    /// The last 168 hours instead of the last 64 minutes; of the primary metric and of guardrails.
    #[arg(long)]
    hours: bool,
}

#[derive(Debug, Args)]
pub struct SampleArgs {
    key: String,
    /// Groups with the most units that are shown, 1 to 1000.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    groups: u32,
}

pub async fn series(session: &Session, args: SeriesArgs) -> Result<(), Failure> {
    let request = v1::GetExperimentSeriesRequest {
        name: session.name(Experiments, &args.key)?,
        metric: args.metric.unwrap_or_default(),
        resolution: if args.hours { Resolution::Hours } else { Resolution::Minutes }.into(),
    };
    let series = session
        .client
        .read(request, |channel, request| async move {
            LedgerServiceClient::new(channel).get_experiment_series(request).await
        })
        .await?;
    session.show(&series, |page| describe(page, &series))
}

fn describe(page: &mut Page, series: &v1::ExperimentSeries) {
    let (each, last) = if series.resolution() == Resolution::Hours {
        ("hour", "168 hours")
    } else {
        ("minute", "64 minutes")
    };
    page.line(
        Tone::Strong,
        format!("{} of {}: sealed, of the last {last}", series.metric, key_of(&series.name)),
    );
    page.blank();
    let mut rows = Vec::new();
    for period in &series.periods {
        for (variant, arm) in series.variants.iter().zip(&period.arms) {
            let cell = arm.metric.unwrap_or_default();
            let late = cell.late_events + arm.late_units;
            rows.push(vec![
                Cell::new(moment_text(period.start.as_ref())),
                Cell::new(variant),
                Cell::number(count_text(arm.new_units)),
                Cell::number(count_text(cell.events)),
                Cell::number(number_text(cell.sum)),
                Cell::number(count_text(cell.converted_units)),
                if late == 0 { Cell::number("-") } else { Cell::number(count_text(late)).tone(Tone::Warn) },
            ]);
        }
    }
    let none = format!("no {each} is sealed yet in which anything arrived");
    page.table(&["START", "ARM", "NEW UNITS", "EVENTS", "SUM", "CONVERTED", "LATE"], rows, &none);
    if series.periods.iter().flat_map(|period| &period.arms).any(is_late) {
        page.line(
            Tone::Faint,
            format!("late: came when their {each} was sealed; they are in the totals only"),
        );
    }
}

fn is_late(arm: &v1::SeriesArm) -> bool {
    arm.late_units > 0 || arm.metric.is_some_and(|cell| cell.late_events > 0)
}

pub async fn sample(session: &Session, args: SampleArgs) -> Result<(), Failure> {
    let request =
        v1::GetExperimentSampleRequest { name: session.name(Experiments, &args.key)?, groups: args.groups };
    let sample = session
        .client
        .read(request, |channel, request| async move {
            LedgerServiceClient::new(channel).get_experiment_sample(request).await
        })
        .await?;
    session.show(&sample, |page| describe_sample(page, &sample))
}

fn describe_sample(page: &mut Page, sample: &v1::ExperimentSample) {
    let status = sample.status.clone().unwrap_or_default();
    page.line(Tone::Strong, format!("{}: {}", key_of(&sample.name), size_text(&status)));
    page.line(Tone::Faint, "sizes and means of a sample; intervals are of all units: experiment status");
    page.blank();
    let mut headings: Vec<&str> = sample.dimensions.iter().map(String::as_str).collect();
    headings.extend(["ARM", "UNITS"]);
    headings.extend(sample.metrics.iter().map(String::as_str));
    let mut rows = Vec::new();
    for group in &sample.groups {
        for (variant, arm) in sample.variants.iter().zip(&group.arms) {
            let word = |at: usize| match group.values.get(at).map(String::as_str) {
                Some("") => "-",
                Some(value) => value,
                None if group.unknown => "(unknown)",
                None => "(other)",
            };
            let mut row: Vec<Cell> = (0..sample.dimensions.len()).map(|at| Cell::new(word(at))).collect();
            row.extend([Cell::new(variant), Cell::number(count_text(arm.units))]);
            let mean = |total: &f64| if arm.units == 0 { 0.0 } else { total / arm.units as f64 };
            row.extend(arm.totals.iter().map(|total| Cell::number(number_text(mean(total)))));
            rows.push(row);
        }
    }
    page.table(&headings, rows, "no unit yet");
}

/// `1,204 units, 1 in 1 of all; 12 of 4,096 tuples`.
#[must_use]
pub fn size_text(status: &v1::SampleStatus) -> String {
    let mut text = format!(
        "{} units, 1 in {} of all; {} of 4,096 tuples",
        count_text(status.units),
        count_text(1u64.checked_shl(status.level).unwrap_or(u64::MAX)),
        count_text(status.dictionary)
    );
    for (count, what) in [(status.other, "without room there"), (status.unknown, "of unknown values")] {
        if count > 0 {
            text.push_str(&format!(", {} {what}", count_text(count)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_reads_as_a_table_and_says_what_was_late() {
        let arm = |new_units, events, sum, late_events| v1::SeriesArm {
            new_units,
            metric: Some(v1::SeriesCell { events, sum, late_events, ..Default::default() }),
            ..v1::SeriesArm::default()
        };
        let mut series = v1::ExperimentSeries {
            name: "environments/p/experiments/e".into(),
            metric: "revenue".into(),
            variants: vec!["off".into(), "on".into()],
            periods: vec![v1::SeriesPeriod {
                start: Some(prost_types::Timestamp { seconds: 1_780_272_000, nanos: 0 }),
                arms: vec![arm(3, 2, 19.5, 0), arm(4, 0, 0.0, 1)],
            }],
            ..v1::ExperimentSeries::default()
        };
        let text = |series: &v1::ExperimentSeries| {
            let mut page = Page::new(false);
            describe(&mut page, series);
            page.into_text()
        };
        let shown = text(&series);
        assert!(shown.contains("revenue of e: sealed, of the last 64 minutes"), "{shown}");
        assert!(shown.contains("late: came when their minute was sealed"), "{shown}");
        assert_eq!(shown.lines().filter(|line| line.contains("2026-06-01")).count(), 2, "{shown}");
        series.periods.clear();
        assert!(text(&series).contains("no minute is sealed yet"));
    }

    #[test]
    fn a_samples_size_is_told_with_what_it_lacks() {
        let status =
            v1::SampleStatus { units: 40_000, level: 2, dictionary: 4_096, other: 12, ..Default::default() };
        let expected = "40,000 units, 1 in 4 of all; 4,096 of 4,096 tuples, 12 without room there";
        assert_eq!(size_text(&status), expected);
    }
}
