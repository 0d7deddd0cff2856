//! `ramp/1`, rule by rule: one step at a time, held, seen, harmless; and a record that replays to the same bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail loudly")]

mod harness;

use featureops_decision::chance::Chance;
use featureops_decision::owner::{Action, Config, Event, FrozenView, Owner, Recent};
use featureops_decision::policy::ramp::{self, Verdict, Wait};
use featureops_decision::replay::{Unavailable, replay};
use featureops_proto::v1::decision::{Action as Kind, Status};
use featureops_proto::v1::{self, AutonomyLevel as Level, RampStep, experiment::State};
use harness::{metric, proportions};
use proptest::prelude::*;
use prost::Message as _;

const STEP_MS: i64 = 60_000;

/// At the first of 1 %, 5 % and 50 %, the last by approval; held, seen, and as harmless as can be.
fn view() -> FrozenView {
    let mut inputs = proportions(&[vec![(9_900, 500), (2_000, 100)]]);
    inputs.metrics.push(v1::MetricInput {
        metric: "errors".to_owned(),
        lower_is_better: true,
        limit_basis_points: 500,
        ..metric(v1::metric::Kind::Proportion, v1::Role::Guardrail, 1)
    });
    inputs.strata[0].arms[0].slots.push(harness::slot(198, 198));
    inputs.strata[0].arms[1].slots.push(harness::slot(40, 40));
    let step =
        |basis_points, approval| RampStep { basis_points, hold_seconds: 60, minimum_units: 1_000, approval };
    inputs.policy = v1::experiment::Policy::Ramp as i32;
    inputs.ramp_steps = vec![step(100, false), step(500, false), step(5_000, true)];
    inputs.arms[1].established = false;
    inputs.new_arm_cap_basis_points = 5_000;
    inputs.weights = vec![9_900, 100];
    inputs.allocated_ms = inputs.log_time_ms - STEP_MS;
    FrozenView {
        flag: "checkout".to_owned(),
        experiment: "environments/default/experiments/checkout".to_owned(),
        state: State::Running,
        inputs,
        runs: vec![v1::Run { arm: 0, length: 9_900 }, v1::Run { arm: 1, length: 100 }],
        default_variant: "v0".to_owned(),
        growth: Level::A4Bounded,
        protection: Level::A3Guarded,
        epoch: 3,
        last_sequence: 10,
        ..FrozenView::default()
    }
}

fn at(weight: u32) -> FrozenView {
    let mut view = view();
    view.inputs.weights = vec![10_000 - weight, weight];
    view
}

fn step(view: &FrozenView) -> (Option<v1::Decision>, Vec<String>) {
    let mut owner = Owner::new(Config::default());
    let actions = owner.step(Event::Frozen(Box::new(view.clone())), 1, &mut Chance::from_seed(9));
    let (mut decision, mut notes) = (None, Vec::new());
    for action in actions {
        match action {
            Action::Submit { decision: submitted, .. } => decision = Some(*submitted),
            Action::Note(text) => notes.push(text),
        }
    }
    (decision, notes)
}

fn decide(view: &FrozenView) -> Option<v1::Decision> {
    step(view).0
}

fn waits(view: &FrozenView) -> Vec<Wait> {
    match ramp::decide(&view.inputs).unwrap() {
        Verdict::Wait(waits) => waits,
        Verdict::Go(climb) => panic!("{climb:?}"),
    }
}

#[test]
fn the_next_step_when_the_one_in_force_was_held_and_seen() {
    let decision = decide(&view()).unwrap();
    assert_eq!((decision.action(), decision.status()), (Kind::Reallocate, Status::Applied));
    assert_eq!((decision.policy.as_str(), decision.reason.as_str()), ("ramp/1", "step 2 of 3"));
    assert_eq!((decision.weights_before, decision.weights_after), (vec![9_900, 100], vec![9_500, 500]));
    assert_eq!(decision.traffic_moved_basis_points, 400);
    assert_eq!(decision.inverse.unwrap().runs, view().runs);
    assert!(!decision.narrative.is_empty());
    for sentence in &decision.narrative {
        for name in &sentence.numbers {
            let known =
                decision.statistics.iter().chain(&decision.thresholds).any(|number| number.name == *name);
            assert!(known, "{name} of {:?}", sentence.text);
        }
    }
}

