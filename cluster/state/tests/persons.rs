//! What takes a person: the same commands by a person, an agent and the system, side by side; and what a person's
//! command may not break either.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, agent, done, human, refusal, system};
use featureops_proto::log::{self, entry, resolve_decision::Resolution};
use featureops_proto::v1::decision::Status;
use featureops_proto::v1::{self, AutonomyLevel, AutonomyLevels};
use featureops_state::State;

const FLAG: &str = "environments/production/flags/checkout";
const EXPERIMENT: &str = "environments/production/experiments/e";

fn budget(basis_points: u32) -> entry::Command {
    entry::Command::SetOversight(log::SetOversight {
        oversight: Some(v1::Oversight {
            name: "environments/production/oversight".to_owned(),
            new_arm_budget_basis_points: Some(basis_points),
            ..v1::Oversight::default()
        }),
        etag: String::new(),
    })
}

fn new_experiment(change: impl Fn(&mut v1::Experiment)) -> entry::Command {
    let arm = |variant: &str| v1::Arm { variant: variant.to_owned(), established: false };
    let mut experiment = v1::Experiment {
        name: "environments/production/experiments/n".to_owned(),
        flag: "checkout".to_owned(),
        arms: vec![arm("off"), arm("on")],
        primary_metric: "conversion".to_owned(),
        ..v1::Experiment::default()
    };
    change(&mut experiment);
    entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) })
}

#[test]
fn what_loosens_a_bound_takes_a_person() {
    let levels = |growth: AutonomyLevel, protection: AutonomyLevel| {
        let autonomy = Some(AutonomyLevels { growth: growth as i32, protection: protection as i32 });
        entry::Command::SetFlagAutonomy(log::SetFlagAutonomy { name: FLAG.to_owned(), autonomy })
    };
    let commands: Vec<(&str, entry::Command)> = vec![
        (
            "set allocation",
            entry::Command::SetAllocation(log::SetAllocation {
                name: EXPERIMENT.to_owned(),
                weights_basis_points: vec![6_000, 4_000],
                etag: String::new(),
            }),
        ),
        (
            "promote by stopping",
            entry::Command::StopExperiment(log::StopExperiment {
                name: EXPERIMENT.to_owned(),
                serve: Some("on".to_owned()),
                etag: String::new(),
            }),
        ),
        (
            "stop",
            entry::Command::StopExperiment(log::StopExperiment {
                name: EXPERIMENT.to_owned(),
                ..log::StopExperiment::default()
            }),
        ),
        ("another control", new_experiment(|e| e.arms.reverse())),
        ("establish", new_experiment(|e| e.arms[1].established = true)),
        ("raise the cap", new_experiment(|e| e.new_arm_cap_basis_points = Some(10_000))),
        ("shorten the cool-down", new_experiment(|e| e.cool_down_seconds = Some(0))),
        ("raise growth", levels(AutonomyLevel::A5Autopilot, AutonomyLevel::A3Guarded)),
        ("lower protection", levels(AutonomyLevel::A2Recommend, AutonomyLevel::A0Off)),
        ("oversight", budget(5_000)),
        ("trip", entry::Command::TripFlag(log::TripFlag { name: FLAG.to_owned(), ..Default::default() })),
    ];
    for (what, command) in commands {
        for (who, allowed) in [(agent(), false), (system(), false), (human("ada"), true)] {
            let mut d = Driver::new();
            d.running();
            let reply = d.command_as(who, command.clone());
            if allowed {
                done(reply);
            } else {
                assert_eq!(refusal(reply).code, "NOT_PERMITTED", "{what}");
            }
            d.state.check().unwrap();
        }
    }
}

