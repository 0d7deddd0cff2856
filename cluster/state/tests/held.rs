//! What stands while an experiment holds a flag, beyond the flag itself: what it rests on, what its environment shares, its
//! level; and what it does not hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, agent, batch, boolean_flag as flag, done, human, refusal, system};
use featureops_proto::log::{self, entry};
use featureops_proto::v1::decision::Status;
use featureops_proto::v1::{self, AutonomyLevel, Verdict};

const EXPERIMENT: &str = "environments/production/experiments/e";

fn set(flag: v1::Flag) -> entry::Command {
    entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() })
}

fn import(flag: v1::Flag) -> entry::Command {
    entry::Command::ImportFlags(log::ImportFlags {
        parent: "environments/production".to_owned(),
        flags: vec![flag],
        ..log::ImportFlags::default()
    })
}

fn stop(name: &str, serve: Option<&str>) -> entry::Command {
    entry::Command::StopExperiment(log::StopExperiment {
        name: format!("environments/production/experiments/{name}"),
        serve: serve.map(ToOwned::to_owned),
        etag: String::new(),
    })
}

fn resting_on(flag: v1::Flag, other: &str) -> v1::Flag {
    let prerequisite = v1::Prerequisite { flag: other.to_owned(), variants: vec!["off".to_owned()] };
    v1::Flag { prerequisites: vec![prerequisite], ..flag }
}

/// checkout, held, rests on cart, which rests on payments; payments asks about a segment.
fn chain() -> Driver {
    let mut d = Driver::new();
    d.furnish();
    d.done(set(flag("payments")));
    d.done(set(resting_on(flag("cart"), "payments")));
    d.done(set(flag("apart")));
    let checkout = d.state.flag("production", "checkout").unwrap();
    d.done(set(resting_on(checkout, "cart")));
    d.experiment("e", &[("off", true), ("on", true)]);
    d.start("e", AutonomyLevel::A4Bounded);
    d
}

#[test]
fn what_a_held_flag_rests_on_changes_by_a_person_alone() {
    let changed = |flag: v1::Flag| v1::Flag { default_variant: Some("on".to_owned()), ..flag };
    let commands = |flag: &v1::Flag| [set(flag.clone()), import(flag.clone())];
    let mut d = chain();
    let checkout = d.state.flag("production", "checkout").unwrap();
    let without = v1::Flag { prerequisites: Vec::new(), ..checkout };
    for flag in [without, changed(flag("payments")), changed(resting_on(flag("cart"), "payments"))] {
        for command in commands(&flag) {
            let refused = refusal(d.command_as(agent(), command));
            assert_eq!(refused.code, "NOT_PERMITTED", "{}: {}", flag.name, refused.message);
            assert!(
                refused.field == "principal" || refused.field.ends_with(".principal"),
                "{}",
                refused.field
            );
        }
    }
    // Words change nothing, nor does a flag that nobody held rests on.
    let described = v1::Flag { description: "pays".to_owned(), ..flag("payments") };
    done(d.command_as(agent(), set(described)));
    done(d.command_as(agent(), set(changed(flag("apart")))));
    d.done(set(changed(flag("payments"))));
    d.done(stop("e", None));
    done(d.command_as(agent(), set(flag("payments"))));
    d.state.check().unwrap();
}

#[test]
fn an_agent_starts_nothing_on_what_a_held_flag_rests_on() {
    let mut d = chain();
    d.done(entry::Command::CreateExperiment(log::CreateExperiment {
        experiment: Some(v1::Experiment {
            name: "environments/production/experiments/below".to_owned(),
            flag: "payments".to_owned(),
            arms: ["off", "on"].map(|v| v1::Arm { variant: v.to_owned(), established: false }).to_vec(),
            primary_metric: "conversion".to_owned(),
            ..v1::Experiment::default()
        }),
    }));
    let start = entry::Command::StartExperiment(log::StartExperiment {
        name: "environments/production/experiments/below".to_owned(),
        ..log::StartExperiment::default()
    });
    assert_eq!(refusal(d.command_as(agent(), start.clone())).code, "NOT_PERMITTED");
    d.done(start);
}

