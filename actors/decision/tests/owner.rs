//! The mind's rules, one story each; and that a recorded decision replays to the same bytes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

mod harness;

use featureops_decision::chance::Chance;
use featureops_decision::owner::{Action, Config, Event, FrozenView, Owner, Recent};
use featureops_decision::replay::{Unavailable, replay};
use featureops_proto::v1::decision::{Action as Kind, Status};
use featureops_proto::v1::{self, AutonomyLevel as Level, experiment::State};
use featureops_proto::{ALARM_POLICY, ErrorCode, log};
use harness::{converted, metric, proportions};
use prost::Message as _;

/// Two arms, the second clearly better, growth at A4.
fn view() -> FrozenView {
    let mut inputs = proportions(&[vec![(2_000, 100), (2_000, 130)], vec![(2_000, 120), (2_000, 150)]]);
    inputs.metrics.push(v1::MetricInput {
        metric: "errors".to_owned(),
        lower_is_better: true,
        limit_basis_points: 500,
        ..metric(v1::metric::Kind::Proportion, v1::Role::Guardrail, 1)
    });
    for arm in inputs.strata.iter_mut().flat_map(|stratum| &mut stratum.arms) {
        arm.slots.push(harness::slot(40, 40));
    }
    FrozenView {
        flag: "checkout".to_owned(),
        experiment: "environments/default/experiments/checkout".to_owned(),
        state: State::Running,
        inputs,
        runs: vec![v1::Run { arm: 0, length: 5_000 }, v1::Run { arm: 1, length: 5_000 }],
        default_variant: "v0".to_owned(),
        growth: Level::A4Bounded,
        protection: Level::A3Guarded,
        epoch: 3,
        last_sequence: 10,
        ..FrozenView::default()
    }
}

/// The second arm's errors are four times control's.
fn harmful() -> FrozenView {
    let mut view = view();
    for stratum in &mut view.inputs.strata {
        stratum.arms[1].slots[1] = harness::slot(160, 160);
    }
    view
}

/// The second arm is better beyond doubt.
fn won() -> FrozenView {
    let mut view = view();
    view.inputs.strata[0].arms = vec![converted(20_000, 1_000), converted(20_000, 1_400)];
    view.inputs.strata.truncate(1);
    view.inputs.metrics.truncate(1);
    view
}

fn step(owner: &mut Owner, event: Event) -> Vec<Action> {
    owner.step(event, 1, &mut Chance::from_seed(9))
}

fn look(owner: &mut Owner, view: &FrozenView) -> Vec<Action> {
    step(owner, Event::Frozen(Box::new(view.clone())))
}

fn submitted(actions: Vec<Action>) -> Option<(log::OwnerStamp, v1::Decision)> {
    let mut all = actions.into_iter().filter_map(|action| match action {
        Action::Submit { stamp, decision } => Some((stamp, *decision)),
        Action::Note(_) => None,
    });
    let first = all.next();
    assert!(all.next().is_none(), "one submit a step");
    first
}

fn decide(view: &FrozenView) -> Option<v1::Decision> {
    submitted(look(&mut Owner::new(Config::default()), view)).map(|(_, decision)| decision)
}

#[test]
fn a_better_arm_gets_traffic_and_the_record_is_complete() {
    let (stamp, decision) = submitted(look(&mut Owner::new(Config::default()), &view())).unwrap();
    assert_eq!((stamp.epoch, stamp.sequence, stamp.expected_flag_version), (3, 11, 3));
    assert_eq!((decision.action(), decision.status()), (Kind::Reallocate, Status::Applied));
    assert_eq!(decision.weights_after.iter().sum::<u32>(), 10_000);
    assert!(decision.weights_after[1] > 9_000);
    assert_eq!(decision.weights_before, vec![5_000, 5_000]);
    assert_eq!(decision.traffic_moved_basis_points, decision.weights_after[1] - 5_000);
    assert_eq!(decision.inverse.as_ref().unwrap().runs, view().runs);
    assert!(decision.expected_effect.is_some() && decision.seed != 0 && decision.time.is_some());
    assert!(
        decision.alternatives.len() >= 2 && !decision.bounds.is_empty() && !decision.thresholds.is_empty()
    );
    let names: Vec<&str> = decision.statistics.iter().map(|number| number.name.as_str()).collect();
    for name in [
        "p_best.v0",
        "mean.v1",
        "sd.v1",
        "units.v0",
        "difference.v1",
        "lower.v1",
        "upper.v1",
        "information.v1",
    ] {
        assert!(names.contains(&name), "{name} is missing");
    }
    every_sentence_rests_on_numbers(&decision);
}