#[test]
fn the_step_in_force_follows_from_the_weights() {
    for (weight, after) in
        [(0, 100), (99, 100), (100, 500), (300, 500), (499, 500), (500, 5_000), (4_999, 5_000)]
    {
        let decision = decide(&at(weight)).unwrap();
        assert_eq!(decision.weights_after, vec![10_000 - after, after], "from {weight}");
    }
    for weight in [5_000, 6_000, 10_000] {
        let decision = decide(&at(weight)).unwrap();
        assert_eq!((decision.action(), decision.status()), (Kind::Promote, Status::Proposed), "{weight}");
        assert_eq!(decision.variant, "v1");
    }
}

#[test]
fn what_it_waits_for() {
    let mut early = view();
    early.inputs.allocated_ms += 1;
    assert_eq!(waits(&early), [Wait::Hold { until_ms: early.inputs.log_time_ms + 1 }]);
    assert_eq!(step(&early), (None, vec![]), "time passes: nothing to say");

    let mut unseen = view();
    unseen.inputs.ramp_steps[0].minimum_units = 2_001;
    assert_eq!(waits(&unseen), [Wait::Units { units: 2_000, units_min: 2_001 }]);
    let mut nobody = view();
    nobody.inputs.strata.clear();
    nobody.inputs.ramp_steps[0].minimum_units = 0;
    assert_eq!(waits(&nobody), [Wait::Units { units: 0, units_min: 1 }]);
    nobody.inputs.weights = vec![10_000, 0];
    assert_eq!(waits(&nobody), [Wait::Units { units: 0, units_min: 1 }]);

    // 6 % more errors: beyond the limit of 5 %, far from beyond doubt, so nothing trips.
    let mut harmful = view();
    harmful.inputs.strata[0].arms[0].slots[1] = harness::slot(990, 990);
    harmful.inputs.strata[0].arms[1].slots[1] = harness::slot(212, 212);
    let [Wait::Guardrail { metric, harm, limit }] = &waits(&harmful)[..] else { panic!() };
    assert_eq!((metric.as_str(), *limit), ("errors", 0.05));
    assert!((harm - 0.06).abs() < 1e-12);
    let (decision, notes) = step(&harmful);
    assert!(decision.is_none() && notes[0].contains("guardrail errors"), "{notes:?}");

    let mut capped = at(500);
    capped.inputs.new_arm_cap_basis_points = 2_000;
    assert_eq!(waits(&capped), [Wait::Cap { wanted: 5_000, cap: 2_000 }]);
    capped.inputs.arms[1].established = true;
    assert!(decide(&capped).is_some(), "an established arm is under no cap");
}

#[test]
fn what_holds_growth_holds_a_ramp() {
    let now = view().inputs.log_time_ms;
    type Hold = fn(&mut FrozenView, i64);
    let held: [(&str, Hold); 6] = [
        ("cool-down", |view, now| view.cool_down_until_ms = now + 1),
        ("freeze", |view, now| view.frozen_until_ms = now + 1),
        ("pace", |view, now| view.last_decision_ms = now - 999),
        ("marked", |view, _| view.inputs.marked_units = 100),
        ("off", |view, _| view.growth = Level::A0Off),
        ("paused", |view, _| view.state = State::Paused),
    ];
    for (name, hold) in held {
        let mut view = view();
        hold(&mut view, now);
        assert!(decide(&view).is_none(), "{name} does not hold a ramp");
    }
}

#[test]
fn a_step_that_takes_an_approval_is_proposed_at_any_level() {
    for level in [Level::A2Recommend, Level::A3Guarded, Level::A4Bounded, Level::A5Autopilot] {
        let asked = decide(&FrozenView { growth: level, ..at(500) }).unwrap();
        assert_eq!(asked.status(), Status::Proposed, "{level:?}");
    }
    assert_eq!(decide(&FrozenView { growth: Level::A1Observe, ..at(500) }).unwrap().status(), Status::Shadow);
    assert_eq!(
        decide(&FrozenView { growth: Level::A2Recommend, ..view() }).unwrap().status(),
        Status::Proposed
    );
}

