//! Who is in an experiment: as the exported document says it, and as an explanation tells it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail")]

mod generated;

use std::collections::BTreeSet;

use featureops_evaluation::flagd::export;
use featureops_evaluation::{Context, Key, Receipt, Snapshot, check, compile, evaluate, explain};
use featureops_proto::v1::{self, Flag, Reason, rule};
use generated::{ENVIRONMENT, FLAG, unit};
use prost_types::{Struct, Value};
use serde_json::{Value as Json, json};

fn flag(change: impl FnOnce(&mut v1::Allocation)) -> Flag {
    let mut allocation = v1::Allocation {
        generation: 2,
        allocation_version: 5,
        runs: vec![v1::Run { arm: 0, length: 4_000 }, v1::Run { arm: 1, length: 6_000 }],
        weights_basis_points: vec![4_000, 6_000],
        variants: vec!["a".to_owned(), "b".to_owned()],
        experiment_number: 7,
        layer: "page".to_owned(),
        slots: [(6_000, 500), (1_000, 2_000)].map(|(start, length)| v1::SlotRange { start, length }).into(),
        holdouts: vec![v1::HoldoutShare { holdout: "q3".to_owned(), basis_points: 500 }],
    };
    change(&mut allocation);
    Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{FLAG}"),
        r#type: v1::ValueType::String.into(),
        variants: ["a", "b", "c"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("c".to_owned()),
        allocation: Some(allocation),
        ..Flag::default()
    }
}

fn targeting(flag: Flag) -> Json {
    export(&[flag], &v1::Environment::default())["flags"][FLAG]["targeting"].clone()
}

fn snapshot(flag: &Flag) -> Snapshot {
    Snapshot::empty().apply([compile(flag, &v1::Environment::default()).unwrap()], 1, 0)
}

#[test]
fn the_document_says_layer_and_holdouts_before_the_arms() {
    let arms = json!({"fractional": [["a", 4_000], ["b", 6_000]]});
    let text = |text: &str| json!({"cat": [text, {"var": "targetingKey"}]});
    let slot = json!({"===": [{"fractional": [
        text("layer:page:"), ["out", 1_000], ["in", 2_000], ["out", 3_000], ["in", 500], ["out", 3_500]
    ]}, "in"]});
    let free = json!({"===": [{"fractional": [text("holdout:q3:"), ["in", 500], ["out", 9_500]]}, "out"]});
    assert_eq!(targeting(flag(|_| {})), json!({"if": [{"and": [slot, free]}, arms]}));
    assert_eq!(targeting(flag(|given| given.holdouts.clear())), json!({"if": [slot, arms]}));
    let whole = |given: &mut v1::Allocation| {
        given.slots = vec![v1::SlotRange { start: 0, length: 10_000 }];
    };
    assert_eq!(targeting(flag(whole)), json!({"if": [free, arms]}));
    let nobody = |given: &mut v1::Allocation| given.slots.clear();
    assert_eq!(targeting(flag(nobody)), json!({"if": [{"and": [false, free]}, arms]}));
    let rules = vec![v1::Rule {
        id: "r".to_owned(),
        conditions: vec![v1::Condition {
            attribute: "beta".to_owned(),
            operator: v1::condition::Operator::Exists.into(),
            values: vec![],
        }],
        serve: Some(rule::Serve::Variant("a".to_owned())),
    }];
    let beta = json!({"!==": [{"var": "beta"}, null]});
    let ruled = Flag { rules, ..flag(|given| given.holdouts.clear()) };
    assert_eq!(targeting(ruled), json!({"if": [beta, "a", {"if": [slot, arms]}]}));
}

#[test]
fn an_explanation_names_the_slots() {
    let lines = |flag: &Flag, context: &Struct| -> Vec<String> {
        let steps = explain(&snapshot(flag), ENVIRONMENT, FLAG, &Context::new(context), 0).steps;
        steps.iter().skip(1).map(|step| format!("{}: {}", step.subject, step.finding)).collect()
    };
    let member = (0..).map(|n| unit(&format!("user-{n}"))).find(|context| {
        evaluate(&snapshot(&flag(|_| {})), ENVIRONMENT, FLAG, &Context::new(context), 0).assignment.is_some()
    });
    let told = lines(&flag(|_| {}), &member.unwrap());
    assert!(told[0].starts_with("layer page: slot ") && told[0].ends_with(" of 10,000 is the experiment's"));
    assert!(told[1].ends_with("of which 500 are held out: not held out") && told[2].starts_with("bucket: "));

    let nobody = flag(|given| given.slots.clear());
    let told = lines(&nobody, &unit("ada"));
    assert!(told[0].ends_with("is not the experiment's"), "{told:?}");
    assert_eq!(told[1..], ["default: the default variant", "variant: c"]);
    let told = lines(&nobody, &Struct::default());
    assert!(told[0].starts_with("bucket: the context has no targetingKey"), "{told:?}");
}

