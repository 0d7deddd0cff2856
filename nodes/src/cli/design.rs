//! `design`: how many units an experiment takes, how much power it has, how long it runs. No server is asked.

use clap::{Args, Subcommand};
use featureops_decision::analysis::distribution::normal_quantile;
use featureops_decision::analysis::power::{
    Formula, Goal, assurance, duration, power_at, power_for_means, units_for_means, units_for_proportions,
};
use featureops_decision::confidence::{ratio, two_sided_radius};
use serde_json::{Value, json};

use super::analyze::print_value;
use super::failure::Failure;
use super::page::{Cell, Page, Tone};
use super::render::{count_text, number_text, part_text};
use super::settings::Output;

/// Days of traffic that are looked at.
const DAYS_MAX: usize = 3_660;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  featureops design sample-size --baseline .05 --lift .1
  featureops design sample-size --mean 20 --sd 45 --lift .03 --covariate-correlation .6
  featureops design power --baseline .05 --lift .1 --units 40000
  featureops design duration --units 62000 --daily 4100,3900,4400,4000")]
pub enum DesignCommand {
    /// Units of control for an effect to be found.
    SampleSize(SizeArgs),
    /// Chance to find an effect with a number of units.
    Power(PowerArgs),
    /// Days until enough units have come, with an interval.
    Duration(DurationArgs),
}

#[derive(Debug, Args)]
pub struct EffectArgs {
    /// Control's proportion.
    #[arg(long, value_name = "SHARE", conflicts_with_all = ["mean", "sd"], required_unless_present = "mean")]
    baseline: Option<f64>,
    /// Control's mean.
    #[arg(long, value_name = "MEAN", requires = "sd")]
    mean: Option<f64>,
    /// Standard deviation of a unit.
    #[arg(long, value_name = "SD", requires = "mean")]
    sd: Option<f64>,
    /// Relative lift to be found.
    #[arg(long, value_name = "LIFT", allow_negative_numbers = true)]
    lift: f64,
    /// Two-sided error.
    #[arg(long, default_value_t = 0.05)]
    alpha: f64,
    /// Units of the treatment for each unit of control.
    #[arg(long, default_value_t = 1.0)]
    ratio: f64,
    /// Comparisons that share the error evenly: (arms - 1) x metrics.
    #[arg(long, default_value_t = 1)]
    comparisons: u32,
    /// Correlation with a covariate that is adjusted by.
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    covariate_correlation: f64,
}

#[derive(Debug, Args)]
pub struct SizeArgs {
    #[command(flatten)]
    effect: EffectArgs,
    /// Chance to find the effect.
    #[arg(long, default_value_t = 0.8)]
    power: f64,
}

#[derive(Debug, Args)]
pub struct PowerArgs {
    #[command(flatten)]
    effect: EffectArgs,
    /// Units of control.
    #[arg(long, value_name = "UNITS")]
    units: u64,
    /// MEAN,SD of the belief about the relative lift: the assurance is power averaged over it.
    #[arg(long, value_name = "MEAN,SD", allow_hyphen_values = true)]
    prior: Option<String>,
}

#[derive(Debug, Args)]
pub struct DurationArgs {
    /// Units needed in all.
    #[arg(long, value_name = "UNITS")]
    units: u64,
    /// Units that came on each of the past days.
    #[arg(long, value_name = "N,N…", value_delimiter = ',', required = true)]
    daily: Vec<f64>,
    /// Error of the interval.
    #[arg(long, default_value_t = 0.1)]
    alpha: f64,
}

impl EffectArgs {
    fn goal(&self, power: f64) -> Result<Goal, Failure> {
        if self.comparisons == 0 {
            return Err(Failure::usage("--comparisons is 0; it is at least 1"));
        }
        if !(-0.999_999..=0.999_999).contains(&self.covariate_correlation) {
            return Err(Failure::usage("--covariate-correlation must lie above -1 and below 1"));
        }
        if !(self.lift.is_finite() && self.lift != 0.0) {
            return Err(Failure::usage("--lift must not be 0: no size finds nothing"));
        }
        Ok(Goal { alpha: self.alpha / f64::from(self.comparisons), power, ratio: self.ratio })
    }

