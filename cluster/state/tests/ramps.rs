//! Stepped ramps in the fold: one step at a time, none before its time, none that takes an approval without one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, agent, done, human, refusal};
use featureops_proto::log::{self, entry, resolve_decision::Resolution};
use featureops_proto::v1::decision::{Action, Status};
use featureops_proto::v1::experiment::{Policy, State as Phase};
use featureops_proto::v1::{self, AutonomyLevel, Experiment, RampStep};
use featureops_state::State;

const NAME: &str = "environments/production/experiments/r";
const FLAG: &str = "environments/production/flags/checkout";

fn step(basis_points: u32, hold_seconds: i64, approval: bool) -> RampStep {
    RampStep { basis_points, hold_seconds, minimum_units: 0, approval }
}

fn definition() -> Experiment {
    let arm = |variant: &str, established| v1::Arm { variant: variant.to_owned(), established };
    Experiment {
        name: NAME.to_owned(),
        flag: "checkout".to_owned(),
        arms: vec![arm("off", true), arm("on", false)],
        primary_metric: "conversion".to_owned(),
        policy: Policy::Ramp as i32,
        cool_down_seconds: Some(0),
        ramp_steps: vec![step(100, 60, false), step(500, 60, false), step(5_000, 60, true)],
        ..Experiment::default()
    }
}

fn create(experiment: Experiment) -> entry::Command {
    entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) })
}

fn climbing() -> (Driver, u32) {
    let mut d = Driver::new();
    d.furnish();
    d.done(create(definition()));
    d.start("r", AutonomyLevel::A4Bounded);
    d.tick(500);
    let number = d.state.experiment("production", "r").unwrap().number;
    (d, number)
}

fn weights(d: &Driver) -> Vec<u32> {
    d.state.experiment("production", "r").unwrap().allocation.unwrap().weights_basis_points
}

fn submit(d: &mut Driver, number: u32, weights: &[u32]) -> log::Reply {
    let (stamp, decision) = d.reallocation(number, weights);
    d.submit(stamp, decision)
}

fn resolve(name: &str, resolution: Resolution) -> entry::Command {
    let (name, resolution) = (name.to_owned(), resolution as i32);
    entry::Command::ResolveDecision(log::ResolveDecision { name, resolution, note: String::new() })
}

fn newest(d: &Driver) -> v1::Decision {
    d.state.decisions("production", "checkout", 0, 1, Status::Unspecified).remove(0)
}

#[test]
fn the_first_step_at_the_start_and_the_next_when_it_was_held() {
    let (mut d, number) = climbing();
    assert_eq!(weights(&d), [9_900, 100]);
    assert_eq!(refusal(submit(&mut d, number, &[9_500, 500])).code, "WRONG_STATE", "too soon");
    d.tick(60_000);
    for skipped in [[5_000, 5_000], [9_600, 400], [9_950, 50], [10_000, 0]] {
        let refusal = refusal(submit(&mut d, number, &skipped));
        assert_eq!(refusal.code, "WRONG_STATE", "{skipped:?}");
        assert!(refusal.message.contains("[9500, 500]"), "{}", refusal.message);
    }
    assert!(done(submit(&mut d, number, &[9_500, 500])).took_effect);
    assert_eq!(weights(&d), [9_500, 500]);
    d.tick(59_000);
    assert_eq!(refusal(submit(&mut d, number, &[5_000, 5_000])).code, "WRONG_STATE", "its own hold");
    d.tick(2_000);
    assert!(d.state.check().is_ok());
}

