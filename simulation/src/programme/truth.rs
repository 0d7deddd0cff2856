//! What is true of an experiment, and what its owner is never told: lifts, seasons, drift, regressions.

use featureops_proto::v1::experiment::Policy;
use featureops_proto::v1::metric::Kind;

use crate::dice::Dice;

/// Hours of a day and of a week.
const DAY: f64 = 24.0;
const WEEK: f64 = 168.0;
/// Share of the units with a value above zero, where the metric is an amount.
const PAYING: f64 = 0.2;

/// How an arm's lift changes with the age of its experiment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Drift {
    /// Not at all.
    Steady,
    /// Novelty: it halves every so many hours.
    Fades {
        /// Half-life, in hours.
        half: f64,
    },
    /// The world changes: from this hour on it is the opposite.
    Turns {
        /// Hour of the experiment.
        at: u32,
    },
}

/// An arm that from some hour on makes more errors than control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regression {
    /// Which arm.
    pub arm: usize,
    /// From which hour of the experiment on.
    pub from: u32,
    /// Its errors relative to control's.
    pub factor: f64,
}

/// One experiment as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// Of the primary metric.
    pub kind: Kind,
    /// Who moves its traffic.
    pub policy: Policy,
    /// Control's mean.
    pub base: f64,
    /// Lifts relative to control, whose own, the first, is 0.
    pub lifts: Vec<f64>,
    /// Of all lifts.
    pub drift: Drift,
    /// Swings of the mean over a day and over a week, of every arm alike.
    pub swings: (f64, f64),
    /// Units of a day.
    pub units: f64,
    /// Share of units with an error, under control.
    pub errors: f64,
    /// What goes wrong.
    pub regression: Option<Regression>,
    /// Whether the arms are new, and so under the cap.
    pub is_new: bool,
}

/// A number from `low` to `high` whose logarithm is uniform.
fn log_uniform(dice: &mut Dice, low: f64, high: f64) -> f64 {
    low * (high / low).powf(unit(dice))
}

/// Uniform in [0, 1).
pub fn unit(dice: &mut Dice) -> f64 {
    (dice.bits() >> 11) as f64 / (1u64 << 53) as f64
}

impl Truth {
    /// Two of five have no arm that differs; one of five drifts; one of four has an arm that regresses.
    pub fn draw(dice: &mut Dice, hours: u32) -> Self {
        let policy = match dice.between(0, 9) {
            0..=5 => Policy::Thompson,
            6..=7 => Policy::Fixed,
            _ => Policy::Ramp,
        };
        let arms = if policy == Policy::Ramp { 1 } else { dice.between(1, 4) };
        let differs = dice.percent(60);
        let mut lifts = vec![0.0];
        for _ in 0..arms {
            // As experiments are: most ideas do little, some harm, few are large.
            let lift = (unit(dice) + unit(dice) + unit(dice) - 1.5) * 0.2;
            lifts.push(if differs { lift } else { 0.0 });
        }
        let drift = match dice.between(0, 9) {
            0 => Drift::Fades { half: log_uniform(dice, 72.0, 336.0) },
            1 => Drift::Turns {
                at: u32::try_from(dice.between(u64::from(hours / 4), u64::from(hours / 2))).unwrap_or(0),
            },
            _ => Drift::Steady,
        };
        let regression = dice.percent(25).then(|| Regression {
            arm: usize::try_from(dice.between(1, arms)).unwrap_or(1),
            from: u32::try_from(dice.between(0, u64::from(hours / 2))).unwrap_or(0),
            factor: log_uniform(dice, 1.3, 4.0),
        });
        let kind = if dice.percent(60) { Kind::Proportion } else { Kind::Mean };
        Self {
            kind,
            policy,
            base: if kind == Kind::Proportion {
                log_uniform(dice, 0.02, 0.3)
            } else {
                log_uniform(dice, 2.0, 40.0)
            },
            lifts,
            drift,
            swings: (0.4 * unit(dice), 0.2 * unit(dice)),
            units: log_uniform(dice, 500.0, 5_000.0),
            errors: log_uniform(dice, 0.01, 0.06),
            regression,
            is_new: dice.percent(50),
        }
    }

