//! Targeting for any rule and any context: it is answered, within its budget; and `fractional` against a second, naive
//! model that writes the hashed bytes out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail")]

mod json;

use std::collections::BTreeMap;

use featureops_evaluation::{
    Context, Murmur3, Snapshot, bucket_of_version, compile, evaluate, evaluate_all, explain, logic::apply,
    warnings,
};
use featureops_proto::v1::{Environment, EvaluationError, Flag, FractionalVersion, ValueType};
use json::{json_of, struct_of};
use proptest::collection::vec;
use proptest::prelude::*;
use prost_types::Value;
use serde_json::{Value as Json, json};

const OPERATORS: &str = "var var var missing missing_some if if == === != !== > >= < <= % / * + - max min merge cat substr \
    in map filter all none some reduce ! !! and or fractional fractional starts_with ends_with sem_ver $ref unknown";

fn scalar() -> impl Strategy<Value = Json> {
    let texts = [
        "",
        "a",
        "b",
        "true",
        "list",
        "list.1",
        "o.p",
        "current",
        "accumulator",
        "$flagd.flagKey",
        "$flagd",
        "targetingKey",
        "1.2.3",
        "=",
        "^",
        "shared",
        "ünï",
        "12",
        "0x1f",
        "current.p",
    ];
    prop_oneof![
        1 => Just(Json::Null),
        1 => any::<bool>().prop_map(Json::from),
        1 => prop::sample::select(vec![0.0, -0.0, 1.0, 2.0, 50.0, -1.0, 1.5, 1e300, 2_147_483_647.0]).prop_map(Json::from),
        1 => any::<i64>().prop_map(Json::from),
        4 => prop::sample::select(texts.to_vec()).prop_map(Json::from),
        1 => ".{0,6}".prop_map(Json::from),
    ]
}

fn rule() -> impl Strategy<Value = Json> {
    let operators: Vec<&str> = OPERATORS.split_whitespace().collect();
    scalar().prop_recursive(6, 48, 4, move |inner| {
        let operator = prop::sample::select(operators.clone());
        prop_oneof![
            5 => (operator.clone(), vec(inner.clone(), 0..5)).prop_map(|(name, list)| json!({ name: list })),
            1 => (operator, inner.clone()).prop_map(|(name, one)| json!({ name: one })),
            1 => vec(inner.clone(), 0..4).prop_map(Json::from),
            1 => (inner.clone(), inner).prop_map(|(a, b)| json!({"x": a, "y": b})),
        ]
    })
}

fn value() -> impl Strategy<Value = Json> {
    scalar().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Json::from),
            vec((prop::sample::select(vec!["p", "a", "", "bb"]), inner), 0..4)
                .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