    /// What a covariate leaves of the variance.
    fn left(&self) -> f64 {
        1.0 - self.covariate_correlation * self.covariate_correlation
    }

    /// Lift in standard deviations.
    fn standardised(&self, mean: f64, sd: f64) -> Result<f64, Failure> {
        if !(sd > 0.0 && sd.is_finite() && mean.is_finite() && mean != 0.0) {
            return Err(Failure::usage("--sd must be positive and --mean not 0"));
        }
        Ok(mean * self.lift / (sd * self.left().sqrt()))
    }

    /// Standard error of the absolute difference with `units` of control, and the difference.
    fn error(&self, units: f64) -> (f64, f64) {
        let (spread, size) = match (self.baseline, self.mean, self.sd) {
            (Some(p), ..) => {
                let q = p * (1.0 + self.lift);
                (p * (1.0 - p) + q * (1.0 - q) / self.ratio, p * self.lift)
            }
            (_, Some(mean), Some(sd)) => (sd * sd * (1.0 + 1.0 / self.ratio), mean * self.lift),
            _ => (0.0, 0.0),
        };
        ((spread * self.left() / units).sqrt(), size)
    }

    /// Power of a confidence sequence at its tightest: at the last look.
    fn sequential_power(&self, goal: Goal, units: f64) -> f64 {
        let (error, size) = self.error(units);
        let both = units * (1.0 + self.ratio);
        power_at(size, error, error * two_sided_radius(ratio(both, both, goal.alpha), goal.alpha))
    }
}

