//! Prerequisites and forced units, case by case: what stands over what, what an explanation says, and that an evaluation
//! ends whatever a snapshot holds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail")]

mod generated;

use featureops_evaluation::{Context, Snapshot, bucket_of, check, compile, evaluate, explain};
use featureops_proto::v1::{self, Flag, Reason, rule::Serve};
use generated::{ENVIRONMENT, EXPERIMENT, unit};
use prost_types::Value;

/// Serves "on" to everybody.
fn flag(id: &str) -> Flag {
    Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{id}"),
        r#type: v1::ValueType::String.into(),
        variants: ["off", "on"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("off".to_owned()),
        safe_variant: Some("off".to_owned()),
        rules: vec![v1::Rule {
            id: "all".to_owned(),
            serve: Some(Serve::Variant("on".to_owned())),
            ..v1::Rule::default()
        }],
        ..Flag::default()
    }
}

fn needs(other: &str, variants: &[&str]) -> v1::Prerequisite {
    let variants = variants.iter().map(|variant| (*variant).to_owned()).collect();
    v1::Prerequisite { flag: other.to_owned(), variants }
}

fn resting(id: &str, prerequisites: &[v1::Prerequisite]) -> Flag {
    Flag { prerequisites: prerequisites.to_vec(), ..flag(id) }
}

fn snapshot(flags: &[Flag]) -> Snapshot {
    let environment = v1::Environment::default();
    Snapshot::empty().apply(flags.iter().map(|flag| compile(flag, &environment).unwrap()), 1, 0)
}

/// Variant and reason of "a" for ada, a minute after the last log time.
fn served(flags: &[Flag]) -> (Option<String>, Reason) {
    let (snapshot, ada) = (snapshot(flags), unit("ada"));
    let evaluation = evaluate(&snapshot, ENVIRONMENT, "a", &Context::new(&ada), 60_000);
    (evaluation.variant.map(str::to_owned), evaluation.reason)
}

fn on(reason: Reason) -> (Option<String>, Reason) {
    (Some("on".to_owned()), reason)
}

fn off(reason: Reason) -> (Option<String>, Reason) {
    (Some("off".to_owned()), reason)
}

#[test]
fn a_flag_is_served_its_rules_when_all_others_serve_what_it_names() {
    let a = resting("a", &[needs("b", &["on"]), needs("c", &["maybe", "on"])]);
    assert_eq!(served(&[a.clone(), flag("b"), flag("c")]), on(Reason::TargetingMatch));
    let quiet = |id: &str| Flag { rules: vec![], ..flag(id) };
    assert_eq!(served(&[a.clone(), flag("b"), quiet("c")]), off(Reason::Default));
    assert_eq!(served(&[a.clone(), flag("b")]), off(Reason::Default), "unknown");
    for (other, what) in [
        (Flag { archived: true, ..flag("c") }, "archived"),
        (Flag { disabled: true, ..flag("c") }, "disabled"),
        (Flag { trip: Some(v1::Trip::default()), ..flag("c") }, "its safe variant is another"),
        (Flag { stale_after_seconds: 10, ..flag("c") }, "stale"),
        (Flag { forced: [("ada".to_owned(), "off".to_owned())].into(), ..flag("c") }, "forced"),
        (resting("c", &[needs("d", &["on"])]), "its own prerequisite does not hold"),
    ] {
        assert_eq!(served(&[a.clone(), flag("b"), other, quiet("d")]), off(Reason::Default), "{what}");
    }
    // The safe variant of a tripped flag is what those see that rest on it.
    let tripped = Flag {
        trip: Some(v1::Trip::default()),
        safe_variant: Some("on".to_owned()),
        disabled: true,
        ..quiet("c")
    };
    assert_eq!(served(&[a, flag("b"), tripped]), on(Reason::TargetingMatch));
}

#[test]
fn state_and_forced_units_stand_over_prerequisites_and_these_over_all_else() {
    let failing = resting("a", &[needs("b", &["on"])]);
    let b = Flag { rules: vec![], ..flag("b") };
    let served = |a: Flag| served(&[a, b.clone()]);
    let forced = |a: &Flag| Flag { forced: [("ada".to_owned(), "on".to_owned())].into(), ..a.clone() };
    assert_eq!(served(failing.clone()), off(Reason::Default));
    assert_eq!(served(forced(&failing)), on(Reason::TargetingMatch));
    assert_eq!(served(Flag { default_variant: None, ..failing.clone() }), (None, Reason::Default));
    // Never STATIC: it changes with another flag.
    let constant = Flag { rules: vec![], ..failing.clone() };
    assert_eq!(served(constant.clone()), off(Reason::Default));
    assert_eq!(served(Flag { prerequisites: vec![], ..constant }), off(Reason::Static));
    for (a, expected) in [
        (Flag { archived: true, ..failing.clone() }, (None, Reason::Error)),
        (Flag { trip: Some(v1::Trip::default()), ..failing.clone() }, off(Reason::Tripped)),
        (Flag { stale_after_seconds: 10, ..failing.clone() }, off(Reason::Stale)),
        (Flag { disabled: true, ..failing.clone() }, (None, Reason::Disabled)),
        (Flag { targeting: "\"on\"".to_owned(), rules: vec![], ..failing }, off(Reason::Default)),
    ] {
        assert_eq!(served(a.clone()), expected);
        if expected.1 != Reason::Default {
            assert_eq!(served(forced(&a)), expected);
        }
    }
}