#[test]
fn an_approval_is_asked_for_whatever_the_level_and_promotion_after_the_last() {
    let (mut d, number) = climbing();
    d.done(entry::Command::SetFlagAutonomy(log::SetFlagAutonomy {
        name: FLAG.to_owned(),
        autonomy: Some(v1::AutonomyLevels { growth: AutonomyLevel::A5Autopilot as i32, protection: 0 }),
    }));
    d.tick(61_000);
    assert!(done(submit(&mut d, number, &[9_500, 500])).took_effect);
    d.tick(61_000);
    assert!(!done(submit(&mut d, number, &[5_000, 5_000])).took_effect);
    let asked = newest(&d);
    assert_eq!((asked.status(), weights(&d)), (Status::Proposed, vec![9_500, 500]));
    assert_eq!(
        refusal(d.command_as(agent(), resolve(&asked.name, Resolution::Approve))).code,
        "NOT_PERMITTED"
    );

    d.tick(2_000);
    let promote = |d: &Driver| {
        let (stamp, decision) = d.reallocation(number, &[]);
        let action = Action::Promote as i32;
        (stamp, v1::Decision { action, variant: "on".to_owned(), ..decision })
    };
    let (stamp, decision) = promote(&d);
    assert_eq!(refusal(d.submit(stamp, decision)).code, "WRONG_STATE", "the last step comes first");
    done(d.command_as(human("bo"), resolve(&asked.name, Resolution::Approve)));
    assert_eq!(weights(&d), [5_000, 5_000]);

    d.tick(1_500);
    let (stamp, decision) = promote(&d);
    assert_eq!(refusal(d.submit(stamp, decision)).code, "WRONG_STATE", "it is held as the others");
    d.tick(61_000);
    assert_eq!(refusal(submit(&mut d, number, &[0, 10_000])).code, "OVER_CAP", "never beyond");
    assert_eq!(refusal(submit(&mut d, number, &[5_001, 4_999])).code, "WRONG_STATE");
    let (stamp, decision) = promote(&d);
    assert!(!done(d.submit(stamp, decision)).took_effect);
    let name = newest(&d).name;
    done(d.command(resolve(&name, Resolution::Approve)));
    assert_eq!(d.state.flag("production", "checkout").unwrap().default_variant.as_deref(), Some("on"));
    assert_eq!(d.state.experiment("production", "r").unwrap().state(), Phase::Stopped);
}

#[test]
fn a_revert_goes_back_a_step_and_holds_it_anew() {
    let (mut d, number) = climbing();
    d.tick(61_000);
    done(submit(&mut d, number, &[9_500, 500]));
    let name = newest(&d).name;
    done(d.command(resolve(&name, Resolution::Revert)));
    assert_eq!(weights(&d), [9_900, 100]);
    let levels = d.state.flag("production", "checkout").unwrap().autonomy.unwrap();
    assert_eq!(levels.growth(), AutonomyLevel::A2Recommend, "an act that was taken back costs the level");
    d.tick(30_000);
    assert_eq!(refusal(submit(&mut d, number, &[9_500, 500])).code, "WRONG_STATE");
    d.tick(31_000);
    assert!(!done(submit(&mut d, number, &[9_500, 500])).took_effect, "proposed");
}

#[test]
fn a_person_may_set_the_weights_and_the_ramp_goes_on_from_there() {
    let (mut d, number) = climbing();
    let set = |weights: [u32; 2]| {
        let weights_basis_points = weights.to_vec();
        entry::Command::SetAllocation(log::SetAllocation {
            name: NAME.to_owned(),
            weights_basis_points,
            etag: String::new(),
        })
    };
    d.done(set([9_700, 300]));
    d.tick(59_000);
    assert_eq!(refusal(submit(&mut d, number, &[9_500, 500])).code, "WRONG_STATE", "the first step's hold");
    d.tick(2_000);
    assert!(done(submit(&mut d, number, &[9_500, 500])).took_effect);
    d.done(set([10_000, 0]));
    d.tick(1_500);
    assert!(done(submit(&mut d, number, &[9_900, 100])).took_effect, "below the first nothing is held");
}

#[test]
fn after_a_trip_it_begins_again_with_the_first_step() {
    let (mut d, number) = climbing();
    let first = d.state.experiment("production", "r").unwrap().allocation.unwrap().runs;
    d.tick(61_000);
    done(submit(&mut d, number, &[9_500, 500]));
    let reason = || "smoke".to_owned();
    let trip = || log::TripFlag { name: FLAG.to_owned(), reason: reason(), ..Default::default() };
    let resume = || log::ResumeFlag { name: FLAG.to_owned(), reason: reason() };
    d.done(entry::Command::TripFlag(trip()));
    d.done(entry::Command::ResumeFlag(resume()));
    let allocation = d.state.experiment("production", "r").unwrap().allocation.unwrap();
    assert_eq!((allocation.generation, allocation.runs), (2, first), "the same units as at first");
    d.tick(59_000);
    assert_eq!(refusal(submit(&mut d, number, &[9_500, 500])).code, "WRONG_STATE");
    d.tick(2_000);
    assert!(done(submit(&mut d, number, &[9_500, 500])).took_effect);

    // Never with more than was served: a budget may have been cut to that meanwhile.
    let weights_basis_points = vec![9_950, 50];
    let set = log::SetAllocation { name: NAME.to_owned(), weights_basis_points, etag: String::new() };
    d.done(entry::Command::SetAllocation(set));
    d.done(entry::Command::TripFlag(trip()));
    let oversight = v1::Oversight {
        name: "environments/production/oversight".to_owned(),
        new_arm_budget_basis_points: Some(50),
        ..v1::Oversight::default()
    };
    d.done(entry::Command::SetOversight(log::SetOversight {
        oversight: Some(oversight),
        etag: String::new(),
    }));
    d.done(entry::Command::ResumeFlag(resume()));
    assert_eq!(weights(&d), [9_950, 50]);
    assert!(d.state.check().is_ok());
}