    /// Units that come in an hour: most in the evening.
    pub fn arrivals(&self, hour: u32) -> f64 {
        self.units / DAY * (1.0 + 0.6 * wave(hour, DAY))
    }

    /// Control's mean in an hour: a morning's unit is another than an evening's.
    pub fn season(&self, hour: u32) -> f64 {
        let (day, week) = self.swings;
        self.base * (1.0 + day * wave(hour, DAY) + week * wave(hour, WEEK))
    }

    /// An arm's lift in an experiment of this age, in hours.
    pub fn lift(&self, arm: usize, age: u32) -> f64 {
        let lift = self.lifts.get(arm).copied().unwrap_or(0.0);
        match self.drift {
            Drift::Steady => lift,
            Drift::Fades { half } => lift * (-f64::from(age) / half).exp2(),
            Drift::Turns { at } => {
                if age < at {
                    lift
                } else {
                    -lift
                }
            }
        }
    }

    /// Largest lift of any arm, control among them.
    pub fn best(&self, age: u32) -> f64 {
        (0..self.lifts.len()).map(|arm| self.lift(arm, age)).fold(0.0, f64::max)
    }

    /// Share of an arm's units with an error.
    pub fn errors_of(&self, arm: usize, age: u32) -> f64 {
        let factor = match self.regression {
            Some(regression) if regression.arm == arm && age >= regression.from => regression.factor,
            _ => 1.0,
        };
        (self.errors * factor).min(1.0)
    }

    /// One unit's value, 0 for none, of the mean `mean`.
    pub fn value(&self, mean: f64, dice: &mut Dice) -> f64 {
        match self.kind {
            Kind::Proportion => f64::from(u8::from(unit(dice) < mean)),
            // Few pay, and what they pay is exponential.
            _ if unit(dice) < PAYING => -(1.0 - unit(dice)).ln() * mean / PAYING,
            _ => 0.0,
        }
    }
}

fn wave(hour: u32, period: f64) -> f64 {
    (std::f64::consts::TAU * f64::from(hour) / period).sin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_of_truths_has_every_kind_and_none_is_absurd() {
        let mut dice = Dice::new(3, "truth");
        let all: Vec<Truth> = (0..500).map(|_| Truth::draw(&mut dice, 672)).collect();
        let share = |is: &dyn Fn(&Truth) -> bool| all.iter().filter(|truth| is(truth)).count();
        assert!(
            (120..=280).contains(&share(
                &|truth| truth.best(0) == 0.0 && truth.lifts.iter().all(|lift| *lift == 0.0)
            ))
        );
        assert!((60..=190).contains(&share(&|truth| truth.regression.is_some())));
        for kind in [Policy::Thompson, Policy::Fixed, Policy::Ramp] {
            assert!(share(&|truth| truth.policy == kind) > 50);
        }
        assert!(share(&|truth| matches!(truth.drift, Drift::Turns { .. })) > 20);
        for truth in &all {
            for hour in 0..168 {
                assert!(
                    truth.season(hour) * (1.0 + truth.best(hour))
                        < if truth.kind == Kind::Proportion { 1.0 } else { 100.0 }
                );
                assert!(truth.arrivals(hour) > 0.0);
            }
        }
    }

    #[test]
    fn values_have_the_mean_that_was_asked_for() {
        let mut dice = Dice::new(5, "values");
        for kind in [Kind::Proportion, Kind::Mean] {
            let truth = Truth { kind, ..Truth::draw(&mut dice, 672) };
            let sum: f64 = (0..200_000).map(|_| truth.value(0.25, &mut dice)).sum();
            assert!((sum / 200_000.0 - 0.25).abs() < 0.01, "{kind:?}: {sum}");
        }
    }

    #[test]
    fn drift_fades_and_turns() {
        let mut truth = Truth::draw(&mut Dice::new(1, "drift"), 672);
        truth.lifts = vec![0.0, 0.1];
        truth.drift = Drift::Fades { half: 100.0 };
        assert!((truth.lift(1, 100) - 0.05).abs() < 1e-12);
        truth.drift = Drift::Turns { at: 10 };
        assert!((truth.lift(1, 9) - 0.1).abs() < 1e-12 && (truth.lift(1, 10) + 0.1).abs() < 1e-12);
        assert_eq!(truth.best(10), 0.0);
    }
}
