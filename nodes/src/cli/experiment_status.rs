//! `experiment status`: what people who decide look at, once or again at every change.

use featureops_proto::Collection::Experiments;
use featureops_proto::v1;

use super::experiment::state;
use super::failure::Failure;
use super::layer;
use super::page::{Cell, Page, Tone};
use super::render::{count_text, key_of, number_text, part_text, percent_text, share_text};
use super::session::{Session, print};
use super::span::moment_text;
use super::{experiment_ramp, experiment_series};
use crate::rpc::experiment_service_client::ExperimentServiceClient;

pub async fn run(session: &Session, key: &str, watch: bool) -> Result<(), Failure> {
    if !watch {
        let status = fetch(session, key).await?;
        return session.show(&status, |page| describe(page, &status));
    }
    let request = v1::GetExperimentStatusRequest { name: session.name(Experiments, key)? };
    let mut stream = session
        .client
        .stream(request, |channel, request| async move {
            ExperimentServiceClient::new(channel).watch_experiment_status(request).await
        })
        .await?;
    loop {
        tokio::select! {
            // An interrupted watch has done what it was asked to do.
            _ = tokio::signal::ctrl_c() => return Ok(()),
            message = stream.message() => match message {
                Ok(Some(status)) => {
                    if session.is_live() {
                        // Home and clear below: redrawn in place, without the flicker of a cleared screen.
                        print("\x1b[H\x1b[2J")?;
                    }
                    session.show_next(&status, |page| describe(page, &status))?;
                }
                Ok(None) => return Ok(()),
                Err(status) => return Err(session.client.stream_failure(&status)),
            },
        }
    }
}

/// Reads the committed status.
pub async fn fetch(session: &Session, key: &str) -> Result<v1::ExperimentStatus, Failure> {
    let request = v1::GetExperimentStatusRequest { name: session.name(Experiments, key)? };
    session
        .client
        .read(request, |channel, request| async move {
            ExperimentServiceClient::new(channel).get_experiment_status(request).await
        })
        .await
}

