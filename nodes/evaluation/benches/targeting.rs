//! Nanoseconds per evaluation of rules and of targeting: ten rules and then a rollout, the first rule, each family of
//! operators. From a decoded context to the evaluation; one flag again and again.
//!
//! `cargo bench -p featureops-evaluation --bench targeting` prints the median of 15 rounds.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock; nothing under test does")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may stop on a wrong setup")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use featureops_evaluation::{Context, Snapshot, compile, evaluate};
use featureops_proto::v1::{
    Condition, Environment, Flag, FractionalVersion, Rule, Split, ValueType, WeightedVariant,
    condition::Operator, rule::Serve,
};
use prost_types::{Struct, Value};

const ROUNDS: usize = 15;
const TIMES: usize = 100_000;

/// The median over rounds of the time of one call.
fn median(mut work: impl FnMut(usize)) -> Duration {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..TIMES).for_each(&mut work);
            start.elapsed()
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2] / TIMES as u32
}

fn flag(targeting: &str, rules: Vec<Rule>) -> Flag {
    Flag {
        name: "environments/production/flags/checkout".to_owned(),
        r#type: ValueType::String.into(),
        variants: ["a", "b", "c"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("a".to_owned()),
        targeting: targeting.to_owned(),
        rules,
        imported: true,
        ..Flag::default()
    }
}

fn rule(nth: usize) -> Rule {
    let equals = |attribute: &str, value: Value| Condition {
        attribute: attribute.to_owned(),
        operator: Operator::Equals.into(),
        values: vec![value],
    };
    let (attribute, value) = [("country", "FR"), ("plan", "free"), ("email", "bob@example.com")][nth % 3];
    Rule {
        id: format!("rule-{nth}"),
        conditions: vec![equals(attribute, Value::from(format!("{value}{nth}")))],
        serve: Some(Serve::Variant("b".to_owned())),
    }
}

fn rollout() -> Rule {
    let entry = |(variant, weight_basis_points): (&str, u32)| WeightedVariant {
        variant: variant.to_owned(),
        weight_basis_points,
    };
    let variants = [("b", 3_000), ("c", 7_000)].map(entry).into();
    Rule {
        id: "rollout".to_owned(),
        conditions: vec![],
        serve: Some(Serve::Split(Split { variants, ..Split::default() })),
    }
}

/// Ten rules that do not match, then the last.
fn chain(last: &str) -> String {
    let keys = [("country", "FR"), ("plan", "free"), ("email", "bob@example.com")];
    let rules = (0..10).map(|nth| {
        let (attribute, value) = keys[nth % 3];
        format!(r#"{{"==": [{{"var": "{attribute}"}}, "{value}{nth}"]}}, "b", "#)
    });
    format!(r#"{{"if": [{} {last}]}}"#, rules.collect::<String>())
}

fn main() {
    let contexts: Vec<Struct> = (0..1_024)
        .map(|nth| Struct {
            fields: [
                ("targetingKey", Value::from(format!("user-{nth:08}"))),
                ("country", Value::from("DE")),
                ("plan", Value::from("pro")),
                ("email", Value::from(format!("user-{nth}@example.com"))),
                ("age", Value::from(30.0)),
                ("version", Value::from("2.11.4")),
                ("groups", Value::from(["x", "y", "beta"].map(Value::from).to_vec())),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        })
        .collect();
    let shorthand = r#"{"fractional": [["b", 30], ["c", 70]]}"#;
    let ten = chain(shorthand);
    let joined =
        r#"{"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}, ["b", 30], ["c", 70]]}"#;
    let first =
        r#"{"if": [{"==": [{"var": "country"}, "DE"]}, "b", {"fractional": [["b", 30], ["c", 70]]}]}"#;
    let full = r#"{"if": [
        {"and": [{"in": [{"var": "country"}, ["FR", "IT", "ES"]]}, {">=": [{"var": "age"}, 18]}]}, "a",
        {"and": [{"ends_with": [{"var": "email"}, "@example.com"]}, {"sem_ver": [{"var": "version"}, "<", "2.0.0"]}]}, "b",
        {"or": [{"in": ["alpha", {"var": "groups"}]}, {"starts_with": [{"var": "email"}, "admin"]}]}, "c",
        {"fractional": [{"var": "email"}, ["a", 25], ["b", 25], ["c", 50]]}]}"#;
    let lists = r#"{"if": [{"some": [{"var": "groups"}, {"==": [{"var": ""}, "beta"]}]}, "b", "a"]}"#;
    let mut first_rule = rule(0);
    first_rule.conditions[0].values = vec![Value::from("DE")];

    println!("{} contexts; median of {ROUNDS} rounds of {TIMES}", contexts.len());
    for version in [FractionalVersion::FractionalVersion2, FractionalVersion::FractionalVersion3] {
        let environment = Environment { fractional: version.into(), ..Environment::default() };
        for (what, flag) in [
            ("native, ten rules then rollout", flag("", (0..10).map(rule).chain([rollout()]).collect())),
            ("native, first rule", flag("", vec![first_rule.clone(), rollout()])),
            ("targeting, ten rules then rollout", flag(&ten, vec![])),
            ("targeting, first rule", flag(first, vec![])),
            ("targeting, rollout by unit", flag(shorthand, vec![])),
            ("targeting, rollout by cat of key and email", flag(joined, vec![])),
            ("targeting, in, order, affixes, sem_ver, fractional", flag(full, vec![])),
            ("targeting, some of three", flag(lists, vec![])),
        ] {
            let snapshot = Snapshot::empty().apply([compile(&flag, &environment).unwrap()], 1, 0);
            let time = median(|nth| {
                let context = Context::new(&contexts[nth % contexts.len()]);
                black_box(evaluate(&snapshot, "production", "checkout", &context, 1));
            });
            println!("{version:?} {what:<56} {:>8.1} ns", time.as_secs_f64() * 1e9);
        }
    }
    let whole = flag(full, vec![]);
    let environment = Environment::default();
    let start = Instant::now();
    for _ in 0..1_000 {
        black_box(compile(&whole, &environment).is_ok());
    }
    println!("compile {:<66} {:>8.1} ns", "the same", start.elapsed().as_secs_f64() * 1e6);
}
