//! From sums to results: the sample ratio, every arm against control for every metric and segment, many tests at once, hygiene.

use featureops_decision::analysis::arm::Arm;
use featureops_decision::analysis::bayes::{Posterior, Prior, posterior};
use featureops_decision::analysis::effect::{Effect, Scale, Undefined, effect};
use featureops_decision::analysis::frequentist::{Side, Test, non_inferior, p_of, welch};
use featureops_decision::analysis::group::{LOOKS_MAX, Spending, boundaries};
use featureops_decision::analysis::multiplicity::{Correction, correct, e_benjamini_hochberg};
use featureops_decision::analysis::power::Midway;
use featureops_decision::analysis::sequential::confidence_sequence;
use featureops_decision::sample_ratio::{Shares, p_value};
use featureops_decision::special::ln_normal_cdf;
use serde_json::{Value, json};

use super::metrics::{Kind, Metric};
use super::reader::{Layout, Read, Sums, at_level};
use super::verdict::{Verdict, decide};
use super::{AnalyzeArgs, Method};
use crate::cli::failure::Failure;

/// Units at which a sequence is tightest when no horizon is named.
const PLANNED: f64 = 5_000.0;
/// Units of an arm below which intervals by the central limit promise little.
const FEW_UNITS: f64 = 100.0;

/// One scale of one comparison.
#[derive(Debug, Clone)]
pub struct Scaled {
    pub effect: Effect,
    pub test: Test,
    /// With `--method bayes`.
    pub belief: Option<Posterior>,
}

/// An arm against control under a metric.
#[derive(Debug, Clone)]
pub struct Line {
    /// What sentences refer to: `metric.arm`, or `metric.arm[column=value]`.
    pub id: String,
    pub metric: Metric,
    pub arm: String,
    /// (column, value) of a segment.
    pub segment: Option<(String, String)>,
    pub control_units: f64,
    pub treatment_units: f64,
    pub control_mean: f64,
    pub treatment_mean: f64,
    pub relative: Result<Scaled, Undefined>,
    pub absolute: Result<Scaled, Undefined>,
    /// Without the covariate, where there is one.
    pub unadjusted: Option<Effect>,
    /// Is it not worse than the margin? p of that test.
    pub not_worse: Option<f64>,
    /// p that knows of the other tests.
    pub adjusted_p: f64,
    /// Believed among all tests.
    pub believed: bool,
    /// Power for the smallest lift that matters, and units still to come for 80 %.
    pub power: Option<(f64, Option<f64>)>,
}

impl Line {
    /// +1 when the interval says better, -1 worse, 0 when it says neither.
    #[must_use]
    pub fn direction(&self) -> i8 {
        // Where the baseline is 0 the difference still speaks.
        let Some(scaled) = self.absolute.as_ref().ok() else { return 0 };
        let better = if self.metric.lower_is_better { -1 } else { 1 };
        let (lower, upper) = scaled.ends();
        if lower > 0.0 {
            better
        } else if upper < 0.0 {
            -better
        } else {
            0
        }
    }
}

impl Scaled {
    /// The interval that the method stands for.
    #[must_use]
    pub fn ends(&self) -> (f64, f64) {
        self.belief.as_ref().map_or((self.test.lower, self.test.upper), |belief| (belief.lower, belief.upper))
    }

    /// The estimate that belongs to it.
    #[must_use]
    pub fn estimate(&self) -> f64 {
        self.belief.as_ref().map_or(self.effect.estimate, |belief| belief.mean)
    }
}