/// The formula of a size, and the size.
type Sizes = Vec<(&'static str, f64)>;

fn sizes(effect: &EffectArgs, goal: Goal) -> Result<Sizes, Failure> {
    let fault = |error: featureops_decision::analysis::power::GoalError| Failure::usage(error.to_string());
    match (effect.baseline, effect.mean, effect.sd) {
        (Some(baseline), ..) => [
            ("n1_pooled", Formula::Pooled),
            ("n1_unpooled", Formula::Unpooled),
            ("n1_cohen_h", Formula::CohenH),
        ]
        .into_iter()
        .map(|(name, formula)| {
            let units = units_for_proportions(baseline, baseline * (1.0 + effect.lift), goal, formula);
            units.map(|units| (name, units * effect.left())).map_err(fault)
        })
        .collect(),
        (_, Some(mean), Some(sd)) => {
            Ok(vec![("n1", units_for_means(effect.standardised(mean, sd)?, goal).map_err(fault)?)])
        }
        _ => Err(Failure::usage("name --baseline of a proportion, or --mean and --sd")),
    }
}

fn sample_size(output: Option<Output>, args: &SizeArgs) -> Result<(), Failure> {
    let goal = args.effect.goal(args.power)?;
    let sizes = sizes(&args.effect, goal)?;
    let first = sizes.first().map_or(0.0, |(_, units)| *units);
    // The sequence's own size: the smallest whose last look has the power.
    let (mut low, mut high) = (0.0, first.max(2.0));
    while args.effect.sequential_power(goal, high) < args.power && high < 1e15 {
        low = high;
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if args.effect.sequential_power(goal, middle) < args.power {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut value =
        json!({ "alpha": goal.alpha, "power": args.power, "ratio": goal.ratio, "n1_sequential": high });
    if let Some(object) = value.as_object_mut() {
        for (name, units) in &sizes {
            object.insert((*name).to_owned(), json!(units));
        }
    }
    let row = |name: &str, what: &str, units: f64| {
        let all = units.ceil() + (units * goal.ratio).ceil();
        vec![
            Cell::new(what),
            Cell::new(name),
            Cell::number(count_text(units.ceil() as u64)),
            Cell::number(count_text(all as u64)),
        ]
    };
    print_value(output, &value, |page| {
        let what = |name: &str| match name {
            "n1_pooled" => "one look, pooled variance",
            "n1_unpooled" => "one look, unpooled variance",
            "n1_cohen_h" => "one look, arcsine",
            _ => "one look, t-test",
        };
        let mut rows: Vec<_> = sizes.iter().map(|(name, units)| row(name, what(name), *units)).collect();
        rows.push(row("n1_sequential", "looks at any time, found by the last", high));
        page.table(&["TEST", "NAME", "UNITS OF CONTROL", "UNITS IN ALL"], rows, "none");
    })
}

fn power(output: Option<Output>, args: &PowerArgs) -> Result<(), Failure> {
    let goal = args.effect.goal(0.8)?;
    let inside = goal.alpha > 0.0 && goal.alpha < 1.0 && goal.ratio > 0.0;
    if !inside || args.units < 2 {
        return Err(Failure::usage(
            "--alpha must lie between 0 and 1, --ratio be positive, --units at least 2",
        ));
    }
    // Also checks the proportions.
    sizes(&args.effect, goal)?;
    let units = args.units as f64;
    let (error, size) = args.effect.error(units);
    let fixed = match (args.effect.mean, args.effect.sd) {
        (Some(mean), Some(sd)) => power_for_means(args.effect.standardised(mean, sd)?, units, goal),
        _ => power_at(size, error, normal_quantile(1.0 - goal.alpha / 2.0) * error),
    };
    let sequential = args.effect.sequential_power(goal, units);
    let base = args.effect.baseline.or(args.effect.mean).unwrap_or(1.0);
    let assured = match &args.prior {
        None => None,
        Some(text) => {
            let wrong = || Failure::usage(format!("--prior '{text}' must be MEAN,SD, as 0.02,0.05"));
            let (mean, sd) = text.split_once(',').ok_or_else(wrong)?;
            let mean: f64 = mean.trim().parse().map_err(|_| wrong())?;
            let sd: f64 = sd.trim().parse().ok().filter(|sd| *sd >= 0.0).ok_or_else(wrong)?;
            Some(assurance(mean * base.signum(), sd, error / base.abs(), goal.alpha))
        }
    };
    let value = json!({ "alpha": goal.alpha, "units": args.units, "power": fixed, "power_sequential": sequential, "assurance": assured });
    print_value(output, &value, |page| {
        let mut rows = vec![
            vec![Cell::new("one look at the end"), Cell::number(part_text(fixed))],
            vec![Cell::new("looks at any time, found by the last"), Cell::number(part_text(sequential))],
        ];
        if let Some(assured) = assured {
            rows.push(vec![
                Cell::new("success, averaged over the belief (assurance)"),
                Cell::number(part_text(assured)),
            ]);
        }
        page.table(&["TEST", "POWER"], rows, "none");
    })
}

fn days(output: Option<Output>, args: &DurationArgs) -> Result<(), Failure> {
    if args.daily.len() > DAYS_MAX || args.daily.iter().any(|units| !units.is_finite() || *units < 0.0) {
        return Err(Failure::usage(format!("--daily takes 1 to {DAYS_MAX} numbers of at least 0")));
    }
    if !(args.alpha > 0.0 && args.alpha < 1.0) {
        return Err(Failure::usage(format!("--alpha is {}; it must lie between 0 and 1", args.alpha)));
    }
    let (expected, low, high) = duration(args.units as f64, &args.daily, args.alpha).ok_or_else(|| {
        Failure::usage("no units came on any day, or none are needed: there is no duration")
    })?;
    let end = |value: f64| if value.is_finite() { json!(value) } else { Value::String("inf".to_owned()) };
    let value = json!({ "units": args.units, "days": expected, "interval": [end(low), end(high)], "alpha": args.alpha });
    print_value(output, &value, |page: &mut Page| {
        let level = number_text((1.0 - args.alpha) * 100.0);
        let upper = if high.is_finite() { number_text(high.ceil()) } else { "no bound".to_owned() };
        page.line(
            Tone::Strong,
            format!(
                "{} days ({level} % interval {} to {upper})",
                number_text(expected.ceil()),
                number_text(low.floor())
            ),
        );
        if args.daily.len() < 7 {
            page.line(Tone::Warn, "fewer than seven days seen: the days of a week differ, give a whole week");
        }
    })
}

pub fn run(output: Option<Output>, command: &DesignCommand) -> Result<(), Failure> {
    match command {
        DesignCommand::SampleSize(args) => sample_size(output, args),
        DesignCommand::Power(args) => power(output, args),
        DesignCommand::Duration(args) => days(output, args),
    }
}
