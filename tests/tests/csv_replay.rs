//! A finished experiment's file through `featureops replay`, and the node's numbers against the file's own, to 1e-6.
//!
//! The command compares by itself; this test does not believe it and computes everything again from the text, naively.
//! Repeated events, batches sent twice, other orders, and the whole replay a second time must change nothing.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use featureops_proto::v1::{ExperimentStatus, GetExperimentStatusRequest};
use featureops_tests::chance::Chance;
use featureops_tests::line::Line;
use featureops_tests::runtime;
use featureops_tests::site::Site;

/// A column of the file: its metric, and whether its values are true and false.
type Column = (&'static str, &'static str, bool);

fn close(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= 1e-6 * ours.abs().max(theirs.abs()) + 1e-12
}

/// Values of one metric by arm, a unit each, in the order of `arms`.
fn values(text: &str, arms: &[&str], column: Column) -> Vec<Vec<f64>> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(';').collect();
    let at = |name: &str| header.iter().position(|held| *held == name).unwrap();
    let (arm_at, value_at) = (at("version"), at(column.1));
    let mut values = vec![Vec::new(); arms.len()];
    for line in lines {
        let cells: Vec<&str> = line.split(';').collect();
        let arm = arms.iter().position(|arm| *arm == cells[arm_at]).unwrap();
        values[arm].push(match cells[value_at] {
            "TRUE" => 1.0,
            "FALSE" => 0.0,
            number => number.parse().unwrap(),
        });
    }
    values
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Variance of the mean: p (1 - p) / n for proportions, s^2 / n otherwise.
fn variance_of_mean(values: &[f64], proportion: bool) -> f64 {
    let (n, mean) = (values.len() as f64, mean(values));
    if proportion {
        return mean * (1.0 - mean) / n;
    }
    values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (n - 1.0) / n
}

/// Every number of the status that the file has too.
fn compare(text: &str, arms: &[&str], columns: &[Column], status: &ExperimentStatus) {
    for column in columns {
        let values = values(text, arms, *column);
        for (arm, values) in arms.iter().zip(&values) {
            let held = status.arms.iter().find(|held| held.variant == *arm).unwrap();
            assert_eq!(held.units, values.len() as u64, "units of {arm}");
            let metric = held.metrics.iter().find(|metric| metric.metric == column.0).unwrap();
            let total: f64 = values.iter().sum();
            assert!(close(metric.total, total), "{} of {arm}: {} is not {total}", column.0, metric.total);
            assert!(close(metric.mean, mean(values)), "mean {} of {arm}: {}", column.0, metric.mean);
        }
        for (arm, treated) in arms.iter().zip(&values).skip(1) {
            let held = status
                .contrasts
                .iter()
                .find(|held| held.variant == *arm && held.metric == column.0)
                .unwrap_or_else(|| panic!("no contrast of {} for {arm}", column.0));
            let difference = mean(treated) - mean(&values[0]);
            assert!(
                close(held.difference, difference),
                "{}: {} is not {difference}",
                column.0,
                held.difference
            );
            let error = (variance_of_mean(treated, column.2) + variance_of_mean(&values[0], column.2)).sqrt();
            assert!(
                close(held.standard_error, error),
                "{}: {} is not {error}",
                column.0,
                held.standard_error
            );
        }
    }
}

struct Replay<'a> {
    site: &'a Site,
    file: &'a Path,
    columns: &'a [Column],
    arms: &'a [&'a str],
}