fn every_sentence_rests_on_numbers(decision: &v1::Decision) {
    assert!(!decision.narrative.is_empty());
    for sentence in &decision.narrative {
        for name in &sentence.numbers {
            let number =
                decision.statistics.iter().chain(&decision.thresholds).find(|number| number.name == *name);
            assert!(number.is_some(), "{name} of {:?}", sentence.text);
        }
    }
}

#[test]
fn the_cap_holds_new_arms() {
    let mut view = view();
    view.inputs.arms[1].established = false;
    view.inputs.weights = vec![9_500, 500];
    assert_eq!(decide(&view).unwrap().weights_after, vec![8_000, 2_000]);
}

#[test]
fn one_change_in_flight_repeated_under_its_own_sequence() {
    let mut owner = Owner::new(Config::default());
    let (stamp, decision) = submitted(look(&mut owner, &view())).unwrap();
    let mut newer = view();
    newer.inputs.frozen_position = 8;
    assert!(look(&mut owner, &newer).is_empty());
    let again = submitted(step(&mut owner, Event::Unanswered { sequence: 11 })).unwrap();
    assert_eq!((again.0, &again.1), (stamp, &decision));
    assert!(step(&mut owner, Event::Unanswered { sequence: 4 }).is_empty());
    // The answer got lost, a view shows it arrived: the mind goes on.
    newer.last_sequence = 11;
    assert_eq!(submitted(look(&mut owner, &newer)).unwrap().0.sequence, 12);
}

#[test]
fn after_an_accepted_change_a_view_must_show_it_first() {
    let mut owner = Owner::new(Config::default());
    submitted(look(&mut owner, &view())).unwrap();
    step(&mut owner, Event::Replied { sequence: 11, accepted: Ok(()) });
    let mut newer = view();
    newer.inputs.frozen_position = 8;
    assert!(look(&mut owner, &newer).is_empty(), "taken before the change was applied");
    newer.last_sequence = 11;
    assert!(submitted(look(&mut owner, &newer)).is_some());
}

#[test]
fn after_a_refusal_it_waits_for_a_newer_view() {
    for code in [ErrorCode::StaleDecision, ErrorCode::Fenced] {
        let mut owner = Owner::new(Config::default());
        submitted(look(&mut owner, &view())).unwrap();
        step(&mut owner, Event::Replied { sequence: 11, accepted: Err(code) });
        assert!(look(&mut owner, &view()).is_empty());
        let mut newer = view();
        newer.inputs.frozen_position = 8;
        assert!(submitted(look(&mut owner, &newer)).is_some());
    }
    // What a newer view does not cure is not tried twice a second.
    let mut owner = Owner::new(Config::default());
    submitted(look(&mut owner, &view())).unwrap();
    step(&mut owner, Event::Replied { sequence: 11, accepted: Err(ErrorCode::OverCap) });
    let mut newer = view();
    newer.inputs.frozen_position = 8;
    assert!(submitted(look(&mut owner, &newer)).is_none());
    newer.inputs.log_time_ms += 10_000;
    assert!(submitted(look(&mut owner, &newer)).is_some());
}

#[test]
fn growth_is_held_by_cool_down_freeze_pace_blocks_and_state() {
    let now = view().inputs.log_time_ms;
    type Hold = fn(&mut FrozenView, i64);
    let held: [(&str, Hold); 9] = [
        ("cool-down", |view, now| view.cool_down_until_ms = now + 1),
        ("freeze", |view, now| view.frozen_until_ms = now + 1),
        ("pace", |view, now| view.last_decision_ms = now - 999),
        ("marked", |view, _| view.inputs.marked_units = 41),
        ("unequal marks", |view, _| view.inputs.marked_by_arm = vec![0, 30]),
        ("sample ratio", |view, _| {
            view.inputs.allocation_version = 1;
            view.inputs.weights = vec![6_000, 4_000];
        }),
        ("off", |view, _| view.growth = Level::A0Off),
        ("paused", |view, _| view.state = State::Paused),
        ("fixed", |view, _| view.inputs.policy = v1::experiment::Policy::Fixed as i32),
    ];
    for (name, hold) in held {
        let mut view = view();
        hold(&mut view, now);
        assert!(decide(&view).is_none(), "{name} does not hold growth");
    }
    let mut view = view();
    view.last_decision_ms = now - 1_000;
    view.inputs.crossed_units = 4_000;
    assert!(decide(&view).is_some());
}