#[test]
fn what_waits_or_was_refused_is_not_asked_again_until_the_weights_change() {
    for view in [at(500), at(5_000)] {
        let asked = decide(&view).unwrap();
        let recent = |status, time_ms| Recent {
            action: asked.action(),
            status,
            generation: 1,
            variant: asked.variant.clone(),
            weights_after: asked.weights_after.clone(),
            time_ms,
        };
        let since = view.inputs.allocated_ms;
        for status in [Status::Proposed, Status::Rejected] {
            let known = FrozenView { recent: vec![recent(status, since)], ..view.clone() };
            assert!(decide(&known).is_none(), "{status:?}");
            let before = FrozenView { recent: vec![recent(status, since - 1)], ..view.clone() };
            assert!(decide(&before).is_some(), "{status:?} before the weights were set");
        }
        let reverted = FrozenView { recent: vec![recent(Status::Reverted, since)], ..view.clone() };
        assert!(decide(&reverted).is_some());
    }
}

#[test]
fn a_guardrail_beyond_doubt_trips_as_ever() {
    let mut view = view();
    view.inputs.strata[0].arms[1].slots[1] = harness::slot(160, 160);
    view.inputs.allocated_ms = view.inputs.log_time_ms;
    let decision = decide(&view).unwrap();
    assert_eq!((decision.action(), decision.status()), (Kind::Trip, Status::Applied));
}

#[test]
fn replay_gives_the_same_bytes() {
    for view in [view(), at(0), at(500), at(5_000)] {
        let decision = decide(&view).unwrap();
        let mut recorded = v1::Decision::decode(decision.encode_to_vec().as_slice()).unwrap();
        assert_eq!(replay(&recorded).unwrap().encode_to_vec(), decision.encode_to_vec());
        recorded.status = Status::Superseded as i32;
        assert_eq!(replay(&recorded).unwrap().encode_to_vec(), recorded.encode_to_vec());
        let mut early = recorded.clone();
        early.inputs.as_mut().unwrap().allocated_ms += 120_000;
        assert!(view.inputs.weights[1] == 0 || replay(&early) == Err(Unavailable::NoAction));
        recorded.inputs.as_mut().unwrap().strata.clear();
        assert_eq!(replay(&recorded), Err(Unavailable::NoInputs));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_048, ..ProptestConfig::default() })]

    /// From wherever it stands: exactly the next step, never beyond one, never before its time.
    #[test]
    fn no_step_is_skipped(
        steps in prop::collection::btree_set(1u32..=10_000, 1..=32),
        weight in 0u32..=10_000,
        held_ms in -1_000i64..120_000,
        units in 0u64..3_000,
        level in 1i32..=6,
    ) {
        let mut view = view();
        view.inputs.metrics.truncate(1);
        view.inputs.new_arm_cap_basis_points = 10_000;
        view.inputs.ramp_steps = steps
            .iter()
            .map(|bp| RampStep { basis_points: *bp, hold_seconds: i64::from(bp % 97), minimum_units: u64::from(bp % 2_000), approval: bp % 3 == 0 })
            .collect();
        view.inputs.weights = vec![10_000 - weight, weight];
        view.inputs.allocated_ms = view.inputs.log_time_ms - held_ms;
        view.inputs.strata[0].arms[1].units = units;
        view.inputs.strata[0].arms[1].slots[0] = harness::slot(0, 0);
        view.growth = Level::try_from(level).unwrap();
        let current = view.inputs.ramp_steps.iter().rfind(|step| step.basis_points <= weight);
        let hold_ms = current.map_or(0, |step| step.hold_seconds * 1_000);
        let seen = current.is_none_or(|step| units >= step.minimum_units.max(1));
        let goes = matches!(ramp::decide(&view.inputs).unwrap(), Verdict::Go(_));
        prop_assert_eq!(goes, held_ms >= hold_ms && seen);
        let (decision, _) = step(&view);
        let Some(decision) = decision else { return Ok(()) };
        let next = view.inputs.ramp_steps.iter().find(|step| step.basis_points > weight);
        if let Some(current) = current {
            prop_assert!(held_ms >= current.hold_seconds * 1_000 && units >= current.minimum_units.max(1));
        }
        match next {
            Some(next) => {
                prop_assert_eq!(&decision.weights_after, &vec![10_000 - next.basis_points, next.basis_points]);
                prop_assert!(!next.approval || decision.status() != Status::Applied);
            }
            None => {
                prop_assert_eq!(decision.action(), Kind::Promote);
                prop_assert_ne!(decision.status(), Status::Applied);
            }
        }
        prop_assert_eq!(replay(&decision).unwrap().encode_to_vec(), decision.encode_to_vec());
    }
}
