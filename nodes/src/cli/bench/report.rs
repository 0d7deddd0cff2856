//! Figures: what was measured, its limit, its bar, and whether the bar was reached.
//!
//! The limit is what the same machine gave in the same run with nothing of ours in the way; the bar is what was promised.
//! A figure may have either, both or none.

use serde_json::{Value, json as object};

use super::Machine;
use crate::cli::page::{Cell, Page, Tone};
use crate::cli::render::{count_text, number_text};

/// What was promised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// This share of the limit, or more.
    Share(f64),
    /// This, or more.
    AtLeast(f64),
    /// This, or less.
    AtMost(f64),
}

/// One line of the report.
#[derive(Debug, Clone)]
pub struct Figure {
    name: &'static str,
    unit: &'static str,
    measured: f64,
    limit: Option<(&'static str, f64)>,
    ratio: Option<f64>,
    bar: Option<Bar>,
    note: String,
}

impl Figure {
    /// A figure with neither limit nor bar.
    pub fn new(name: &'static str, unit: &'static str, measured: f64) -> Self {
        Self { name, unit, measured, limit: None, ratio: None, bar: None, note: String::new() }
    }

    /// The median of `measured` beside that of `limit`, whose slices took turns with it.
    pub fn beside(
        name: &'static str,
        unit: &'static str,
        measured: &[f64],
        limit_name: &'static str,
        limit: &[f64],
    ) -> Self {
        let ratios: Vec<f64> = measured
            .iter()
            .zip(limit)
            .filter(|(_, limit)| **limit > 0.0)
            .map(|(measured, limit)| measured / limit)
            .collect();
        Self {
            limit: Some((limit_name, median(limit))),
            // Of the rounds, not of the medians: a round's two slices saw the same machine.
            ratio: Some(median(&ratios)),
            ..Self::new(name, unit, median(measured))
        }
    }

    /// The same with a limit that was measured once.
    pub fn limit(mut self, name: &'static str, limit: f64) -> Self {
        self.ratio = (limit > 0.0).then(|| self.measured / limit);
        self.limit = Some((name, limit));
        self
    }

    /// With what was promised.
    pub fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
        self
    }

    /// With words on how it came about.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether the bar was reached; `None` without one.
    fn reached(&self) -> Option<bool> {
        self.bar.map(|bar| match bar {
            Bar::Share(share) => self.ratio.is_some_and(|ratio| ratio >= share),
            Bar::AtLeast(least) => self.measured >= least,
            Bar::AtMost(most) => self.measured <= most,
        })
    }

    fn bar_text(&self) -> String {
        match self.bar {
            None => String::new(),
            Some(Bar::Share(share)) => format!("≥ {:.0} % of it", share * 100.0),
            Some(Bar::AtLeast(least)) => format!("≥ {}", amount(least)),
            Some(Bar::AtMost(most)) => format!("≤ {}", amount(most)),
        }
    }

    fn json(&self) -> Value {
        let bar = self.bar.map(|bar| match bar {
            Bar::Share(share) => object!({ "share_of_limit_at_least": share }),
            Bar::AtLeast(least) => object!({ "at_least": least }),
            Bar::AtMost(most) => object!({ "at_most": most }),
        });
        object!({
            "figure": self.name,
            "unit": self.unit,
            "measured": self.measured,
            "limit": self.limit.map(|(name, value)| object!({ "of": name, "value": value })),
            "ratio": self.ratio,
            "bar": bar,
            "reached": self.reached(),
            "note": self.note,
        })
    }
}

/// The middle of the values; the mean of the two middle ones of an even number, 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |place: usize| sorted.get(place).copied().unwrap_or(0.0);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => at(length / 2),
        length => f64::midpoint(at(length / 2 - 1), at(length / 2)),
    }
}

/// Whole above a hundred, three digits below.
fn amount(value: f64) -> String {
    if value >= 100.0 {
        return count_text(value.round() as u64);
    }
    let digits = if value >= 10.0 { 10.0 } else { 100.0 };
    number_text((value * digits).round() / digits)
}

/// The report for people.
pub fn table(page: &mut Page, figures: &[Figure]) {
    let rows = figures
        .iter()
        .map(|figure| {
            let limit = figure.limit.map(|(name, value)| (amount(value), name));
            let (limit, of) = limit.unwrap_or_default();
            let (verdict, tone) = match figure.reached() {
                None => ("", Tone::Plain),
                Some(true) => ("ok", Tone::Good),
                Some(false) => ("SHORT", Tone::Bad),
            };
            vec![
                Cell::new(figure.name),
                Cell::number(amount(figure.measured)),
                Cell::new(figure.unit),
                Cell::number(limit),
                Cell::new(of),
                Cell::number(
                    figure.ratio.map_or_else(String::new, |ratio| format!("{:.0} %", ratio * 100.0)),
                ),
                Cell::new(figure.bar_text()),
                Cell::new(verdict).tone(tone),
            ]
        })
        .collect();
    page.blank();
    let headings = ["FIGURE", "MEASURED", "UNIT", "LIMIT", "OF", "RATIO", "BAR", ""];
    page.table(&headings, rows, "nothing was measured");
    if figures.iter().any(|figure| !figure.note.is_empty()) {
        page.blank();
    }
    for figure in figures.iter().filter(|figure| !figure.note.is_empty()) {
        page.line(Tone::Faint, format!("{}: {}", figure.name, figure.note));
    }
}

/// The report for machines.
pub fn json(machine: &Machine, figures: &[Figure]) -> Value {
    object!({
        "release": !cfg!(debug_assertions),
        "cores": machine.cores,
        "load_before": machine.load_before.parse::<f64>().ok(),
        "load_after": machine.load_after.parse::<f64>().ok(),
        "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_rounds() {
        // The machine halves its speed in the middle of the run: the ratio does not care.
        let figure = Figure::beside("evaluate", "/s", &[90.0, 45.0, 44.0], "echo", &[100.0, 50.0, 50.0])
            .bar(Bar::Share(0.85));
        assert_eq!((figure.measured, figure.ratio), (45.0, Some(0.9)));
        assert_eq!(figure.reached(), Some(true));
        assert_eq!(figure.clone().bar(Bar::Share(0.91)).reached(), Some(false));
        assert_eq!(figure.clone().bar(Bar::AtMost(44.9)).reached(), Some(false));
        assert_eq!(figure.bar(Bar::AtLeast(45.0)).reached(), Some(true));
    }

    #[test]
    fn the_median_of_any_number_of_values() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn a_short_figure_says_so() {
        let mut page = Page::new(false);
        table(&mut page, &[Figure::new("lag", "ms", 2_500.0).bar(Bar::AtMost(2_000.0)).note("of 10")]);
        let text = page.into_text();
        assert!(text.contains("2,500") && text.contains("≤ 2,000") && text.contains("SHORT"), "{text}");
        assert!(text.contains("lag: of 10"), "{text}");
    }
}