#[test]
fn an_agent_may_not_start_what_was_paused_nor_inherit_a_grant() {
    let start = |autonomy: AutonomyLevel| {
        entry::Command::StartExperiment(log::StartExperiment {
            name: EXPERIMENT.to_owned(),
            autonomy: autonomy as i32,
            etag: String::new(),
        })
    };
    let mut d = Driver::new();
    d.running();
    d.done(entry::Command::PauseExperiment(log::PauseExperiment {
        name: EXPERIMENT.to_owned(),
        etag: String::new(),
    }));
    assert_eq!(refusal(d.command_as(agent(), start(AutonomyLevel::Unspecified))).code, "NOT_PERMITTED");

    let mut d = Driver::new();
    d.furnish();
    d.experiment("e", &[("off", true), ("on", true)]);
    let autonomy = Some(AutonomyLevels { growth: AutonomyLevel::A4Bounded as i32, protection: 0 });
    d.done(entry::Command::SetFlagAutonomy(log::SetFlagAutonomy { name: FLAG.to_owned(), autonomy }));
    assert_eq!(refusal(d.command_as(agent(), start(AutonomyLevel::Unspecified))).code, "NOT_PERMITTED");
    done(d.command_as(agent(), start(AutonomyLevel::A2Recommend)));
}

/// Everything that changes what a flag serves, by its name.
fn changes(flag: &v1::Flag) -> Vec<(&'static str, v1::Flag)> {
    let with = |change: &dyn Fn(&mut v1::Flag)| {
        let mut changed = flag.clone();
        change(&mut changed);
        changed
    };
    let on = flag.variants["on"].clone();
    vec![
        ("value of control", with(&|f| drop(f.variants.insert("off".to_owned(), on.clone())))),
        ("another variant", with(&|f| drop(f.variants.insert("on3".to_owned(), on.clone())))),
        ("rules", with(&|f| f.rules.push(v1::Rule::default()))),
        ("targeting", with(&|f| f.targeting = "\"on\"".to_owned())),
        ("default", with(&|f| f.default_variant = Some("on".to_owned()))),
        ("safe", with(&|f| f.safe_variant = Some("on".to_owned()))),
        ("disabled", with(&|f| f.disabled = true)),
        ("stale after", with(&|f| f.stale_after_seconds = 1)),
        ("forced", with(&|f| drop(f.forced.insert("qa-1".to_owned(), "on".to_owned())))),
        ("who sees it", with(&|f| f.metadata = Some(prost_types::Struct::default()))),
    ]
}

#[test]
fn what_a_held_flag_serves_changes_by_a_person_alone_on_every_path() {
    let set =
        |flag: v1::Flag| entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() });
    let import = |flag: v1::Flag| {
        entry::Command::ImportFlags(log::ImportFlags {
            parent: "environments/production".to_owned(),
            flags: vec![flag],
            ..log::ImportFlags::default()
        })
    };
    let mut d = Driver::new();
    d.furnish();
    let before = d.state.flag("production", "checkout").unwrap();
    for (what, changed) in changes(&before) {
        let mut d = Driver::new();
        d.furnish();
        // Version 2 serves otherwise; version 3 is what the experiment starts from.
        d.done(set(changed.clone()));
        d.done(set(before.clone()));
        let revert = entry::Command::RevertFlag(log::RevertFlag {
            name: FLAG.to_owned(),
            to_version: 2,
            ..log::RevertFlag::default()
        });
        d.experiment("e", &[("off", true), ("on", true)]);
        d.start("e", AutonomyLevel::A4Bounded);
        for command in [set(changed.clone()), import(changed.clone()), revert] {
            for who in [agent(), system()] {
                let refused = refusal(d.command_as(who, command.clone()));
                assert_eq!(refused.code, "NOT_PERMITTED", "{what}");
                assert!(refused.message.contains("act as human:"), "{}", refused.message);
                assert!(["agent:bot", "system:owner"].contains(&refused.value.as_str()), "{}", refused.value);
            }
        }
        done(d.command_as(agent(), set(v1::Flag { description: what.to_owned(), ..before.clone() })));
        d.done(set(changed));
        d.state.check().unwrap();
    }
}

