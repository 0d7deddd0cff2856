//! The peers' own numbers: best-arm probabilities, mixture boundaries, sample ratio, closed-form contrasts.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

mod harness;

use featureops_decision::best::{Posterior, probability_best};
use featureops_decision::contrast::adjust;
use featureops_decision::moments::{Scope, table};
use featureops_decision::sample_ratio::{Shares, p_value};
use featureops_decision::special::normal_cdf;
use featureops_decision::{confidence, policy::thompson};
use featureops_proto::v1;
use harness::{close, golden, metric, proportions, slot};
use serde_json::Value;

#[test]
fn probability_of_being_best_is_exact() {
    let Some(data) = golden("bandit_weights.json") else { return };
    for case in data["cases"].as_array().unwrap() {
        let cells: Vec<(u64, u64)> = case["arms"]
            .as_array()
            .unwrap()
            .iter()
            .map(|arm| (arm["n"].as_u64().unwrap(), arm["sum"].as_u64().unwrap()))
            .collect();
        // The file's exact figures are for normal posteriors with the sample variance of a share.
        let normal: Vec<Posterior> = cells
            .iter()
            .map(|(units, sum)| {
                let (units, mean) = (*units as f64, *sum as f64 / *units as f64);
                Posterior::Normal { mean, sd: (mean * (1.0 - mean) / (units - 1.0)).sqrt() }
            })
            .collect();
        let ours = probability_best(&normal, false).unwrap();
        for (ours, exact) in ours.iter().zip(case["exact_best_arm_prob"].as_array().unwrap()) {
            assert!(close(*ours, exact.as_f64().unwrap(), 0.0, 1e-7), "{ours} against {exact}");
        }
        // The policy's own Beta posteriors agree with the peer's draws once there are a thousand units.
        if cells.iter().all(|(units, _)| *units >= 1_000) {
            let (p_best, _) = thompson::beliefs(&proportions(&[cells])).unwrap().unwrap();
            for (ours, peer) in p_best.iter().zip(case["peer_best_arm_prob"].as_array().unwrap()) {
                assert!(close(*ours, peer.as_f64().unwrap(), 0.0, 0.02));
            }
        }
    }
}

/// Radius of the one-sided sequence in closed form, in standard errors (arXiv 2103.06476, appendix B.1): a little wider
/// than where `one_sided_evidence` reaches 1 / alpha.
fn one_sided_radius(ratio: f64, alpha: f64) -> f64 {
    if ratio.is_nan() || ratio <= 0.0 {
        return f64::INFINITY;
    }
    let root = libm::sqrt(1.0 + ratio);
    libm::sqrt(2.0 * (1.0 + 1.0 / ratio) * libm::log1p(root / (2.0 * alpha)))
}

