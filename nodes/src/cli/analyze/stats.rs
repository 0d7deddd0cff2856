//! Arms as sums in JSON, and the whole answer to them: both scales, every method, under the names other tools use.
//!
//! ```json
//! {"alpha": 0.05,
//!  "control":   {"type": "proportion", "n": 44700, "sum": 8502},
//!  "treatment": {"type": "proportion", "n": 45489, "sum": 8279}}
//! ```
//!
//! Types: `proportion` (n, sum), `mean`, `count` and `winsorised` (n, sum, `sum_squares`), `ratio` (n, num, den, `sum_products`),
//! `regression_adjusted` (n, post, pre, `sum_products`), `quantile` (n, level, estimate, lower, upper). Instead of the two arms
//! there may be `strata`, a list of such pairs.

use featureops_decision::analysis::arm::{Arm, Part};
use featureops_decision::analysis::bayes::{Prior, posterior};
use featureops_decision::analysis::effect::{Effect, Scale, Undefined, effect, post_stratified};
use featureops_decision::analysis::frequentist::{Side, Test, welch};
use featureops_decision::analysis::sequential::confidence_sequence;
use serde_json::{Map, Value, json};

/// Sizes at which the sequences of the answer are tightest, when the input names none.
pub const TUNINGS: [f64; 3] = [1_000.0, 5_000.0, 50_000.0];
/// Strata of one input.
const STRATA_MAX: usize = 10_000;

/// The first of these fields that is there.
fn field<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| value.get(*name)).filter(|found| !found.is_null())
}

fn number(value: &Value, path: &str, names: &[&str]) -> Result<f64, String> {
    let name = names.first().copied().unwrap_or_default();
    let found = field(value, names).ok_or_else(|| format!("{path}.{name} is missing"))?;
    found
        .as_f64()
        .filter(|number| number.is_finite())
        .ok_or_else(|| format!("{path}.{name} is {found}, not a finite number"))
}

fn part(value: &Value, path: &str, units: Option<f64>) -> Result<Part, String> {
    let n = match (units, value.get("n")) {
        (Some(units), None) => units,
        _ => number(value, path, &["n"])?,
    };
    let sum = number(value, path, &["sum"])?;
    match value.get("type").and_then(Value::as_str).unwrap_or("mean") {
        "proportion" => Ok(Part::proportion(n, sum)),
        "mean" | "count" | "winsorised" | "winsorized" => {
            Ok(Part::mean_of(n, sum, number(value, path, &["sum_squares"])?))
        }
        other => Err(format!("{path}.type is '{other}'; parts are proportion, mean, count or winsorised")),
    }
}

