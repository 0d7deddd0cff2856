//! `bench peeking`: what looking again and again does to each method, and beside it what other tools' simulations say.
//!
//! A simulation from a seed, not a measurement of the machine: two runs print the same table.

use std::path::Path;

use featureops_decision::analysis::peeking::{Outcome, Row, Scenario, simulate};
use featureops_decision::chance::Chance;
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::page::{Cell, Page, Tone};
use crate::cli::render::part_text;
use crate::cli::session::{print, progress};

/// Seed of the tables.
const SEED: u64 = 20_261_123;
/// Standard deviations of both simulations' noise within which they agree.
const NOISE: f64 = 4.0;
/// Largest golden file.
const FILE_MAX: u64 = 16 << 20;

const fn rates(looks: usize, step: u32, control: f64, treatment: f64) -> Scenario {
    Scenario { looks, step, outcome: Outcome::Rates(control, treatment), prior_sd: 0.1 }
}

/// Name, experiment.
fn scenarios() -> Vec<(&'static str, Scenario)> {
    let outcome = Outcome::Covariate { shift: 0.141_42, correlation: 0.7 };
    vec![
        ("AA_20looks", rates(20, 1_000, 0.1, 0.1)),
        ("AA_100looks", rates(100, 200, 0.1, 0.1)),
        ("AA_1000looks", rates(1_000, 20, 0.1, 0.1)),
        ("AA_1000runs_28looks_p05", rates(28, 1_000, 0.05, 0.05)),
        (
            "AA_heavytail_20looks",
            Scenario { looks: 20, step: 500, outcome: Outcome::LogNormal(1.0), prior_sd: 0.1 },
        ),
        ("AB_power80_20looks", rates(20, 738, 0.1, 0.11)),
        ("AB_power80_100looks", rates(100, 148, 0.1, 0.11)),
        ("AB_horizon_x1.5", rates(30, 738, 0.1, 0.11)),
        ("AB_horizon_x2", rates(40, 738, 0.1, 0.11)),
        ("AB_big_effect", rates(20, 738, 0.1, 0.12)),
        ("AB_power80_covariate_.7", Scenario { looks: 20, step: 40, outcome, prior_sd: 0.1 }),
    ]
}

/// What is promised of a method without an effect: at most 5 % at any look.
fn valid(method: &str) -> bool {
    ["asymp_cs", "msprt", "group_seq", "spending", "bonferroni"].iter().any(|start| method.starts_with(start))
}

fn golden(folder: &Path) -> Result<Value, Failure> {
    let path = folder.join("peeking.json");
    let fault = |error: String| Failure::usage(format!("{}: {error}", path.display()));
    let meta = std::fs::metadata(&path).map_err(|error| fault(error.to_string()))?;
    if meta.len() > FILE_MAX {
        return Err(fault(format!("has {} bytes; at most {FILE_MAX} are read", meta.len())));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| fault(error.to_string()))
}

/// Difference in standard deviations of the two simulations' noise.
fn apart(ours: f64, runs: f64, theirs: f64, their_runs: f64) -> f64 {
    let spread = |p: f64, runs: f64| {
        p.clamp(0.5 / runs, 1.0 - 0.5 / runs) * (1.0 - p.clamp(0.5 / runs, 1.0 - 0.5 / runs)) / runs
    };
    (ours - theirs) / (spread(ours, runs) + spread(theirs, their_runs)).sqrt()
}

/// Simulates and prints the table.
pub fn run(as_json: bool, runs: u32, folder: Option<&Path>) -> Result<(), Failure> {
    let theirs = folder.map(golden).transpose()?;
    let mut rows = Vec::new();
    for (name, scenario) in scenarios() {
        progress(&format!("simulating {name} …"));
        let case = theirs.as_ref().and_then(|all| all.get(name));
        let their_runs = case.and_then(|case| case.get("runs")).and_then(Value::as_f64).unwrap_or(1.0);
        for row in simulate(&scenario, runs, &mut Chance::from_seed(SEED)) {
            let their = case
                .and_then(|case| case.get("methods"))
                .and_then(|methods| methods.get(&row.method))
                .and_then(|method| method.get("reject_any_look"))
                .and_then(Value::as_f64);
            let apart = their.map(|their| apart(row.any_look, f64::from(runs), their, their_runs));
            rows.push((name, scenario, row, their, apart));
        }
    }
    if as_json {
        let all: Vec<Value> = rows
            .iter()
            .map(|(name, scenario, row, their, apart)| {
                json!({
                    "scenario": name, "looks": scenario.looks, "method": row.method, "runs": runs,
                    "reject_any_look": row.any_look, "reject_final_look": row.final_look, "missed_any_look": row.missed,
                    "mean_looks_to_stop": row.mean_looks, "golden_any_look": their, "apart_in_sd": apart,
                })
            })
            .collect();
        return print(&format!("{:#}\n", Value::Array(all)));
    }
    let mut page = Page::new(false);
    page.line(
        Tone::Plain,
        format!("{runs} runs each, seed {SEED}; no effect: rejections are errors (bar 5 %); with one: power"),
    );
    let cells = rows
        .iter()
        .map(|(name, scenario, row, their, apart)| table_row(name, scenario, row, *their, *apart, runs));
    let heads = [
        "SCENARIO",
        "LOOKS",
        "METHOD",
        "ANY LOOK",
        "LAST LOOK",
        "INTERVAL MISSED",
        "LOOKS TAKEN",
        "GOLDEN",
        "APART",
        "",
    ];
    page.table(&heads, cells.collect(), "none");
    print(&page.into_text())
}

fn table_row(
    name: &str,
    scenario: &Scenario,
    row: &Row,
    their: Option<f64>,
    apart: Option<f64>,
    runs: u32,
) -> Vec<Cell> {
    // Three standard deviations of this many runs around the promise.
    let most = 0.05 + 3.0 * (0.0475 / f64::from(runs.max(1))).sqrt();
    let error = if name.starts_with("AA") { row.any_look } else { 0.0 };
    let broken = valid(&row.method) && (error > most || row.missed.is_some_and(|missed| missed > most));
    let far = apart.is_some_and(|apart| apart.abs() > NOISE);
    let (word, tone) = match (broken, far) {
        (true, _) => ("SHORT", Tone::Bad),
        (_, true) => ("differs", Tone::Warn),
        _ if valid(&row.method) => ("ok", Tone::Good),
        _ => ("", Tone::Plain),
    };
    vec![
        Cell::new(name),
        Cell::number(scenario.looks.to_string()),
        Cell::new(&row.method),
        Cell::number(part_text(row.any_look)),
        Cell::number(part_text(row.final_look)),
        Cell::number(row.missed.map(part_text).unwrap_or_default()),
        Cell::number(format!("{:.1}", row.mean_looks)),
        Cell::number(their.map(part_text).unwrap_or_default()),
        Cell::number(apart.map(|apart| format!("{apart:+.1} sd")).unwrap_or_default()),
        Cell::new(word).tone(tone),
    ]
}