fn experiment(id: &str) -> Flag {
    Flag {
        rules: vec![],
        allocation: Some(v1::Allocation {
            generation: 1,
            allocation_version: 1,
            runs: [(0, 5_000), (1, 5_000)].map(|(arm, length)| v1::Run { arm, length }).into(),
            weights_basis_points: vec![5_000, 5_000],
            variants: vec!["off".to_owned(), "on".to_owned()],
            experiment_number: EXPERIMENT,
            ..v1::Allocation::default()
        }),
        ..flag(id)
    }
}

#[test]
fn an_arm_is_looked_at_and_not_shown() {
    let snapshot = snapshot(&[resting("a", &[needs("b", &["on"])]), experiment("b")]);
    for name in ["ada", "bob", "eve", "dan", "kim"] {
        let attributes = unit(name);
        let evaluation = evaluate(&snapshot, ENVIRONMENT, "a", &Context::new(&attributes), 0);
        let expected = if bucket_of("b", name) < 5_000 { "off" } else { "on" };
        assert_eq!((evaluation.variant, evaluation.assignment), (Some(expected), None), "{name}");
    }
}

#[test]
fn a_forced_unit_is_no_part_of_the_experiment() {
    let qa = Flag { forced: [("ada".to_owned(), "on".to_owned())].into(), ..experiment("a") };
    let snapshot = snapshot(&[qa]);
    let (ada, bob) = (unit("ada"), unit("bob"));
    let forced = evaluate(&snapshot, ENVIRONMENT, "a", &Context::new(&ada), 0);
    assert_eq!((forced.variant, forced.reason), (Some("on"), Reason::TargetingMatch));
    assert_eq!((forced.assignment, forced.bucket), (None, None));
    let other = evaluate(&snapshot, ENVIRONMENT, "a", &Context::new(&bob), 0);
    assert!(other.assignment.is_some() && other.reason == Reason::Split);
    let steps = explain(&snapshot, ENVIRONMENT, "a", &Context::new(&ada), 0).steps;
    assert_eq!(steps[1].subject, "forced");
}

#[test]
fn an_explanation_names_each_prerequisite() {
    let flags = [resting("a", &[needs("b", &["on"]), needs("c", &["x", "y"])]), flag("b"), flag("c")];
    let snapshot = snapshot(&flags);
    let steps = explain(&snapshot, ENVIRONMENT, "a", &Context::empty(), 0).steps;
    let lines: Vec<String> =
        steps.iter().map(|step| format!("{} {}: {}", step.subject, step.matched, step.finding)).collect();
    assert_eq!(
        lines,
        [
            "flag true: found at version 0",
            "prerequisite b true: serves on",
            "prerequisite c false: serves on, not x, y",
            "default true: the default variant",
            "variant true: off",
        ]
    );
}

/// 16 levels of 16 flags that each rest on all of the next level: more ways than anything could go.
#[test]
fn an_evaluation_ends_whatever_rests_on_what() {
    let id = |level: usize, at: usize| if level == 0 { "a".to_owned() } else { format!("f{level}-{at}") };
    let all = |level: usize| (0..16).map(|at| needs(&id(level, at), &["on"])).collect::<Vec<_>>();
    let mut flags = vec![resting("a", &all(1))];
    for level in 1..=15 {
        for at in 0..16 {
            let below = if level < 15 { all(level + 1) } else { vec![] };
            flags.push(resting(&id(level, at), &below));
        }
    }
    assert_eq!(flags.len(), 241);
    assert_eq!(served(&flags), on(Reason::TargetingMatch));
    // Circles, which the fold lets nobody write.
    let circle = [resting("a", &[needs("b", &["on"])]), resting("b", &[needs("a", &["on"])])];
    assert_eq!(served(&circle), off(Reason::Default));
    // One level more than are followed.
    let chain = |levels: usize| -> Vec<Flag> {
        let link = |at: usize| {
            let below = needs(&id(at + 1, 0), &["on"]);
            resting(&id(at, 0), if at < levels { std::slice::from_ref(&below) } else { &[] })
        };
        (0..=levels).map(link).collect()
    };
    assert_eq!(served(&chain(16)), on(Reason::TargetingMatch));
    assert_eq!(served(&chain(17)), off(Reason::Default));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_path() {
    let refused = |flag: Flag| check(&flag, &v1::Environment::default()).unwrap_err().path;
    let many = |count: usize| (0..count).map(|n| needs(&format!("f{n}"), &["on"])).collect::<Vec<_>>();
    assert_eq!(refused(resting("a", &many(17))), "prerequisites");
    assert_eq!(refused(resting("a", &[needs("b", &["on"]), needs("a", &["on"])])), "prerequisites[1].flag");
    assert_eq!(refused(resting("a", &[needs("b", &["on"]), needs("b", &["off"])])), "prerequisites[1].flag");
    assert_eq!(refused(resting("a", &[needs("b/c", &["on"])])), "prerequisites[0].flag");
    assert_eq!(refused(resting("a", &[needs("b", &[])])), "prerequisites[0].variants");
    assert_eq!(refused(resting("a", &[needs("b", &["on", ""])])), "prerequisites[0].variants[1]");
    assert!(check(&resting("a", &many(16)), &v1::Environment::default()).is_ok());
    let forced = |forced: Vec<(String, String)>| Flag { forced: forced.into_iter().collect(), ..flag("a") };
    let units = |count: usize| (0..count).map(|n| (format!("u{n}"), "on".to_owned())).collect::<Vec<_>>();
    assert_eq!(refused(forced(units(1_001))), "forced");
    assert_eq!(refused(forced(vec![(String::new(), "on".to_owned())])), "forced");
    assert_eq!(refused(forced(vec![("ada".to_owned(), "of".to_owned())])), "forced[ada]");
    assert!(check(&forced(units(1_000)), &v1::Environment::default()).is_ok());
}