/// The one-sided boundary, in standard errors: where the evidence reaches 1 / alpha. By bisection, error below 1e-12.
fn one_sided_boundary(ratio: f64, alpha: f64) -> f64 {
    if ratio.is_nan() || ratio <= 0.0 {
        return f64::INFINITY;
    }
    let goal = -libm::log(alpha);
    let (mut low, mut high) = (-10.0, one_sided_radius(ratio, alpha) + 1.0);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if confidence::one_sided_evidence(ratio, middle) < goal {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[test]
fn mixture_boundaries_agree() {
    let Some(data) = golden("confseq.json") else { return };
    for case in data["boundaries"].as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let (v, plan, alpha) = (number("v"), number("v_opt"), number("alpha"));
        // The peer's boundaries are for sums (a standard error is sqrt(v)) and always tuned at .05.
        let two = v.sqrt() * confidence::two_sided_radius(confidence::ratio(v, plan, 0.05), alpha);
        let one = v.sqrt() * one_sided_boundary(confidence::ratio(v, plan, 0.1), alpha);
        assert!(close(two, number("normal_mixture_two_sided"), 1e-9, 0.0), "{two} {case}");
        assert!(close(one, number("normal_mixture_one_sided"), 1e-6, 0.0), "{one} {case}");
    }
}

#[test]
fn sample_ratio_agrees() {
    let Some(data) = golden("srm.json") else { return };
    for case in data["cases"].as_array().unwrap() {
        let units: Vec<u64> =
            case["users"].as_array().unwrap().iter().map(|value| value.as_u64().unwrap()).collect();
        let expected: Vec<f64> =
            case["weights"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        let ours = p_value(&[Shares { units: &units, expected: &expected }]).unwrap();
        assert!(close(ours, case["p_value"].as_f64().unwrap(), 1e-8, 0.0), "{ours} {case}");
    }
}

/// Sums of the file at six decimals, as the ledger holds them.
fn scaled(value: f64, places: i32) -> i128 {
    (value * 10_f64.powi(places)).round() as i128
}

/// One arm of a golden case as moments: slot 0 numerator or value, slot 1 denominator.
fn moments(arm: &Value) -> v1::ArmMoments {
    let units = arm["n"].as_u64().unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    match arm["type"].as_str().unwrap() {
        "proportion" => harness::converted(units, number(&arm["sum"]) as u64),
        "mean" => v1::ArmMoments {
            units,
            slots: vec![slot(scaled(number(&arm["sum"]), 6), scaled(number(&arm["sum_squares"]), 12))],
            ..v1::ArmMoments::default()
        },
        "ratio" => {
            let part = |name: &str| {
                let part = &arm[name];
                slot(scaled(number(&part["sum"]), 6), scaled(number(&part["sum_squares"]), 12))
            };
            v1::ArmMoments {
                units,
                slots: vec![part("num"), part("den")],
                cross: vec![v1::Int128::new(scaled(number(&arm["sum_products"]), 12))],
                ..v1::ArmMoments::default()
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn contrasts_of_one_stratum_are_the_textbooks() {
    let Some(data) = golden("analysis.json") else { return };
    let mut compared = 0;
    for case in data["cases"].as_array().unwrap() {
        let kind = match case["control"]["type"].as_str().unwrap() {
            "proportion" => v1::metric::Kind::Proportion,
            "mean" => v1::metric::Kind::Mean,
            _ => v1::metric::Kind::Ratio,
        };
        let mut inputs = proportions(&[vec![(0, 0), (0, 0)]]);
        let places = if kind == v1::metric::Kind::Proportion { 0 } else { 6 };
        inputs.metrics = vec![v1::MetricInput {
            decimal_scale: places,
            denominator_decimal_scale: places,
            denominator_slot: 1,
            ..metric(kind, v1::Role::Primary, 0)
        }];
        inputs.strata[0].arms = vec![moments(&case["control"]), moments(&case["treatment"])];
        let table = table(&inputs, &inputs.metrics[0], Scope::Everything).unwrap();
        let contrast = adjust(&table).unwrap().and_then(|adjusted| adjusted.contrast(1));
        let absolute = &case["expected"]["absolute"];
        let expected = &absolute["frequentist"];
        // Where the peer refuses (a baseline of 0, no units) it prints zeros.
        if !expected["error"].is_null() && expected["error"] != "None" {
            continue;
        }
        let contrast = contrast.unwrap();
        let id = &case["id"];
        let same = |ours: f64, theirs: &Value| {
            let theirs = theirs.as_f64().unwrap();
            assert!(close(ours, theirs, 1e-6, 1e-9), "{id}: {ours} against {theirs}");
        };
        same(contrast.difference, &expected["estimate"]);
        same(contrast.standard_error(), &expected["se"]);
        let p = 2.0 * normal_cdf(-(contrast.difference / contrast.standard_error()).abs());
        // The peer uses Student's t; for thousands of units the two agree to a few digits.
        if case["control"]["n"].as_f64().unwrap() > 10_000.0 {
            assert!(close(p, expected["p_value"].as_f64().unwrap(), 1e-3, 1e-9), "{id}");
        }
        let relative = contrast.relative().unwrap();
        same(relative, &case["expected"]["relative"]["frequentist"]["estimate"]);
        let units = case["control"]["n"].as_f64().unwrap() + case["treatment"]["n"].as_f64().unwrap();
        for plan in [1_000.0, 5_000.0, 50_000.0] {
            let sequence = &absolute[format!("sequential_{plan}").as_str()];
            if let Some(ends) = sequence["ci"].as_array() {
                // The peer counts all units; for decisions we count the balanced pair's worth of them.
                let radius = confidence::two_sided_radius(confidence::ratio(units, plan, 0.05), 0.05);
                same(contrast.difference - radius * contrast.standard_error(), &ends[0]);
                same(contrast.difference + radius * contrast.standard_error(), &ends[1]);
                compared += 1;
                let own = confidence::interval(&contrast, plan, 0.05);
                assert!(close(own.upper - own.lower, 2.0 * radius * contrast.standard_error(), 1e-3, 0.0));
            }
        }
    }
    assert!(compared >= 8, "only {compared} sequences compared");
}