/// Everything that is shown.
#[derive(Debug)]
pub struct Report {
    pub arms: Vec<(String, u64)>,
    /// p of the planned shares; `None` when nothing could be tested.
    pub srm: Option<f64>,
    pub srm_threshold: f64,
    pub lines: Vec<Line>,
    /// (id, what is wrong, whether it blocks a decision).
    pub hygiene: Vec<(&'static str, String, bool)>,
    pub verdicts: Vec<Verdict>,
    pub method: Method,
    pub alpha: f64,
    pub mde: f64,
    pub horizon: Option<u64>,
    pub rows: u64,
}

/// The tests of a method.
struct Tester {
    method: Method,
    alpha: f64,
    planned: f64,
    earlier: Vec<f64>,
    prior: Option<Prior>,
}

impl Tester {
    fn of(args: &AnalyzeArgs) -> Result<Self, Failure> {
        let prior = args.prior.as_ref().map(|text| {
            let wrong = || Failure::usage(format!("--prior '{text}' must be MEAN,SD, as 0,0.1"));
            let (mean, sd) = text.split_once(',').ok_or_else(wrong)?;
            match (mean.trim().parse::<f64>(), sd.trim().parse::<f64>()) {
                (Ok(mean), Ok(sd)) if mean.is_finite() && sd > 0.0 && sd.is_finite() => {
                    Ok(Prior { mean, sd })
                }
                _ => Err(wrong()),
            }
        });
        if args.look.len() >= LOOKS_MAX {
            return Err(Failure::usage(format!(
                "--look is given {} times; fewer than {LOOKS_MAX} are",
                args.look.len()
            )));
        }
        let mut earlier: Vec<f64> = args.look.iter().map(|units| *units as f64).collect();
        earlier.sort_by(f64::total_cmp);
        earlier.dedup();
        Ok(Self {
            method: args.method,
            alpha: args.alpha,
            planned: args.horizon.map_or(PLANNED, |units| units as f64),
            earlier,
            prior: prior.transpose()?,
        })
    }

    fn test(&self, found: Effect) -> Result<Scaled, Failure> {
        let test = match self.method {
            Method::Fixed | Method::Bayes => welch(&found, 0.0, self.alpha, Side::Both),
            Method::Sequential => confidence_sequence(&found, self.planned, self.alpha, Side::Both),
            Method::Obf => self.spending(&found)?,
        };
        let belief = (self.method == Method::Bayes).then(|| posterior(&found, self.prior, self.alpha));
        Ok(Scaled { effect: found, test, belief })
    }

    fn spending(&self, found: &Effect) -> Result<Test, Failure> {
        // Beyond the horizon nothing is left to spend: the last look is at the horizon.
        let now = (found.units / self.planned).min(1.0);
        let mut shares: Vec<f64> =
            self.earlier.iter().map(|units| units / self.planned).filter(|share| *share < now).collect();
        shares.push(now);
        let bounds = boundaries(&shares, self.alpha, Spending::OBrienFleming)
            .map_err(|error| Failure::usage(format!("--look and --horizon: {error}")))?;
        let bound = bounds.last().copied().unwrap_or(f64::INFINITY);
        let error = found.standard_error();
        let z = (found.estimate / error).abs();
        let ln_p = (std::f64::consts::LN_2 + ln_normal_cdf(-z)).min(0.0);
        Ok(Test { lower: found.estimate - bound * error, upper: found.estimate + bound * error, ln_p })
    }
}

impl Report {
    /// # Errors
    /// Options that make no test, or an arm without units.
    pub fn of(read: &Read, layout: &Layout, args: &AnalyzeArgs) -> Result<Self, Failure> {
        let tester = Tester::of(args)?;
        let mut lines = Vec::new();
        comparisons(&mut lines, &read.arms, &read.whole, None, layout, &tester, args)?;
        for (column, value, sums) in &read.segments {
            comparisons(&mut lines, &read.arms, sums, Some((column, value)), layout, &tester, args)?;
        }
        many_tests(&mut lines, args);
        let units: Vec<u64> = read.whole.iter().map(|sums| sums.units).collect();
        let srm = p_value(&[Shares { units: &units, expected: &shares(&read.arms, args)? }]);
        let mut report = Self {
            arms: read.arms.iter().cloned().zip(units).collect(),
            srm,
            srm_threshold: args.srm_threshold,
            lines,
            hygiene: Vec::new(),
            verdicts: Vec::new(),
            method: args.method,
            alpha: args.alpha,
            mde: args.mde,
            horizon: args.horizon,
            rows: read.rows,
        };
        report.hygiene = hygiene(read, layout, &report);
        report.verdicts = decide(&report);
        Ok(report)
    }

