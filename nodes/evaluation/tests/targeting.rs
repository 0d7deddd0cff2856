//! Targeting in its flag: the two doors, the outcomes, the server's own context, and what is explained.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail")]

use featureops_evaluation::{
    Context, Evaluation, Snapshot, bucket_of_version, compile, evaluate, explain, warnings,
};
use featureops_proto::v1::{
    Allocation, Environment, EvaluationError, Flag, FractionalVersion, Reason, Rule, Run, ValueType,
};
use prost_types::{Struct, Value};

fn environment(version: FractionalVersion) -> Environment {
    let shared = [
        ("adult", r#"{">=": [{"var": "age"}, 18]}"#),
        ("loop", r#"{"!": {"$ref": "pool"}}"#),
        ("pool", r#"{"!": {"$ref": "loop"}}"#),
        ("broken", "{"),
        ("shouts", r#"{"if": [true, "LOUD"]}"#),
    ];
    Environment {
        fractional: version.into(),
        evaluators: shared.map(|(name, rule)| (name.to_owned(), rule.to_owned())).into(),
        ..Environment::default()
    }
}

fn v2() -> Environment {
    environment(FractionalVersion::Unspecified)
}

fn flag(targeting: &str) -> Flag {
    Flag {
        name: "environments/production/flags/checkout".to_owned(),
        r#type: ValueType::String.into(),
        variants: ["a", "b", "true", "1", "1.5"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("a".to_owned()),
        targeting: targeting.to_owned(),
        ..Flag::default()
    }
}

fn imported(targeting: &str) -> Flag {
    Flag { imported: true, ..flag(targeting) }
}

fn attributes(fields: &[(&str, Value)]) -> Struct {
    Struct { fields: fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect() }
}

fn outcome(flag: &Flag, context: &Struct) -> (Option<String>, Reason, Option<EvaluationError>) {
    let snapshot = Snapshot::empty().apply([compile(flag, &v2()).unwrap()], 1, 0);
    let Evaluation { variant, reason, error, .. } =
        evaluate(&snapshot, "production", "checkout", &Context::new(context), 0);
    (variant.map(str::to_owned), reason, error)
}

#[test]
fn what_cannot_work_is_refused_natively_and_warned_of_when_imported() {
    for (targeting, path, says) in [
        (r#"{"if": [{"equals": [1, 2]}, "b"]}"#, "targeting.if[0].equals", "no such operator"),
        (
            r#"{"if": [{"==": [1, {"$ref": "child"}]}, "b"]}"#,
            "targeting.if[0].==[1].$ref",
            "no such shared rule",
        ),
        (
            r#"{"if": [{"$ref": "loop"}, "b"]}"#,
            "targeting.if[0].$ref(loop).!.$ref(pool).!.$ref",
            "contain itself",
        ),
        (r#"{"if": [{"$ref": "broken"}, "b"]}"#, "targeting.if[0].$ref(broken)", "not JSON"),
        (r#"{"$ref": "shouts"}"#, "targeting.$ref(shouts).if[1]", "no such variant"),
        (r#"{"if": [true, "c"]}"#, "targeting.if[1]", "no such variant"),
        (r#"{"if": [true, "b", 2]}"#, "targeting.if[2]", "no such variant"),
        (r#"{"if": [true, false]}"#, "targeting.if[1]", "no such variant"),
        (r#""c""#, "targeting", "no such variant"),
        (r#"["b"]"#, "targeting", "name of a variant"),
        (r#"{"or": [{"var": "x"}, "c"]}"#, "targeting.or[1]", "no such variant"),
        (r#"{"and": [{"var": "x"}, "c"]}"#, "targeting.and[1]", "no such variant"),
        (r#"{"fractional": [["a", 1], ["c", 1]]}"#, "targeting.fractional[1][0]", "no such variant"),
        (r#"{"fractional": [["a", 1], ["b", 0.5]]}"#, "targeting.fractional[1][1]", "whole number"),
        (r#"{"fractional": [["a", 1], ["b", "1"]]}"#, "targeting.fractional[1][1]", "whole number"),
        (r#"{"fractional": [["a", 2147483648]]}"#, "targeting.fractional[0][1]", "whole number"),
        (
            r#"{"fractional": [["a", 2147483647], ["b", 1]]}"#,
            "targeting.fractional",
            "sum of 1 to 2147483647",
        ),
        (r#"{"fractional": [{"var": "x"}, "b"]}"#, "targeting.fractional[1]", "is a list"),
        (r#"{"fractional": [["a", 0]]}"#, "targeting.fractional", "sum of 1 to 2147483647"),
        (r#"{"if": [{"starts_with": [{"var": "x"}]}, "b"]}"#, "targeting.if[0].starts_with", "exactly 2"),
        (r#"{"if": [{"sem_ver": [{"var": "x"}, "=="]}, "b"]}"#, "targeting.if[0].sem_ver", "exactly 3"),
        (
            r#"{"if": [{"sem_ver": [{"var": "x"}, "==", "1"]}, "b"]}"#,
            "targeting.if[0].sem_ver[1]",
            "no such relation",
        ),
        (
            r#"{"if": [{"sem_ver": [{"var": "x"}, "=", "1.x"]}, "b"]}"#,
            "targeting.if[0].sem_ver[2]",
            "is no version",
        ),
        (r#"{"if": [{"<": [1]}, "b"]}"#, "targeting.if[0].<", "2 to 3"),
        (r#"{"if": [{"==": 1, "!": 2}, "b"]}"#, "targeting.if[0]", "exactly one key"),
    ] {
        let error = compile(&flag(targeting), &v2()).unwrap_err();
        assert_eq!(error.path, path, "{targeting}: {error}");
        assert!(error.message.contains(says), "{targeting}: {error}");
        let kept = imported(targeting);
        assert!(compile(&kept, &v2()).is_ok(), "{targeting}");
        let (at, message) = warnings(&kept, &v2()).remove(0);
        assert!(at == path && message.contains(says), "{at}: {message}");
    }
    for fine in [
        r#"{"if": [{"$ref": "adult"}, "b", null]}"#,
        r#"{"fractional": [{"cat": [{"var": "$flagd.flagKey"}, "x"]}, ["a", 25], [{"var": "x"}, {"var": "y"}]]}"#,
        r#"{"if": [{"fractional": [[false, 0], [true, 100]]}, "b"]}"#,
        "{}",
        "null",
    ] {
        assert!(
            compile(&flag(fine), &v2()).is_ok(),
            "{fine}: {:?}",
            compile(&flag(fine), &v2()).unwrap_err()
        );
        assert_eq!(warnings(&imported(fine), &v2()), []);
    }
}

#[test]
fn what_no_door_takes() {
    let deep = format!("{}1{}", r#"{"!": ["#.repeat(10_000), "]}".repeat(10_000));
    let long = format!(r#"{{"in": [1, [{}1]]}}"#, "1, ".repeat(100_000));
    for make in [flag, imported] {
        for (targeting, path, says) in [
            ("{", "targeting", "not JSON"),
            (deep.as_str(), "targeting", "deeper"),
            (long.as_str(), "flag", "at most"),
        ] {
            let error = compile(&make(targeting), &v2()).unwrap_err();
            assert!(error.path == path && error.message.contains(says), "{error}");
        }
        let both = Flag {
            rules: vec![Rule {
                id: "r".to_owned(),
                serve: Some(featureops_proto::v1::rule::Serve::Variant("a".to_owned())),
                ..Rule::default()
            }],
            ..make(r#"{"if": [true, "b"]}"#)
        };
        assert!(compile(&both, &v2()).unwrap_err().message.contains("not both"));
        let unknown = Flag { default_variant: Some("none".to_owned()), ..make("") };
        assert_eq!(compile(&unknown, &v2()).unwrap_err().path, "default_variant");
    }
}

/// Shared rules that put each other in, 2^20 times the smallest.
#[test]
fn shared_rules_cannot_grow_without_bound() {
    let mut environment = v2();
    let one = |n: u32| {
        let inner = format!(r#"{{"$ref": "r{}"}}"#, n + 1);
        (format!("r{n}"), format!(r#"{{"and": [{inner}, {inner}]}}"#))
    };
    environment.evaluators = (0..20).map(one).chain([("r20".to_owned(), "true".to_owned())]).collect();
    let targeting = r#"{"if": [{"$ref": "r0"}, "b"]}"#;
    let error = compile(&flag(targeting), &environment).unwrap_err();
    assert!(error.message.contains("with its shared rules put in"), "{error}");
    let snapshot = Snapshot::empty().apply([compile(&imported(targeting), &environment).unwrap()], 1, 0);
    let evaluation = evaluate(&snapshot, "production", "checkout", &Context::empty(), 0);
    assert_eq!(evaluation.error, Some(EvaluationError::ParseError));
}

#[test]
fn the_outcomes_of_an_imported_flag() {
    let none = Struct::default();
    let of = |targeting: &str| {
        let (variant, reason, error) = outcome(&imported(targeting), &none);
        (variant.unwrap_or_default(), reason, error)
    };
    let (a, b) = (|| "a".to_owned(), || "b".to_owned());
    assert_eq!(of(""), (a(), Reason::Static, None));
    assert_eq!(of("{}"), (a(), Reason::Static, None));
    assert_eq!(of(r#"{"if": [true, "b"]}"#), (b(), Reason::TargetingMatch, None));
    assert_eq!(of(r#"{"if": [false, "b"]}"#), (a(), Reason::Default, None));
    assert_eq!(of(r#"{"==": [1, 1]}"#), ("true".to_owned(), Reason::TargetingMatch, None));
    assert_eq!(of(r#"{"+": [1, 0.5]}"#), ("1.5".to_owned(), Reason::TargetingMatch, None));
    assert_eq!(of(r#"{"+": [0.5, 0.5]}"#), ("1".to_owned(), Reason::TargetingMatch, None));
    let error = |error| (String::new(), Reason::Error, Some(error));
    assert_eq!(of(r#"{"==": [1, 2]}"#), error(EvaluationError::General));
    assert_eq!(of(r#"{"if": [true, "c"]}"#), error(EvaluationError::General));
    assert_eq!(of(r#"{"merge": ["a"]}"#), error(EvaluationError::General));
    assert_eq!(of(r#"{"nothing": 1}"#), error(EvaluationError::ParseError));
    assert_eq!(of(r#"{"if": [{"$ref": "none"}, "b"]}"#), error(EvaluationError::ParseError));

    let no_default = |targeting: &str| Flag { default_variant: None, ..imported(targeting) };
    for targeting in ["", r#"{"if": [false, "b"]}"#] {
        assert_eq!(outcome(&no_default(targeting), &none), (None, Reason::Default, None));
        let empty = Flag { default_variant: Some(String::new()), ..imported(targeting) };
        assert_eq!(outcome(&empty, &none), (None, Reason::Default, None));
    }
    let disabled = Flag { disabled: true, ..imported(r#"{"nothing": 1}"#) };
    assert_eq!(outcome(&disabled, &none), (None, Reason::Disabled, None));
    let tripped = Flag { trip: Some(Default::default()), safe_variant: Some("b".to_owned()), ..imported("") };
    assert_eq!(outcome(&tripped, &none).1, Reason::Tripped);
}

#[test]
fn an_imported_flag_may_have_variants_of_several_types_or_none() {
    let mixed = Flag {
        r#type: 0,
        variants: [("n", Value::from(1.0)), ("s", Value::from("x")), ("null", Value { kind: None })]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        default_variant: Some("null".to_owned()),
        ..imported("")
    };
    let compiled = compile(&mixed, &v2()).unwrap();
    assert_eq!(compiled.value_type(), ValueType::Unspecified);
    let snapshot = Snapshot::empty().apply([compiled], 1, 0);
    let evaluation = evaluate(&snapshot, "production", "checkout", &Context::empty(), 0);
    assert_eq!((evaluation.variant, evaluation.reason), (Some("null"), Reason::Static));
    assert_eq!(evaluation.expecting(ValueType::Number).error, Some(EvaluationError::TypeMismatch));
    assert!(compile(&Flag { imported: false, ..mixed.clone() }, &v2()).is_err());

    let alike = Flag {
        variants: [("n".to_owned(), Value::from(1.0))].into(),
        default_variant: None,
        ..mixed.clone()
    };
    assert_eq!(compile(&alike, &v2()).unwrap().value_type(), ValueType::Number);
    let empty = Flag { variants: [].into(), default_variant: None, ..mixed };
    assert_eq!(outcome(&empty, &Struct::default()), (None, Reason::Default, None));
}

#[test]
fn null_leaves_the_choice_to_the_experiment() {
    for version in [FractionalVersion::FractionalVersion2, FractionalVersion::FractionalVersion3] {
        let experiment = Flag {
            safe_variant: Some("a".to_owned()),
            allocation: Some(Allocation {
                generation: 1,
                allocation_version: 1,
                runs: vec![Run { arm: 0, length: 5_000 }, Run { arm: 1, length: 5_000 }],
                weights_basis_points: vec![5_000, 5_000],
                variants: vec!["a".to_owned(), "b".to_owned()],
                experiment_number: 3,
                ..Allocation::default()
            }),
            ..flag(r#"{"if": [{"==": [{"var": "staff"}, true]}, "1.5"]}"#)
        };
        let snapshot = Snapshot::empty().apply([compile(&experiment, &environment(version)).unwrap()], 1, 0);
        for unit in
            ["ada", "bob", "eve", "ünï", "a much longer unit than the others, to fill a head of two bytes"]
        {
            let context = attributes(&[("targetingKey", Value::from(unit))]);
            let evaluation = evaluate(&snapshot, "production", "checkout", &Context::new(&context), 0);
            let bucket = bucket_of_version(version, "checkout", unit);
            assert_eq!((evaluation.reason, evaluation.bucket), (Reason::Split, Some(bucket)));
            assert_eq!(evaluation.variant, Some(if bucket < 5_000 { "a" } else { "b" }));
            assert!(evaluation.assignment.is_some());
        }
        let staff = attributes(&[("targetingKey", Value::from("ada")), ("staff", Value::from(true))]);
        let evaluation = evaluate(&snapshot, "production", "checkout", &Context::new(&staff), 0);
        assert_eq!((evaluation.variant, evaluation.reason), (Some("1.5"), Reason::TargetingMatch));
        assert_eq!(evaluation.assignment, None);
    }
}

#[test]
fn the_servers_context_wins_and_a_spoofed_flagd_is_not_seen() {
    let rule = r#"{"if": [{"and": [{"==": [{"var": "region"}, "eu"]}, {"==": [{"var": "$flagd.flagKey"}, "checkout"]},
        {"==": [{"var": "targetingKey"}, "bob"]}, {"<": [{"var": "$flagd.timestamp"}, 11]}]}, "b"]}"#;
    let snapshot = Snapshot::empty().apply([compile(&flag(rule), &v2()).unwrap()], 1, 0);
    let spoofed = attributes(&[("flagKey", Value::from("x")), ("timestamp", Value::from(99.0))]);
    let caller = attributes(&[
        ("region", Value::from("us")),
        ("targetingKey", Value::from("ada")),
        ("$flagd", Value::from(spoofed.fields)),
    ]);
    let server = attributes(&[("region", Value::from("eu")), ("$flagd", Value::from(1.0))]);
    let context = Context::new(&caller).with_overlay(&server).with_targeting_key("bob");
    let at = |now_ms: i64| evaluate(&snapshot, "production", "checkout", &context, now_ms).variant;
    assert_eq!(at(10_999), Some("b"));
    assert_eq!(at(11_000), Some("a"));
    let alone = Context::new(&caller).with_targeting_key("bob");
    assert_eq!(evaluate(&snapshot, "production", "checkout", &alone, 0).variant, Some("a"));
}

#[test]
fn an_explanation_shows_what_decided() {
    let rule = r#"{"if": [{"in": [{"var": "country"}, ["DE", "FR"]]}, {"fractional": [["b", 50], ["a", 0]]}, null]}"#;
    let snapshot = Snapshot::empty().apply([compile(&flag(rule), &v2()).unwrap()], 1, 0);
    let lines = |context: &Struct| {
        let steps = explain(&snapshot, "production", "checkout", &Context::new(context), 0).steps;
        steps.iter().map(|step| format!("{}: {}", step.subject, step.finding)).collect::<Vec<_>>()
    };
    let german = attributes(&[("country", Value::from("DE")), ("targetingKey", Value::from("ada"))]);
    let found = lines(&german);
    assert_eq!(found[1..4], ["var country: 'DE'", "in: holds for 'DE'", "if: condition 1 of 1 holds"]);
    assert!(found[4].starts_with("fractional: bucket ") && found[4].ends_with(" of 50"), "{found:?}");
    assert_eq!(found[5..], ["targeting: 'b'", "variant: b"]);
    assert_eq!(
        lines(&Struct::default())[1..],
        [
            "var country: null",
            "in: does not hold for null",
            "if: condition 1 of 1 does not hold",
            "targeting: null: it leaves the choice open",
            "default: the default variant",
            "variant: a"
        ]
    );
}
