//! Segments: a naive model reads the definitions with all the repetition that evaluation avoids, and both must agree on any
//! family of segments; so must a client that evaluates the exported document by itself, but for the lists.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test's helpers may fail")]

mod generated;

use std::sync::Arc;

use featureops_evaluation::flagd::{export_with_segments, import, left_out};
use featureops_evaluation::{
    CompiledSegment, Context, Snapshot, UnitKey, UnitList, check, check_segment, compile, compile_segment,
    evaluate, explain, explain_segment,
};
use featureops_proto::v1::{self, Reason, Segment, SegmentClause, condition::Operator, rule};
use generated::{ENVIRONMENT, FLAG, number};
use proptest::collection::vec;
use proptest::prelude::*;
use prost_types::{Struct, Value, value::Kind};

const KEY: UnitKey = UnitKey::new([7; 16]);
const UNITS: [&str; 4] = ["ada", "bob", "eve", "mallory"];
const COUNTRIES: [&str; 3] = ["DE", "FR", "IT"];

/// A segment and who is on its list.
#[derive(Debug, Clone)]
struct Listed {
    segment: Segment,
    units: Vec<&'static str>,
}

fn name(id: &str) -> String {
    format!("environments/{ENVIRONMENT}/segments/{id}")
}

fn condition(attribute: &str, operator: Operator, values: Vec<Value>) -> v1::Condition {
    v1::Condition { attribute: attribute.to_owned(), operator: operator.into(), values }
}

fn asks(operator: Operator, ids: &[&str]) -> v1::Condition {
    condition("", operator, ids.iter().map(|id| Value::from(*id)).collect())
}