    /// What blocks every decision.
    #[must_use]
    pub fn blocked(&self) -> Option<&(&'static str, String, bool)> {
        self.hygiene.iter().find(|(.., blocks)| *blocks)
    }

    /// The whole report.
    #[must_use]
    pub fn json(&self) -> Value {
        let of = |segmented: bool| {
            self.lines
                .iter()
                .filter(|line| line.segment.is_some() == segmented)
                .map(Line::json)
                .collect::<Vec<_>>()
        };
        json!({
            "method": method_word(self.method), "alpha": self.alpha, "mde": self.mde, "horizon": self.horizon, "rows": self.rows,
            "arms": self.arms.iter().map(|(arm, units)| json!({ "arm": arm, "units": units })).collect::<Vec<_>>(),
            "srm": { "id": "srm", "p_value": self.srm, "threshold": self.srm_threshold,
                     "mismatch": self.srm.is_some_and(|p| p < self.srm_threshold) },
            "metrics": of(false),
            "segments": { "exploratory": true, "results": of(true) },
            "hygiene": self.hygiene.iter().map(|(id, text, blocks)| json!({ "id": id, "text": text, "blocks": blocks })).collect::<Vec<_>>(),
            "decisions": self.verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
        })
    }
}

/// The method as the option names it.
#[must_use]
pub const fn method_word(method: Method) -> &'static str {
    match method {
        Method::Fixed => "fixed",
        Method::Sequential => "sequential",
        Method::Obf => "obf",
        Method::Bayes => "bayes",
    }
}

/// Planned shares: 1 each, unless said otherwise.
fn shares(arms: &[String], args: &AnalyzeArgs) -> Result<Vec<f64>, Failure> {
    let mut shares = vec![1.0; arms.len()];
    for text in &args.share {
        let wrong = |why: String| Failure::usage(format!("--share '{text}': {why}"));
        let (arm, share) = text.rsplit_once('=').ok_or_else(|| wrong("must be ARM=SHARE".to_owned()))?;
        let slot = arms.iter().position(|known| known == arm).and_then(|at| shares.get_mut(at));
        let slot =
            slot.ok_or_else(|| wrong(format!("there is no such arm; there are {}", arms.join(", "))))?;
        *slot = share
            .parse()
            .ok()
            .filter(|share: &f64| *share >= 0.0 && share.is_finite())
            .ok_or_else(|| wrong("the share must be a number of at least 0".to_owned()))?;
    }
    Ok(shares)
}

