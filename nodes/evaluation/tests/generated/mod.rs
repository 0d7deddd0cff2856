//! Flags and contexts drawn at random from small pools, so that conditions and attributes often meet.
#![allow(dead_code, reason = "every test takes what it needs")]
#![allow(clippy::indexing_slicing, reason = "a wrong draw should stop the test")]

use std::collections::BTreeMap;

use featureops_proto::v1::{self, condition::Operator, rule};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use prost_types::{Struct, Value, value::Kind};

pub const ENVIRONMENT: &str = "production";
pub const FLAG: &str = "checkout";
pub const EXPERIMENT: u32 = 7;

pub fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::from(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>())
}

pub fn number(value: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(value)) }
}

/// A context of this unit alone.
pub fn unit(unit: &str) -> Struct {
    Struct { fields: [("targetingKey".to_owned(), Value::from(unit))].into() }
}

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "DE", "FR", "D", "E", "beta", "pro", "18", "ada", "true", "ünï"])
        .prop_map(str::to_owned)
}

fn numbers() -> impl Strategy<Value = f64> {
    prop::sample::select(vec![0.0, -0.0, 1.0, 18.0, 18.5, -3.0, 9_007_199_254_740_991.0])
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![0.0, -0.0, 1.0, 18.0, 18.5, -3.0, 9_007_199_254_740_991.0])
            .prop_map(number),
        text().prop_map(Value::from),
    ]
}

/// Anything a caller may send, not-a-numbers included.
fn attribute_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => scalar(),
        1 => Just(Value { kind: None }),
        1 => Just(Value { kind: Some(Kind::NullValue(0)) }),
        1 => prop::sample::select(vec![f64::NAN, -f64::NAN, f64::INFINITY, 1e300]).prop_map(number),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(prop::sample::select(vec!["plan", "age", ""]).prop_map(str::to_owned), inner, 0..3)
                .prop_map(Value::from),
        ]
    })
}

pub fn context() -> impl Strategy<Value = Struct> {
    let key =
        prop::sample::select(vec!["country", "age", "beta", "groups", "account"]).prop_map(str::to_owned);
    let unit = prop_oneof![
        6 => "[a-z]{1,12}".prop_map(Value::from),
        1 => text().prop_map(Value::from),
        1 => Just(number(5.0)),
    ];
    (btree_map(key, attribute_value(), 0..6), of(unit)).prop_map(|(mut fields, unit)| {
        if let Some(unit) = unit {
            fields.insert("targetingKey".to_owned(), unit);
        }
        Struct { fields }
    })
}

fn condition() -> impl Strategy<Value = v1::Condition> {
    let attribute = prop::sample::select(vec![
        "country",
        "age",
        "beta",
        "groups",
        "account.plan",
        "account.plan.age",
        "targetingKey",
        "country.plan",
    ]);
    (attribute, 1i32..14, vec(scalar(), 1..5), text(), numbers()).prop_map(
        |(attribute, operator, mut values, text, number_value)| {
            let operator = Operator::try_from(operator).unwrap_or(Operator::Exists);
            match operator {
                Operator::Exists | Operator::NotExists => values.clear(),
                Operator::In | Operator::NotIn => {}
                Operator::StartsWith | Operator::EndsWith => values = vec![Value::from(text)],
                Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                    values = vec![number(number_value)];
                }
                _ => values.truncate(1),
            }
            v1::Condition { attribute: attribute.to_owned(), operator: operator.into(), values }
        },
    )
}