fn segment(id: &str, clauses: Vec<Vec<v1::Condition>>, units: &[&'static str]) -> Listed {
    let clauses = clauses.into_iter().map(|conditions| SegmentClause { conditions }).collect();
    let unit_count = units.len() as u64;
    Listed {
        segment: Segment { name: name(id), clauses, unit_count, ..Segment::default() },
        units: units.to_vec(),
    }
}

fn flag(rules: Vec<Vec<v1::Condition>>) -> v1::Flag {
    let rules = rules.into_iter().enumerate().map(|(nth, conditions)| v1::Rule {
        id: format!("r{nth}"),
        conditions,
        serve: Some(rule::Serve::Variant(format!("v{nth}"))),
    });
    v1::Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{FLAG}"),
        r#type: v1::ValueType::String.into(),
        variants: ["off", "v0", "v1", "v2"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("off".to_owned()),
        rules: rules.collect(),
        ..v1::Flag::default()
    }
}

/// Hashes in as many shards as a list of this length might have.
fn list(units: &[&str], bits: u32) -> Option<UnitList> {
    let mut hashes: Vec<u64> = units.iter().map(|unit| KEY.hash(unit.as_bytes())).collect();
    hashes.sort_unstable();
    let shard = |at: usize| -> Arc<[u64]> {
        hashes
            .iter()
            .copied()
            .filter(|hash| hash.checked_shr(64 - bits).unwrap_or(0) as usize == at)
            .collect()
    };
    (!hashes.is_empty()).then(|| UnitList::new((0..1usize << bits).map(shard).collect(), KEY.id()))
}

fn compiled(listed: &Listed, bits: u32) -> CompiledSegment {
    compile_segment(&listed.segment, list(&listed.units, bits)).unwrap()
}

fn snapshot(flags: &[v1::Flag], segments: &[Listed], bits: u32) -> Snapshot {
    let environment = v1::Environment::default();
    let entry = |listed: &Listed| {
        let segment = compiled(listed, bits);
        (ENVIRONMENT.to_owned(), segment.id().to_owned(), Some(segment))
    };
    Snapshot::empty().with_segments(segments.iter().map(entry)).apply(
        flags.iter().map(|flag| compile(flag, &environment).unwrap()),
        1,
        0,
    )
}

fn context(unit: Option<&str>, country: Option<&str>, age: f64) -> Struct {
    let mut fields = vec![("age".to_owned(), number(age))];
    fields.extend(unit.map(|unit| ("targetingKey".to_owned(), Value::from(unit))));
    fields.extend(country.map(|country| ("country".to_owned(), Value::from(country))));
    Struct { fields: fields.into_iter().collect() }
}

/// The model: everything again, each time it is asked.
fn in_segment(id: &str, segments: &[Listed], context: &Struct, lists: bool) -> bool {
    let Some(listed) = segments.iter().find(|listed| listed.segment.name == name(id)) else { return false };
    let unit = match context.fields.get("targetingKey").and_then(|value| value.kind.clone()) {
        Some(Kind::StringValue(unit)) => unit,
        _ => String::new(),
    };
    lists && listed.units.contains(&unit.as_str())
        || listed
            .segment
            .clauses
            .iter()
            .any(|clause| clause.conditions.iter().all(|c| holds(c, segments, context, lists)))
}

fn holds(condition: &v1::Condition, segments: &[Listed], context: &Struct, lists: bool) -> bool {
    let any = || {
        condition.values.iter().any(|value| match &value.kind {
            Some(Kind::StringValue(id)) => in_segment(id, segments, context, lists),
            _ => false,
        })
    };
    let seen = context.fields.get(&condition.attribute);
    match condition.operator() {
        Operator::InSegment => any(),
        Operator::NotInSegment => !any(),
        Operator::Equals => seen == condition.values.first(),
        Operator::Less => match (seen.and_then(|v| v.kind.clone()), condition.values[0].kind.clone()) {
            (Some(Kind::NumberValue(seen)), Some(Kind::NumberValue(bound))) => seen < bound,
            _ => false,
        },
        other => panic!("{other:?} is not drawn"),
    }
}

fn served(flag: &v1::Flag, segments: &[Listed], context: &Struct, lists: bool) -> String {
    let matching = flag
        .rules
        .iter()
        .position(|rule| rule.conditions.iter().all(|condition| holds(condition, segments, context, lists)));
    matching.map_or("off".to_owned(), |nth| format!("v{nth}"))
}

/// About attributes, and about segments below the one of this number.
fn conditions(below: usize) -> impl Strategy<Value = Vec<v1::Condition>> {
    let country = prop::sample::select(COUNTRIES.to_vec())
        .prop_map(|country| condition("country", Operator::Equals, vec![Value::from(country)]));
    let age = prop::sample::select(vec![18.0, 40.0])
        .prop_map(|age| condition("age", Operator::Less, vec![number(age)]));
    let operator = prop::sample::select(vec![Operator::InSegment, Operator::NotInSegment]);
    // One beyond the last is a segment that is not there.
    let asked = (operator, vec(0..below.max(1), 1..3)).prop_map(|(operator, ids)| {
        let ids: Vec<String> = ids.into_iter().map(|id| format!("s{id}")).collect();
        asks(operator, &ids.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let one = if below == 0 {
        prop_oneof![country, age].boxed()
    } else {
        prop_oneof![1 => country, 1 => age, 3 => asked].boxed()
    };
    vec(one, 1..3)
}

fn family() -> impl Strategy<Value = Vec<Listed>> {
    let one = |nth: usize| {
        let units = prop::sample::subsequence(UNITS[..3].to_vec(), 0..3);
        (vec(conditions(nth), 0..3), units)
            .prop_map(move |(clauses, units)| segment(&format!("s{nth}"), clauses, &units))
    };
    (one(0), one(1), one(2), one(3), one(4)).prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_096, ..ProptestConfig::default() })]

    #[test]
    fn evaluation_agrees_with_the_naive_model_and_clients_but_for_lists(
        segments in family(),
        rules in vec(conditions(6), 1..4),
        unit in prop::option::of(prop::sample::select(UNITS.to_vec())),
        country in prop::option::of(prop::sample::select(COUNTRIES.to_vec())),
        age in prop::sample::select(vec![17.0, 30.0, 50.0]),
        bits in 0u32..4,
    ) {
        let flag = flag(rules);
        let snapshot = snapshot(std::slice::from_ref(&flag), &segments, bits);
        let attributes = context(unit, country, age);
        let context = Context::new(&attributes).with_unit_key(&KEY);
        let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &context, 0);
        let expected = served(&flag, &segments, &attributes, true);
        prop_assert_eq!(evaluation.variant, Some(expected.as_str()));
        prop_assert_ne!(evaluation.reason, Reason::Static);
        prop_assert_eq!(explain(&snapshot, ENVIRONMENT, FLAG, &context, 0).evaluation, evaluation);
        for listed in &segments {
            let id = listed.segment.name.rsplit('/').next().unwrap();
            let (contained, steps) = explain_segment(&snapshot, ENVIRONMENT, id, &context).unwrap();
            prop_assert_eq!(contained, in_segment(id, &segments, &attributes, true));
            prop_assert!(steps.last().is_some_and(|step| step.matched == contained));
        }

        // A client on its own; a node without the key answers the same.
        let keyless = Context::new(&attributes);
        let without_lists = served(&flag, &segments, &attributes, false);
        let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &keyless, 0);
        prop_assert_eq!(evaluation.variant, Some(without_lists.as_str()));
        let definitions: Vec<Segment> = segments.iter().map(|listed| listed.segment.clone()).collect();
        let environment = v1::Environment { name: format!("environments/{ENVIRONMENT}"), ..v1::Environment::default() };
        let flags = [flag];
        let document = export_with_segments(&flags, &environment, &definitions).to_string();
        let read = import(&document, ENVIRONMENT, &environment).unwrap();
        prop_assert!(read.warnings.is_empty(), "{:?}", read.warnings);
        let imported = compile(&read.flags[0], &environment).unwrap();
        let imported = Snapshot::empty().apply([imported], 1, 0);
        let answer = evaluate(&imported, ENVIRONMENT, FLAG, &keyless, 0);
        prop_assert_eq!(answer.variant, Some(without_lists.as_str()), "{}", document);
        // What differs is said.
        if without_lists != expected {
            prop_assert!(!left_out(&flags, &v1::Environment::default(), &definitions).is_empty());
        }
    }
}

