//! Layers and holdouts: a slot is one experiment's at most and stays with it, and whom a holdout holds it holds on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use std::collections::BTreeMap;

use driver::{Driver, agent, boolean_flag, done, human, refusal};
use featureops_proto::log::{self, Refusal, entry};
use featureops_proto::v1::{self, SlotRange};
use featureops_state::{Effect, State};
use proptest::prelude::*;

const LAYER: &str = "environments/production/layers/page";
const HOLDOUT: &str = "environments/production/holdouts/q3";

fn name(experiment: &str) -> String {
    format!("environments/production/experiments/{experiment}")
}

fn set_layer() -> entry::Command {
    let layer = Some(v1::Layer { name: LAYER.to_owned(), ..v1::Layer::default() });
    entry::Command::SetLayer(log::SetLayer { layer, etag: String::new() })
}

fn set_holdout(basis_points: u32, everywhere: bool) -> entry::Command {
    let holdout =
        v1::Holdout { name: HOLDOUT.to_owned(), basis_points, everywhere, ..v1::Holdout::default() };
    entry::Command::SetHoldout(log::SetHoldout { holdout: Some(holdout), etag: String::new() })
}

fn create(id: &str, change: impl FnOnce(&mut v1::Experiment)) -> entry::Command {
    let arm = |variant: &str| v1::Arm { variant: variant.to_owned(), established: true };
    let mut experiment = v1::Experiment {
        name: name(id),
        flag: id.to_owned(),
        arms: vec![arm("off"), arm("on")],
        primary_metric: "conversion".to_owned(),
        cool_down_seconds: Some(60),
        ..v1::Experiment::default()
    };
    change(&mut experiment);
    entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) })
}

fn start(id: &str) -> entry::Command {
    entry::Command::StartExperiment(log::StartExperiment { name: name(id), ..Default::default() })
}

fn stop(id: &str) -> entry::Command {
    entry::Command::StopExperiment(log::StopExperiment { name: name(id), ..Default::default() })
}

fn share(id: &str, basis_points: u32) -> entry::Command {
    entry::Command::SetLayerShare(log::SetLayerShare { name: name(id), basis_points, etag: String::new() })
}

/// Flags of the ids, metrics, and the layer.
fn furnished(ids: &[String]) -> Driver {
    let mut d = Driver::new();
    d.furnish();
    for id in ids {
        let flag = Some(boolean_flag(id));
        d.done(entry::Command::SetFlag(log::SetFlag { flag, etag: String::new() }));
    }
    d.done(set_layer());
    d
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("x{n}")).collect()
}

fn running(d: &mut Driver, id: &str, basis_points: u32) {
    d.done(create(id, |experiment| {
        experiment.layer = "page".to_owned();
        experiment.layer_share_basis_points = basis_points;
    }));
    d.done(start(id));
}

fn slots(d: &Driver, id: &str) -> Vec<(u32, u32)> {
    let allocation = d.state.flag("production", id).unwrap().allocation.unwrap();
    assert_eq!(allocation.layer, "page");
    allocation.slots.iter().map(|range| (range.start, range.length)).collect()
}

fn refused(d: &mut Driver, command: entry::Command) -> Refusal {
    refusal(d.command(command))
}