fn comparisons(
    lines: &mut Vec<Line>,
    arms: &[String],
    sums: &[Sums],
    segment: Option<(&String, &String)>,
    layout: &Layout,
    tester: &Tester,
    args: &AnalyzeArgs,
) -> Result<(), Failure> {
    let Some((control, treatments)) = sums.split_first() else { return Ok(()) };
    for (at, metric) in layout.metrics.iter().enumerate() {
        let cut = match &metric.kind {
            Kind::Winsorised(level) => {
                let mut values: Vec<f64> = sums
                    .iter()
                    .filter_map(|arm| arm.cells.get(at))
                    .flat_map(|cell| cell.values().iter().copied())
                    .collect();
                values.sort_by(f64::total_cmp);
                Some(at_level(&values, *level))
            }
            _ => None,
        };
        for (arm, treatment) in arms.iter().skip(1).zip(treatments) {
            let (Some(a), Some(b)) = (control.cells.get(at), treatment.cells.get(at)) else { continue };
            if segment.is_none() && (a.units() == 0.0 || b.units() == 0.0) {
                let empty = if a.units() == 0.0 { &layout.control } else { arm };
                return Err(Failure::usage(format!(
                    "arm '{empty}' has no unit with a value of metric '{}' (column '{}'): nothing to compare",
                    metric.name, metric.column
                )));
            }
            let plain = (a.arm(&metric.kind, cut), b.arm(&metric.kind, cut));
            let adjusted = layout
                .covariate
                .as_ref()
                .and_then(|_| a.adjusted(&metric.kind).zip(b.adjusted(&metric.kind)));
            let pair = adjusted.unwrap_or(plain);
            let scaled = |scale| -> Result<Result<Scaled, Undefined>, Failure> {
                match effect(&pair.0, &pair.1, scale) {
                    Ok(found) => tester.test(found).map(Ok),
                    Err(undefined) => Ok(Err(undefined)),
                }
            };
            let (relative, absolute) = (scaled(Scale::Relative)?, scaled(Scale::Absolute)?);
            lines.push(line(metric, arm, segment, &plain, relative, absolute, adjusted.is_some(), args));
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "one call site that has them all at hand")]
fn line(
    metric: &Metric,
    arm: &str,
    segment: Option<(&String, &String)>,
    plain: &(Arm, Arm),
    relative: Result<Scaled, Undefined>,
    absolute: Result<Scaled, Undefined>,
    adjusted: bool,
    args: &AnalyzeArgs,
) -> Line {
    let id = match segment {
        None => format!("{}.{arm}", metric.name),
        Some((column, value)) => format!("{}.{arm}[{column}={value}]", metric.name),
    };
    let not_worse = metric.guardrail.zip(relative.as_ref().ok()).map(|(margin, scaled)| {
        non_inferior(&scaled.effect, margin, args.alpha, !metric.lower_is_better).p_value()
    });
    let power = relative.as_ref().ok().map(|scaled| {
        let sequential = args.method == Method::Sequential;
        let midway = Midway {
            variance: scaled.effect.variance,
            units: scaled.effect.units,
            size: args.mde,
            alpha: args.alpha,
            tests: 1.0,
            sequential: sequential.then(|| args.horizon.map_or(PLANNED, |units| units as f64)),
        };
        (midway.power(0.0), midway.factor_for(0.8).ok().map(|factor| factor * scaled.effect.units))
    });
    Line {
        id,
        metric: metric.clone(),
        arm: arm.to_owned(),
        segment: segment.map(|(column, value)| (column.clone(), value.clone())),
        control_units: plain.0.units(),
        treatment_units: plain.1.units(),
        control_mean: plain.0.plain_mean(),
        treatment_mean: plain.1.plain_mean(),
        relative,
        absolute,
        unadjusted: adjusted.then(|| effect(&plain.0, &plain.1, Scale::Relative).ok()).flatten(),
        not_worse,
        adjusted_p: 1.0,
        believed: false,
        power,
    }
}

/// Every test of the report at once, and those of segments among themselves: BH on p-values, e-BH on a sequence's evidence.
fn many_tests(lines: &mut [Line], args: &AnalyzeArgs) {
    for segmented in [false, true] {
        let mut family: Vec<&mut Line> =
            lines.iter_mut().filter(|line| line.segment.is_some() == segmented).collect();
        let ln_p = |line: &Line| {
            let scaled = line.relative.as_ref().or(line.absolute.as_ref());
            scaled.map_or(0.0, |scaled| scaled.test.ln_p)
        };
        let p: Vec<f64> = family.iter().map(|line| p_of(ln_p(line))).collect();
        let corrected = correct(&p, args.alpha, Correction::BenjaminiHochberg);
        let mut reject = corrected.reject;
        if args.method == Method::Sequential {
            let evidence: Vec<f64> = family.iter().map(|line| (-ln_p(line)).min(700.0).exp()).collect();
            reject = e_benjamini_hochberg(&evidence, args.alpha);
        }
        for ((line, adjusted), reject) in family.iter_mut().zip(corrected.adjusted).zip(reject) {
            line.adjusted_p = adjusted;
            line.believed = reject;
        }
    }
}

/// What an analyst would look at before any effect.
fn hygiene(read: &Read, layout: &Layout, report: &Report) -> Vec<(&'static str, String, bool)> {
    let mut found = Vec::new();
    if let Some(p) = report.srm.filter(|p| *p < report.srm_threshold) {
        let text = format!(
            "sample ratio mismatch: the arms' units do not follow the planned shares (p = {}); no effect can be trusted",
            crate::cli::render::number_text(p)
        );
        found.push(("srm", text, true));
    }
    if read.in_two_arms > 0 {
        let units: u64 = report.arms.iter().map(|(_, units)| units).sum::<u64>() + read.in_two_arms;
        let share = read.in_two_arms as f64 / units.max(1) as f64;
        let text = format!(
            "{} units ({}) were seen in two arms and left out",
            read.in_two_arms,
            crate::cli::render::part_text(share)
        );
        found.push(("units_in_two_arms", text, share > 0.01));
    }
    if read.unfinished {
        found.push((
            "unfinished_file",
            "the file does not end with a line's end: it may be cut off".to_owned(),
            false,
        ));
    }
    if read.without_arm > 0 {
        found.push((
            "rows_without_arm",
            format!("{} rows name no arm and were left out", read.without_arm),
            false,
        ));
    }
    for (metric, count) in layout.metrics.iter().zip(&read.without_value) {
        if *count > 0 {
            let what = if layout.unit.is_some() { "units" } else { "rows" };
            let text =
                format!("metric '{}': {count} {what} have no value and were left out of it", metric.name);
            found.push(("missing_values", text, false));
        }
    }
    for line in report.lines.iter().filter(|line| line.segment.is_none()) {
        if let Err(undefined) = &line.absolute {
            found.push(("undefined_effect", format!("{}: {}", line.id, undefined.meaning()), false));
        }
    }
    if read.whole.iter().any(|sums| (sums.units as f64) < FEW_UNITS) {
        let text = format!(
            "an arm has fewer than {FEW_UNITS} units: intervals by the central limit promise little there"
        );
        found.push(("few_units", text, false));
    }
    if report.method == Method::Fixed && report.horizon.is_none() {
        let text =
            "one look at a size fixed beforehand is assumed; who looked before needs --method sequential";
        found.push(("peeking", text.to_owned(), false));
    }
    if report.method == Method::Bayes {
        let text = "a posterior does not guard against looking often: with a flat prior, 20 looks reject no effect in a quarter of cases";
        found.push(("peeking", text.to_owned(), false));
    }
    found
}

impl Line {
    fn json(&self) -> Value {
        let scaled = |scaled: &Result<Scaled, Undefined>| match scaled {
            Ok(scaled) => {
                let (lower, upper) = scaled.ends();
                let end = |value: f64| {
                    if value.is_finite() {
                        json!(value)
                    } else {
                        json!(if value > 0.0 { "inf" } else { "-inf" })
                    }
                };
                let mut value = json!({
                    "estimate": scaled.estimate(), "se": scaled.effect.standard_error(), "ci": [end(lower), end(upper)],
                    "p_value": scaled.test.p_value(), "log10_p_value": scaled.test.ln_p / std::f64::consts::LN_10, "error": null,
                });
                if let (Some(belief), Some(object)) = (&scaled.belief, value.as_object_mut()) {
                    object.insert("chance_to_win".to_owned(), json!(belief.chance_to_win));
                    object.insert("risk".to_owned(), json!([belief.risk_control, belief.risk_treatment]));
                }
                value
            }
            Err(undefined) => json!({ "estimate": null, "error": undefined.name() }),
        };
        json!({
            "id": self.id, "metric": self.metric.name, "kind": self.metric.kind.word(), "arm": self.arm,
            "segment": self.segment.as_ref().map(|(column, value)| json!({ "column": column, "value": value })),
            "control": { "n": self.control_units, "mean": self.control_mean },
            "treatment": { "n": self.treatment_units, "mean": self.treatment_mean },
            "relative": scaled(&self.relative), "absolute": scaled(&self.absolute),
            "unadjusted_relative": self.unadjusted.map(|effect| json!({ "estimate": effect.estimate, "se": effect.standard_error() })),
            "non_inferiority_p_value": self.not_worse,
            "adjusted_p_value": self.adjusted_p, "believed_among_all": self.believed,
            "power_at_mde": self.power.map(|(power, _)| power),
            "units_to_power": self.power.and_then(|(_, units)| units),
        })
    }
}
