//! Units against the weights they came under: each allocation is counted by itself, and only what was surely assigned in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, batch};
use featureops_proto::log::{self, ExposureFact, entry};
use featureops_proto::v1::SampleRatio;
use featureops_state::State;

/// Exposures of units numbered from `first`, in an arm, now.
fn expose(d: &mut Driver, sequence: u64, experiment: u32, first: u64, count: u64, arm: u32) {
    let mut facts = batch("x", sequence);
    for (index, unit) in (first..first + count).enumerate() {
        let index = index as u32;
        facts.exposures.push(ExposureFact {
            index,
            experiment,
            arm,
            unit_hash: unit << 32,
            ..ExposureFact::default()
        });
    }
    d.ingest(vec![facts]);
}

fn allocate(d: &mut Driver, weights: [u32; 2]) {
    d.done(entry::Command::SetAllocation(log::SetAllocation {
        name: "environments/production/experiments/e".to_owned(),
        weights_basis_points: weights.to_vec(),
        etag: String::new(),
    }));
}

fn sums(d: &Driver) -> Option<SampleRatio> {
    d.state.experiment_view("production", "e").unwrap().inputs.sample_ratio
}

#[test]
fn each_allocation_expects_its_own_shares_and_moved_units_count_once() {
    let mut d = Driver::new();
    let e = d.running();
    allocate(&mut d, [5_000, 5_000]);
    // What was set before the first unit came is a change, too; from then on there are sums.
    assert_eq!(sums(&d).unwrap().units, [0, 0]);
    expose(&mut d, 1, e, 0, 7, 0);
    assert_eq!(sums(&d).unwrap().units, [0, 0], "assigned while the change went round");
    d.tick(120_000);
    expose(&mut d, 2, e, 100, 60, 0);
    expose(&mut d, 3, e, 200, 40, 1);
    allocate(&mut d, [2_000, 8_000]);
    expose(&mut d, 4, e, 300, 5, 1);
    d.tick(120_000);
    expose(&mut d, 5, e, 400, 30, 0);
    expose(&mut d, 6, e, 500, 70, 1);
    // Moved buckets come back in the arm that grew: the unit was counted, under the weights of its time.
    expose(&mut d, 7, e, 100, 20, 1);
    let expected = SampleRatio {
        units: vec![60 + 30, 40 + 70],
        expected: vec![100 * 5_000 + 100 * 2_000, 100 * 5_000 + 100 * 8_000],
        spread: vec![
            100 * 25_000_000 + 100 * 4_000_000,
            100 * 25_000_000 + 100 * 16_000_000,
            100 * 25_000_000 + 100 * 16_000_000,
            100 * 25_000_000 + 100 * 64_000_000,
        ],
    };
    assert_eq!(sums(&d), Some(expected.clone()));
    // Owners are shown the sums of the tick, over a snapshot too.
    d.tick(500);
    d.state = State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(d.state.owner_view(e).unwrap().inputs.sample_ratio, Some(expected.clone()));
    expose(&mut d, 8, e, 600, 1, 0);
    assert_eq!(d.state.owner_view(e).unwrap().inputs.sample_ratio, Some(expected));
}

#[test]
fn units_before_the_first_change_count_as_the_strata_have_them() {
    let mut d = Driver::new();
    let e = d.running();
    expose(&mut d, 1, e, 0, 50, 0);
    assert_eq!(sums(&d), None, "the strata say it");
    let weights = d.state.experiment_view("production", "e").unwrap().weights;
    allocate(&mut d, [9_000, 1_000]);
    let sums = sums(&d).unwrap();
    assert_eq!(sums.units, [50, 0]);
    let expected: Vec<u64> = weights.iter().map(|weight| 50 * u64::from(*weight)).collect();
    assert_eq!(sums.expected, expected);
}
