//! Whatever the inputs say, the answer is a decision or an error: never a panic, never weights out of bounds, never NaN.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

mod harness;

use featureops_decision::chance::Chance;
use featureops_decision::owner::{Action, Config, Event, FrozenView, Owner};
use featureops_decision::policy::thompson::{self, Verdict};
use featureops_decision::{analysis, blocks, guardrail, replay, winner};
use featureops_proto::v1;
use proptest::prelude::*;

/// Small, huge and edge integers.
fn integer() -> impl Strategy<Value = i128> {
    prop_oneof![
        0_i128..1_000,
        0_i128..1 << 57,
        Just(i128::MAX),
        Just(0),
        Just(-1),
        Just(i128::MIN),
        any::<i128>(),
    ]
}

fn units() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..5_000, 0_u64..5_000, Just(0), Just(1), Just(u64::MAX), any::<u64>()]
}

fn slots(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<v1::SlotMoments>> {
    prop::collection::vec(
        (integer(), integer(), prop::option::of(integer())).prop_map(|(sum, squares, with_units)| {
            v1::SlotMoments { with_units: with_units.map(v1::Int128::new), ..harness::slot(sum, squares) }
        }),
        count,
    )
}

/// Mostly sane moments: a share of the units, so that the paths behind validation are reached too.
fn moments() -> impl Strategy<Value = v1::ArmMoments> {
    let clusters = || prop_oneof![3 => Just(0_u64), 1 => units()];
    let wild = (
        units(),
        slots(0..4),
        prop::collection::vec(integer().prop_map(v1::Int128::new), 0..2),
        clusters(),
        units(),
    )
        .prop_map(|(units, slots, cross, clusters, units_squared)| v1::ArmMoments {
            units,
            slots,
            cross,
            clusters,
            units_squared,
        });
    let sane = (0_u64..20_000, 0.0..=1.0_f64).prop_map(|(units, rate)| {
        let sum = (units as f64 * rate) as i128;
        v1::ArmMoments {
            units,
            slots: vec![harness::slot(sum, sum); 3],
            cross: vec![v1::Int128::new(sum)],
            ..v1::ArmMoments::default()
        }
    });
    // Sums over clusters of equal sizes, nearly: the moments agree with each other.
    let folded = (1_u64..65, 0_u64..400, -3_i128..4).prop_map(|(clusters, each, value)| {
        let (units, squared) = (clusters * each, clusters * each * each);
        let sum = value * i128::from(units);
        let slot = || v1::SlotMoments {
            with_units: Some(v1::Int128::new(value * i128::from(squared))),
            ..harness::slot(sum, value * value * i128::from(squared) + i128::from(clusters))
        };
        v1::ArmMoments {
            units,
            slots: vec![slot(), slot(), slot()],
            cross: vec![v1::Int128::new(value * value * i128::from(squared))],
            clusters: if each == 0 { 0 } else { clusters },
            units_squared: squared,
        }
    });
    prop_oneof![1 => wild, 12 => sane, 6 => folded]
}

fn inputs() -> impl Strategy<Value = v1::DecisionInputs> {
    let arms = prop_oneof![20 => 2_usize..6, 1 => 0_usize..40];
    arms.prop_flat_map(|arms| {
        let width = prop_oneof![30 => Just(arms), 1 => 0_usize..40];
        let stratum =
            (0_u32..3, 0_u32..1_000, width.prop_flat_map(|width| prop::collection::vec(moments(), width)))
                .prop_map(|(generation, hour, arms)| v1::Stratum {
                    generation: generation / 2,
                    start_minute: hour * 60,
                    minutes: 60,
                    arms,
                });
        let metric = (0_i32..6, 0_i32..5, 0_u32..4, any::<bool>(), 0_u32..25).prop_map(
            |(kind, role, slot, lower_is_better, decimal_scale)| v1::MetricInput {
                metric: "m".to_owned(),
                kind,
                role,
                slot,
                denominator_slot: 1,
                lower_is_better,
                decimal_scale,
                capped: slot == 2,
                ..v1::MetricInput::default()
            },
        );
        let learner = prop::option::of((any::<u32>(), 0_u64..3_000_000, 0_u32..1_100_000).prop_map(
            |(window_start_minute, prior, discount_millionths)| v1::LearnerRecord {
                prior_alpha_millionths: prior,
                discount_millionths,
                window_start_minute: window_start_minute % 1_000,
                ..v1::LearnerRecord::default()
            },
        ));
        (
            prop::collection::vec(stratum, 0..8),
            prop::collection::vec(metric, 0..4),
            learner,
            prop::collection::vec(any::<bool>(), arms),
            (0_u32..12_000, 0_u32..12_000, 0_i32..4),
            (units(), units(), prop::collection::vec(units(), 0..5), any::<i64>()),
        )
            .prop_map(
                move |(strata, mut metrics, learner, established, (floor, cap, policy), counts)| {
                    if let Some(first) = metrics.first_mut() {
                        first.role = v1::Role::Primary as i32;
                    }
                    let mut inputs = harness::proportions(&[vec![(0, 0); arms.clamp(2, 40)]]);
                    inputs.arms = established
                        .iter()
                        .map(|established| v1::ArmInput {
                            variant: "v".to_owned(),
                            established: *established,
                        })
                        .collect();
                    inputs.strata = strata;
                    inputs.metrics = metrics;
                    inputs.learner = learner;
                    inputs.control_floor_basis_points = floor;
                    inputs.new_arm_cap_basis_points = cap;
                    inputs.policy = policy;
                    inputs.generation = 0;
                    inputs.allocation_version = 1;
                    (inputs.marked_units, inputs.crossed_units, inputs.marked_by_arm, inputs.log_time_ms) =
                        counts;
                    inputs
                },
            )
    })
}

fn answers(inputs: v1::DecisionInputs) -> Result<(), TestCaseError> {
    if let Ok(Verdict::Move(allocation)) = thompson::decide(&inputs) {
        prop_assert!(thompson::bounds_of(&inputs).unwrap().hold(&allocation.weights));
        prop_assert!(allocation.p_best.iter().all(|p| (0.0..=1.0).contains(p)));
    }
    let _ = guardrail::trip(&inputs);
    let _ = winner::winner(&inputs);
    for line in analysis::contrasts(&inputs, analysis::ALPHA).unwrap_or_default() {
        prop_assert!(!line.contrast.variance.is_nan() && !line.lower.is_nan() && !line.upper.is_nan());
    }
    for block in blocks::blocks(&inputs) {
        prop_assert!(!block.text().contains("nan"));
    }
    let view = FrozenView {
        state: v1::experiment::State::Running,
        growth: v1::AutonomyLevel::A4Bounded,
        protection: v1::AutonomyLevel::A3Guarded,
        inputs,
        epoch: 1,
        ..FrozenView::default()
    };
    let mut owner = Owner::new(Config::default());
    for action in owner.step(Event::Frozen(Box::new(view)), 0, &mut Chance::from_seed(1)) {
        if let Action::Submit { decision, .. } = action {
            prop_assert_eq!(&replay::replay(&decision).unwrap(), &*decision);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_question_has_an_answer(inputs in inputs()) {
        answers(inputs)?;
    }

    #[test]
    fn every_question_has_an_answer_beside_covariates(
        mut inputs in inputs(),
        covariates in prop::collection::vec((0_u32..4, 0_u32..20), 1..6),
        cross in prop::collection::vec(integer(), 10),
    ) {
        let covariate = |(slot, decimal_scale)| v1::CovariateInput { attribute: "x".to_owned(), decimal_scale, slot };
        inputs.covariates = covariates.into_iter().map(covariate).collect();
        let pairs = (0_u32..4).flat_map(|first| (0..=first).map(move |second| v1::PairInput { first, second }));
        inputs.pairs = pairs.collect();
        for arm in inputs.strata.iter_mut().flat_map(|stratum| &mut stratum.arms) {
            // Products as large as the arm's own, so that some are possible ones.
            let own = arm.cross.first().copied().unwrap_or_default();
            arm.cross = cross.iter().map(|cross| if cross % 3 == 0 { v1::Int128::new(*cross) } else { own }).collect();
            arm.slots.resize(4, harness::slot(1, 1));
        }
        answers(inputs)?;
    }
}