#[test]
fn a_receipt_of_the_living_generation_comes_first() {
    let nobody = flag(|given| given.slots.clear());
    let snapshot = snapshot(&nobody);
    let key = Key::new(3, [5; 16]).unwrap();
    let attributes = unit("ada");
    for (generation, reason, variant) in [(2, Reason::Split, "b"), (1, Reason::Default, "c")] {
        let receipt = Receipt {
            experiment: 7,
            arm: 1,
            generation,
            minute: 1_000,
            propensity_basis_points: 6_000,
            position: 9,
        };
        let mut context = Context::new(&attributes);
        let sealed = receipt.seal(&key, b"ada").unwrap();
        assert!(context.open_receipt(sealed.as_bytes(), std::slice::from_ref(&key)).is_ok());
        let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &context, 0);
        assert_eq!((evaluation.reason, evaluation.variant), (reason, Some(variant)));
        assert_eq!(evaluation.assignment.is_some(), reason == Reason::Split);
    }
}

/// Two flags with slots of one layer that lie apart never have a unit in common, by either generation of `fractional`.
#[test]
fn experiments_of_one_layer_share_no_unit() {
    for generation in [2, 3] {
        let environment = v1::Environment { fractional: generation, ..v1::Environment::default() };
        let members = |key: &str, slots: &[(u32, u32)]| -> BTreeSet<u32> {
            let slots = slots.iter().map(|(start, length)| v1::SlotRange { start: *start, length: *length });
            let placed = flag(|given| {
                given.slots = slots.collect();
                given.holdouts.clear();
            });
            let placed = Flag { name: format!("environments/{ENVIRONMENT}/flags/{key}"), ..placed };
            let snapshot = Snapshot::empty().apply([compile(&placed, &environment).unwrap()], 1, 0);
            let is_member = |n: &u32| {
                let attributes = unit(&format!("user-{n}"));
                evaluate(&snapshot, ENVIRONMENT, key, &Context::new(&attributes), 0).assignment.is_some()
            };
            (0..20_000).filter(is_member).collect()
        };
        let (one, other) =
            (members("one", &[(0, 3_000), (8_000, 1_000)]), members("other", &[(3_000, 5_000)]));
        assert!(one.is_disjoint(&other));
        assert!((7_600..8_400).contains(&one.len()) && (9_600..10_400).contains(&other.len()));
    }
}

#[test]
fn a_map_that_is_not_its_weights_is_refused() {
    let sticky = |runs: &[(u32, u32)]| {
        let entry = |(variant, weight_basis_points): (&str, u32)| v1::WeightedVariant {
            variant: variant.to_owned(),
            weight_basis_points,
        };
        let split = v1::Split {
            variants: [("a", 4_000), ("b", 6_000)].map(entry).into(),
            sticky: true,
            runs: runs.iter().map(|(arm, length)| v1::Run { arm: *arm, length: *length }).collect(),
        };
        let rule =
            v1::Rule { id: "r".to_owned(), conditions: vec![], serve: Some(rule::Serve::Split(split)) };
        Flag { rules: vec![rule], allocation: None, ..flag(|_| {}) }
    };
    let environment = v1::Environment::default();
    for runs in [&[][..], &[(0, 1_000), (1, 6_000), (0, 3_000)]] {
        assert!(check(&sticky(runs), &environment).is_ok(), "{runs:?}");
    }
    for runs in
        [&[(0, 4_000)][..], &[(0, 5_000), (1, 5_000)], &[(2, 10_000)], &[(0, u32::MAX), (1, u32::MAX)]]
    {
        assert_eq!(check(&sticky(runs), &environment).unwrap_err().path, "rules[0].split.runs", "{runs:?}");
    }
}