/// An arm from its object.
///
/// # Errors
/// What is missing or wrong, by its path.
pub fn arm(value: &Value, path: &str) -> Result<Arm, String> {
    if !value.is_object() {
        return Err(format!("{path} is missing, or no object with type, n and sums"));
    }
    let kind = value.get("type").and_then(Value::as_str).ok_or_else(|| format!("{path}.type is missing"))?;
    let pair = |left: &[&str], right: &[&str], products: &[&str]| -> Result<(Part, Part, f64), String> {
        let units = value.get("n").and_then(Value::as_f64);
        let inner = |names: &[&str]| {
            let name = names.first().copied().unwrap_or_default();
            let found = field(value, names).ok_or_else(|| format!("{path}.{name} is missing"))?;
            part(found, &format!("{path}.{name}"), units)
        };
        Ok((inner(left)?, inner(right)?, number(value, path, products)?))
    };
    let arm = match kind {
        "proportion" | "mean" | "count" | "winsorised" | "winsorized" => {
            Arm::Single(part(value, path, None)?)
        }
        "ratio" => {
            let (numerator, denominator, products) = pair(
                &["num", "numerator", "m_statistic"],
                &["den", "denominator", "d_statistic"],
                &["sum_products", "m_d_sum_of_products"],
            )?;
            Arm::Ratio { numerator, denominator, products }
        }
        "regression_adjusted" | "adjusted" | "cuped" | "mean_ra" => {
            let (post, pre, products) = pair(
                &["post", "post_statistic"],
                &["pre", "pre_statistic"],
                &["sum_products", "post_pre_sum_of_products"],
            )?;
            Arm::Adjusted { post, pre, products }
        }
        "quantile" => {
            let n = number(value, path, &["n"])?;
            let estimate = number(value, path, &["estimate", "quantile_hat"])?;
            // Ends found on fewer units than the arm has lie farther apart than the arm's would.
            let own = field(value, &["n_star"]).and_then(Value::as_f64).filter(|own| *own > 0.0).unwrap_or(n);
            let shrink = if n > 0.0 { (own / n).sqrt() } else { 1.0 };
            let end = |names: &[&str]| {
                Ok::<f64, String>(estimate + (number(value, path, names)? - estimate) * shrink)
            };
            let (lower, upper) = (end(&["lower", "quantile_lower"])?, end(&["upper", "quantile_upper"])?);
            Arm::Quantile {
                n,
                level: number(value, path, &["level", "nu", "quantile"])?,
                estimate,
                lower,
                upper,
            }
        }
        other => {
            return Err(format!(
                "{path}.type is '{other}'; known are proportion, mean, count, winsorised, ratio, regression_adjusted, quantile"
            ));
        }
    };
    arm.check().map_err(|error| format!("{path}: {error}"))?;
    Ok(arm)
}

/// What a file of sums asks for.
#[derive(Debug, Clone)]
pub struct Question {
    /// Named by the file.
    pub id: Option<String>,
    /// Error of intervals.
    pub alpha: f64,
    /// Pairs of control and treatment; more than one when post-stratified.
    pub strata: Vec<(Arm, Arm)>,
    /// Where sequences are to be tightest.
    pub tunings: Vec<f64>,
    /// Belief about the relative lift.
    pub prior: Prior,
}

impl Question {
    /// Reads one case.
    ///
    /// # Errors
    /// What is missing or wrong, by its path.
    pub fn read(value: &Value) -> Result<Self, String> {
        let alpha = value.get("alpha").map_or(Ok(0.05), |alpha| {
            alpha
                .as_f64()
                .filter(|alpha| *alpha > 0.0 && *alpha < 0.5)
                .ok_or_else(|| format!("alpha is {alpha}; it must lie above 0 and below .5"))
        })?;
        let pair = |value: &Value, path: &str| -> Result<(Arm, Arm), String> {
            let name = |part: &str| if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
            let (a, b) = (
                arm(value.get("control").unwrap_or(&Value::Null), &name("control"))?,
                arm(value.get("treatment").unwrap_or(&Value::Null), &name("treatment"))?,
            );
            if std::mem::discriminant(&a) == std::mem::discriminant(&b) {
                Ok((a, b))
            } else {
                Err(format!("{}: the arms' types differ", name("treatment.type")))
            }
        };
        let strata = match value.get("strata").and_then(Value::as_array) {
            Some(list) if list.is_empty() || list.len() > STRATA_MAX => {
                return Err(format!("strata has {} entries; it must have 1 to {STRATA_MAX}", list.len()));
            }
            Some(list) => list
                .iter()
                .enumerate()
                .map(|(at, each)| pair(each, &format!("strata[{at}]")))
                .collect::<Result<_, _>>()?,
            None => vec![pair(value, "")?],
        };
        let tunings = match value.get("sequential_tuning") {
            None => TUNINGS.to_vec(),
            Some(one) => {
                let list = one.as_array().cloned().unwrap_or_else(|| vec![one.clone()]);
                let tuning = |each: &Value| {
                    each.as_f64()
                        .filter(|units| *units >= 1.0 && units.is_finite())
                        .ok_or_else(|| format!("sequential_tuning has {each}; it is a number of units"))
                };
                list.iter().take(20).map(tuning).collect::<Result<_, _>>()?
            }
        };
        let prior = match value.get("prior") {
            None => Prior { mean: 0.0, sd: 0.3 },
            Some(prior) => {
                let prior = Prior {
                    mean: number(prior, "prior", &["mean"])?,
                    sd: number(prior, "prior", &["sd", "stddev"])?,
                };
                if prior.sd <= 0.0 {
                    return Err("prior.sd must be positive".to_owned());
                }
                prior
            }
        };
        let id = value.get("id").and_then(Value::as_str).map(ToOwned::to_owned);
        Ok(Self { id, alpha, strata, tunings, prior })
    }