#[test]
fn an_explanation_says_why() {
    let segments = [
        segment("staff", vec![vec![condition("country", Operator::Equals, vec!["DE".into()])]], &["ada"]),
        segment("beta", vec![vec![asks(Operator::InSegment, &["staff"])]], &[]),
    ];
    let flag = flag(vec![vec![asks(Operator::InSegment, &["beta"])]]);
    let snapshot = snapshot(&[flag], &segments, 0);
    let why = |attributes: &Struct, key: Option<&UnitKey>| {
        let context = Context::new(attributes);
        let context = key.map_or(context.clone(), |key| context.with_unit_key(key));
        let steps = explain(&snapshot, ENVIRONMENT, FLAG, &context, 0).steps;
        steps.into_iter().map(|step| format!("{}: {}", step.subject, step.finding)).collect::<Vec<_>>()
    };
    let ada = why(&context(Some("ada"), None, 30.0), Some(&KEY));
    let expected = [
        "flag: found at version 0",
        "condition country: EQUALS does not hold for a missing attribute",
        "segment staff: in it: the unit is on its list",
        "condition: IN_SEGMENT staff holds",
        "segment beta: in it: clause 0 holds",
        "condition: IN_SEGMENT beta holds",
        "rule r0: matches",
        "variant: v0",
    ];
    assert_eq!(ada, expected);
    let said =
        |steps: Vec<String>, part: &str| assert!(steps.iter().any(|step| step.contains(part)), "{steps:?}");
    said(why(&context(Some("bob"), None, 30.0), Some(&KEY)), "its list of 1 is without the unit");
    said(why(&context(None, None, 30.0), Some(&KEY)), "no unit that could be on its list");
    said(why(&context(Some("ada"), None, 30.0), Some(&UnitKey::new([8; 16]))), "another unit key");
    said(why(&context(Some("ada"), Some("DE"), 30.0), None), "segment staff: in it: clause 0 holds");
}