#[test]
fn a_reason_is_noted_once() {
    let mut owner = Owner::new(Config::default());
    let mut view = view();
    view.inputs.marked_units = 41;
    assert!(matches!(look(&mut owner, &view)[..], [Action::Note(_)]));
    assert!(look(&mut owner, &view).is_empty());
}

#[test]
fn levels_say_what_becomes_of_a_reallocation() {
    for (level, status) in [
        (Level::A1Observe, Status::Shadow),
        (Level::A2Recommend, Status::Proposed),
        (Level::A3Guarded, Status::Proposed),
        (Level::A4Bounded, Status::Applied),
        (Level::A5Autopilot, Status::Applied),
    ] {
        let decision = decide(&FrozenView { growth: level, ..view() }).unwrap();
        assert_eq!((decision.status(), decision.autonomy()), (status, level));
    }
}

#[test]
fn a3_takes_traffic_from_new_arms_and_gives_them_none() {
    let mut view = FrozenView { growth: Level::A3Guarded, ..view() };
    view.inputs.arms[1].established = false;
    view.inputs.new_arm_cap_basis_points = 10_000;
    assert_eq!(decide(&view).unwrap().status(), Status::Proposed);
    for stratum in &mut view.inputs.strata {
        stratum.arms.swap(0, 1);
    }
    assert_eq!(decide(&view).unwrap().status(), Status::Applied);
}

#[test]
fn a_waiting_proposal_is_not_made_again_at_every_tick() {
    let mut view = FrozenView { growth: Level::A2Recommend, ..view() };
    let proposed = decide(&view).unwrap();
    let now = view.inputs.log_time_ms;
    let recent = Recent {
        action: Kind::Reallocate,
        status: Status::Proposed,
        generation: 1,
        weights_after: proposed.weights_after.clone(),
        time_ms: now - 5_000,
        ..Recent::default()
    };
    view.recent = vec![recent.clone()];
    assert!(decide(&view).is_none());
    view.recent = vec![Recent { time_ms: now - 60_000, ..recent.clone() }];
    assert!(decide(&view).is_some(), "a minute later it is made with fresher numbers");
    view.recent = vec![Recent { weights_after: vec![4_000, 6_000], ..recent }];
    assert!(decide(&view).is_some(), "it differs by 500 basis points");
}

#[test]
fn harm_comes_first_and_ignores_what_holds_growth() {
    let mut view = harmful();
    let now = view.inputs.log_time_ms;
    view.cool_down_until_ms = now + 1_000;
    view.last_decision_ms = now;
    view.inputs.marked_units = 4_000;
    view.growth = Level::A0Off;
    let decision = decide(&view).unwrap();
    assert_eq!((decision.action(), decision.status()), (Kind::Trip, Status::Applied));
    assert_eq!((decision.variant.as_str(), decision.policy.as_str()), ("v1", "guardrail/1"));
    assert!(decision.inverse.as_ref().unwrap().resume && decision.weights_before.is_empty());
    every_sentence_rests_on_numbers(&decision);
    view.protection = Level::A2Recommend;
    assert_eq!(decide(&view).unwrap().status(), Status::Proposed);
    view.protection = Level::A0Off;
    assert!(decide(&view).is_none());
    view.state = State::Tripped;
    view.protection = Level::A5Autopilot;
    assert!(decide(&view).is_none());
}

