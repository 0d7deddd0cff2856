//! Ramps: a share that grows by the second, the same for whoever evaluates, and never back for a unit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail")]

mod generated;

use featureops_evaluation::flagd::{export, import};
use featureops_evaluation::{Context, Snapshot, check, compile, evaluate, explain};
use featureops_proto::v1::{self, FractionalVersion, Ramp, Reason, rule::Serve};
use generated::{ENVIRONMENT, FLAG, unit};
use proptest::prelude::*;
use prost_types::{Struct, Timestamp, Value};
use serde_json::json;

const START: i64 = 1_796_112_000;

fn time(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn ramp(span: i64, from: u32, to: Option<u32>) -> Ramp {
    Ramp {
        variant: "on".to_owned(),
        otherwise: String::new(),
        start_time: time(START),
        end_time: time(START + span),
        start_basis_points: from,
        end_basis_points: to,
    }
}

fn flag(ramp: Ramp) -> v1::Flag {
    v1::Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{FLAG}"),
        r#type: v1::ValueType::Boolean.into(),
        variants: [("off".to_owned(), Value::from(false)), ("on".to_owned(), Value::from(true))].into(),
        default_variant: Some("off".to_owned()),
        rules: vec![v1::Rule { id: "ramp".to_owned(), conditions: vec![], serve: Some(Serve::Ramp(ramp)) }],
        ..v1::Flag::default()
    }
}

fn environment(version: FractionalVersion) -> v1::Environment {
    v1::Environment { fractional: version.into(), ..v1::Environment::default() }
}

fn snapshot(flag: &v1::Flag, environment: &v1::Environment) -> Snapshot {
    Snapshot::empty().apply([compile(flag, environment).unwrap()], 1, 0)
}

#[test]
fn before_between_and_after() {
    let snapshot = snapshot(&flag(ramp(1_000, 0, None)), &v1::Environment::default());
    let on = |second: i64| {
        let units = (0..2_000).map(|n| unit(&format!("user-{n}")));
        let served = units.filter(|context| {
            let answer = evaluate(&snapshot, ENVIRONMENT, FLAG, &Context::new(context), second * 1_000);
            assert_eq!(answer.reason, Reason::Split);
            answer.variant == Some("on")
        });
        served.count()
    };
    assert_eq!((on(START - 1), on(START), on(START + 1_000), on(i64::MAX / 1_000)), (0, 0, 2_000, 2_000));
    // Five standard deviations of 2,000 units are 112 at a half, 84 at 15 %.
    assert!((888..=1_112).contains(&on(START + 500)), "{}", on(START + 500));
    assert!((216..=384).contains(&on(START + 150)), "{}", on(START + 150));

    let nobody = Struct::default();
    let answer = evaluate(&snapshot, ENVIRONMENT, FLAG, &Context::new(&nobody), i64::MAX);
    assert_eq!((answer.variant, answer.reason), (Some("off"), Reason::Default), "no unit: the default");
}

#[test]
fn the_document_computes_weights_in_whole_numbers() {
    let written = |ramp: Ramp| {
        let document = export(&[flag(ramp)], &v1::Environment::default());
        document["flags"][FLAG]["targeting"].clone()
    };
    let end = |span: i64| START + span;
    let passed = |span: i64| {
        let second = json!({"var": "$flagd.timestamp"});
        json!({"-": [{"min": [{"max": [second, START]}, end(span)]}, START]})
    };
    assert_eq!(
        written(ramp(3_600, 0, None)),
        json!({"fractional": [["on", passed(3_600)], ["off", {"-": [3_600, passed(3_600)]}]]})
    );
    let grown = json!({"*": [passed(3_601), 99]});
    let from_one_percent = written(ramp(3_601, 100, None));
    assert_eq!(
        from_one_percent,
        json!({"fractional": [["on", {"+": [3_601, grown]}], ["off", {"-": [356_499, grown]}]]})
    );
    assert_eq!(from_one_percent.to_string().matches('.').count(), 2, "no number has a point");
    let without_default = v1::Flag { default_variant: None, ..flag(ramp(60, 0, None)) };
    let document = export(&[without_default], &v1::Environment::default());
    assert_eq!(document["flags"][FLAG]["targeting"]["fractional"][1][0], json!(null));
}