#[test]
fn a_segment_below_a_held_flag_and_what_the_environment_shares_take_a_person() {
    let segment = |country: &str| {
        let condition = v1::Condition {
            attribute: "country".to_owned(),
            operator: v1::condition::Operator::Equals as i32,
            values: vec![prost_types::Value {
                kind: Some(prost_types::value::Kind::StringValue(country.to_owned())),
            }],
        };
        let clauses = vec![v1::SegmentClause { conditions: vec![condition] }];
        let name = "environments/production/segments/s".to_owned();
        let segment = Some(v1::Segment { name, clauses, ..v1::Segment::default() });
        entry::Command::SetSegment(log::SetSegment { segment, etag: String::new() })
    };
    let mut d = chain();
    d.done(segment("DE"));
    let asks = v1::Condition {
        operator: v1::condition::Operator::InSegment as i32,
        values: vec![prost_types::Value {
            kind: Some(prost_types::value::Kind::StringValue("s".to_owned())),
        }],
        ..v1::Condition::default()
    };
    let serve = Some(v1::rule::Serve::Variant("on".to_owned()));
    let rule = v1::Rule { id: "r".to_owned(), conditions: vec![asks], serve };
    d.done(set(v1::Flag { rules: vec![rule], ..flag("payments") }));
    let refused = refusal(d.command_as(agent(), segment("FR")));
    assert_eq!(refused.code, "NOT_PERMITTED", "{}", refused.message);

    let environment = |change: &dyn Fn(&mut v1::Environment)| {
        let mut environment =
            v1::Environment { name: "environments/production".to_owned(), ..v1::Environment::default() };
        change(&mut environment);
        let environment = Some(environment);
        entry::Command::SetEnvironment(log::SetEnvironment { environment, etag: String::new() })
    };
    for command in [
        environment(&|e| e.source = "other".to_owned()),
        environment(&|e| e.metadata = Some(prost_types::Struct::default())),
    ] {
        assert_eq!(refusal(d.command_as(agent(), command.clone())).code, "NOT_PERMITTED");
    }
    done(d.command_as(agent(), environment(&|e| e.description = "words".to_owned())));
    let rules = environment(&|e| drop(e.evaluators.insert("r".to_owned(), "\"on\"".to_owned())));
    done(d.command_as(agent(), rules.clone()));
    d.done(set(v1::Flag { targeting: r#"{"$ref":"r"}"#.to_owned(), ..flag("payments") }));
    let others = environment(&|e| drop(e.evaluators.insert("r".to_owned(), "\"off\"".to_owned())));
    assert_eq!(refusal(d.command_as(agent(), others.clone())).code, "NOT_PERMITTED");
    d.done(others);
}

#[test]
fn a_schedule_writes_a_held_flags_forced_units_only_for_a_person() {
    let mut d = chain();
    for (author, expected) in
        [(agent(), v1::schedule::State::Failed), (human("ada"), v1::schedule::State::Done)]
    {
        let name = format!("environments/production/schedules/{}", author.id);
        let mut changed = d.state.flag("production", "checkout").unwrap();
        changed.forced.insert("qa-1".to_owned(), "on".to_owned());
        let due = prost_types::Timestamp { seconds: d.now_ms / 1_000 + 60, nanos: 0 };
        let change = v1::ScheduledChange { flag: Some(changed.clone()), ..Default::default() };
        let schedule = v1::Schedule {
            name: name.clone(),
            flag: "checkout".to_owned(),
            time: Some(due),
            action: Some(v1::schedule::Action::Change(change)),
            ..v1::Schedule::default()
        };
        let create = entry::Command::CreateSchedule(log::CreateSchedule { schedule: Some(schedule) });
        done(d.command_as(author.clone(), create));
        d.tick(61_000);
        let execute = log::ExecuteSchedule { name, flag: Some(changed), ..log::ExecuteSchedule::default() };
        done(d.command_as(system(), entry::Command::ExecuteSchedule(execute)));
        assert_eq!(d.state.schedule("production", &author.id).unwrap().state(), expected);
    }
}

#[test]
fn a_held_flag_keeps_its_type() {
    let mut d = chain();
    let text = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let held = d.state.flag("production", "checkout").unwrap();
    let variants = ["off", "on", "on2"].map(|name| (name.to_owned(), text(name))).into();
    let retyped = v1::Flag { r#type: v1::ValueType::String as i32, variants, ..held };
    for command in [set(retyped.clone()), import(v1::Flag { imported: true, ..retyped.clone() })] {
        let refused = refusal(d.command(command));
        assert_eq!(refused.code, "WRONG_STATE", "{}", refused.message);
        assert!(["flag.type", "flags.checkout.type"].contains(&refused.field.as_str()), "{}", refused.field);
    }
    d.done(stop("e", None));
    d.done(set(retyped));
}

#[test]
fn words_about_a_flag_overtake_no_proposal_and_rest_nothing() {
    let mut d = Driver::new();
    d.furnish();
    let number = d.experiment("e", &[("off", true), ("on", true)]);
    d.start("e", AutonomyLevel::A2Recommend);
    d.tick(500);
    let (stamp, decision) = d.reallocation(number, &[4_000, 6_000]);
    let proposed = done(d.submit(stamp, decision)).decision;
    let status = |d: &Driver| {
        let id = proposed.rsplit('/').next().unwrap().parse().unwrap();
        d.state.decision("production", id).unwrap().status()
    };
    let held = d.state.flag("production", "checkout").unwrap();
    let words = v1::Flag {
        description: "the button".to_owned(),
        tags: vec!["shop".to_owned()],
        owner: "checkout-team".to_owned(),
        purpose: v1::Purpose::Experiment as i32,
        ..held
    };
    done(d.command_as(agent(), set(words.clone())));
    assert_eq!(status(&d), Status::Proposed);
    assert_eq!(d.state.experiment("production", "e").unwrap().cool_down_until, None);
    d.done(set(v1::Flag { stale_after_seconds: 60, ..words }));
    assert_eq!(status(&d), Status::Superseded);
}

#[test]
fn a_draft_serves_nobody_when_it_is_stopped() {
    let mut d = Driver::new();
    d.running();
    d.experiment("draft", &[("off", true), ("on", true)]);
    let refused = refusal(d.command(stop("draft", Some("on"))));
    assert_eq!((refused.code.as_str(), refused.field.as_str()), ("WRONG_STATE", "serve"));
    assert_eq!(d.state.flag("production", "checkout").unwrap().default_variant.as_deref(), Some("off"));
    d.done(stop("draft", None));
    d.done(stop("e", Some("on")));
    assert_eq!(d.state.flag("production", "checkout").unwrap().default_variant.as_deref(), Some("on"));
}

#[test]
fn a_level_that_a_start_gave_ends_with_the_experiment() {
    let growth = |d: &Driver| d.state.flag("production", "checkout").unwrap().autonomy.unwrap().growth();
    let mut d = Driver::new();
    d.running();
    assert_eq!(growth(&d), AutonomyLevel::A4Bounded);
    d.done(entry::Command::PauseExperiment(log::PauseExperiment {
        name: EXPERIMENT.to_owned(),
        etag: String::new(),
    }));
    d.start("e", AutonomyLevel::A5Autopilot);
    let restored = featureops_state::State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(restored.digest(), d.state.digest());
    d.state = restored;
    d.done(stop("e", None));
    assert_eq!(growth(&d), AutonomyLevel::A2Recommend);
    let told = d.state.audit(0, 1_000);
    let told = told.iter().find(|record| record.action == "flag.restore_autonomy").unwrap();
    assert!(told.detail.starts_with("growth autonomy A5_AUTOPILOT -> A2_RECOMMEND"), "{}", told.detail);

    // What a person said of the flag itself, meanwhile, stays.
    let mut d = Driver::new();
    d.running();
    let autonomy = Some(v1::AutonomyLevels { growth: AutonomyLevel::A3Guarded as i32, protection: 0 });
    let name = "environments/production/flags/checkout".to_owned();
    d.done(entry::Command::SetFlagAutonomy(log::SetFlagAutonomy { name, autonomy }));
    d.done(stop("e", None));
    assert_eq!(growth(&d), AutonomyLevel::A3Guarded);
}

#[test]
fn an_outcome_joins_no_experiment_that_started_behind_it() {
    let mut d = Driver::new();
    d.running();
    let metric = d.metric("conversion");
    let outcome = |sequence| {
        let mut facts = batch("y", sequence);
        facts.outcomes.push(log::OutcomeFact { metric, unit_hash: 9, value: 1, ..Default::default() });
        facts
    };
    let reply = d.ingest(vec![outcome(1)]);
    assert_eq!(reply[0].verdicts[0].verdict, Verdict::Waiting as i32);
    d.done(stop("e", None));
    // In the same tick, and so in the same minute.
    let later = d.experiment("later", &[("off", true), ("on", true)]);
    d.start("later", AutonomyLevel::A2Recommend);
    let restored = featureops_state::State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(restored.digest(), d.state.digest());
    d.state = restored;
    d.ingest(vec![outcome(2)]);
    let mut facts = batch("x", 1);
    facts.exposures.push(log::ExposureFact { experiment: later, unit_hash: 9, arm: 1, ..Default::default() });
    d.ingest(vec![facts]);
    let view = d.state.experiment_view("production", "later").unwrap();
    assert_eq!(
        view.arms[1].sums[0], 1,
        "the outcome that came after the start waited for it, the other did not"
    );
    assert_eq!(view.verdicts.get("COUNTED"), Some(&2), "one exposure, one outcome: {:?}", view.verdicts);
}

#[test]
fn numbers_that_stand_for_nothing_are_kept_nowhere() {
    let mut d = chain();
    let fresh = || flag("fresh");
    let metric = |change: &dyn Fn(&mut v1::Metric)| {
        let mut metric = d.state.metric("production", "conversion").unwrap();
        metric.name = "environments/production/metrics/fresh".to_owned();
        change(&mut metric);
        entry::Command::SetMetric(log::SetMetric { metric: Some(metric), etag: String::new() })
    };
    let levels = |growth, protection| Some(v1::AutonomyLevels { growth, protection });
    let autonomy = |autonomy| {
        let name = flag("checkout").name;
        entry::Command::SetFlagAutonomy(log::SetFlagAutonomy { name, autonomy })
    };
    let oversight = |oversight: v1::Oversight| {
        let name = "environments/production/oversight".to_owned();
        let oversight = Some(v1::Oversight { name, ..oversight });
        entry::Command::SetOversight(log::SetOversight { oversight, etag: String::new() })
    };
    let scheduled = {
        let change = v1::Flag { purpose: 99, name: String::new(), ..flag("apart") };
        let change = v1::ScheduledChange { flag: Some(change), ..Default::default() };
        entry::Command::CreateSchedule(log::CreateSchedule {
            schedule: Some(v1::Schedule {
                name: "environments/production/schedules/s".to_owned(),
                flag: "apart".to_owned(),
                time: Some(prost_types::Timestamp { seconds: d.now_ms / 1_000 + 60, nanos: 0 }),
                action: Some(v1::schedule::Action::Change(change)),
                ..v1::Schedule::default()
            }),
        })
    };
    let experiment = v1::Experiment {
        name: "environments/production/experiments/fresh".to_owned(),
        number: 0,
        policy: 99,
        ..d.state.experiment("production", "e").unwrap()
    };
    let environment = v1::Environment {
        name: "environments/production".to_owned(),
        fractional: 99,
        ..v1::Environment::default()
    };
    let limited = |limits| oversight(v1::Oversight { limits, ..v1::Oversight::default() });
    let commands = [
        ("flag.type", set(v1::Flag { r#type: 99, ..fresh() })),
        ("flag.purpose", set(v1::Flag { purpose: 99, ..fresh() })),
        ("flags.fresh.type", import(v1::Flag { r#type: 99, imported: true, ..fresh() })),
        ("flags.fresh.purpose", import(v1::Flag { purpose: -1, imported: true, ..fresh() })),
        ("schedule.change.flag.purpose", scheduled),
        ("metric.kind", metric(&|m| m.kind = 99)),
        ("metric.direction", metric(&|m| m.direction = 99)),
        ("metric.late_rule", metric(&|m| m.late_rule = 99)),
        (
            "experiment.policy",
            entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) }),
        ),
        (
            "environment.fractional",
            entry::Command::SetEnvironment(log::SetEnvironment {
                environment: Some(environment),
                etag: String::new(),
            }),
        ),
        (
            "autonomy",
            entry::Command::StartExperiment(log::StartExperiment {
                name: EXPERIMENT.to_owned(),
                autonomy: 99,
                etag: String::new(),
            }),
        ),
        ("autonomy.growth", autonomy(levels(99, 0))),
        ("autonomy.protection", autonomy(levels(0, 99))),
        ("oversight.limits.growth", limited(levels(99, 0))),
        ("oversight.limits.protection", limited(levels(0, 99))),
        (
            "oversight.action_limits[trip]",
            oversight(v1::Oversight {
                action_limits: [("trip".to_owned(), 99)].into(),
                ..v1::Oversight::default()
            }),
        ),
    ];
    for (field, command) in commands {
        let refused = refusal(d.command(command));
        assert_eq!(
            (refused.code.as_str(), refused.field.as_str()),
            ("INVALID_ARGUMENT", field),
            "{}",
            refused.message
        );
        let shown = refused.value.contains("99") || refused.value == "-1";
        assert!(shown, "{field}: {}", refused.value);
    }
}
