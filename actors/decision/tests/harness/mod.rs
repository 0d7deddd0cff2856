//! Inputs as the ledger would freeze them, and where golden numbers are found.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

use std::path::PathBuf;

use featureops_proto::v1;

/// A golden file as JSON; `None`, said aloud, when the data is not here.
pub fn golden(name: &str) -> Option<serde_json::Value> {
    let root = std::env::var_os("TEST_DATA_SETS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = root.join("golden").join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no golden data at {}", path.display());
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

pub fn close(ours: f64, theirs: f64, relative: f64, absolute: f64) -> bool {
    (ours - theirs).abs() <= absolute + relative * theirs.abs()
}

pub fn metric(kind: v1::metric::Kind, role: v1::Role, slot: u32) -> v1::MetricInput {
    v1::MetricInput {
        metric: format!("metric-{slot}"),
        kind: kind as i32,
        role: role as i32,
        slot,
        ..v1::MetricInput::default()
    }
}

/// Slot moments from integers.
pub fn slot(sum: i128, squares: i128) -> v1::SlotMoments {
    v1::SlotMoments {
        sum: Some(v1::Int128::new(sum)),
        squares: Some(v1::Int128::new(squares)),
        ..v1::SlotMoments::default()
    }
}

/// (units, converted) as moments of one proportion.
pub fn converted(units: u64, converted: u64) -> v1::ArmMoments {
    v1::ArmMoments {
        units,
        slots: vec![slot(i128::from(converted), i128::from(converted))],
        ..v1::ArmMoments::default()
    }
}

/// An experiment with one primary proportion, all arms established, equal weights, one stratum an hour.
pub fn proportions(strata: &[Vec<(u64, u64)>]) -> v1::DecisionInputs {
    let arms = strata.first().map_or(2, Vec::len);
    let mut weights = vec![10_000 / arms as u32; arms];
    weights[0] += 10_000 - weights.iter().sum::<u32>();
    v1::DecisionInputs {
        frozen_position: 7,
        log_time_ms: 1_700_000_000_000,
        metrics: vec![metric(v1::metric::Kind::Proportion, v1::Role::Primary, 0)],
        strata: strata
            .iter()
            .enumerate()
            .map(|(hour, cells)| v1::Stratum {
                generation: 1,
                start_minute: 28_000_000 + 60 * hour as u32,
                minutes: 60,
                arms: cells.iter().map(|(units, sum)| converted(*units, *sum)).collect(),
            })
            .collect(),
        arms: (0..arms).map(|arm| v1::ArmInput { variant: format!("v{arm}"), established: true }).collect(),
        new_arm_cap_basis_points: 2_000,
        planned_units: 20_000,
        generation: 1,
        policy: v1::experiment::Policy::Thompson as i32,
        weights,
        allocation_version: 2,
        flag_version: 3,
        ..v1::DecisionInputs::default()
    }
}

/// Runs `work` for every seed on two threads; results in the order of the seeds.
pub fn on_two_threads<T: Send>(seeds: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let halves: Vec<_> = (0..2_u64)
            .map(|half| {
                scope.spawn(move || {
                    (0..seeds)
                        .filter(|seed| seed % 2 == half)
                        .map(|seed| (seed, work(seed)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut all: Vec<(u64, T)> = halves.into_iter().flat_map(|half| half.join().unwrap()).collect();
        all.sort_by_key(|(seed, _)| *seed);
        all.into_iter().map(|(_, value)| value).collect()
    })
}

/// The mean, and the value 95 % of the way up.
pub fn mean_and_p95(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let p95 = sorted[(sorted.len() * 95 / 100).min(sorted.len() - 1)];
    (values.iter().sum::<f64>() / values.len() as f64, p95)
}