impl Replay<'_> {
    fn run(&self, experiment: &str, extra: &[&str]) -> Output {
        let file = self.file.to_str().unwrap();
        let mut arguments = vec!["replay", "-o", "json", "--file", file, "--delimiter", ";"];
        arguments.extend(["--experiment", experiment, "--unit-column", "userid", "--arm-column", "version"]);
        let arms: Vec<String> = self.arms.iter().map(|arm| format!("{arm}={arm}")).collect();
        arguments.extend(arms.iter().flat_map(|arm| ["--arm", arm]));
        let named = |(metric, column, _): &Column| format!("{metric}={column}");
        let outcomes: Vec<String> = self.columns.iter().map(named).collect();
        arguments.extend(outcomes.iter().flat_map(|outcome| ["--outcome", outcome]));
        arguments.extend(extra);
        Line(self.site).run(&arguments)
    }

    /// Replays into new experiments until one lies within one time stratum: at a change of hour contrasts are combined
    /// within strata, and are then not the file's pooled ones.
    async fn in_one_stratum(&self, name: &str, extra: &[&str]) -> (String, ExperimentStatus) {
        for attempt in 1..=3 {
            let experiment = format!("{name}-{attempt}");
            let begin = Instant::now();
            let ended = self.run(&experiment, &[&["--create"], extra].concat());
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(ended.status.success(), "{experiment}: {}\n{said}", ended.status);
            let answer: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
            assert_eq!(answer["agrees"], true, "{answer:#}");
            let status = self.status(&experiment).await;
            println!("{experiment} {extra:?}: {} units in {:.1?}", status.exposed_units, begin.elapsed());
            if status.strata == 1 {
                return (experiment, status);
            }
        }
        panic!("three replays, each over a change of hour");
    }

    async fn status(&self, experiment: &str) -> ExperimentStatus {
        let name = format!("environments/production/experiments/{experiment}");
        let request = GetExperimentStatusRequest { name };
        self.site.client().experiments.get_experiment_status(request).await.unwrap().into_inner()
    }

    async fn all_ways(&self, text: &str, ways: &[(&str, &[&str])]) {
        for (name, extra) in ways {
            let (experiment, status) = self.in_one_stratum(name, extra).await;
            compare(text, self.arms, self.columns, &status);
            // The very same replay again counts nothing.
            let again = self.run(&experiment, &[*extra, &["--again"]].concat());
            assert!(again.status.success(), "again: {}", String::from_utf8_lossy(&again.stderr));
            let after = self.status(&experiment).await;
            assert_eq!((status.arms, status.exposed_units), (after.arms, after.exposed_units));
            Line(self.site).ends(0, &["experiment", "stop", &experiment]);
        }
    }
}

fn generated(units: u64) -> String {
    let mut chance = Chance::new(7);
    let mut text = String::from("userid;version;revenue;kept\n");
    for unit in 0..units {
        let arm = ["a", "b", "c"][chance.below(3) as usize];
        let cents = if chance.below(4) == 0 { chance.below(20_000) } else { 0 };
        let kept = if chance.below(10) < 3 { "TRUE" } else { "FALSE" };
        writeln!(text, "u{unit};{arm};{}.{:02};{kept}", cents / 100, cents % 100).unwrap();
    }
    text
}

#[test]
fn a_generated_file() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let text = generated(3_000);
        let file = site.beside("generated.csv");
        std::fs::write(&file, &text).unwrap();
        let columns = [("kept", "kept", true), ("revenue", "revenue", false)];
        let replay = Replay { site: &site, file: &file, columns: &columns, arms: &["a", "b", "c"] };
        let ways: [(&str, &[&str]); 4] = [
            ("plain", &[]),
            ("twice", &["--duplicate-batches"]),
            ("shuffled", &["--shuffle", "11", "--repeat", "0.3"]),
            ("everything", &["--shuffle", "12", "--repeat", "1", "--duplicate-batches"]),
        ];
        replay.all_ways(&text, &ways).await;
        drop(node);
    });
}

#[test]
fn cookie_cats() {
    let folder = std::env::var_os("TEST_DATA_SETS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let file = folder.join("experiments/cookie_cats.csv");
    let Ok(text) = std::fs::read_to_string(&file) else {
        println!("skipped: no file at {}", file.display());
        return;
    };
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let columns = [
            ("retention-7", "retention_7", true),
            ("retention-1", "retention_1", true),
            ("rounds", "sum_gamerounds", false),
        ];
        let replay = Replay { site: &site, file: &file, columns: &columns, arms: &["gate_30", "gate_40"] };
        let ways: [(&str, &[&str]); 1] =
            [("gate", &["--shuffle", "3", "--repeat", "0.1", "--duplicate-batches"])];
        replay.all_ways(&text, &ways).await;
        drop(node);
    });
}

#[test]
fn every_unit_of_a_file_is_there() {
    // The generator itself: three arms, every unit once.
    let text = generated(300);
    let mut arms: BTreeMap<&str, u64> = BTreeMap::new();
    for line in text.lines().skip(1) {
        *arms.entry(line.split(';').nth(1).unwrap()).or_default() += 1;
    }
    assert_eq!((arms.len(), arms.values().sum::<u64>()), (3, 300));
}
