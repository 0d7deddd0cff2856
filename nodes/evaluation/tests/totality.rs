//! Whatever a definition, a context, a name or the time is: `check` answers, and `evaluate` answers.

mod generated;

use featureops_evaluation::{
    Context, Evaluation, Snapshot, as_float, as_integer, bucket_of, check, compile, evaluate, explain, minute,
};
use featureops_proto::v1::{self, Flag, rule};
use generated::{ENVIRONMENT, FLAG};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use prost_types::{Struct, Value, value::Kind};

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value { kind: None }),
        any::<i32>().prop_map(|n| Value { kind: Some(Kind::NullValue(n)) }),
        any::<bool>().prop_map(Value::from),
        proptest::num::f64::ANY.prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 24, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map(".{0,6}", inner, 0..3).prop_map(Value::from)
        ]
    })
}

fn any_struct() -> impl Strategy<Value = Struct> {
    btree_map(prop_oneof![".{0,8}", "country|age|account|targetingKey|featureopsReceipt"], any_value(), 0..6)
        .prop_map(|fields| Struct { fields })
}

fn any_ramp() -> impl Strategy<Value = rule::Serve> {
    let second = || of(prop_oneof![any::<i64>(), 0i64..1_000_000]);
    ("[a-c]", "[a-c]?", second(), second(), 0u32..11_000, of(any::<u32>())).prop_map(
        |(variant, otherwise, start, end, start_basis_points, end_basis_points)| {
            let time = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
            rule::Serve::Ramp(v1::Ramp {
                variant,
                otherwise,
                start_time: start.map(time),
                end_time: end.map(time),
                start_basis_points,
                end_basis_points,
            })
        },
    )
}

fn any_rule() -> impl Strategy<Value = v1::Rule> {
    let condition = ("[a-c.]{0,6}", -2i32..16, vec(any_value(), 0..3))
        .prop_map(|(attribute, operator, values)| v1::Condition { attribute, operator, values });
    let entry = ("[a-c]", any::<u32>())
        .prop_map(|(variant, weight_basis_points)| v1::WeightedVariant { variant, weight_basis_points });
    let serve = prop_oneof![
        "[a-c]".prop_map(rule::Serve::Variant),
        vec(entry, 0..4)
            .prop_map(|variants| rule::Serve::Split(v1::Split { variants, ..v1::Split::default() })),
        any_ramp(),
    ];
    (".{0,4}", vec(condition, 0..3), of(serve)).prop_map(|(id, conditions, serve)| v1::Rule {
        id,
        conditions,
        serve,
    })
}