/// A segment is looked at once a flag, whatever a snapshot holds: chains, circles, and a web that doubles at each level.
#[test]
fn an_evaluation_ends_whatever_a_snapshot_holds() {
    let ada = context(Some("ada"), None, 30.0);
    let answer = |segments: &[Listed], operator: Operator| {
        let flag = flag(vec![vec![asks(operator, &["s0"])]]);
        let snapshot = snapshot(&[flag], segments, 0);
        let context = Context::new(&ada).with_unit_key(&KEY);
        evaluate(&snapshot, ENVIRONMENT, FLAG, &context, 0).variant.unwrap().to_owned()
    };
    let chain = |length: usize| -> Vec<Listed> {
        let one = |nth: usize| {
            let below = format!("s{}", nth + 1);
            let clauses =
                if nth < length { vec![vec![asks(Operator::InSegment, &[&below])]] } else { vec![] };
            segment(&format!("s{nth}"), clauses, if nth < length { &[] } else { &["ada"] })
        };
        (0..=length).map(one).collect()
    };
    assert_eq!(answer(&chain(16), Operator::InSegment), "v0");
    assert_eq!(answer(&chain(17), Operator::InSegment), "off", "one level too many");
    assert_eq!(answer(&chain(17), Operator::NotInSegment), "v0");
    let mut circle = chain(3);
    circle[3] = segment("s3", vec![vec![asks(Operator::InSegment, &["s1"])]], &[]);
    assert_eq!(answer(&circle, Operator::InSegment), "off");
    let web: Vec<Listed> = (0..17)
        .flat_map(|level: usize| {
            (0..15).map(move |nth| {
                let below: Vec<String> = (0..15).map(|other| format!("l{}-{other}", level + 1)).collect();
                let clauses = below.iter().map(|id| vec![asks(Operator::InSegment, &[id])]).collect();
                let id = if level == 0 && nth == 0 { "s0".to_owned() } else { format!("l{level}-{nth}") };
                segment(&id, clauses, &[])
            })
        })
        .collect();
    assert_eq!(answer(&web, Operator::NotInSegment), "v0");
}

#[test]
fn what_cannot_be_asked_is_refused_with_path_and_way_out() {
    let environment = v1::Environment::default();
    let refused = |condition: v1::Condition| check(&flag(vec![vec![condition]]), &environment).unwrap_err();
    let error = refused(v1::Condition { attribute: "country".into(), ..asks(Operator::InSegment, &["a"]) });
    assert_eq!(error.path, "rules[0].conditions[0].attribute");
    assert!(error.message.contains("leave the attribute empty"));
    assert_eq!(refused(asks(Operator::NotInSegment, &[])).path, "rules[0].conditions[0].values");
    assert_eq!(refused(asks(Operator::InSegment, &["a", "b/c"])).path, "rules[0].conditions[0].values[1]");
    let error = refused(condition("", Operator::InSegment, vec![number(7.0)]));
    assert_eq!((error.path.as_str(), error.value.as_str()), ("rules[0].conditions[0].values[0]", "a number"));

    let error = check_segment(&segment("a", vec![vec![]], &[]).segment).unwrap_err();
    assert_eq!(error.path, "clauses[0].conditions");
    let bad = condition("age", Operator::Less, vec!["x".into()]);
    let error = check_segment(&segment("a", vec![vec![bad]], &[]).segment).unwrap_err();
    assert_eq!(error.path, "clauses[0].conditions[0].values[0]");
    let clauses = vec![vec![condition("age", Operator::Exists, vec![])]; 65];
    assert_eq!(check_segment(&segment("a", clauses, &[]).segment).unwrap_err().path, "clauses");
    let long = vec![Value::from("x".repeat(70_000))];
    let clauses = vec![vec![condition("country", Operator::Equals, long)]];
    assert_eq!(check_segment(&segment("a", clauses, &[]).segment).unwrap_err().path, "segment");
}
