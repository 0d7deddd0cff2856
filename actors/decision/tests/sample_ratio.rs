//! The sample ratio over allocations: a number from the definition, the rate of false alarms, and the power.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

use featureops_decision::chance::Chance;
use featureops_decision::sample_ratio::{ALPHA, Shares, of_inputs, of_sums, p_value};
use featureops_proto::v1::{ArmInput, DecisionInputs, SampleRatio};

/// The sums of allocations, each of units by arm under weights in basis points.
fn sums(allocations: &[(Vec<u64>, Vec<u64>)]) -> SampleRatio {
    let arms = allocations[0].0.len();
    let mut sums =
        SampleRatio { units: vec![0; arms], expected: vec![0; arms], spread: vec![0; arms * arms] };
    for (units, weights) in allocations {
        let total: u64 = units.iter().sum();
        for row in 0..arms {
            sums.units[row] += units[row];
            sums.expected[row] += total * weights[row];
            for column in 0..arms {
                sums.spread[row * arms + column] += total * weights[row] * weights[column];
            }
        }
    }
    sums
}

#[test]
fn two_allocations_give_the_number_of_the_definition() {
    // d = 20, V = 10,000 x .25 + 10,000 x .09 = 3,400, chi-square = 400 / 3,400 with one degree of freedom.
    let two = sums(&[(vec![5_030, 4_970], vec![5_000, 5_000]), (vec![990, 9_010], vec![1_000, 9_000])]);
    let p = of_sums(&two).unwrap();
    assert!((p - 0.731_600_588_959_901).abs() < 1e-9, "{p}");
    // And that of the strata they are.
    let strata = [
        Shares { units: &[5_030, 4_970], expected: &[1.0, 1.0] },
        Shares { units: &[990, 9_010], expected: &[1.0, 9.0] },
    ];
    assert!((p - p_value(&strata).unwrap()).abs() < 1e-12);
    // Pooled against either of the weights it would be a gross mismatch.
    let pooled = Shares { units: &[6_020, 13_980], expected: &[1.0, 9.0] };
    assert!(p_value(&[pooled]).unwrap() < 1e-12);
}

#[test]
fn arms_without_weight_and_broken_sums_are_answered() {
    let none = sums(&[(vec![500, 500, 0], vec![5_000, 5_000, 0])]);
    assert!(of_sums(&none).unwrap() > 0.99);
    assert_eq!(of_sums(&sums(&[(vec![500, 499, 1], vec![5_000, 5_000, 0])])), Some(0.0));
    assert_eq!(of_sums(&SampleRatio::default()), None);
    assert_eq!(of_sums(&SampleRatio { units: vec![1, 2], ..SampleRatio::default() }), None);
    assert_eq!(of_sums(&SampleRatio { units: vec![1, 2], expected: vec![1, 2], spread: vec![1] }), None);
}

/// An experiment's allocations, drawn: three arms, five allocations of 400 to 1,600 units. Of the second arm's units
/// the share `lost` does not arrive.
fn drawn(chance: &mut Chance, lost: f64) -> Vec<(Vec<u64>, Vec<u64>)> {
    let mut allocations = Vec::new();
    for _ in 0..5 {
        let one = 500 + chance.bits() % 4_000;
        let two = 500 + chance.bits() % 4_000;
        let weights = vec![10_000 - one - two, one, two];
        let mut units = vec![0; 3];
        for _ in 0..400 + chance.bits() % 1_200 {
            let bucket = chance.bits() % 10_000;
            let arm = if bucket < weights[0] {
                0
            } else if bucket < weights[0] + one {
                1
            } else {
                2
            };
            let draw = chance.unit();
            if arm != 1 || draw >= lost {
                units[arm] += 1;
            }
        }
        allocations.push((units, weights));
    }
    allocations
}

fn p_of(allocations: &[(Vec<u64>, Vec<u64>)]) -> f64 {
    of_inputs(&DecisionInputs {
        arms: vec![ArmInput::default(); 3],
        allocation_version: allocations.len() as u32,
        generation: 1,
        sample_ratio: Some(sums(allocations)),
        ..DecisionInputs::default()
    })
    .unwrap()
}

#[test]
fn false_alarms_keep_their_rate_over_reallocations_and_a_fifth_of_an_arm_lost_is_seen() {
    const RUNS: usize = 4_000;
    let mut chance = Chance::from_seed(1_789);
    let (mut at_alpha, mut at_twentieth, mut seen) = (0, 0, 0);
    for _ in 0..RUNS {
        let p = p_of(&drawn(&mut chance, 0.0));
        at_alpha += usize::from(p < ALPHA);
        at_twentieth += usize::from(p < 0.05);
    }
    for _ in 0..RUNS / 10 {
        seen += usize::from(p_of(&drawn(&mut chance, 0.2)) < ALPHA);
    }
    println!("of {RUNS}: {at_alpha} below .001, {at_twentieth} below .05; of {}: {seen} seen", RUNS / 10);
    // 4 and 200 expected; four standard errors above and below.
    assert!(at_alpha <= 12, "{at_alpha}");
    assert!((145..=255).contains(&at_twentieth), "{at_twentieth}");
    assert!(seen >= RUNS / 10 * 9 / 10, "{seen}");
}
