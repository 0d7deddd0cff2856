//! The file's own numbers, computed as a textbook would, and the node's beside them.
//!
//! Per arm: n, mean. Against control: the difference of means and its standard error, sqrt(v_a / n_a + v_c / n_c) with
//! v = p (1 - p) for a proportion and the sample variance (n - 1) for a mean. The node combines contrasts within time
//! strata; with one stratum that is the same quantity, with several it is another one and is shown, not compared.

use featureops_proto::v1;

use super::source::{Kind, Source};
use crate::cli::page::{Cell, Page, Tone};
use crate::cli::render::{count_text, number_text};

/// Relative difference from which on two numbers are not the same.
const TOLERANCE: f64 = 1e-6;

/// One arm under one metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cellwise {
    pub units: u64,
    pub mean: f64,
    /// Of one unit.
    pub variance: f64,
}

/// Per outcome, per arm.
pub type Analysis = Vec<Vec<Cellwise>>;

/// Computes every arm's numbers from the units.
#[must_use]
pub fn analyse(source: &Source) -> Analysis {
    source
        .outcomes
        .iter()
        .enumerate()
        .map(|(place, outcome)| {
            let mut values: Vec<Vec<f64>> = vec![Vec::new(); source.arms.len()];
            for unit in &source.units {
                let events = unit
                    .events
                    .iter()
                    .filter(|(outcome, _, _)| *outcome == place)
                    .map(|(_, value, _)| *value);
                let value = match outcome.kind {
                    Kind::Proportion => f64::from(u8::from(events.into_iter().any(|value| value != 0.0))),
                    Kind::Mean => events.sum(),
                };
                if let Some(arm) = values.get_mut(unit.arm) {
                    arm.push(value);
                }
            }
            values.iter().map(|values| cell(values, outcome.kind)).collect()
        })
        .collect()
}

fn cell(values: &[f64], kind: Kind) -> Cellwise {
    let n = values.len() as f64;
    let mean = if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / n };
    let variance = match kind {
        Kind::Proportion => mean * (1.0 - mean),
        // Two passes: the one-pass formula loses digits exactly where they are compared.
        Kind::Mean if values.len() > 1 => {
            values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0)
        }
        Kind::Mean => 0.0,
    };
    Cellwise { units: values.len() as u64, mean, variance }
}

/// A number of the node beside the file's.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
    metric: String,
    arm: String,
    what: &'static str,
    node: f64,
    file: f64,
    /// Whether they must agree.
    compared: bool,
}

impl Pair {
    fn agrees(&self) -> bool {
        let size = self.node.abs().max(self.file.abs());
        // Below 1e-12 both are nothing. What is not finite is no number to agree with.
        !self.compared || size.is_finite() && (self.node - self.file).abs() <= TOLERANCE * size + 1e-12
    }
}

/// All pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    units: u64,
    strata: u64,
    pairs: Vec<Pair>,
}

impl Comparison {
    #[must_use]
    pub fn new(source: &Source, expected: &Analysis, status: &v1::ExperimentStatus) -> Self {
        let mut pairs = Vec::new();
        for (place, arm) in source.arms.iter().enumerate() {
            let theirs = status.arms.iter().find(|theirs| &theirs.variant == arm);
            for (outcome, cells) in source.outcomes.iter().zip(expected) {
                let Some(ours) = cells.get(place) else { continue };
                let totals = theirs.and_then(|t| t.metrics.iter().find(|m| m.metric == outcome.metric));
                let mut pair = |what, node: Option<f64>, file| {
                    let node = node.unwrap_or(f64::NAN);
                    pairs.push(Pair {
                        metric: outcome.metric.clone(),
                        arm: arm.clone(),
                        what,
                        node,
                        file,
                        compared: true,
                    });
                };
                pair("units", theirs.map(|t| t.units as f64), ours.units as f64);
                // An arm without units has no mean to compare.
                if ours.units > 0 {
                    pair("mean", totals.map(|t| t.mean), ours.mean);
                }
            }
        }
        for (outcome, cells) in source.outcomes.iter().zip(expected) {
            let Some(control) = cells.first() else { continue };
            for (arm, ours) in source.arms.iter().zip(cells).skip(1) {
                if ours.units == 0 || control.units == 0 {
                    continue;
                }
                let found = status.contrasts.iter().find(|c| &c.variant == arm && c.metric == outcome.metric);
                let error =
                    (ours.variance / ours.units as f64 + control.variance / control.units as f64).sqrt();
                // A mean's variance takes two units.
                let spread = outcome.kind == Kind::Proportion || ours.units.min(control.units) > 1;
                for (what, node, file, known) in [
                    ("difference", found.map(|c| c.difference), ours.mean - control.mean, true),
                    ("standard error", found.map(|c| c.standard_error), error, spread),
                ] {
                    pairs.push(Pair {
                        metric: outcome.metric.clone(),
                        arm: arm.clone(),
                        what,
                        node: node.unwrap_or(f64::NAN),
                        file,
                        compared: known && status.strata <= 1,
                    });
                }
            }
        }
        let units = source.units.len() as u64;
        Self { units, strata: status.strata, pairs }
    }

