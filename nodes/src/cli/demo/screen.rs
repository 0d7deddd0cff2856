//! What the demo shows: the allocation as bars, redrawn in place on a terminal, a line a second elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use featureops_proto::v1::ExperimentStatus;

use super::shop::{regret, regret_of_equal_split};

const BAR: usize = 40;

/// Draws the experiment as it stands.
pub struct Screen {
    live: bool,
    drawn: usize,
    last_line_units: u64,
}

impl Screen {
    /// Redraws in place when standard output is a terminal and `headless` is not asked for.
    pub fn new(headless: bool) -> Self {
        Self { live: !headless && std::io::stdout().is_terminal(), drawn: 0, last_line_units: 0 }
    }

    /// Says a sentence above what is drawn.
    pub fn say(&mut self, text: &str) {
        self.drawn = 0;
        put(&format!("{text}\n"));
    }

    /// Shows the status: as bars where they can be redrawn, otherwise a line now and then.
    pub fn show(&mut self, status: &ExperimentStatus, seconds: f64) {
        let units: Vec<u64> = status.arms.iter().map(|arm| arm.units).collect();
        let total: u64 = units.iter().sum();
        if self.live {
            let text = bars(status, &units, seconds);
            let up = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
            self.drawn = text.lines().count();
            put(&format!("{up}{text}"));
        } else if total >= self.last_line_units + 3_000 {
            self.last_line_units = total;
            put(&line(status, &units, seconds));
        }
    }
}

fn bars(status: &ExperimentStatus, units: &[u64], seconds: f64) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n  {seconds:5.1} s   traffic now                                  P(best)   visitors   bought"
    );
    for arm in &status.arms {
        let filled = arm.weight_basis_points as usize * BAR / 10_000;
        let bar: String = "█".repeat(filled) + &"·".repeat(BAR - filled);
        let best = arm.probability_best.map_or("     -".to_owned(), |p| format!("{:5.1}%", p * 100.0));
        let rate = arm.metrics.first().map_or(0.0, |m| m.mean * 100.0);
        let weight = f64::from(arm.weight_basis_points) / 100.0;
        let _ = writeln!(
            text,
            "  {:<8} {bar} {weight:5.1}%  {best}   {:>8}   {rate:5.2}%",
            arm.variant, arm.units
        );
    }
    let (ours, equal) = (regret(units), regret_of_equal_split(units));
    let _ = writeln!(
        text,
        "  sales lost against always showing the best: {ours:.0}; an equal split would have lost {equal:.0}"
    );
    let _ = writeln!(
        text,
        "  {} exposures counted, {} decided by the experiment itself",
        status.exposed_units,
        match allocation_version(status) {
            1 => "1 reallocation".to_owned(),
            n => format!("{n} reallocations"),
        }
    );
    text
}

fn line(status: &ExperimentStatus, units: &[u64], seconds: f64) -> String {
    let weights: Vec<String> = status
        .arms
        .iter()
        .map(|arm| {
            let best = arm.probability_best.map_or("-".to_owned(), |p| format!("{:.1}%", p * 100.0));
            format!("{} {:.1}% (P best {best})", arm.variant, f64::from(arm.weight_basis_points) / 100.0)
        })
        .collect();
    format!(
        "{seconds:5.1} s  {} exposures  {}  regret {:.0}, equal split {:.0}\n",
        status.exposed_units,
        weights.join("  "),
        regret(units),
        regret_of_equal_split(units)
    )
}

/// Reallocations since the generation began.
fn allocation_version(status: &ExperimentStatus) -> u32 {
    let allocation = status.experiment.as_ref().and_then(|e| e.allocation.as_ref());
    allocation.map_or(0, |a| a.allocation_version.saturating_sub(1))
}

/// A demo whose output is closed goes on to its end: its exit code still says how it went.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