fn context() -> impl Strategy<Value = Json> {
    let keys = ["a", "b", "list", "o", "targetingKey", "true", "12", "$flagd", ""];
    vec((prop::sample::select(keys.to_vec()), value()), 0..6)
        .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn version() -> impl Strategy<Value = FractionalVersion> {
    prop::sample::select(vec![FractionalVersion::FractionalVersion2, FractionalVersion::FractionalVersion3])
}

fn environment(version: FractionalVersion, shared: &Json) -> Environment {
    let evaluators = [("shared", shared.to_string()), ("12", r#"{"$ref": "shared"}"#.to_owned())];
    Environment {
        fractional: version.into(),
        evaluators: evaluators.map(|(name, rule)| (name.to_owned(), rule)).into(),
        ..Environment::default()
    }
}

/// RFC 8949, 4.2.1, written out with every size spelled.
fn naive_cbor(json: &Json) -> Vec<u8> {
    let head = |major: u8, n: u64| -> Vec<u8> {
        let bytes = n.to_be_bytes();
        let (more, width) = match n {
            0..24 => return vec![major * 32 + n as u8],
            24..256 => (24, 1),
            256..65_536 => (25, 2),
            65_536..4_294_967_296 => (26, 4),
            _ => (27, 8),
        };
        [&[major * 32 + more], &bytes[8 - width..]].concat()
    };
    match json {
        Json::Null => vec![0xf6],
        Json::Bool(value) => vec![0xf4 + u8::from(*value)],
        Json::String(text) => [head(3, text.len() as u64), text.as_bytes().to_vec()].concat(),
        Json::Array(items) => std::iter::once(head(4, items.len() as u64))
            .chain(items.iter().map(naive_cbor))
            .flatten()
            .collect(),
        Json::Object(fields) => {
            let mut pairs: Vec<_> =
                fields.iter().map(|(key, value)| (naive_cbor(&json!(key)), naive_cbor(value))).collect();
            pairs.sort();
            let pairs = pairs.into_iter().flat_map(|(key, value)| [key, value]);
            std::iter::once(head(5, fields.len() as u64)).chain(pairs).flatten().collect()
        }
        Json::Number(number) => {
            let number = number.as_f64().unwrap();
            let whole = number as i128;
            if whole as f64 == number && (0..=u64::MAX.into()).contains(&whole) {
                return head(0, whole as u64);
            }
            if whole as f64 == number && (i64::MIN.into()..0).contains(&whole) {
                return head(1, (-1 - whole) as u64);
            }
            // Half precision by trying all of it.
            let half = |bits: u16| {
                let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
                let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
                match exponent {
                    0 => sign * fraction * 2f64.powi(-24),
                    31 => f64::NAN,
                    _ => sign * (1024.0 + fraction) * 2f64.powi(exponent - 25),
                }
            };
            if let Some(bits) = (0..=u16::MAX).find(|bits| half(*bits) == number) {
                return [vec![0xf9], bits.to_be_bytes().to_vec()].concat();
            }
            if f64::from(number as f32) == number {
                return [vec![0xfa], (number as f32).to_be_bytes().to_vec()].concat();
            }
            [vec![0xfb], number.to_be_bytes().to_vec()].concat()
        }
    }
}

fn murmur(bytes: &[u8]) -> u32 {
    Murmur3::new().with(bytes).finish()
}

/// The specification of `fractional`, read out loud.
fn naive_fractional(version: FractionalVersion, arguments: &[Json], unit: &Json) -> Json {
    let third = version == FractionalVersion::FractionalVersion3;
    let of_unit = || {
        let unit = unit.as_str().filter(|unit| !unit.is_empty())?;
        Some(murmur(&if third {
            naive_cbor(&json!(["flag", unit]))
        } else {
            format!("flag{unit}").into_bytes()
        }))
    };
    let (hash, entries) = match &arguments[0] {
        Json::Array(_) => (of_unit(), arguments),
        Json::Null if third => (None, &arguments[1..]),
        Json::Null => (of_unit(), &arguments[1..]),
        Json::String(text) if !third => (Some(murmur(text.as_bytes())), &arguments[1..]),
        _ if !third => (None, &arguments[1..]),
        other => (Some(murmur(&naive_cbor(other))), &arguments[1..]),
    };
    let mut map = Vec::new();
    for entry in entries {
        let Some(items) = entry.as_array() else { return Json::Null };
        let Some(variant) = items.first().filter(|variant| !variant.is_array() && !variant.is_object())
        else {
            return Json::Null;
        };
        let weight = match items.get(1) {
            None => 1.0,
            Some(Json::Null) if !third => 1.0,
            Some(weight) => match weight.as_f64() {
                Some(weight) if weight.fract() == 0.0 && weight <= 2_147_483_647.0 => weight.max(0.0),
                _ => return Json::Null,
            },
        };
        map.push((variant.clone(), weight as u128));
    }
    let sum: u128 = map.iter().map(|(_, weight)| weight).sum();
    let Some(hash) = hash.filter(|_| (1..=2_147_483_647).contains(&sum)) else { return Json::Null };
    let mut bucket = u128::from(hash) * sum / (1 << 32);
    for (variant, weight) in map {
        if bucket < weight {
            return variant;
        }
        bucket -= weight;
    }
    unreachable!()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_096, ..ProptestConfig::default() })]

    #[test]
    fn any_rule_is_answered_for_any_context(
        rule in rule(),
        shared in rule(),
        context in context(),
        overlay in context(),
        version in version(),
        imported in any::<bool>(),
        now_ms in any::<i64>(),
    ) {
        let environment = environment(version, &shared);
        let flag = Flag {
            name: "environments/production/flags/flag".to_owned(),
            r#type: ValueType::String.into(),
            variants: ["a", "b", "true", "1"].map(|name| (name.to_owned(), Value::from(name))).into(),
            default_variant: Some("a".to_owned()),
            targeting: rule.to_string(),
            imported,
            ..Flag::default()
        };
        let warned = warnings(&flag, &environment);
        let compiled = compile(&flag, &environment);
        // The doors agree on what is wrong.
        prop_assert_eq!(compiled.is_err(), !imported && !warned.is_empty());
        let Ok(compiled) = compiled else { return Ok(()) };
        let snapshot = Snapshot::empty().apply([compiled], 1, 0);
        let (context, overlay) = (struct_of(&context), struct_of(&overlay));
        let context = Context::new(&context).with_overlay(&overlay);
        let evaluation = evaluate(&snapshot, "production", "flag", &context, now_ms);
        prop_assert_eq!(&explain(&snapshot, "production", "flag", &context, now_ms).evaluation, &evaluation);
        for (_, again) in evaluate_all(&snapshot, "production", &context, now_ms) {
            prop_assert_eq!(&again, &evaluation);
        }
        // A rule nobody was warned of is never unable to answer: these are too small to spend a budget.
        prop_assert!(!warned.is_empty() || evaluation.error != Some(EvaluationError::ParseError));
        let applied = apply(&flag.targeting, &environment, "flag", &context, now_ms);
        match (applied, evaluation.variant) {
            (Err(error), _) => prop_assert_eq!(Some(error), evaluation.error),
            (Ok(value), Some(variant)) => match json_of(&value) {
                Json::Null => prop_assert_eq!(variant, "a"),
                Json::String(text) => prop_assert_eq!(variant, text),
                other => prop_assert_eq!(variant, other.to_string()),
            },
            (Ok(_), None) => prop_assert_eq!(evaluation.error, Some(EvaluationError::General)),
        }
    }

    #[test]
    fn fractional_agrees_with_the_naive_model(
        by in prop_oneof![value(), ".{0,40}".prop_map(Json::from)],
        entries in vec(
            prop_oneof![
                8 => (scalar(), prop_oneof![4 => (0i64..100).prop_map(Json::from), 1 => scalar()])
                    .prop_map(|(variant, weight)| json!([variant, weight])),
                2 => scalar().prop_map(|variant| json!([variant])),
                1 => value(),
            ],
            1..6,
        ),
        unit in prop_oneof![".{0,30}".prop_map(Json::from), scalar()],
        version in version(),
    ) {
        // From the context, so that what looks like an operator is data.
        let arguments: Vec<Json> = std::iter::once(by).chain(entries).collect();
        let rule: Vec<Json> = (0..arguments.len()).map(|nth| json!({"var": format!("arguments.{nth}")})).collect();
        let rule = json!({ "fractional": rule });
        let attributes = struct_of(&json!({"arguments": arguments, "targetingKey": unit}));
        let environment = environment(version, &Json::Null);
        let found = apply(&rule.to_string(), &environment, "flag", &Context::new(&attributes), 0);
        let wanted = naive_fractional(version, &arguments, &unit);
        let found = json_of(&found.unwrap());
        prop_assert!(found == wanted || found.as_f64().is_some_and(|number| Some(number) == wanted.as_f64()),
            "{found} {wanted}");

        // Written out, the entries are constants: the same answer by another way.
        let constant = |json: &Json| json.is_array() && !json.to_string().contains('{');
        if arguments[1..].iter().all(constant) {
            let mut written = vec![json!({"var": "arguments.0"})];
            written.extend(arguments[1..].iter().cloned());
            let rule = json!({ "fractional": written }).to_string();
            let again = apply(&rule, &environment, "flag", &Context::new(&attributes), 0);
            prop_assert_eq!(json_of(&again.unwrap()), found);
        }
    }

    #[test]
    fn the_allocations_bucket_is_that_of_fractional_over_10_000(unit in ".{1,40}", version in version()) {
        let thousands: Vec<Json> = (0..10).map(|nth| json!([nth, 1_000])).collect();
        let rule = json!({ "fractional": thousands }).to_string();
        let attributes = struct_of(&json!({ "targetingKey": unit }));
        let found = apply(&rule, &environment(version, &Json::Null), "flag", &Context::new(&attributes), 0);
        let bucket = bucket_of_version(version, "flag", &unit);
        prop_assert_eq!(json_of(&found.unwrap()), json!(bucket / 1_000));
    }
}