    #[must_use]
    pub fn agrees(&self) -> bool {
        self.pairs.iter().all(Pair::agrees)
    }

    /// One line a number that differs.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        self.pairs
            .iter()
            .filter(|pair| !pair.agrees())
            .map(|pair| {
                format!("{} {} {}: node {}, file {}", pair.metric, pair.arm, pair.what, pair.node, pair.file)
            })
            .collect()
    }

    pub fn describe(&self, page: &mut Page) {
        page.heading("The node's numbers beside the file's");
        let rows = self
            .pairs
            .iter()
            .map(|pair| {
                let (word, tone) = match (pair.compared, pair.agrees()) {
                    (false, _) => ("not compared", Tone::Faint),
                    (true, true) => ("agrees", Tone::Good),
                    (true, false) => ("DIFFERS", Tone::Bad),
                };
                let show = |number: f64| {
                    if pair.what == "units" && number.is_finite() {
                        count_text(number as u64)
                    } else {
                        number_text(number)
                    }
                };
                vec![
                    Cell::new(&pair.metric),
                    Cell::new(&pair.arm),
                    Cell::new(pair.what),
                    Cell::number(show(pair.node)),
                    Cell::number(show(pair.file)),
                    Cell::new(word).tone(tone),
                ]
            })
            .collect();
        page.table(&["METRIC", "ARM", "NUMBER", "NODE", "FILE", ""], rows, "nothing to compare");
        if self.strata > 1 {
            page.line(
                Tone::Plain,
                format!("contrasts are combined within {} time strata, so they are not the pooled ones of the file", self.strata),
            );
        }
        if self.agrees() {
            page.line(Tone::Good, format!("agrees: {} units, to 1e-6", count_text(self.units)));
        }
    }

    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let numbers: Vec<_> = self
            .pairs
            .iter()
            .map(|pair| {
                serde_json::json!({
                    "metric": pair.metric, "arm": pair.arm, "number": pair.what,
                    "node": pair.node, "file": pair.file,
                    "compared": pair.compared, "agrees": pair.agrees(),
                })
            })
            .collect();
        serde_json::json!({ "agrees": self.agrees(), "units": self.units, "strata": self.strata, "numbers": numbers })
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::source;
    use super::*;

    const TEXT: &str = "user,arm,kept,spent\nu1,a,1,1\nu2,a,0,3\nu3,b,1,2\nu4,b,1,\nu4,b,0,6\nu5,b,0,1\n";

    fn read() -> Source {
        source(TEXT, &["--arm-column", "arm", "--outcome", "spent=spent"]).unwrap()
    }

    fn status(second: f64) -> v1::ExperimentStatus {
        let arm = |variant: &str, units, kept: f64, spent: f64| v1::ArmStatus {
            variant: variant.into(),
            units,
            metrics: [("kept", kept), ("spent", spent)]
                .map(|(metric, mean)| v1::MetricTotals { metric: metric.into(), total: 0.0, mean })
                .to_vec(),
            ..v1::ArmStatus::default()
        };
        let contrast = |metric: &str, difference, standard_error| v1::ContrastStatus {
            variant: "b".into(),
            metric: metric.into(),
            difference,
            standard_error,
            ..v1::ContrastStatus::default()
        };
        v1::ExperimentStatus {
            arms: vec![arm("a", 2, 0.5, 2.0), arm("b", 3, 2.0 / 3.0, second)],
            contrasts: vec![
                // p (1 - p) / n: 1/8 and 2/27.
                contrast("kept", 1.0 / 6.0, (1.0 / 8.0 + 2.0 / 27.0_f64).sqrt()),
                // Values 1, 3 and 2, 6, 1: variances 2 and 7, so 2/2 and 7/3.
                contrast("spent", 1.0, (1.0 + 7.0 / 3.0_f64).sqrt()),
            ],
            strata: 1,
            ..v1::ExperimentStatus::default()
        }
    }

    #[test]
    fn textbook_numbers_agree_with_hand_computed_ones() {
        let source = read();
        let comparison = Comparison::new(&source, &analyse(&source), &status(3.0));
        assert!(comparison.agrees(), "{:?}", comparison.differences());
        let mut page = Page::new(false);
        comparison.describe(&mut page);
        assert!(page.into_text().ends_with("agrees: 5 units, to 1e-6\n"));
    }

    #[test]
    fn a_difference_above_the_tolerance_is_named() {
        let source = read();
        let comparison = Comparison::new(&source, &analyse(&source), &status(3.000_01));
        assert_eq!(comparison.differences(), ["spent b mean: node 3.00001, file 3"]);
        // What overflows agrees with nothing.
        let infinite = Pair { file: f64::INFINITY, ..comparison.pairs[0].clone() };
        assert!(!infinite.agrees());
        // A number the node does not give never agrees.
        let comparison = Comparison::new(&source, &analyse(&source), &v1::ExperimentStatus::default());
        assert!(!comparison.agrees());
    }
}
