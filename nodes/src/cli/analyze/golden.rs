//! Every number of a folder of golden files beside ours: what agrees within the file's own tolerance, and what does not.

use std::path::Path;

use featureops_decision::analysis::bounded;
use featureops_decision::analysis::distribution::normal_quantile;
use featureops_decision::analysis::group::{Spending, boundaries};
use featureops_decision::analysis::multiplicity::{Adjusted, Correction, correct, e_benjamini_hochberg};
use featureops_decision::analysis::power::{Formula, Goal, Midway, units_for_means, units_for_proportions};
use featureops_decision::analysis::{
    arm::{Arm, Part},
    effect::{Scale, effect},
};
use featureops_decision::sample_ratio::{Shares, p_value};
use serde_json::{Value, json};

use super::stats::Question;

/// One number, or one word, of a golden file beside ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The file.
    pub file: &'static str,
    /// Where in it.
    pub at: String,
    /// Ours.
    pub ours: Value,
    /// Theirs.
    pub theirs: Value,
    /// Within the file's tolerance.
    pub within: bool,
}

/// Largest golden file.
const FILE_MAX: u64 = 64 << 20;

#[derive(Clone, Copy)]
struct Tolerance {
    relative: f64,
    absolute: f64,
}

struct Comparer {
    file: &'static str,
    tolerance: Tolerance,
    all: Vec<Comparison>,
}

impl Comparer {
    fn new(file: &'static str, data: &Value, relative: f64, absolute: f64) -> Self {
        let stated = |name: &str| {
            data.get("tolerance").and_then(|tolerance| tolerance.get(name)).and_then(Value::as_f64)
        };
        let tolerance = match (stated("rel"), stated("abs")) {
            (None, None) => Tolerance { relative, absolute },
            (relative, absolute) => {
                Tolerance { relative: relative.unwrap_or(0.0), absolute: absolute.unwrap_or(0.0) }
            }
        };
        Self { file, tolerance, all: Vec::new() }
    }

    fn compare(&mut self, at: String, ours: Value, theirs: &Value) {
        self.compare_within(at, ours, theirs, self.tolerance);
    }