/// Weights of `parts` parts that sum to 10,000.
fn weights(parts: usize) -> impl Strategy<Value = Vec<u32>> {
    vec(0u32..=10_000, parts - 1).prop_map(|mut cuts| {
        cuts.extend([0, 10_000]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    })
}

fn split(names: Vec<String>) -> impl Strategy<Value = v1::Split> {
    (1usize..6)
        .prop_flat_map(move |parts| (weights(parts), vec(prop::sample::select(names.clone()), parts)))
        .prop_map(|(weights, names)| {
            let entry = |(weight_basis_points, variant)| v1::WeightedVariant { variant, weight_basis_points };
            v1::Split {
                variants: weights.into_iter().zip(names).map(entry).collect(),
                ..v1::Split::default()
            }
        })
}

/// A split with a map of its own, in which variants come again and again.
fn sticky_split(names: Vec<String>) -> impl Strategy<Value = v1::Split> {
    let count = names.len();
    (1usize..9)
        .prop_flat_map(move |parts| (weights(parts), vec(0..count, parts), Just(names.clone())))
        .prop_map(|(lengths, arms, names)| {
            let mut variants: Vec<_> = names
                .into_iter()
                .map(|variant| v1::WeightedVariant { variant, weight_basis_points: 0 })
                .collect();
            let mut runs = Vec::new();
            for (length, arm) in lengths.into_iter().zip(arms) {
                variants[arm].weight_basis_points += length;
                runs.push(v1::Run { arm: arm as u32, length });
            }
            v1::Split { variants, sticky: true, runs }
        })
}

/// Slots of a layer, taken in any order.
fn slots() -> impl Strategy<Value = Vec<v1::SlotRange>> {
    (weights(7), vec(any::<bool>(), 7), any::<bool>()).prop_map(|(lengths, taken, backwards)| {
        let mut start = 0;
        let mut slots = Vec::new();
        for (length, taken) in lengths.into_iter().zip(taken) {
            if taken && length > 0 {
                slots.push(v1::SlotRange { start, length });
            }
            start += length;
        }
        if backwards {
            slots.reverse();
        }
        slots
    })
}

/// Who may be in an experiment: everybody, or units of a layer and those whom no holdout holds.
fn placement() -> impl Strategy<Value = (String, Vec<v1::SlotRange>, Vec<v1::HoldoutShare>)> {
    let shares = prop::sample::select(vec![0u32, 1, 500, 5_000, 10_000]);
    let holdouts = btree_map(prop::sample::select(vec!["q3", "all", "page"]), shares, 0..3);
    let holdouts = holdouts.prop_map(|holdouts| {
        let share =
            |(id, basis_points): (&str, u32)| v1::HoldoutShare { holdout: id.to_owned(), basis_points };
        holdouts.into_iter().map(share).collect::<Vec<_>>()
    });
    prop_oneof![
        2 => Just((String::new(), vec![], vec![])),
        1 => holdouts.clone().prop_map(|holdouts| (String::new(), vec![], holdouts)),
        2 => (slots(), holdouts).prop_map(|(slots, holdouts)| ("page".to_owned(), slots, holdouts)),
    ]
}

/// The second around which ramps are drawn.
pub const RAMP_SECOND: i64 = 1_790_000_000;

/// A ramp, or a variant when there is but one.
fn ramp(names: Vec<String>) -> impl Strategy<Value = rule::Serve> {
    let shares = prop::sample::select(vec![
        (0, None),
        (0, Some(10_000)),
        (100, Some(5_000)),
        (3_333, None),
        (0, Some(1)),
    ]);
    (-200i64..200, 1i64..300, shares, 0usize..4, 0usize..4, any::<bool>()).prop_map(
        move |(from, span, (start_basis_points, end_basis_points), grows, step, default)| {
            let count = names.len();
            let (grows, shrinks) = (grows % count, (grows + 1 + step) % count);
            if grows == shrinks {
                return rule::Serve::Variant(names[grows].clone());
            }
            let time = |second| Some(prost_types::Timestamp { seconds: RAMP_SECOND + second, nanos: 0 });
            rule::Serve::Ramp(v1::Ramp {
                variant: names[grows].clone(),
                otherwise: if default { String::new() } else { names[shrinks].clone() },
                start_time: time(from),
                end_time: time(from + span),
                start_basis_points,
                end_basis_points,
            })
        },
    )
}

/// A ramp leads from one variant to another; where the default is the one that grows, the way back is written out.
fn settle_ramps(flag: &mut v1::Flag) {
    for rule in &mut flag.rules {
        if let Some(rule::Serve::Ramp(ramp)) = &mut rule.serve
            && ramp.otherwise.is_empty()
            && flag.default_variant.as_ref() == Some(&ramp.variant)
        {
            rule.serve = Some(rule::Serve::Variant(ramp.variant.clone()));
        }
    }
}

/// Puts a flag's ramps so far off that they have not begun on any clock.
pub fn postpone_ramps(flag: &mut v1::Flag) {
    for rule in &mut flag.rules {
        if let Some(rule::Serve::Ramp(ramp)) = &mut rule.serve {
            for time in [&mut ramp.start_time, &mut ramp.end_time].into_iter().flatten() {
                time.seconds += 1 << 33;
            }
        }
    }
}

fn rule(names: Vec<String>) -> impl Strategy<Value = v1::Rule> {
    let serve = prop_oneof![
        2 => prop::sample::select(names.clone()).prop_map(rule::Serve::Variant),
        1 => split(names.clone()).prop_map(rule::Serve::Split),
        1 => sticky_split(names.clone()).prop_map(rule::Serve::Split),
        1 => ramp(names),
    ];
    (vec(condition(), 0..4), serve).prop_map(|(conditions, serve)| v1::Rule {
        id: String::new(),
        conditions,
        serve: Some(serve),
    })
}

fn allocation(names: Vec<String>) -> impl Strategy<Value = v1::Allocation> {
    (1usize..9, 1usize..5, 1u32..4)
        .prop_flat_map(move |(parts, arms, generation)| {
            (
                weights(parts),
                vec(0..arms as u32, parts),
                vec(prop::sample::select(names.clone()), arms),
                Just(generation),
                placement(),
            )
        })
        .prop_map(|(lengths, run_arms, variants, generation, (layer, slots, holdouts))| {
            let mut weights_basis_points = vec![0; variants.len()];
            let mut runs = Vec::new();
            for (length, arm) in lengths.into_iter().zip(run_arms) {
                weights_basis_points[arm as usize] += length;
                runs.push(v1::Run { arm, length });
            }
            v1::Allocation {
                generation,
                allocation_version: 3,
                runs,
                weights_basis_points,
                variants,
                experiment_number: EXPERIMENT,
                layer,
                slots,
                holdouts,
            }
        })
}

fn value_of(value_type: v1::ValueType, nth: usize) -> Value {
    match value_type {
        v1::ValueType::Boolean => Value::from(nth.is_multiple_of(2)),
        v1::ValueType::String => Value::from(format!("value {nth}")),
        v1::ValueType::Number => number(nth as f64 / 2.0),
        _ => object([("nth", number(nth as f64))]),
    }
}

prop_compose! {
    fn definition()(count in 1usize..5, value_type in 1i32..5)(
        value_type in Just(value_type),
        count in Just(count),
        rules in vec(rule(names(count)), 0..4),
        allocation in of(allocation(names(count))),
        default in of(prop::sample::select(names(count))),
        safe in of(prop::sample::select(names(count))),
        stale_after in prop::sample::select(vec![0i64, 0, 0, 10, 60]),
        disabled in prop::bool::weighted(0.15),
        tripped in prop::bool::weighted(0.15),
        archived in prop::bool::weighted(0.1),
        flag_version in 1u64..1000,
    ) -> v1::Flag {
        let value_type = v1::ValueType::try_from(value_type).unwrap_or_default();
        let mut rules = rules;
        for (nth, rule) in rules.iter_mut().enumerate() {
            rule.id = format!("rule-{nth}");
        }
        let mut flag = v1::Flag {
            name: format!("environments/{ENVIRONMENT}/flags/{FLAG}"),
            r#type: value_type.into(),
            variants: names(count).into_iter().enumerate().map(|(n, name)| (name, value_of(value_type, n))).collect(),
            default_variant: default,
            stale_after_seconds: if safe.is_some() { stale_after } else { 0 },
            safe_variant: safe,
            rules,
            disabled,
            trip: tripped.then(v1::Trip::default),
            archived,
            allocation,
            flag_version,
            ..v1::Flag::default()
        };
        settle_ramps(&mut flag);
        flag
    }
}

fn names(count: usize) -> Vec<String> {
    ["a", "b", "c", "d"].iter().take(count).map(|name| (*name).to_owned()).collect()
}

prop_compose! {
    /// Flags that rest on those after them, the first under [`FLAG`], with forced units.
    pub fn family()(
        flags in vec(definition(), 4),
        links in vec((0usize..4, 1usize..4, vec(prop::sample::select(names(4)), 1..4)), 0..8),
        gone in prop::bool::weighted(0.05),
        forced in vec((0usize..4, text(), 0usize..4), 0..6),
    ) -> Vec<v1::Flag> {
        let mut flags = flags;
        for (from, step, variants) in links {
            let to = if gone { "gone".to_owned() } else { key_of(from + step) };
            if from + step < flags.len() && flags[from].prerequisites.iter().all(|p| p.flag != to) {
                flags[from].prerequisites.push(v1::Prerequisite { flag: to, variants });
            }
        }
        for (at, unit, variant) in forced.into_iter().filter(|(_, unit, _)| !unit.is_empty()) {
            let variant = names(4)[variant % flags[at].variants.len()].clone();
            flags[at].forced.insert(unit, variant);
        }
        for (at, flag) in flags.iter_mut().enumerate() {
            flag.name = format!("environments/{ENVIRONMENT}/flags/{}", key_of(at));
        }
        flags
    }
}

/// The keys of a family.
pub fn key_of(at: usize) -> String {
    if at == 0 { FLAG.to_owned() } else { format!("f{at}") }
}

/// A definition that compiles.
pub fn flag() -> impl Strategy<Value = v1::Flag> {
    definition()
}
