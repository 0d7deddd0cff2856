//! What the write door refuses, and how it says so: the path, the value, the way out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail")]

use featureops_evaluation::{check, limits};
use featureops_proto::v1::{
    Allocation, Condition, Flag, Rule, Run, Split, ValueType, WeightedVariant, condition::Operator,
    rule::Serve,
};
use prost_types::{Value, value::Kind};

fn good() -> Flag {
    let condition = |attribute: &str, operator: Operator, values: &[Value]| Condition {
        attribute: attribute.to_owned(),
        operator: operator.into(),
        values: values.to_vec(),
    };
    let half = |variant: &str| WeightedVariant { variant: variant.to_owned(), weight_basis_points: 5_000 };
    Flag {
        name: "environments/production/flags/checkout".to_owned(),
        r#type: ValueType::String.into(),
        variants: ["a", "b"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("a".to_owned()),
        safe_variant: Some("a".to_owned()),
        stale_after_seconds: 60,
        rules: vec![
            Rule {
                id: "eu".to_owned(),
                conditions: vec![
                    condition("country", Operator::In, &["DE", "FR"].map(Value::from)),
                    condition("age", Operator::GreaterOrEqual, &[Value::from(18.0)]),
                ],
                serve: Some(Serve::Variant("b".to_owned())),
            },
            Rule {
                id: "rest".to_owned(),
                conditions: vec![],
                serve: Some(Serve::Split(Split { variants: vec![half("a"), half("b")], ..Split::default() })),
            },
        ],
        allocation: Some(Allocation {
            generation: 1,
            allocation_version: 1,
            runs: vec![Run { arm: 0, length: 8_000 }, Run { arm: 1, length: 2_000 }],
            weights_basis_points: vec![8_000, 2_000],
            variants: vec!["a".to_owned(), "b".to_owned()],
            experiment_number: 7,
            ..Allocation::default()
        }),
        ..Flag::default()
    }
}

fn nested(levels: usize) -> Value {
    let mut value = Value::from(1.0);
    for _ in 1..levels {
        value = Value {
            kind: Some(Kind::StructValue(prost_types::Struct { fields: [("k".to_owned(), value)].into() })),
        };
    }
    value
}

fn set(flag: &mut Flag, at: usize) -> &mut Condition {
    &mut flag.rules[0].conditions[at]
}

fn allocated(flag: &mut Flag) -> &mut Allocation {
    flag.allocation.as_mut().unwrap()
}

type Change = fn(&mut Flag);

#[test]
fn a_refusal_names_path_value_and_way_out() {
    assert_eq!(check(&good(), &featureops_proto::v1::Environment::default()), Ok(()));
    let cases: &[(&str, &str, &str, Change)] = &[
        ("name", "checkout", "environments/", |f| f.name = "checkout".to_owned()),
        ("type", "0", "BOOLEAN, STRING", |f| f.r#type = 0),
        ("type", "9", "BOOLEAN, STRING", |f| f.r#type = 9),
        ("variants", "0", "at least one", |f| f.variants.clear()),
        ("variants", "65", "at most 64", |f| {
            f.variants = (0..65).map(|n| (format!("v{n}"), Value::from("x"))).collect();
        }),
        ("variants[b]", "a number", "STRING", |f| drop(f.variants.insert("b".to_owned(), Value::from(1.0)))),
        ("variants[b]", "a list", "STRING", |f| {
            drop(f.variants.insert("b".to_owned(), Value::from(Vec::<Value>::new())));
        }),
        ("variants[b]", "null", "STRING", |f| drop(f.variants.insert("b".to_owned(), Value { kind: None }))),
        ("variants", "", "1 to 128 bytes", |f| drop(f.variants.insert(String::new(), Value::from("x")))),
        ("variants", "x\ny", "control characters", |f| {
            drop(f.variants.insert("x\ny".to_owned(), Value::from("x")))
        }),
        ("variants[n]", "9007199254740992", "2^53", |f| {
            drop(f.variants.insert("n".to_owned(), Value::from(9_007_199_254_740_992.0)));
        }),
        ("variants[n]", "NaN", "finite", |f| drop(f.variants.insert("n".to_owned(), Value::from(f64::NAN)))),
        ("variants[n]", "inf", "finite", |f| {
            drop(f.variants.insert("n".to_owned(), Value::from(vec![Value::from(f64::INFINITY)])));
        }),
        ("variants[deep]", "33", "at most 32 levels", |f| {
            drop(f.variants.insert("deep".to_owned(), nested(33)))
        }),
        ("flag", "", "at most 262144 bytes", |f| {
            drop(f.variants.insert("a".to_owned(), Value::from("x".repeat(300_000))))
        }),
        ("default_variant", "c", "this flag has a, b", |f| f.default_variant = Some("c".to_owned())),
        ("safe_variant", "", "no such variant", |f| f.safe_variant = Some(String::new())),
        ("stale_after_seconds", "60", "safe_variant", |f| f.safe_variant = None),
        ("stale_after_seconds", "-1", "0 (never)", |f| f.stale_after_seconds = -1),
        ("stale_after_seconds", "9223372036854775807", "0 (never)", |f| f.stale_after_seconds = i64::MAX),
        ("rules", "257", "at most 256", |f| f.rules = vec![f.rules[0].clone(); 257]),
        ("rules[1].id", "eu", "unique", |f| f.rules[1].id = "eu".to_owned()),
        ("rules[0].id", "", "1 to 128 bytes", |f| f.rules[0].id.clear()),
        ("rules[0].variant", "c", "this flag has", |f| {
            f.rules[0].serve = Some(Serve::Variant("c".to_owned()))
        }),
        ("rules[0].serve", "", "a split or a ramp", |f| f.rules[0].serve = None),
        ("rules[0].conditions", "65", "at most 64", |f| {
            f.rules[0].conditions = vec![f.rules[0].conditions[0].clone(); 65];
        }),
        ("rules[0].conditions[0].operator", "0", "EQUALS", |f| set(f, 0).operator = 0),
        ("rules[0].conditions[1].operator", "99", "EQUALS", |f| set(f, 1).operator = 99),
        ("rules[0].conditions[0].attribute", "", "non-empty keys", |f| set(f, 0).attribute.clear()),
        ("rules[0].conditions[0].attribute", "a..b", "non-empty keys", |f| {
            set(f, 0).attribute = "a..b".to_owned()
        }),
        ("rules[0].conditions[0].attribute", "", "at most 256 bytes", |f| {
            set(f, 0).attribute = "x".repeat(257)
        }),
        ("rules[0].conditions[0].attribute", "", "1 to 16", |f| set(f, 0).attribute = ["k"; 17].join(".")),
        ("rules[0].conditions[0].values", "0", "IN takes one value or more", |f| set(f, 0).values.clear()),
        ("rules[0].conditions[0].values", "1001", "at most 1000", |f| {
            set(f, 0).values = vec![Value::from("x"); limits::MAX_VALUES + 1];
        }),
        ("rules[0].conditions[0].values", "2", "EXISTS takes no value", |f| {
            set(f, 0).operator = Operator::Exists.into()
        }),
        ("rules[0].conditions[0].values", "2", "EQUALS takes exactly one", |f| {
            set(f, 0).operator = Operator::Equals.into();
        }),
        ("rules[0].conditions[0].values[1]", "null", "NOT_EXISTS", |f| {
            set(f, 0).values[1] = Value { kind: None }
        }),
        ("rules[0].conditions[0].values[0]", "an object", "NOT_EXISTS", |f| set(f, 0).values[0] = nested(2)),
        ("rules[0].conditions[0].values[0]", "NaN", "finite", |f| {
            set(f, 0).values[0] = Value::from(f64::NAN)
        }),
        ("rules[0].conditions[1].values[0]", "1.10", "unix seconds", |f| {
            set(f, 1).values[0] = Value::from("1.10")
        }),
        ("rules[0].conditions[1].values[0]", "18", "quotes", |f| {
            set(f, 1).operator = Operator::StartsWith.into()
        }),
        ("rules[1].split.variants", "0", "sum to 10000", |f| {
            f.rules[1].serve = Some(Serve::Split(Split::default()))
        }),
        ("rules[1].split.variants", "4294972295", "sum to 10000", |f| {
            let Some(Serve::Split(split)) = &mut f.rules[1].serve else { unreachable!() };
            split.variants[0].weight_basis_points = u32::MAX;
        }),
        ("rules[1].split.variants[1].variant", "c", "no such variant", |f| {
            let Some(Serve::Split(split)) = &mut f.rules[1].serve else { unreachable!() };
            split.variants[1].variant = "c".to_owned();
        }),
        ("allocation.variants[1]", "c", "no such variant", |f| allocated(f).variants[1] = "c".to_owned()),
        ("allocation.variants", "33", "at most 32", |f| allocated(f).variants = vec!["a".to_owned(); 33]),
        ("allocation.runs", "129", "at most 128", |f| {
            allocated(f).runs = vec![Run { arm: 0, length: 1 }; 129]
        }),
        ("allocation.runs", "9999", "sum to 10000", |f| allocated(f).runs[0].length = 7_999),
        ("allocation.runs", "4294969295", "sum to 10000", |f| allocated(f).runs[0].length = u32::MAX),
        ("allocation.runs[1].arm", "2", "no such arm", |f| allocated(f).runs[1].arm = 2),
        ("allocation.weights_basis_points", "[8000]", "sums over", |f| {
            allocated(f).weights_basis_points.truncate(1);
        }),
        ("allocation.weights_basis_points", "[7000, 3000]", "sums over", |f| {
            allocated(f).weights_basis_points = vec![7_000, 3_000];
        }),
    ];
    for (path, value, hint, change) in cases {
        let mut flag = good();
        change(&mut flag);
        let error = check(&flag, &featureops_proto::v1::Environment::default()).expect_err(path);
        assert_eq!(&error.path, path, "{error}");
        assert!(value.is_empty() || &error.value == value, "{error}");
        assert!(error.message.contains(hint), "{error}");
        assert!(error.to_string().len() < 400, "{error}");
    }
}

#[test]
fn the_bounds_themselves_are_accepted() {
    let mut flag = good();
    flag.variants = (0..64).map(|n| (format!("v{n}"), Value::from("x"))).collect();
    flag.variants.extend([("a".to_owned(), Value::from("x")), ("b".to_owned(), Value::from("x"))]);
    flag.variants.remove("v62");
    flag.variants.remove("v63");
    flag.rules = (0..256).map(|n| Rule { id: format!("r{n}"), ..flag.rules[1].clone() }).collect();
    flag.rules[0].conditions = vec![set(&mut good(), 0).clone(); 64];
    flag.rules[0].conditions[0].values = (0..1_000).map(|n| Value::from(format!("country {n}"))).collect();
    allocated(&mut flag).runs = vec![Run { arm: 0, length: 0 }; 126];
    allocated(&mut flag).runs.extend(good().allocation.unwrap().runs);
    assert_eq!(check(&flag, &featureops_proto::v1::Environment::default()), Ok(()));

    let mut objects = Flag { rules: vec![], allocation: None, ..good() };
    objects.r#type = ValueType::Object.into();
    objects.variants = ["a", "b"].map(|name| (name.to_owned(), nested(32))).into();
    assert_eq!(check(&objects, &featureops_proto::v1::Environment::default()), Ok(()));
}

/// A flag may be tripped that names no safe variant: then nobody is served a variant.
#[test]
fn a_trip_needs_no_safe_variant() {
    let flag = Flag { safe_variant: None, stale_after_seconds: 0, trip: Some(Default::default()), ..good() };
    assert_eq!(check(&flag, &featureops_proto::v1::Environment::default()), Ok(()));
}
