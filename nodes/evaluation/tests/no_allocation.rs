//! An evaluation allocates nothing: an allocator that counts sees none, on every path through it.
#![allow(unsafe_code, reason = "a global allocator cannot be written without it")]

mod generated;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use featureops_evaluation::{Context, Key, Receipt, Snapshot, UnitKey, compile, evaluate, evaluate_all};
use featureops_proto::v1::{Environment, Flag, FractionalVersion, Reason, ValueType};
use generated::{ENVIRONMENT, FLAG};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use prost_types::{Struct, Value};

struct Counting;

thread_local! {
    /// Of this thread only, so that the test harness's own threads do not count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // Ignored while the thread is being torn down.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 2);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn asking_about_segments_allocates_nothing() {
    use featureops_evaluation::{UnitList, compile_segment};
    use featureops_proto::v1::{Condition, Rule, Segment, SegmentClause, condition::Operator, rule};
    let asks = |operator: Operator, id: &str| Condition {
        operator: operator.into(),
        values: vec![Value::from(id)],
        ..Condition::default()
    };
    let unit_key = UnitKey::new([6; 16]);
    let hashes: std::sync::Arc<[u64]> = std::sync::Arc::from([unit_key.hash(b"ada")]);
    let list = UnitList::new(std::sync::Arc::from([hashes]), unit_key.id());
    let segment = |id: &str, conditions: Vec<Condition>, list| {
        let name = format!("environments/{ENVIRONMENT}/segments/{id}");
        let clauses = conditions.into_iter().map(|c| SegmentClause { conditions: vec![c] }).collect();
        let segment = Segment { name, clauses, ..Segment::default() };
        (ENVIRONMENT.to_owned(), id.to_owned(), Some(compile_segment(&segment, list).unwrap()))
    };
    let rule = |id: &str, condition: Condition| Rule {
        id: id.to_owned(),
        conditions: vec![condition],
        serve: Some(rule::Serve::Variant("on".to_owned())),
    };
    let flag = Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{FLAG}"),
        r#type: ValueType::Boolean.into(),
        variants: [("off".to_owned(), Value::from(false)), ("on".to_owned(), Value::from(true))].into(),
        default_variant: Some("off".to_owned()),
        rules: vec![
            rule("a", asks(Operator::InSegment, "outer")),
            rule("b", asks(Operator::NotInSegment, "inner")),
        ],
        ..Flag::default()
    };
    let outer = segment("outer", vec![asks(Operator::InSegment, "inner")], None);
    let snapshot = Snapshot::empty().with_segments([outer, segment("inner", vec![], Some(list))]).apply(
        [compile(&flag, &Environment::default()).unwrap()],
        1,
        0,
    );
    for unit in ["ada", "bob"] {
        let attributes = Struct { fields: BTreeMap::from([("targetingKey".to_owned(), Value::from(unit))]) };
        let counted = allocations(|| {
            let context = Context::new(&attributes).with_unit_key(&unit_key);
            let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &context, 0);
            assert_eq!((evaluation.variant, evaluation.reason), (Some("on"), Reason::TargetingMatch));
        });
        assert_eq!(counted, 0);
    }
}

#[test]
fn an_evaluation_allocates_nothing() {
    let mut runner = TestRunner::deterministic();
    let key = Key::new(1, [4; 16]).unwrap();
    let keys = [key];
    let unit_key = UnitKey::new([6; 16]);
    let mut reasons = std::collections::BTreeMap::new();
    for _ in 0..4_000 {
        let flags = generated::family().new_tree(&mut runner).unwrap().current();
        let flag = &flags[0];
        let attributes = generated::context().new_tree(&mut runner).unwrap().current();
        let environment = featureops_proto::v1::Environment::default();
        let compiled = flags.iter().map(|flag| compile(flag, &environment).unwrap());
        let snapshot = Snapshot::empty().apply(compiled, 1, 0);
        let generation = flag.allocation.as_ref().map_or(1, |allocation| allocation.generation);
        let receipt = Receipt {
            experiment: generated::EXPERIMENT,
            arm: 0,
            generation,
            minute: 0,
            propensity_basis_points: 1,
            position: 1,
        };
        for with_receipt in [false, true] {
            let mut reason = Reason::Unspecified;
            let mut from_receipt = false;
            let counted = allocations(|| {
                let mut context = Context::new(&attributes);
                if let (true, Some(unit)) = (with_receipt, context.unit()) {
                    let sealed = receipt.seal(&keys[0], unit.as_bytes());
                    if let Some(sealed) = sealed {
                        let _ = std::hint::black_box(context.open_receipt(sealed.as_bytes(), &keys));
                    }
                    std::hint::black_box(unit_key.hash(unit.as_bytes()));
                }
                let evaluation =
                    std::hint::black_box(evaluate(&snapshot, ENVIRONMENT, FLAG, &context, 30_000));
                reason = evaluation.reason;
                from_receipt = evaluation.assignment.is_some_and(|assignment| assignment.from_receipt);
                std::hint::black_box(evaluate(&snapshot, ENVIRONMENT, "unknown", &context, 30_000));
                for (_, evaluation) in evaluate_all(&snapshot, ENVIRONMENT, &context, 30_000) {
                    std::hint::black_box(evaluation);
                }
            });
            assert_eq!(counted, 0, "{flag:?} {attributes:?}");
            *reasons.entry((reason, from_receipt)).or_insert(0) += 1;
        }
    }
    // The draw took every path.
    for reason in [
        Reason::Static,
        Reason::TargetingMatch,
        Reason::Split,
        Reason::Default,
        Reason::Disabled,
        Reason::Tripped,
        Reason::Stale,
        Reason::Error,
    ] {
        assert!(reasons.contains_key(&(reason, false)), "{reason:?} was never drawn: {reasons:?}");
    }
    assert!(reasons.contains_key(&(Reason::Split, true)), "{reasons:?}");
}