#[test]
fn a_winner_is_proposed_once_and_never_applied() {
    let mut view = FrozenView { growth: Level::A5Autopilot, ..won() };
    let decision = decide(&view).unwrap();
    assert_eq!((decision.action(), decision.status()), (Kind::Promote, Status::Proposed));
    assert_eq!(decision.variant, "v1");
    every_sentence_rests_on_numbers(&decision);
    let waiting = Recent {
        action: Kind::Promote,
        status: Status::Proposed,
        generation: 1,
        variant: "v1".to_owned(),
        ..Recent::default()
    };
    for status in [Status::Proposed, Status::Rejected] {
        view.recent = vec![Recent { status, ..waiting.clone() }];
        assert_eq!(decide(&view).unwrap().action(), Kind::Reallocate);
    }
    view.recent.clear();
    view.inputs.policy = v1::experiment::Policy::Fixed as i32;
    assert_eq!(decide(&view).unwrap().action(), Kind::Promote);
    view.inputs.crossed_units = 2_000;
    assert!(decide(&view).is_none(), "a fixed test with crossed units proves nothing");
}

#[test]
fn probability_alone_never_promotes() {
    // P(best) = .99, a sixth of what anytime-valid evidence asks for.
    let mut view = won();
    view.inputs.strata[0].arms = vec![converted(5_000, 250), converted(5_000, 305)];
    assert_eq!(decide(&view).unwrap().action(), Kind::Reallocate);
}

#[test]
fn an_owner_rebuilt_from_a_view_decides_as_the_old_one() {
    let mut old = Owner::new(Config::default());
    submitted(look(&mut old, &view())).unwrap();
    step(&mut old, Event::Replied { sequence: 11, accepted: Ok(()) });
    let mut newer = view();
    newer.inputs.frozen_position = 9;
    newer.last_sequence = 11;
    newer.inputs.strata[0].arms[0] = converted(2_500, 180);
    newer.inputs.strata[0].arms[0].slots.push(harness::slot(40, 40));
    assert_eq!(look(&mut old, &newer), look(&mut Owner::new(Config::default()), &newer));
}

#[test]
fn replay_gives_the_same_bytes_or_says_what_is_gone() {
    for view in [view(), harmful(), won()] {
        let decision = decide(&view).unwrap();
        // Through the wire and back, as the log keeps it.
        let mut recorded = v1::Decision::decode(decision.encode_to_vec().as_slice()).unwrap();
        assert_eq!(replay(&recorded).unwrap().encode_to_vec(), decision.encode_to_vec());
        // With what apply writes into it.
        recorded.name = "environments/default/decisions/4".to_owned();
        recorded.bounds = vec!["as apply words them".to_owned()];
        recorded.weights_before = vec![5_000, 5_000];
        recorded.weights_applied = recorded.weights_after.clone();
        recorded.status = Status::Superseded as i32;
        assert_eq!(replay(&recorded).unwrap().encode_to_vec(), recorded.encode_to_vec());
        let mut old = recorded.clone();
        old.inputs.as_mut().unwrap().strata.clear();
        assert_eq!(replay(&old), Err(Unavailable::NoInputs));
        let mut changed = recorded.clone();
        changed.inputs.as_mut().unwrap().strata[0].arms[0].units += 100;
        assert!(replay(&changed).is_err() || replay(&changed).unwrap().statistics != recorded.statistics);
        let gone = v1::Decision { policy: "thompson/0".to_owned(), ..recorded.clone() };
        assert_eq!(replay(&gone), Err(Unavailable::Policy("thompson/0".to_owned())));
        let gone = v1::Decision { engine: "older".to_owned(), ..recorded.clone() };
        assert!(matches!(replay(&gone), Err(Unavailable::Engine(_))));
        assert_eq!(replay(&v1::Decision { inputs: None, ..recorded }), Err(Unavailable::NoInputs));
    }
}

#[test]
fn an_alarm_is_not_replayed_its_evidence_is_the_monitors() {
    // As the fold files it: no inputs, no engine.
    let alarm = v1::Decision {
        action: Kind::Trip as i32,
        status: Status::Applied as i32,
        policy: ALARM_POLICY.to_owned(),
        reason: "pager: errors doubled".to_owned(),
        ..v1::Decision::default()
    };
    let unavailable = replay(&alarm).unwrap_err();
    assert_eq!(unavailable, Unavailable::Alarm);
    assert!(unavailable.to_string().contains("its evidence is the monitor's"));
    // Inputs would change nothing: no policy of this crate made it.
    let with_inputs = v1::Decision { inputs: Some(view().inputs), ..alarm };
    assert_eq!(replay(&with_inputs), Err(Unavailable::Alarm));
}