    /// The effect on a scale.
    ///
    /// # Errors
    /// When there is none to speak of.
    pub fn effect(&self, scale: Scale) -> Result<Effect, Undefined> {
        match self.strata.as_slice() {
            [(control, treatment)] => effect(control, treatment, scale),
            strata => post_stratified(strata, scale),
        }
    }

    /// The answer on both scales.
    #[must_use]
    pub fn answer(&self) -> Value {
        json!({ "relative": self.on(Scale::Relative), "absolute": self.on(Scale::Absolute) })
    }

    fn on(&self, scale: Scale) -> Value {
        let prior_name = format!("bayes_prior_rel_N({},{}^2)", self.prior.mean, self.prior.sd);
        let mut all = Map::new();
        let found = match self.effect(scale) {
            Ok(found) => found,
            Err(undefined) => {
                let error = undefined.name();
                let none =
                    json!({ "estimate": 0.0, "se": 0.0, "ci": [0.0, 0.0], "p_value": 1.0, "error": error });
                let belief = json!({
                    "estimate": 0.0, "sd": 0.0, "ci": [0.0, 0.0], "chance_to_win": 0.5,
                    "risk_choose_control_when_treatment_better": 0.0, "risk_choose_treatment_when_control_better": 0.0,
                    "risk": [0.0, 0.0], "error": error,
                });
                all.insert("frequentist".to_owned(), none.clone());
                all.insert("one_sided_greater".to_owned(), none.clone());
                for units in &self.tunings {
                    all.insert(format!("sequential_{units}"), none.clone());
                    all.insert(format!("sequential_one_sided_greater_{units}"), none.clone());
                }
                all.insert("bayes_flat".to_owned(), belief.clone());
                all.insert(prior_name, belief);
                all.insert("message".to_owned(), json!(undefined.meaning()));
                return Value::Object(all);
            }
        };
        let shown = |test: Test| {
            json!({
                "estimate": found.estimate, "se": found.standard_error(), "ci": [end(test.lower), end(test.upper)],
                "p_value": test.p_value(), "log10_p_value": test.ln_p.min(0.0) / std::f64::consts::LN_10, "error": null,
            })
        };
        all.insert("frequentist".to_owned(), shown(welch(&found, 0.0, self.alpha, Side::Both)));
        all.insert("one_sided_greater".to_owned(), shown(welch(&found, 0.0, self.alpha, Side::Greater)));
        for units in &self.tunings {
            let sequence = |side| shown(confidence_sequence(&found, *units, self.alpha, side));
            all.insert(format!("sequential_{units}"), sequence(Side::Both));
            all.insert(format!("sequential_one_sided_greater_{units}"), sequence(Side::Greater));
        }
        for (name, prior) in [("bayes_flat".to_owned(), None), (prior_name, Some(self.prior))] {
            let belief = posterior(&found, prior, self.alpha);
            all.insert(
                name,
                json!({
                    "estimate": belief.mean, "sd": belief.sd, "ci": [belief.lower, belief.upper],
                    "chance_to_win": belief.chance_to_win,
                    "risk_choose_control_when_treatment_better": belief.risk_control,
                    "risk_choose_treatment_when_control_better": belief.risk_treatment,
                    "risk": [belief.risk_control, belief.risk_treatment], "error": null,
                }),
            );
        }
        Value::Object(all)
    }
}

/// An end of an interval; JSON knows no infinity, so it is a word there.
fn end(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(if value > 0.0 { "inf" } else { "-inf" }) }
}