#[test]
fn what_is_refused_and_the_way_out() {
    type Wrong = (&'static str, &'static str, &'static str, fn(&mut Ramp));
    let cases: [Wrong; 12] = [
        ("variant", "blue", "this flag has off, on", |r| r.variant = "blue".to_owned()),
        ("otherwise", "blue", "this flag has off, on", |r| r.otherwise = "blue".to_owned()),
        ("otherwise", "on", "from one variant to another", |r| r.otherwise = "on".to_owned()),
        ("start_time", "", "has a start_time", |r| r.start_time = None),
        ("end_time", "", "has a start_time and an end_time", |r| r.end_time = None),
        ("start_time", "", "whole seconds", |r| r.start_time = Some(Timestamp { seconds: START, nanos: 1 })),
        ("start_time", "-1", "1970", |r| r.start_time = time(-1)),
        ("end_time", "", "must come after", |r| r.end_time = r.start_time),
        ("end_basis_points", "10001", "0 to 10000", |r| r.end_basis_points = Some(10_001)),
        ("start_basis_points", "5000", "`otherwise`", |r| {
            (r.start_basis_points, r.end_basis_points) = (5_000, Some(5_000));
        }),
        ("start_basis_points", "20000", "`otherwise`", |r| r.start_basis_points = 20_000),
        ("end_time", "", "at most 214748 seconds", |r| {
            (r.start_basis_points, r.end_time) = (1, time(START + 214_749 + 1));
        }),
    ];
    for (field, value, hint, change) in cases {
        let mut wrong = ramp(3_600, 0, None);
        change(&mut wrong);
        let error = check(&flag(wrong), &v1::Environment::default()).expect_err(field);
        assert_eq!(error.path, format!("rules[0].ramp.{field}"), "{error}");
        assert!(value.is_empty() || error.value == value, "{error}");
        assert!(error.message.contains(hint), "{error}");
    }
    let all = flag(ramp(i64::from(i32::MAX), 0, None));
    assert_eq!(check(&all, &v1::Environment::default()), Ok(()), "68 years");
    let percents = flag(ramp(21_474_836, 100, None));
    assert_eq!(check(&percents, &v1::Environment::default()), Ok(()), "248 days");
    let on = v1::Flag { default_variant: Some("on".to_owned()), ..flag(ramp(60, 0, None)) };
    assert!(check(&on, &v1::Environment::default()).is_err(), "from the default to itself");
}

#[test]
fn explained_with_the_share_of_the_moment() {
    let ramped = flag(ramp(1_000, 0, Some(5_000)));
    let snapshot = snapshot(&ramped, &v1::Environment::default());
    let said = |second: i64| {
        let context = unit("ada");
        let explained = explain(&snapshot, ENVIRONMENT, FLAG, &Context::new(&context), second * 1_000);
        explained.steps.into_iter().find(|step| step.subject == "ramp").unwrap().finding
    };
    let now = START + 500;
    assert_eq!(said(now), format!("under way at {now}: 25.00 % have the growing variant, 500 of 2000"));
    assert!(said(START - 1).starts_with("not begun"));
    assert!(said(START + 1_000).starts_with("over"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_096, ..ProptestConfig::default() })]

    /// A unit that has the growing variant keeps it; so no unit ever changes twice.
    #[test]
    fn a_unit_never_goes_back(
        span in 1i64..200_000,
        shares in (0u32..10_000).prop_flat_map(|from| (Just(from), from + 1..=10_000)),
        name in "[a-z]{1,12}",
        seconds in prop::collection::vec(-10i64..200_010, 2..12),
        version in prop::sample::select(vec![
            FractionalVersion::FractionalVersion2,
            FractionalVersion::FractionalVersion3,
        ]),
    ) {
        let ramped = flag(ramp(span, shares.0, Some(shares.1)));
        let environment = environment(version);
        // Odd shares over a long span are refused.
        prop_assume!(check(&ramped, &environment).is_ok());
        let snapshot = snapshot(&ramped, &environment);
        let context = unit(&name);
        let mut seconds = seconds;
        seconds.sort_unstable();
        let mut had = false;
        for second in seconds {
            let now_ms = (START + second) * 1_000;
            let has = evaluate(&snapshot, ENVIRONMENT, FLAG, &Context::new(&context), now_ms).variant == Some("on");
            prop_assert!(has || !had, "lost after {second} s");
            had |= has;
        }
    }

    /// Who evaluates the document by JsonLogic at the same second serves the same.
    #[test]
    fn the_document_serves_the_same_at_any_second(
        span in 1i64..200_000,
        shares in (0u32..10_000).prop_flat_map(|from| (Just(from), from + 1..=10_000)),
        names in prop::collection::vec("[a-z]{0,12}", 8),
        second in -10i64..200_010,
        fraction_ms in 0i64..1_000,
        default in any::<bool>(),
        version in prop::sample::select(vec![
            FractionalVersion::FractionalVersion2,
            FractionalVersion::FractionalVersion3,
        ]),
    ) {
        let default_variant = default.then(|| "off".to_owned());
        let ramped = v1::Flag { default_variant, ..flag(ramp(span, shares.0, Some(shares.1))) };
        let environment = environment(version);
        prop_assume!(check(&ramped, &environment).is_ok());
        let document = export(std::slice::from_ref(&ramped), &environment).to_string();
        let imported = import(&document, ENVIRONMENT, &environment).unwrap();
        prop_assert_eq!(&imported.warnings, &vec![]);
        let (native, foreign) = (snapshot(&ramped, &environment), snapshot(&imported.flags[0], &environment));
        let now_ms = (START + second) * 1_000 + fraction_ms;
        for name in &names {
            let context = unit(name);
            let serve = |snapshot| evaluate(snapshot, ENVIRONMENT, FLAG, &Context::new(&context), now_ms).variant;
            prop_assert_eq!(serve(&native), serve(&foreign), "{} {}", name, document);
        }
    }
}