#[test]
fn a_promotion_leaves_a_held_flag_alone_also_a_persons() {
    let mut d = Driver::new();
    d.running();
    let before = d.state.flag("production", "checkout").unwrap();
    let promote = |flag: v1::Flag| {
        entry::Command::ImportFlags(log::ImportFlags {
            parent: "environments/production".to_owned(),
            promoted_from: "environments/staging".to_owned(),
            flags: vec![flag],
            ..log::ImportFlags::default()
        })
    };
    for (what, changed) in changes(&before) {
        let refused = refusal(d.command(promote(changed)));
        assert_eq!(
            (refused.code.as_str(), refused.field.as_str()),
            ("WRONG_STATE", "flags.checkout"),
            "{what}"
        );
        assert!(refused.message.contains("stop that first"), "{}", refused.message);
    }
    // As it is, it is no change.
    d.done(promote(before.clone()));
    assert_eq!(d.state.flag("production", "checkout"), Some(before));
    let record = d.state.audit(0, 1).remove(0);
    assert_eq!(
        (record.action.as_str(), record.resource.as_str()),
        ("flag.promote", "environments/production")
    );
    assert!(record.detail.starts_with("from environments/staging: 0 changed"), "{}", record.detail);
}

#[test]
fn a_shared_rule_of_a_held_flag_changes_by_a_person_alone() {
    let shared = |rule: &str| {
        entry::Command::SetEnvironment(log::SetEnvironment {
            environment: Some(v1::Environment {
                name: "environments/production".to_owned(),
                evaluators: [("vip".to_owned(), rule.to_owned())].into(),
                ..v1::Environment::default()
            }),
            ..log::SetEnvironment::default()
        })
    };
    let mut d = Driver::new();
    d.furnish();
    let flag = d.state.flag("production", "checkout").unwrap();
    let targeting = r#"{"if": [{"$ref": "vip"}, "on"]}"#.to_owned();
    d.done(entry::Command::SetFlag(log::SetFlag {
        flag: Some(v1::Flag { targeting, ..flag }),
        etag: String::new(),
    }));
    done(d.command_as(agent(), shared("false")));
    d.experiment("e", &[("off", true), ("on", true)]);
    d.start("e", AutonomyLevel::A2Recommend);
    assert_eq!(refusal(d.command_as(agent(), shared("true"))).code, "NOT_PERMITTED");
    done(d.command_as(agent(), shared("false")));
    d.done(shared("true"));
}

#[test]
fn an_agent_starts_only_from_what_is_served_by_default() {
    let start = entry::Command::StartExperiment(log::StartExperiment {
        name: "environments/production/experiments/n".to_owned(),
        ..log::StartExperiment::default()
    });
    let mut d = Driver::new();
    d.furnish();
    done(d.command_as(agent(), new_experiment(|_| {})));
    // The default moved between: the draft's control is no longer it.
    let flag = d.state.flag("production", "checkout").unwrap();
    let moved = v1::Flag { default_variant: Some("on".to_owned()), ..flag };
    d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(moved), etag: String::new() }));
    assert_eq!(refusal(d.command_as(agent(), start.clone())).code, "NOT_PERMITTED");
    d.done(start);
}

#[test]
fn a_tripped_flag_keeps_what_it_serves() {
    let mut d = Driver::new();
    d.running();
    d.done(entry::Command::TripFlag(log::TripFlag { name: FLAG.to_owned(), ..Default::default() }));
    let flag = d.state.flag("production", "checkout").unwrap();
    let other = v1::Flag { safe_variant: Some("on".to_owned()), ..flag.clone() };
    let mut revalued = flag.clone();
    let on = revalued.variants["on"].clone();
    revalued.variants.insert("off".to_owned(), on);
    for changed in [other, revalued] {
        let set = entry::Command::SetFlag(log::SetFlag { flag: Some(changed), etag: String::new() });
        assert_eq!(refusal(d.command_as(agent(), set)).code, "NOT_PERMITTED");
    }
    let described = v1::Flag { description: "more words".to_owned(), ..flag };
    done(d.command_as(
        agent(),
        entry::Command::SetFlag(log::SetFlag { flag: Some(described), etag: String::new() }),
    ));
    let archive =
        entry::Command::ArchiveFlag(log::ArchiveFlag { name: FLAG.to_owned(), etag: String::new() });
    assert_eq!(d.refused(archive), "TRIPPED");
}