    fn compare_within(&mut self, at: String, ours: Value, theirs: &Value, tolerance: Tolerance) {
        if let (Value::Array(own), Value::Array(other)) = (&ours, theirs)
            && own.len() == other.len()
        {
            for (index, (own, other)) in own.iter().zip(other).enumerate() {
                self.compare_within(format!("{at}[{index}]"), own.clone(), other, tolerance);
            }
            return;
        }
        let within = match (ours.as_f64(), theirs.as_f64()) {
            (Some(own), Some(other)) => {
                let close = (own - other).abs() <= tolerance.absolute + tolerance.relative * other.abs();
                // Tiny p-values compare in their exponent; a 0 there is the other tool's cancellation.
                let tail = at.ends_with("p_value")
                    && own > 0.0
                    && own < 1e-12
                    && (other <= 0.0 || (own.log10() - other.log10()).abs() <= 0.01);
                close || tail
            }
            _ => ours == *theirs,
        };
        self.all.push(Comparison { file: self.file, at, ours, theirs: theirs.clone(), within });
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(value: &Value, name: &str) -> f64 {
    value.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn numbers(value: &Value, name: &str) -> Vec<f64> {
    list(value, name).iter().filter_map(Value::as_f64).collect()
}

fn analysis(data: &Value, to: &mut Comparer) -> Result<(), String> {
    for case in list(data, "cases") {
        let id = case.get("id").and_then(Value::as_str).unwrap_or("?");
        let answer = Question::read(case).map_err(|error| format!("analysis.json, {id}: {error}"))?.answer();
        let Some(expected) = case.get("expected").and_then(Value::as_object) else { continue };
        for (scale, methods) in expected {
            for (method, fields) in methods.as_object().into_iter().flatten() {
                for (name, theirs) in fields.as_object().into_iter().flatten() {
                    let ours =
                        answer.get(scale).and_then(|all| all.get(method)).and_then(|all| all.get(name));
                    let ours = match (ours, name.as_str()) {
                        // The peer writes both ends of an undefined interval as 0, and so do we.
                        (Some(ours), _) => ours.clone(),
                        (None, _) => Value::Null,
                    };
                    to.compare(format!("{id}.{scale}.{method}.{name}"), ours, theirs);
                }
            }
        }
    }
    Ok(())
}

fn srm(data: &Value, to: &mut Comparer) {
    for (at, case) in list(data, "cases").iter().enumerate() {
        let units: Vec<u64> = list(case, "users").iter().filter_map(Value::as_u64).collect();
        let p = p_value(&[Shares { units: &units, expected: &numbers(case, "weights") }]);
        to.compare(format!("{at}.p_value"), json!(p), case.get("p_value").unwrap_or(&Value::Null));
        let flag = p.is_some_and(|p| p < 0.001);
        to.compare(
            format!("{at}.flag_at_0_001"),
            json!(flag),
            case.get("flag_at_0_001").unwrap_or(&Value::Null),
        );
    }
}

fn multiplicity(data: &Value, to: &mut Comparer) {
    for (at, case) in list(data, "bh").iter().enumerate() {
        let p = numbers(case, "p");
        for (name, correction) in [
            ("fdr_bh", Correction::BenjaminiHochberg),
            ("fdr_by", Correction::BenjaminiYekutieli),
            ("holm", Correction::Holm),
            ("bonferroni", Correction::Bonferroni),
        ] {
            let Some(theirs) = case.get(name) else { continue };
            let Adjusted { reject, adjusted } = correct(&p, number(case, "alpha"), correction);
            to.compare(format!("bh[{at}].{name}.reject"), json!(reject), &theirs["reject"]);
            to.compare(format!("bh[{at}].{name}.adjusted"), json!(adjusted), &theirs["adjusted"]);
        }
    }
    for (at, case) in list(data, "ebh").iter().enumerate() {
        let reject = e_benjamini_hochberg(&numbers(case, "e"), number(case, "alpha"));
        to.compare(format!("ebh[{at}].reject"), json!(reject), case.get("reject").unwrap_or(&Value::Null));
    }
}

/// The file's 1 % is for choosing among formulas; each formula against its own name must do better.
const SIZE_TOLERANCE: Tolerance = Tolerance { relative: 1e-6, absolute: 0.0 };

fn sample_size(data: &Value, to: &mut Comparer) {
    let goal = |case: &Value| Goal {
        alpha: number(case, "alpha"),
        power: number(case, "power"),
        ratio: case.get("ratio").and_then(Value::as_f64).unwrap_or(1.0),
    };
    for (at, case) in list(data, "proportions").iter().enumerate() {
        let (control, lift) = (number(case, "p1"), number(case, "rel_mde"));
        for (name, formula) in [
            ("n1_unpooled", Formula::Unpooled),
            ("n1_pooled", Formula::Pooled),
            ("n1_cohen_h_statsmodels", Formula::CohenH),
        ] {
            let Some(theirs) = case.get(name) else { continue };
            let ours = units_for_proportions(control, control * (1.0 + lift), goal(case), formula).ok();
            to.compare_within(format!("proportions[{at}].{name}"), json!(ours), theirs, SIZE_TOLERANCE);
        }
    }
    for (at, case) in list(data, "means").iter().enumerate() {
        let ours = units_for_means(number(case, "d"), goal(case)).ok();
        to.compare_within(format!("means[{at}].n1"), json!(ours), &case["n1"], SIZE_TOLERANCE);
    }
}

fn midexperiment(data: &Value, to: &mut Comparer) {
    for (at, case) in list(data, "cases").iter().enumerate() {
        let n = number(case, "n_per_arm");
        let arm = |mean: f64| {
            let sum = n * mean;
            Arm::Single(Part::mean_of(n, sum, number(case, "var") * (n - 1.0) + sum * sum / n))
        };
        let Ok(found) = effect(&arm(number(case, "mean_a")), &arm(number(case, "mean_b")), Scale::Relative)
        else {
            continue;
        };
        let sequential = case.get("sequential").and_then(Value::as_bool).unwrap_or_default();
        let midway = Midway {
            variance: found.variance,
            units: found.units,
            size: number(case, "mde"),
            alpha: 0.05,
            tests: 1.0,
            sequential: sequential.then_some(5_000.0),
        };
        let factor = midway.factor_for(0.8).ok();
        to.compare(format!("{at}.power_now"), json!(midway.power(0.0)), &case["power_now"]);
        to.compare(format!("{at}.scaling_factor"), json!(factor), &case["scaling_factor"]);
        let additional = factor.map(|factor| factor * found.units);
        to.compare(format!("{at}.additional_users"), json!(additional), &case["additional_users"]);
    }
}

fn sequences(data: &Value, to: &mut Comparer) {
    for case in list(data, "boundaries") {
        let (v, best, alpha) = (number(case, "v"), number(case, "v_opt"), number(case, "alpha"));
        for (name, ours) in [
            ("normal_mixture_two_sided", bounded::normal_mixture_two_sided(v, best, alpha)),
            ("normal_mixture_one_sided", bounded::normal_mixture_one_sided(v, best, alpha)),
            // The file's evidence is that of a sum of 20.
            ("normal_log_mixture", bounded::ln_normal_mixture(20.0, v, best)),
            ("gamma_exponential_c0.1", bounded::gamma_exponential_mixture(v, best, alpha, 0.1)),
            ("poly_stitching", bounded::poly_stitching(v, best, alpha, 0.0)),
        ] {
            if let Some(theirs) = case.get(name) {
                to.compare(format!("v={v} v_opt={best} alpha={alpha}.{name}"), json!(ours), theirs);
            }
        }
    }
    for case in list(data, "bernoulli_cs") {
        let (n, successes) = (number(case, "n"), number(case, "successes"));
        let (lower, upper) =
            bounded::rate_interval(successes, n, number(case, "t_opt"), number(case, "alpha"));
        to.compare(format!("bernoulli n={n}.lo"), json!(lower), &case["lo"]);
        to.compare(format!("bernoulli n={n}.hi"), json!(upper), &case["hi"]);
    }
    let Some(betting) = data.get("betting_cs") else { return };
    let values = numbers(betting, "xs");
    // A step of the file's grid of 200, which two implementations may place one apart.
    let grid = Tolerance { relative: 0.0, absolute: 0.01 };
    for (name, tolerance) in [("betting_cs", grid), ("predmix_empbern_cs", to.tolerance)] {
        let Some(case) = data.get(name) else { continue };
        for (at, n) in list(case, "n").iter().enumerate() {
            let Some(head) = n.as_u64().and_then(|n| values.get(..usize::try_from(n).ok()?)) else {
                continue;
            };
            let (lower, upper) = if name == "betting_cs" {
                bounded::betting(head, 0.05, 200)
            } else {
                bounded::empirical_bernstein(head, 0.05)
            };
            to.compare_within(
                format!("{name} n={n}.lower"),
                json!(lower),
                case["lower"].get(at).unwrap_or(&Value::Null),
                tolerance,
            );
            to.compare_within(
                format!("{name} n={n}.upper"),
                json!(upper),
                case["upper"].get(at).unwrap_or(&Value::Null),
                tolerance,
            );
        }
    }
}

fn group_sequential(data: &Value, to: &mut Comparer) -> Result<(), String> {
    let rows = list(data, "input");
    let of = |name: &str| {
        rows.iter().filter(|row| row.get("g").and_then(Value::as_str) == Some(name)).collect::<Vec<_>>()
    };
    let pairs: Vec<_> = of("control").into_iter().zip(of("treat")).collect();
    let shares: Vec<f64> =
        pairs.iter().map(|(a, b)| (number(a, "n") + number(b, "n")) / number(a, "exp")).collect();
    let bounds = boundaries(&shares, 0.05, Spending::Power(2.0))
        .map_err(|error| format!("group_sequential.json: {error}"))?;
    let z = normal_quantile(0.975);
    for (((control, treatment), bound), expected) in pairs.iter().zip(bounds).zip(list(data, "expected")) {
        let arm = |row: &Value| Arm::Single(Part::proportion(number(row, "n"), number(row, "s")));
        let Ok(found) = effect(&arm(control), &arm(treatment), Scale::Absolute) else { continue };
        let error = found.standard_error();
        let day = number(control, "day");
        for (name, ours) in [
            ("difference", found.estimate),
            ("ci_lower", found.estimate - z * error),
            ("ci_upper", found.estimate + z * error),
            ("adjusted ci_lower", found.estimate - bound * error),
            ("adjusted ci_upper", found.estimate + bound * error),
        ] {
            to.compare(format!("day {day}.{name}"), json!(ours), &expected[name]);
        }
    }
    Ok(())
}

/// Files compared; the others of the folder belong to other parts.
pub const FILES: [&str; 7] = [
    "analysis.json",
    "srm.json",
    "multiplicity.json",
    "sample_size.json",
    "midexperiment_power.json",
    "confseq.json",
    "group_sequential.json",
];

/// Compares every file of [`FILES`] that is in the folder.
///
/// # Errors
/// A file that is no JSON or too large, or a folder with none of them.
pub fn run(folder: &Path) -> Result<Vec<Comparison>, String> {
    let mut all = Vec::new();
    for file in FILES {
        let path = folder.join(file);
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if meta.len() > FILE_MAX {
            return Err(format!("{} has {} bytes; at most {FILE_MAX} are read", path.display(), meta.len()));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let data: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut to = Comparer::new(file, &data, 1e-6, 1e-9);
        match file {
            "analysis.json" => analysis(&data, &mut to)?,
            "srm.json" => srm(&data, &mut to),
            "multiplicity.json" => multiplicity(&data, &mut to),
            "sample_size.json" => sample_size(&data, &mut to),
            "midexperiment_power.json" => midexperiment(&data, &mut to),
            "confseq.json" => sequences(&data, &mut to),
            _ => group_sequential(&data, &mut to)?,
        }
        all.append(&mut to.all);
    }
    if all.is_empty() {
        return Err(format!("{} holds none of {}", folder.display(), FILES.join(", ")));
    }
    Ok(all)
}