/// Comparisons, logic, `var`, `in`, prefixes, versions and `fractional` never allocate; the others not for small values.
#[test]
fn targeting_allocates_nothing() {
    let object = |fields: &[(&str, Value)]| {
        Value::from(
            fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect::<BTreeMap<_, _>>(),
        )
    };
    let nested =
        object(&[("bb", Value::from(1.5)), ("a", object(&[])), ("c", Value::from(vec![Value::from("x")]))]);
    let attributes = Struct {
        fields: [
            ("targetingKey", Value::from("ada")),
            ("email", Value::from("ada@example.com")),
            ("age", Value::from(30.25)),
            ("version", Value::from("1.2.3-beta.1")),
            ("account", object(&[("plan", Value::from("pro")), ("seats", Value::from(7.0))])),
            ("groups", Value::from(vec![Value::from("x"), Value::from("beta"), nested.clone()])),
            ("unit", nested),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
    };
    let rules = [
        r#"{"if": [{"==": [{"var": "account.plan"}, "pro"]}, "a", {"!": {"var": "email"}}, "b"]}"#,
        r#"{"if": [{"and": [{"<": [18, {"var": "age"}, 65]}, {"or": [{"!==": [1, {"var": "none"}]}, false]}]}, "a"]}"#,
        r#"{"if": [{"in": [{"var": "groups.1"}, ["alpha", "beta", 7, null]]}, "a"]}"#,
        r#"{"if": [{"in": ["beta", {"var": "groups"}]}, {"if": [{"in": ["@example", {"var": "email"}]}, "a"]}]}"#,
        r#"{"if": [{"in": [{"var": "age"}, "30.25"]}, "a"]}"#,
        r#"{"if": [{"starts_with": [{"var": "email"}, "ada"]}, {"if": [{"ends_with": [{"var": "email"}, ".com"]}, "a"]}]}"#,
        r#"{"if": [{"sem_ver": [{"var": "version"}, ">=", "1.2.3-alpha"]}, {"if": [{"sem_ver": [{"var": "age"}, "^", 30]}, "a"]}]}"#,
        r#"{"if": [{">": [{"+": [{"var": "age"}, {"*": [2, "3"]}, {"%": [7, 3]}, {"max": [1, 2]}]}, 1]}, "a"]}"#,
        r#"{"fractional": [["a", 25], ["b", 25], ["c", 50]]}"#,
        r#"{"fractional": [{"var": "email"}, ["a", 25], ["b", 75]]}"#,
        r#"{"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}, ["a", 25], ["b", 75]]}"#,
        r#"{"fractional": [{"var": "unit"}, ["a", {"-": [{"var": "$flagd.timestamp"}, 1]}], [{"var": "x"}, 75]]}"#,
        r#"{"if": [{"some": [{"var": "groups"}, {"==": [{"var": ""}, "beta"]}]}, {"substr": ["abc", 0, 1]}]}"#,
        r#"{"if": [{"missing": ["email", "none"]}, {"reduce": [["a"], {"var": "current"}, ""]}]}"#,
        r#"{"unknown": 1}"#,
        r#"{"equals": [{"var": ["none", 1]}, {"var": {"cat": ["acc", "ount.plan"]}}]}"#,
    ];
    for version in [FractionalVersion::FractionalVersion2, FractionalVersion::FractionalVersion3] {
        let environment = Environment { fractional: version.into(), ..Environment::default() };
        for rule in rules {
            let flag = Flag {
                name: format!("environments/{ENVIRONMENT}/flags/{FLAG}"),
                r#type: ValueType::String.into(),
                variants: ["a", "b", "c"].map(|name| (name.to_owned(), Value::from(name))).into(),
                targeting: rule.to_owned(),
                imported: true,
                ..Flag::default()
            };
            let snapshot = Snapshot::empty().apply([compile(&flag, &environment).unwrap()], 1, 0);
            let mut reason = Reason::Unspecified;
            let counted = allocations(|| {
                let context = Context::new(&attributes);
                reason =
                    std::hint::black_box(evaluate(&snapshot, ENVIRONMENT, FLAG, &context, 30_000)).reason;
            });
            assert_eq!(counted, 0, "{rule}");
            let known = !rule.contains("unknown") && !rule.contains("equals");
            assert_eq!(reason != Reason::Error, known, "{rule}: {reason:?}");
        }
    }
}