#[test]
fn a_hostile_context_costs_no_more_than_the_budget() {
    let mut deep = Value::from(1.0);
    for level in 0..5_000 {
        deep = if level % 2 == 0 {
            Value::from(vec![deep])
        } else {
            Value::from(BTreeMap::from([("a".to_owned(), deep)]))
        };
    }
    let wide: Json = (0..8_000).map(|nth| ("x".repeat(nth % 300) + &nth.to_string(), json!(1))).collect();
    let mut attributes = struct_of(&json!({ "wide": wide, "long": "x".repeat(1 << 20) }));
    attributes.fields.insert("deep".to_owned(), deep);
    let context = Context::new(&attributes);
    let environment = environment(FractionalVersion::FractionalVersion3, &Json::Null);
    for rule in [
        r#"{"fractional": [{"var": "deep"}, ["a"]]}"#,
        r#"{"fractional": [{"var": "wide"}, ["a"]]}"#,
        r#"{"cat": [{"var": "deep"}]}"#,
        r#"{"cat": [{"var": "long"}]}"#,
        r#"{"==": [{"var": "deep"}, {"var": "deep"}]}"#,
        r#"{"in": [{"var": "deep"}, {"var": "deep"}]}"#,
        r#"{"in": ["xy", {"var": "long"}]}"#,
        r#"{"substr": [{"var": "long"}, 3, -3]}"#,
        r#"{"merge": [{"var": "deep"}, {"var": "deep"}]}"#,
        r#"{"map": [{"var": "deep"}, {"cat": {"var": ""}}]}"#,
    ] {
        let _ = apply(rule, &environment, "flag", &context, 0);
    }
}