#[test]
fn the_owner_looks_when_a_hold_ends_also_when_no_fact_comes() {
    let (mut d, number) = climbing();
    // The start and the owner's assignment are looked at.
    d.tick(500);
    let frozen = |d: &mut Driver, forward_ms| {
        d.effects.clear();
        d.tick(forward_ms);
        d.effects.contains(&featureops_state::Effect::Frozen { number })
    };
    assert!(!frozen(&mut d, 30_000));
    assert!(frozen(&mut d, 30_000));
    assert!(!frozen(&mut d, 500));
}

#[test]
fn the_cap_is_the_highest_step_unless_one_is_stated() {
    let (d, number) = climbing();
    assert_eq!(d.state.owner_view(number).unwrap().inputs.new_arm_cap_basis_points, 5_000);
    let mut d = Driver::new();
    d.furnish();
    let patient = || Experiment { cool_down_seconds: None, ..definition() };
    let refused = refusal(d.command_as(agent(), create(patient())));
    assert!(refused.code == "NOT_PERMITTED" && refused.message.contains("2,000"), "{}", refused.message);
    let small = Experiment { ramp_steps: vec![step(100, 1, false), step(2_000, 1, false)], ..patient() };
    done(d.command_as(agent(), create(small)));
}

#[test]
fn what_is_no_ramp() {
    let mut d = Driver::new();
    d.furnish();
    let mut three = definition();
    three.arms.push(v1::Arm { variant: "on2".to_owned(), established: false });
    let steps = |steps: &[RampStep]| Experiment { ramp_steps: steps.to_vec(), ..definition() };
    let cases = [
        (three, "experiment.arms"),
        (steps(&[]), "experiment.ramp_steps"),
        (steps(&vec![step(1, 1, false); 33]), "experiment.ramp_steps"),
        (steps(&[step(0, 1, false)]), "experiment.ramp_steps[0].basis_points"),
        (steps(&[step(5, 1, false), step(5, 1, false)]), "experiment.ramp_steps[1].basis_points"),
        (steps(&[step(10_001, 1, false)]), "experiment.ramp_steps[0].basis_points"),
        (steps(&[step(5, -1, false)]), "experiment.ramp_steps[0].hold_seconds"),
        (steps(&[step(5, i64::MAX, false)]), "experiment.ramp_steps[0].hold_seconds"),
        (
            Experiment { control_floor_basis_points: 5_001, ..definition() },
            "experiment.ramp_steps[2].basis_points",
        ),
        (
            Experiment { new_arm_cap_basis_points: Some(4_999), ..definition() },
            "experiment.ramp_steps[2].basis_points",
        ),
        (Experiment { policy: Policy::Thompson as i32, ..definition() }, "experiment.ramp_steps"),
    ];
    for (wrong, field) in cases {
        let refusal = refusal(d.command(create(wrong)));
        assert_eq!(
            (refusal.code.as_str(), refusal.field.as_str()),
            ("INVALID_ARGUMENT", field),
            "{}",
            refusal.message
        );
    }
    // Whoever starts it approves its first step.
    d.done(create(steps(&[step(100, 1, true)])));
    let start = log::StartExperiment { name: NAME.to_owned(), autonomy: 0, etag: String::new() };
    let start = entry::Command::StartExperiment(start);
    assert_eq!(refusal(d.command_as(agent(), start.clone())).code, "NOT_PERMITTED");
    d.done(start);
}

#[test]
fn a_snapshot_keeps_since_when_a_step_is_held() {
    let (mut d, number) = climbing();
    d.tick(30_000);
    let restored = State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(restored.digest(), d.state.digest());
    d.state = restored;
    assert_eq!(refusal(submit(&mut d, number, &[9_500, 500])).code, "WRONG_STATE");
    d.tick(31_000);
    assert!(done(submit(&mut d, number, &[9_500, 500])).took_effect);
}