#[test]
fn a_revert_that_would_break_a_newer_bound_is_refused_and_stops_nothing() {
    let mut d = Driver::new();
    d.furnish();
    let e = d.experiment("e", &[("off", true), ("on", false), ("on2", false)]);
    d.start("e", AutonomyLevel::A4Bounded);
    d.tick(500);
    let (stamp, decision) = d.reallocation(e, &[9_000, 500, 500]);
    done(d.submit(stamp, decision));
    d.done(budget(1_000));
    let name = d.state.decisions("production", "", 0, 1, Status::Unspecified).remove(0).name;
    let revert = |name: &str| {
        entry::Command::ResolveDecision(log::ResolveDecision {
            name: name.to_owned(),
            resolution: Resolution::Revert as i32,
            note: String::new(),
        })
    };
    assert_eq!(d.refused(revert(&name)), "OVER_CAP");
    d.done(entry::Command::TripFlag(log::TripFlag { name: FLAG.to_owned(), ..Default::default() }));
    d.done(entry::Command::ResumeFlag(log::ResumeFlag { name: FLAG.to_owned(), reason: String::new() }));
    assert_eq!(d.refused(revert(&name)), "STALE_DECISION", "its generation is closed");
    d.state.check().unwrap();
}

#[test]
fn reverting_takes_back_what_followed_but_not_what_a_person_set() {
    let mut d = Driver::new();
    let e = d.running();
    let mut names = Vec::new();
    for weights in [[4_000, 6_000], [3_000, 7_000], [2_000, 8_000]] {
        d.tick(2_000);
        let (stamp, decision) = d.reallocation(e, &weights);
        names.push(done(d.submit(stamp, decision)).decision);
    }
    let revert = |name: &str| {
        entry::Command::ResolveDecision(log::ResolveDecision {
            name: name.to_owned(),
            resolution: Resolution::Revert as i32,
            note: String::new(),
        })
    };
    d.done(revert(&names[1]));
    let status = |d: &Driver, at: usize| {
        d.state.decisions("production", "checkout", 0, 9, Status::Unspecified)[at].status()
    };
    assert_eq!(
        [status(&d, 0), status(&d, 1), status(&d, 2)],
        [Status::Reverted, Status::Reverted, Status::Applied]
    );
    let weights = d.state.experiment("production", "e").unwrap().allocation.unwrap().weights_basis_points;
    assert_eq!(weights, [4_000, 6_000]);
    assert_eq!(d.refused(revert(&names[0])), "STALE_DECISION", "a person decided since");
}

#[test]
fn resuming_keeps_a_pause_and_an_old_trip_cannot_lift_a_new_one() {
    let mut d = Driver::new();
    d.running();
    d.done(entry::Command::PauseExperiment(log::PauseExperiment {
        name: EXPERIMENT.to_owned(),
        etag: String::new(),
    }));
    let alarm = |source: &str| {
        entry::Command::TripFlag(log::TripFlag {
            name: FLAG.to_owned(),
            reason: "errors".to_owned(),
            alarm: true,
            source: source.to_owned(),
        })
    };
    let first = done(d.command_as(system(), alarm("pager"))).decision;
    d.done(entry::Command::ResumeFlag(log::ResumeFlag { name: FLAG.to_owned(), reason: String::new() }));
    assert_eq!(d.state.experiment("production", "e").unwrap().state(), v1::experiment::State::Paused);
    d.done(entry::Command::TripFlag(log::TripFlag { name: FLAG.to_owned(), ..Default::default() }));
    let revert = entry::Command::ResolveDecision(log::ResolveDecision {
        name: first,
        resolution: Resolution::Revert as i32,
        note: String::new(),
    });
    assert_eq!(d.refused(revert), "STALE_DECISION");
}

#[test]
fn an_alarm_without_an_experiment_can_be_approved_and_does_not_flood_the_ledger() {
    let mut d = Driver::new();
    d.furnish();
    let autonomy = Some(AutonomyLevels { growth: 0, protection: AutonomyLevel::A2Recommend as i32 });
    d.done(entry::Command::SetFlagAutonomy(log::SetFlagAutonomy { name: FLAG.to_owned(), autonomy }));
    let alarm = entry::Command::TripFlag(log::TripFlag {
        name: FLAG.to_owned(),
        reason: "errors".to_owned(),
        alarm: true,
        source: "pager".to_owned(),
    });
    let first = done(d.command_as(system(), alarm.clone())).decision;
    for _ in 0..50 {
        assert_eq!(done(d.command_as(system(), alarm.clone())).decision, first);
    }
    d.done(entry::Command::ResolveDecision(log::ResolveDecision {
        name: first,
        resolution: Resolution::Approve as i32,
        note: String::new(),
    }));
    assert!(d.state.flag("production", "checkout").unwrap().trip.is_some());
}