#[test]
fn experiments_of_a_layer_take_free_slots_keep_them_and_free_them_at_the_end() {
    let mut d = furnished(&ids(3));
    running(&mut d, "x0", 3_000);
    running(&mut d, "x1", 5_000);
    assert_eq!((slots(&d, "x0"), slots(&d, "x1")), (vec![(0, 3_000)], vec![(3_000, 5_000)]));

    d.done(create("x2", |experiment| {
        experiment.layer = "page".to_owned();
        experiment.layer_share_basis_points = 2_500;
    }));
    let refusal = refused(&mut d, start("x2"));
    assert_eq!(refusal.code, "LIMIT_REACHED");
    assert_eq!(refusal.field, "experiment.layer_share_basis_points");
    for part in ["2000 of 10000 free", "x0 has 3000", "x1 has 5000", "stop or shrink"] {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
    d.state.check().unwrap();

    // A trip and a pause keep the slots.
    let trip = log::TripFlag { name: "environments/production/flags/x0".to_owned(), ..Default::default() };
    d.done(entry::Command::TripFlag(trip));
    assert_eq!(d.state.layer("production", "page").unwrap().free_basis_points, 2_000);
    assert_eq!(refused(&mut d, start("x2")).code, "LIMIT_REACHED");
    d.done(stop("x0"));
    d.done(start("x2"));
    assert_eq!(slots(&d, "x2"), [(0, 2_500)]);
    let layer = d.state.layer("production", "page").unwrap();
    assert_eq!(layer.free_basis_points, 2_500);
    let occupants: Vec<_> = layer.occupants.iter().map(|o| (o.experiment.clone(), o.basis_points)).collect();
    assert_eq!(occupants, [(name("x1"), 5_000), (name("x2"), 2_500)]);
    d.state.check().unwrap();
}

#[test]
fn a_share_grows_behind_what_it_has_and_shrinks_from_its_end_in_a_new_generation() {
    let mut d = furnished(&ids(2));
    running(&mut d, "x0", 1_000);
    running(&mut d, "x1", 1_000);
    let version = |d: &Driver| d.state.flag("production", "x0").unwrap().flag_version;
    let before = version(&d);
    d.effects.clear();
    d.done(share("x0", 3_000));
    assert_eq!(slots(&d, "x0"), [(0, 1_000), (2_000, 2_000)]);
    assert!(version(&d) > before, "a decision made before it is stale");
    let flag = "x0".to_owned();
    assert!(d.effects.contains(&Effect::FlagChanged { environment: "production".to_owned(), flag }));
    let experiment = d.state.experiment("production", "x0").unwrap();
    assert_eq!(experiment.layer_share_basis_points, 3_000);
    assert!(experiment.cool_down_until.is_some(), "a person's command starts a cool-down");
    assert_eq!(experiment.allocation.unwrap().generation, 1);

    d.done(share("x0", 1_500));
    assert_eq!(slots(&d, "x0"), [(0, 1_000), (2_000, 500)]);
    let generation = |d: &Driver| d.state.flag("production", "x0").unwrap().allocation.unwrap().generation;
    assert_eq!(generation(&d), 2, "receipts of units that fell out no longer count");
    d.done(share("x0", 1_500));
    assert_eq!(generation(&d), 2);

    assert_eq!(refused(&mut d, share("x0", 9_001)).code, "LIMIT_REACHED");
    assert_eq!(refused(&mut d, share("x0", 0)).code, "INVALID_ARGUMENT");
    assert_eq!(refusal(d.command_as(agent(), share("x0", 2_000))).code, "NOT_PERMITTED");
    d.state.check().unwrap();
}

#[test]
fn a_drafts_share_is_what_its_start_takes_and_until_then_nobodys() {
    let mut d = furnished(&ids(2));
    running(&mut d, "x1", 9_000);
    d.done(create("x0", |experiment| {
        (experiment.layer, experiment.layer_share_basis_points) = ("page".to_owned(), 3_000);
    }));
    assert_eq!(refused(&mut d, start("x0")).code, "LIMIT_REACHED");
    let flag = |d: &Driver| d.state.flag("production", "x0").unwrap();
    let (before, etag) = (flag(&d), d.state.experiment("production", "x0").unwrap().etag);
    d.effects.clear();
    // More than is free, too: it may be by the time of the start.
    d.done(share("x0", 5_000));
    assert_eq!(refused(&mut d, start("x0")).code, "LIMIT_REACHED");
    d.done(share("x0", 1_000));
    let experiment = d.state.experiment("production", "x0").unwrap();
    assert_eq!(experiment.layer_share_basis_points, 1_000);
    assert!(experiment.etag != etag && experiment.cool_down_until.is_none());
    assert_eq!(flag(&d), before, "it serves nobody yet");
    assert!(!d.effects.iter().any(|effect| matches!(effect, Effect::FlagChanged { .. })));
    assert_eq!(d.state.layer("production", "page").unwrap().free_basis_points, 1_000);
    for bad in [0, 10_001] {
        assert_eq!(refused(&mut d, share("x0", bad)).code, "INVALID_ARGUMENT");
    }
    assert_eq!(refusal(d.command_as(agent(), share("x0", 500))).code, "NOT_PERMITTED");
    let old = log::SetLayerShare { name: name("x0"), basis_points: 9, etag };
    assert_eq!(d.refused(entry::Command::SetLayerShare(old)), "ETAG_MISMATCH");
    d.done(start("x0"));
    assert_eq!(slots(&d, "x0"), [(9_000, 1_000)]);
    d.state.check().unwrap();
    d.done(stop("x0"));
    assert_eq!(d.refused(share("x0", 500)), "WRONG_STATE");
}

#[test]
fn what_a_definition_names_must_be_there_and_stays_while_it_is_named() {
    let mut d = furnished(&ids(1));
    type Change = fn(&mut v1::Experiment);
    let cases: [(Change, &str, &str); 6] = [
        (|e| e.layer_share_basis_points = 5, "INVALID_ARGUMENT", "experiment.layer_share_basis_points"),
        (|e| e.layer = "page".to_owned(), "INVALID_ARGUMENT", "experiment.layer_share_basis_points"),
        (
            |e| (e.layer, e.layer_share_basis_points) = ("page".to_owned(), 10_001),
            "INVALID_ARGUMENT",
            "experiment.layer_share_basis_points",
        ),
        (|e| (e.layer, e.layer_share_basis_points) = ("gone".to_owned(), 1), "NOT_FOUND", "experiment.layer"),
        (|e| e.holdouts = vec!["gone".to_owned()], "NOT_FOUND", "experiment.holdouts[0]"),
        (|e| e.holdouts = vec!["x".to_owned(); 17], "INVALID_ARGUMENT", "experiment.holdouts"),
    ];
    for (change, code, field) in cases {
        let refusal = refused(&mut d, create("x0", change));
        assert_eq!((refusal.code.as_str(), refusal.field.as_str()), (code, field), "{}", refusal.message);
    }
    d.done(set_holdout(100, false));
    d.done(create("x0", |e| {
        (e.layer, e.layer_share_basis_points) = ("page".to_owned(), 1_000);
        e.holdouts = vec!["q3".to_owned()];
    }));
    let delete_layer =
        || entry::Command::DeleteLayer(log::DeleteLayer { name: LAYER.to_owned(), etag: String::new() });
    let delete_holdout = || {
        entry::Command::DeleteHoldout(log::DeleteHoldout { name: HOLDOUT.to_owned(), etag: String::new() })
    };
    for command in [delete_layer(), delete_holdout()] {
        let refusal = refused(&mut d, command);
        assert_eq!(refusal.code, "WRONG_STATE");
        assert!(refusal.message.contains("x0"), "{}", refusal.message);
    }
    d.done(start("x0"));
    d.done(stop("x0"));
    d.done(delete_layer());
    d.done(delete_holdout());
    assert!(d.state.layer("production", "page").is_none());
    assert_eq!(refused(&mut d, delete_layer()).code, "NOT_FOUND");
    // An etag of the one that was deleted does not fit the one that is made again.
    d.done(set_layer());
    let again = log::SetLayer {
        layer: Some(v1::Layer { name: LAYER.to_owned(), ..v1::Layer::default() }),
        etag: "l1".to_owned(),
    };
    assert_eq!(refused(&mut d, entry::Command::SetLayer(again)).code, "ETAG_MISMATCH");
}

#[test]
fn a_holdout_that_is_used_only_grows_and_a_person_grows_it() {
    let mut d = furnished(&ids(2));
    d.done(set_holdout(100, false));
    d.done(create("x0", |e| e.holdouts = vec!["q3".to_owned()]));
    d.done(create("x1", |_| {}));
    d.done(start("x0"));
    d.done(start("x1"));
    let held = |d: &Driver, id: &str| {
        let allocation = d.state.flag("production", id).unwrap().allocation.unwrap();
        allocation.holdouts.iter().map(|h| (h.holdout.clone(), h.basis_points)).collect::<Vec<_>>()
    };
    assert_eq!((held(&d, "x0"), held(&d, "x1")), (vec![("q3".to_owned(), 100)], vec![]));

    assert_eq!(refused(&mut d, set_holdout(99, false)).code, "WRONG_STATE");
    assert_eq!(refusal(d.command_as(agent(), set_holdout(200, false))).code, "NOT_PERMITTED");
    let version = |d: &Driver, id: &str| d.state.flag("production", id).unwrap().flag_version;
    let (first, second) = (version(&d, "x0"), version(&d, "x1"));
    d.done(set_holdout(200, false));
    assert_eq!(held(&d, "x0"), [("q3".to_owned(), 200)]);
    assert_eq!((version(&d, "x0"), version(&d, "x1")), (first + 1, second));
    assert_eq!(
        d.state.flag_history("production", "x0").unwrap().newest_first().next().unwrap().change,
        "holdout"
    );

    d.done(set_holdout(200, true));
    assert_eq!(held(&d, "x1"), [("q3".to_owned(), 200)]);
    assert_eq!((version(&d, "x0"), version(&d, "x1")), (first + 1, second + 1));
    assert_eq!(d.state.holdout("production", "q3").unwrap().experiments, [name("x0"), name("x1")]);
    assert_eq!(refused(&mut d, set_holdout(300, false)).code, "WRONG_STATE", "x1 would let everybody go");
    // A description alone changes nothing that is served, so an agent may write it.
    let mut described = d.state.holdout("production", "q3").unwrap();
    described.description = "the third quarter".to_owned();
    let command = log::SetHoldout { holdout: Some(described), etag: String::new() };
    done(d.command_as(agent(), entry::Command::SetHoldout(command)));
    assert_eq!(version(&d, "x0"), first + 1);
    d.done(stop("x1"));
    d.done(stop("x0"));
    d.done(set_holdout(50, false));
    d.state.check().unwrap();
}

#[test]
fn a_state_without_layers_has_the_sections_it_had_and_one_with_them_is_restored_whole() {
    let mut d = Driver::new();
    d.furnish();
    let names = |d: &Driver| d.state.sections().into_iter().map(|s| s.name).collect::<Vec<_>>();
    assert!(!names(&d).iter().any(|name| name == "layers" || name == "holdouts"));
    let mut d = furnished(&ids(2));
    d.done(set_holdout(100, true));
    running(&mut d, "x0", 3_000);
    assert!(names(&d).contains(&"layers".to_owned()) && names(&d).contains(&"holdouts".to_owned()));
    let mut restored = State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(restored.digest(), d.state.digest());
    assert_eq!(restored.layer("production", "page"), d.state.layer("production", "page"));
    // Who is in the layer is known again.
    std::mem::swap(&mut restored, &mut d.state);
    running(&mut d, "x1", 7_000);
    assert_eq!(slots(&d, "x1"), [(3_000, 7_000)]);
    // And a replay of the log is the same state.
    let mut replayed = State::new();
    for (at, bytes) in d.log.iter().enumerate() {
        replayed.apply(at as u64 + 1, bytes, &mut Vec::new()).unwrap();
    }
    assert_eq!(replayed.digest(), d.state.digest());
    assert!(done(d.command_as(human("bob"), share("x1", 6_000))).took_effect);
}

#[derive(Debug, Clone)]
enum Step {
    Start(u32),
    Stop(usize),
    Share(usize, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u32..4_000).prop_map(Step::Start),
        2 => (0usize..8).prop_map(Step::Stop),
        3 => (0usize..8, 1u32..6_000).prop_map(|(at, share)| Step::Share(at, share)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever starts, ends, grows and shrinks: no slot has two owners, and none changes hands while its owner keeps it.
    #[test]
    fn a_slot_has_one_owner_and_keeps_it(steps in proptest::collection::vec(step(), 1..24)) {
        let all = ids(24);
        let mut d = furnished(&all);
        let mut live: Vec<String> = Vec::new();
        let mut owners: BTreeMap<u32, String> = BTreeMap::new();
        for (at, step) in steps.into_iter().enumerate() {
            let mut let_go = None;
            match step {
                Step::Start(share) => {
                    d.done(create(&all[at], |e| {
                        (e.layer, e.layer_share_basis_points) = ("page".to_owned(), share);
                    }));
                    let reply = d.command(start(&all[at]));
                    if matches!(reply.result, Some(log::reply::Result::Done(_))) {
                        live.push(all[at].clone());
                    }
                }
                Step::Stop(nth) if nth < live.len() => {
                    let id = live.remove(nth);
                    d.done(stop(&id));
                    let_go = Some(id);
                }
                Step::Share(nth, basis_points) if nth < live.len() => {
                    let before: u32 = slots(&d, &live[nth]).iter().map(|(_, length)| length).sum();
                    d.command(share(&live[nth], basis_points));
                    if basis_points < before {
                        let_go = Some(live[nth].clone());
                    }
                }
                _ => {}
            }
            d.state.check().unwrap();
            let mut now: BTreeMap<u32, String> = BTreeMap::new();
            for id in &live {
                for (first, length) in slots(&d, id) {
                    for slot in first..first + length {
                        prop_assert!(now.insert(slot, id.clone()).is_none(), "slot {} twice", slot);
                    }
                }
            }
            for (slot, owner) in &owners {
                if let_go.as_ref() != Some(owner) {
                    prop_assert_eq!(now.get(slot), Some(owner), "slot {}", slot);
                }
            }
            let layer = d.state.layer("production", "page").unwrap();
            prop_assert_eq!(layer.free_basis_points as usize, 10_000 - now.len());
            owners = now;
        }
    }
}

#[test]
fn slots_of_an_experiment_are_what_the_snapshot_says() {
    let mut d = furnished(&ids(1));
    running(&mut d, "x0", 10_000);
    let allocation = d.state.flag("production", "x0").unwrap().allocation.unwrap();
    assert_eq!(allocation.slots, [SlotRange { start: 0, length: 10_000 }]);
}
