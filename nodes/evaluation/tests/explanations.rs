//! An explanation reads as what happened, in order.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail")]

mod generated;

use featureops_evaluation::{Context, Snapshot, bucket_of, compile, explain};
use featureops_proto::v1::{self, Flag, condition::Operator, rule::Serve};
use generated::{ENVIRONMENT, FLAG};
use prost_types::{Struct, Value};

fn flag() -> Flag {
    Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{FLAG}"),
        r#type: v1::ValueType::String.into(),
        variants: ["a", "b"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("a".to_owned()),
        safe_variant: Some("a".to_owned()),
        rules: vec![v1::Rule {
            id: "eu".to_owned(),
            conditions: vec![v1::Condition {
                attribute: "country".to_owned(),
                operator: Operator::In.into(),
                values: ["DE", "FR"].map(Value::from).into(),
            }],
            serve: Some(Serve::Variant("b".to_owned())),
        }],
        allocation: Some(v1::Allocation {
            generation: 2,
            allocation_version: 5,
            runs: vec![v1::Run { arm: 1, length: 10_000 }],
            weights_basis_points: vec![0, 10_000],
            variants: vec!["a".to_owned(), "b".to_owned()],
            experiment_number: 7,
            ..v1::Allocation::default()
        }),
        flag_version: 41,
        ..Flag::default()
    }
}

fn lines(flag: &Flag, fields: &[(&str, &str)]) -> Vec<String> {
    let snapshot = Snapshot::empty().apply([compile(flag, &v1::Environment::default()).unwrap()], 1, 0);
    let attributes = Struct {
        fields: fields.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect(),
    };
    let steps = explain(&snapshot, ENVIRONMENT, FLAG, &Context::new(&attributes), 0).steps;
    steps.iter().map(|step| format!("{}: {}", step.subject, step.finding)).collect()
}

#[test]
fn a_rule_that_matches() {
    assert_eq!(
        lines(&flag(), &[("country", "DE")]),
        [
            "flag: found at version 41",
            "condition country: IN holds for 'DE'",
            "rule eu: matches",
            "variant: b"
        ]
    );
}

#[test]
fn an_arm_by_bucket() {
    assert_eq!(
        lines(&flag(), &[("targetingKey", "ada")]),
        [
            "flag: found at version 41",
            "condition country: IN does not hold for a missing attribute",
            "rule eu: does not match",
            &format!("bucket: {} of 10,000", bucket_of(FLAG, "ada")),
            "allocation: arm 1 at 10000 of 10,000, experiment 7, generation 2, allocation 5",
            "variant: b"
        ]
    );
}

#[test]
fn no_unit_and_a_trip() {
    assert_eq!(
        lines(&Flag { rules: vec![], ..flag() }, &[]),
        [
            "flag: found at version 41",
            "bucket: the context has no targetingKey, so there is no unit to assign",
            "default: the default variant",
            "variant: a"
        ]
    );
    assert_eq!(
        lines(&Flag { trip: Some(v1::Trip::default()), ..flag() }, &[("country", "DE")]),
        ["flag: found at version 41", "trip: tripped: everybody is served the safe variant", "variant: a"]
    );
}