#[test]
fn an_ended_experiment_lets_its_rows_go_and_restores_alike() {
    let mut d = Driver::new();
    let e = d.running();
    let minute = d.minute();
    let mut facts = driver::batch("p", 1);
    for unit in 0..100u64 {
        let unit_hash = unit.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        facts.exposures.push(log::ExposureFact { experiment: e, unit_hash, minute, ..Default::default() });
    }
    d.ingest(vec![facts]);
    let bytes = d.state.experiment_view("production", "e").unwrap().bytes;
    d.done(entry::Command::StopExperiment(log::StopExperiment {
        name: EXPERIMENT.to_owned(),
        ..Default::default()
    }));
    let metric = d.state.metric("production", "revenue").unwrap();
    let changed = v1::Metric { attribution_window_seconds: 60, ..metric };
    let set = entry::Command::SetMetric(log::SetMetric { metric: Some(changed), etag: String::new() });
    assert_eq!(d.refused(set.clone()), "WRONG_STATE", "its window is open");
    // A window of an hour, and 72 h for what comes late: what a window holds counts until then, and by a tick it is over.
    let revenue = d.metric("revenue");
    let outcome = |event_minute| log::OutcomeFact {
        metric: revenue,
        unit_hash: 0,
        value: 5,
        minute: event_minute,
        ..Default::default()
    };
    for (sequence, (minutes, counted)) in (1..).zip([(120, 1), (60 * 60, 1), (645, 0)]) {
        d.tick(minutes * 60_000);
        let mut late = driver::batch("late", sequence);
        late.outcomes = vec![outcome(minute + 30)];
        let before = d.state.experiment_view("production", "e").unwrap();
        assert_eq!(d.ingest(vec![late])[0].counted, counted, "{minutes}");
        assert_eq!(before.entries, u64::from(minutes != 120), "{minutes}: its rows are here");
        let restored = State::from_sections(&d.state.sections()).unwrap();
        assert_eq!(restored.digest(), d.state.digest(), "{minutes}");
        d.state = restored;
        assert_eq!(d.refused(set.clone()), "WRONG_STATE", "{minutes}: it counts");
    }
    d.tick(20 * 60_000);
    d.done(set);
    assert_eq!(d.state.experiment_view("production", "e").unwrap().entries, 0);
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.rows, view.arms[0].units), (100, 100));
    assert!(view.bytes < bytes, "{} < {bytes}", view.bytes);
    d.state.check().unwrap();
}

#[test]
fn an_owner_is_called_again_after_its_pace_without_a_new_fact() {
    use featureops_state::Effect;
    let mut d = Driver::new();
    let e = d.running();
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    done(d.submit(stamp, decision));
    d.effects.clear();
    d.tick(500);
    d.tick(1_500);
    assert!(d.effects.iter().filter(|effect| matches!(effect, Effect::Frozen { .. })).count() >= 2);
    d.tick(2_000);
    d.effects.clear();
    d.tick(500);
    assert!(!d.effects.iter().any(|effect| matches!(effect, Effect::Frozen { .. })), "then it rests");
}

#[test]
fn an_owner_whose_promotion_waits_for_a_person_is_called_again() {
    use featureops_state::Effect;
    let mut d = Driver::new();
    let e = d.running();
    let (stamp, mut decision) = d.reallocation(e, &[]);
    decision.action = v1::decision::Action::Promote as i32;
    decision.variant = "on".to_owned();
    assert!(!done(d.submit(stamp, decision)).took_effect);
    d.tick(500);
    d.effects.clear();
    d.tick(1_000);
    assert!(d.effects.iter().any(|effect| matches!(effect, Effect::Frozen { .. })));
}