fn any_allocation() -> impl Strategy<Value = v1::Allocation> {
    (vec((any::<u32>(), any::<u32>()), 0..4), vec(any::<u32>(), 0..3), vec("[a-c]", 0..4), any::<u32>())
        .prop_map(|(runs, weights_basis_points, variants, generation)| v1::Allocation {
            generation,
            allocation_version: generation,
            runs: runs.into_iter().map(|(arm, length)| v1::Run { arm: arm % 8, length }).collect(),
            weights_basis_points,
            variants,
            experiment_number: 1,
            ..v1::Allocation::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_048, ..ProptestConfig::default() })]

    #[test]
    fn any_definition_is_compiled_or_refused(
        name in prop_oneof![Just(format!("environments/{ENVIRONMENT}/flags/{FLAG}")), ".{0,40}"],
        value_type in -1i32..6,
        variants in btree_map("[a-c]", any_value(), 0..4),
        rules in vec(any_rule(), 0..3),
        allocation in of(any_allocation()),
        names in (of("[a-c]"), of("[a-c]")),
        stale_after_seconds in any::<i64>(),
        attributes in any_struct(),
        now_ms in any::<i64>(),
    ) {
        let flag = Flag {
            name,
            r#type: value_type,
            variants,
            rules,
            allocation,
            default_variant: names.0,
            safe_variant: names.1,
            stale_after_seconds,
            ..Flag::default()
        };
        let compiled = compile(&flag, &v1::Environment::default());
        prop_assert_eq!(check(&flag, &featureops_proto::v1::Environment::default()).err(), compiled.as_ref().err().cloned());
        if let Ok(compiled) = compiled {
            let snapshot = Snapshot::empty().apply([compiled], u64::MAX, i64::MAX);
            let context = Context::new(&attributes);
            let _: Evaluation<'_> = evaluate(&snapshot, ENVIRONMENT, FLAG, &context, now_ms);
        }
    }

    #[test]
    fn any_context_is_answered(
        flag in generated::flag(),
        attributes in any_struct(),
        override_key in of(".{0,40}"),
        receipt in vec(any::<u8>(), 0..40),
        log_time_ms in any::<i64>(),
        now_ms in any::<i64>(),
        names in (".{0,8}", ".{0,8}"),
    ) {
        let snapshot = Snapshot::empty().apply([compile(&flag, &v1::Environment::default()).unwrap()], 1, log_time_ms);
        let mut context = Context::new(&attributes);
        if let Some(key) = &override_key {
            context = context.with_targeting_key(key);
        }
        let text = context.receipt_text().map_or(receipt.as_slice(), str::as_bytes);
        prop_assert!(context.open_receipt(text, &[]).is_err());
        let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &context, now_ms);
        prop_assert_eq!(explain(&snapshot, ENVIRONMENT, FLAG, &context, now_ms).evaluation, evaluation);
        let _ = evaluate(&snapshot, &names.0, &names.1, &context, now_ms);
    }

    #[test]
    fn any_number_and_time_is_answered(value in any_value(), time in any::<i64>(), a in any::<u32>(), b in any::<u32>()) {
        if let (Some(integer), Some(float)) = (as_integer(&value), as_float(&value)) {
            // Lossless, there and back.
            prop_assert_eq!(integer as f64, float);
        }
        prop_assert!(minute::of_unix_ms(time) < 1 << minute::MINUTE_BITS);
        let _ = minute::to_unix_minute(a, b);
    }
}

/// Depth and length far beyond what the transport lets in.
#[test]
fn deep_and_long_inputs_are_answered() {
    let mut deep = Value::from(1.0);
    for level in 0..5_000 {
        deep = if level % 2 == 0 { Value::from(vec![deep]) } else { generated::object([("account", deep)]) };
    }
    let long = "x".repeat(4 << 20);
    let attributes = Struct {
        fields: [
            ("account".to_owned(), deep.clone()),
            ("targetingKey".to_owned(), Value::from(long.as_str())),
            (long.clone(), Value::from(true)),
        ]
        .into(),
    };
    let flag = Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{FLAG}"),
        r#type: v1::ValueType::Object.into(),
        variants: [("a".to_owned(), generated::object([]))].into(),
        rules: vec![v1::Rule {
            id: "deep".to_owned(),
            conditions: vec![v1::Condition {
                attribute: ["account"; 16].join("."),
                operator: v1::condition::Operator::NotExists.into(),
                values: vec![],
            }],
            serve: Some(rule::Serve::Split(v1::Split {
                variants: vec![v1::WeightedVariant { variant: "a".to_owned(), weight_basis_points: 10_000 }],
                ..v1::Split::default()
            })),
        }],
        ..Flag::default()
    };
    let snapshot = Snapshot::empty().apply([compile(&flag, &v1::Environment::default()).unwrap()], 1, 0);
    let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &Context::new(&attributes), 0);
    assert_eq!(evaluation.variant, Some("a"));
    assert_eq!(evaluation.bucket, Some(bucket_of(FLAG, &long)));
    let _ = evaluate(&snapshot, &long, &long, &Context::new(&attributes), 0);

    let refused =
        Flag { variants: [("a".to_owned(), generated::object([("account", deep)]))].into(), ..flag };
    assert_eq!(
        check(&refused, &featureops_proto::v1::Environment::default()).unwrap_err().path,
        "variants[a]"
    );
}