/// Marked or crossed units above these shares block decisions, so they are shown as warnings.
fn share_of(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn describe(page: &mut Page, status: &v1::ExperimentStatus) {
    let Some(experiment) = &status.experiment else {
        page.line(Tone::Warn, "the server sent a status without its experiment");
        return;
    };
    let (word, tone) = state(experiment);
    page.line(
        tone,
        format!(
            "{} is {word}: {} exposed units, log time {}",
            key_of(&experiment.name),
            count_text(status.exposed_units),
            moment_text(status.log_time.as_ref())
        ),
    );
    let autonomy = status.autonomy.map(|levels| super::autonomy::levels_text(&levels)).unwrap_or_default();
    let some = |count: u64| if count == 0 { String::new() } else { count_text(count) };
    page.facts([
        ("flag", experiment.flag.clone()),
        ("primary metric", experiment.primary_metric.clone()),
        ("layer", layer::layer_text(experiment)),
        ("held out by", layer::holdouts_text(experiment)),
        ("autonomy", autonomy),
        (
            "sample ratio",
            status
                .sample_ratio_p
                .map(|p| {
                    let verdict = if p < 0.001 {
                        "units do NOT follow the weights"
                    } else {
                        "units follow the weights"
                    };
                    format!("p = {}: {verdict}", number_text(p))
                })
                .unwrap_or_default(),
        ),
        (
            "marked",
            if status.marked_units == 0 {
                String::new()
            } else {
                format!(
                    "{} ({})",
                    count_text(status.marked_units),
                    part_text(share_of(status.marked_units, status.exposed_units))
                )
            },
        ),
        (
            "crossed arms",
            if status.crossed_units == 0 {
                String::new()
            } else {
                format!(
                    "{} ({})",
                    count_text(status.crossed_units),
                    part_text(share_of(status.crossed_units, status.exposed_units))
                )
            },
        ),
        ("lost", some(status.lost_units)),
        ("strata", some(status.strata)),
        ("kept", if status.thinned_units == 0 { String::new() } else { kept(status) }),
        ("sums", if status.folded { "folded into hash clusters".to_owned() } else { String::new() }),
        ("ledger", ledger_text(status)),
        ("capped sums", some(status.capped_entries)),
        ("covariates", status.covariates.iter().map(covariate_text).collect::<Vec<_>>().join(", ")),
        ("sample", status.sample.as_ref().map(experiment_series::size_text).unwrap_or_default()),
        ("last decision", key_of(&status.last_decision).to_owned()),
    ]);
    if let Some(ramp) = &status.ramp {
        experiment_ramp::status(page, ramp);
    }
    arms(page, status);
    contrasts(page, status);
    page.heading(if status.blocked.is_empty() {
        "Nothing stands in the way of a decision"
    } else {
        "No autonomous decision now"
    });
    for reason in &status.blocked {
        page.line(Tone::Warn, format!("- {reason}"));
    }
    if !status.verdicts.is_empty() {
        page.heading("Events by verdict");
        let rows = status
            .verdicts
            .iter()
            .map(|(verdict, count)| vec![Cell::new(verdict.to_lowercase()), Cell::number(count_text(*count))])
            .collect();
        page.table(&["VERDICT", "EVENTS"], rows, "");
    }
}

/// What of the experiment is counted, once a budget was full.
fn kept(status: &v1::ExperimentStatus) -> String {
    format!(
        "{} of all units are counted; {} left when a budget was full",
        share_text((status.kept * 10_000.0).round() as u32),
        count_text(status.thinned_units)
    )
}

/// `90,189 units, 3,204 sums, 1,434 KiB`.
fn ledger_text(status: &v1::ExperimentStatus) -> String {
    if status.rows == 0 {
        return String::new();
    }
    let (rows, sums) = (count_text(status.rows), count_text(status.entries));
    format!("{rows} units, {sums} sums, {} KiB", count_text(status.bytes.div_ceil(1_024)))
}

/// `spend_last_month, missing for 12 units`.
fn covariate_text(covariate: &v1::CovariateStatus) -> String {
    match covariate.missing_units {
        0 => covariate.attribute.clone(),
        missing => format!("{}, missing for {} units", covariate.attribute, count_text(missing)),
    }
}

fn arms(page: &mut Page, status: &v1::ExperimentStatus) {
    page.heading("Arms");
    let metrics: Vec<&str> = status
        .arms
        .first()
        .map(|arm| arm.metrics.iter().map(|m| m.metric.as_str()).collect())
        .unwrap_or_default();
    let mut headings = vec!["ARM", "TRAFFIC", "UNITS", "P(BEST)"];
    headings.extend(&metrics);
    let rows = status
        .arms
        .iter()
        .map(|arm| {
            let mut row = vec![
                Cell::new(&arm.variant),
                Cell::number(share_text(arm.weight_basis_points)),
                Cell::number(count_text(arm.units)),
                Cell::number(arm.probability_best.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}"))),
            ];
            row.extend(arm.metrics.iter().map(|totals| Cell::number(number_text(totals.mean))));
            row
        })
        .collect();
    page.table(&headings, rows, "no arms");
}

fn contrasts(page: &mut Page, status: &v1::ExperimentStatus) {
    if status.contrasts.is_empty() {
        return;
    }
    page.heading("Against control, with intervals that hold at every look");
    let rows = status
        .contrasts
        .iter()
        .map(|contrast| {
            let clear = contrast.lower > 0.0 || contrast.upper < 0.0;
            vec![
                Cell::new(&contrast.metric),
                Cell::new(&contrast.role),
                Cell::new(&contrast.variant),
                Cell::number(number_text(contrast.difference)),
                Cell::number(contrast.relative.map_or_else(|| "-".to_owned(), percent_text)),
                Cell::number(format!("[{}, {}]", number_text(contrast.lower), number_text(contrast.upper))),
                if clear {
                    Cell::new("differs").tone(Tone::Strong)
                } else {
                    Cell::new("not known yet").tone(Tone::Faint)
                },
            ]
        })
        .collect();
    page.table(&["METRIC", "ROLE", "ARM", "DIFFERENCE", "RELATIVE", "INTERVAL", ""], rows, "");
    adjustments(page, status);
}

/// What covariates did to each contrast, which is shown above as it decides.
fn adjustments(page: &mut Page, status: &v1::ExperimentStatus) {
    let adjusted = status.contrasts.iter().filter_map(|c| Some((c, c.adjustment.as_ref()?)));
    let row = |(contrast, plain): (&v1::ContrastStatus, &v1::AdjustmentStatus)| {
        let theta =
            |effect: &v1::CovariateEffect| format!("{} {}", effect.attribute, number_text(effect.theta));
        let taken: Vec<String> = plain.covariates.iter().map(theta).collect();
        vec![
            Cell::new(&contrast.metric),
            Cell::new(&contrast.variant),
            Cell::number(number_text(plain.difference)),
            Cell::number(format!("[{}, {}]", number_text(plain.lower), number_text(plain.upper))),
            Cell::new(if taken.is_empty() { "too little data".to_owned() } else { taken.join(", ") }),
            Cell::number(percent_text(-plain.variance_reduction)),
            Cell::new(&plain.decides),
        ]
    };
    let rows: Vec<Vec<Cell>> = adjusted.map(row).collect();
    if !rows.is_empty() {
        page.heading("The same without covariates, and what they take");
        let headings = ["METRIC", "ARM", "DIFFERENCE", "INTERVAL", "THETA", "VARIANCE", "DECIDES"];
        page.table(&headings, rows, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_reads_as_a_page() {
        let arm = |variant: &str, weight, units, mean| v1::ArmStatus {
            variant: variant.into(),
            weight_basis_points: weight,
            units,
            metrics: vec![v1::MetricTotals { metric: "kept".into(), total: mean * units as f64, mean }],
            probability_best: Some(0.5),
            established: true,
        };
        let status = v1::ExperimentStatus {
            experiment: Some(v1::Experiment {
                name: "environments/p/experiments/gate".into(),
                flag: "gate".into(),
                primary_metric: "kept".into(),
                state: v1::experiment::State::Running.into(),
                ..v1::Experiment::default()
            }),
            arms: vec![arm("control", 5_000, 44_700, 0.19), arm("gate_40", 5_000, 45_489, 0.182)],
            exposed_units: 90_189,
            crossed_units: 902,
            contrasts: vec![v1::ContrastStatus {
                variant: "gate_40".into(),
                metric: "kept".into(),
                difference: -0.0082,
                standard_error: 0.0026,
                lower: -0.0161,
                upper: -0.0003,
                relative: Some(-0.0431),
                role: "primary".into(),
                adjustment: None,
            }],
            blocked: vec!["policy is fixed".into()],
            ..v1::ExperimentStatus::default()
        };
        let mut page = Page::new(false);
        describe(&mut page, &status);
        let expected = "\
gate is running: 90,189 exposed units, log time -
flag            gate
primary metric  kept
crossed arms    902 (1.00 %)

Arms
ARM      TRAFFIC   UNITS  P(BEST)   kept
control     50 %  44,700    0.500   0.19
gate_40     50 %  45,489    0.500  0.182

Against control, with intervals that hold at every look
METRIC  ROLE     ARM      DIFFERENCE  RELATIVE            INTERVAL
kept    primary  gate_40     -0.0082   -4.31 %  [-0.0161, -0.0003]  differs

No autonomous decision now
- policy is fixed
";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn covariates_show_what_they_took_and_which_contrast_decides() {
        let effect = |attribute: &str, theta| v1::CovariateEffect { attribute: attribute.into(), theta };
        let adjustment = v1::AdjustmentStatus {
            difference: 0.5,
            lower: -0.25,
            upper: 1.25,
            decides: "adjusted".into(),
            covariates: vec![effect("spent", 0.75), effect("visits", 0.0)],
            variance_reduction: 0.49,
            ..v1::AdjustmentStatus::default()
        };
        let contrast = v1::ContrastStatus {
            variant: "on".into(),
            metric: "revenue".into(),
            lower: 0.125,
            upper: 1.0,
            adjustment: Some(adjustment),
            ..v1::ContrastStatus::default()
        };
        let covariate =
            v1::CovariateStatus { attribute: "spent".into(), missing_units: 1_200, ..Default::default() };
        assert_eq!(covariate_text(&covariate), "spent, missing for 1,200 units");
        let status = v1::ExperimentStatus { contrasts: vec![contrast], ..v1::ExperimentStatus::default() };
        let mut page = Page::new(false);
        contrasts(&mut page, &status);
        let text = page.into_text();
        let plain = text.split("The same without covariates, and what they take").nth(1).unwrap();
        for shown in ["[-0.25, 1.25]", "spent 0.75, visits 0", "-49.00 %", "adjusted"] {
            assert!(plain.contains(shown), "{shown}: {text}");
        }
    }
}
