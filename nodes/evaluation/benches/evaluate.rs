//! Nanoseconds per evaluation among 10,000 flags, beside a bare lookup in a hash map, and the cost of a publication.
//!
//! `cargo bench -p featureops-evaluation` prints the median of 15 rounds. A plain loop: what is measured is far above
//! the clock's resolution, and a harness would bring more dependencies than this crate has.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock; nothing under test does")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may stop on a wrong setup")]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;
use std::time::{Duration, Instant};

use featureops_evaluation::{
    CompiledFlag, Context, Key, Receipt, Snapshot, UnitKey, compile, evaluate, evaluate_all, explain,
};
use featureops_proto::v1::{
    Allocation, Condition, Flag, Rule, Run, ValueType, condition::Operator, rule::Serve,
};
use prost_types::{Struct, Value};

const ENVIRONMENT: &str = "production";
const FLAGS: usize = 10_000;
const ROUNDS: usize = 15;

/// The median over rounds of the time of one of `times` calls.
fn median(times: usize, mut work: impl FnMut(usize)) -> Duration {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..times).for_each(&mut work);
            start.elapsed()
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2] / times as u32
}

fn report(what: &str, time: Duration) {
    println!("{what:<64} {:>12.1} ns", time.as_secs_f64() * 1e9);
}

fn key_of(nth: usize) -> String {
    format!("team-{}.feature-{nth}", nth % 97)
}

/// A flag of one of four kinds: static, ten rules, an experiment, `IN` over a thousand values.
fn flag(nth: usize, flag_version: u64) -> Flag {
    let rule = |id: usize, operator: Operator, values: Vec<Value>| Rule {
        id: format!("rule-{id}"),
        conditions: vec![
            Condition { attribute: "country".to_owned(), operator: operator.into(), values },
            Condition {
                attribute: "age".to_owned(),
                operator: Operator::Less.into(),
                values: vec![Value::from(7.0)],
            },
        ],
        serve: Some(Serve::Variant("b".to_owned())),
    };
    let rules = match nth % 4 {
        1 => (0..10)
            .map(|id| rule(id, Operator::Equals, vec![Value::from(if id % 2 == 0 { "DE" } else { "FR" })]))
            .collect(),
        3 => vec![rule(0, Operator::In, (0..1_000).map(|n| Value::from(format!("country-{n}"))).collect())],
        _ => vec![],
    };
    let allocation = (nth % 4 == 2).then(|| Allocation {
        generation: 1,
        allocation_version: 5,
        runs: (0..100).map(|run| Run { arm: run % 4, length: 100 }).collect(),
        weights_basis_points: vec![2_500; 4],
        variants: ["a", "b", "c", "d"].map(str::to_owned).into(),
        experiment_number: nth as u32,
        ..Allocation::default()
    });
    Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{}", key_of(nth)),
        r#type: ValueType::String.into(),
        variants: ["a", "b", "c", "d"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("a".to_owned()),
        safe_variant: Some("a".to_owned()),
        rules,
        allocation,
        flag_version,
        ..Flag::default()
    }
}

fn compiled(nth: usize, flag_version: u64) -> CompiledFlag {
    compile(&flag(nth, flag_version), &featureops_proto::v1::Environment::default()).unwrap()
}

fn main() {
    let keys: Vec<String> = (0..FLAGS).map(key_of).collect();
    let units: Vec<Struct> = (0..1_024)
        .map(|n| Struct {
            fields: [
                ("targetingKey".to_owned(), Value::from(format!("user-{n:08}"))),
                ("country".to_owned(), Value::from(if n % 2 == 0 { "DE" } else { "country-500" })),
                ("age".to_owned(), Value::from(30.0)),
                ("plan".to_owned(), Value::from("pro")),
            ]
            .into(),
        })
        .collect();
    let snapshot = Snapshot::empty().apply((0..FLAGS).map(|nth| compiled(nth, 1)), 1, 0);
    let map: HashMap<String, usize, BuildHasherDefault<DefaultHasher>> =
        keys.iter().cloned().enumerate().map(|(nth, key)| (key, nth)).collect();
    // A stride that visits flags of one kind in an order the caches do not foresee.
    let pick = |kind: usize, n: usize| ((n * 7_919) % (FLAGS / 4)) * 4 + kind;

    println!("{FLAGS} flags, {} contexts; median of {ROUNDS} rounds", units.len());
    report(
        "baseline: std HashMap lookup of the key",
        median(100_000, |n| {
            black_box(map.get(&keys[(n * 7_919) % FLAGS]));
        }),
    );
    for (kind, what) in [
        "static flag",
        "10 rules, 20 conditions, none matches",
        "experiment, 100 runs",
        "IN over 1,000 strings",
    ]
    .iter()
    .enumerate()
    {
        report(
            &format!("evaluate, random of 2,500: {what}"),
            median(100_000, |n| {
                let context = Context::new(&units[n % units.len()]);
                black_box(evaluate(&snapshot, ENVIRONMENT, &keys[pick(kind, n)], &context, 1));
            }),
        );
        report(
            &format!("evaluate, the same flag: {what}"),
            median(100_000, |n| {
                let context = Context::new(&units[n % units.len()]);
                black_box(evaluate(&snapshot, ENVIRONMENT, &keys[kind], &context, 1));
            }),
        );
    }
    report(
        "explain, 10 rules",
        median(10_000, |n| {
            let context = Context::new(&units[n % units.len()]);
            black_box(explain(&snapshot, ENVIRONMENT, &keys[pick(1, n)], &context, 1));
        }),
    );
    report(
        "evaluate_all, 10,000 flags",
        median(10, |n| {
            let context = Context::new(&units[n % units.len()]);
            black_box(evaluate_all(&snapshot, ENVIRONMENT, &context, 1).count());
        }),
    );

    let ordinary = Snapshot::empty().apply(
        (0..FLAGS).map(|nth| compiled(if nth % 4 == 3 { nth - 3 + 4 * FLAGS } else { nth }, 1)),
        1,
        0,
    );
    report(
        "evaluate_all, 10,000 flags, none with 1,000 strings",
        median(10, |n| {
            let context = Context::new(&units[n % units.len()]);
            black_box(evaluate_all(&ordinary, ENVIRONMENT, &context, 1).count());
        }),
    );

    let key = Key::new(1, [9; 16]).unwrap();
    let receipt = Receipt {
        experiment: 2,
        arm: 1,
        generation: 1,
        minute: 9,
        propensity_basis_points: 2_500,
        position: 9,
    };
    let sealed = receipt.seal(&key, b"user-00000001").unwrap();
    report(
        "receipt: seal",
        median(100_000, |_| {
            black_box(black_box(&receipt).seal(&key, b"user-00000001"));
        }),
    );
    report(
        "receipt: open",
        median(100_000, |_| {
            black_box(
                Receipt::open(black_box(sealed.as_bytes()), b"user-00000001", std::slice::from_ref(&key))
                    .is_ok(),
            );
        }),
    );
    let unit_key = UnitKey::new([3; 16]);
    report(
        "unit hash",
        median(100_000, |_| {
            black_box(unit_key.hash(black_box(b"user-00000001")));
        }),
    );

    report(
        "compile, experiment",
        median(1_000, |_| {
            black_box(compiled(2, 1));
        }),
    );
    let mut changes: Vec<CompiledFlag> = (0..ROUNDS * 1_000).map(|n| compiled(pick(0, n), 2)).collect();
    report(
        "publish one change among 10,000 flags",
        median(1_000, |_| {
            black_box(snapshot.apply(changes.pop(), 2, 2));
        }),
    );
    let mut new: Vec<CompiledFlag> = (0..ROUNDS * 1_000).map(|n| compiled(FLAGS + n * 4, 1)).collect();
    report(
        "publish one new flag beside 10,000",
        median(1_000, |_| {
            black_box(snapshot.apply(new.pop(), 2, 2));
        }),
    );
    report(
        "publish no change, a later time",
        median(1_000, |_| {
            black_box(snapshot.apply([], 2, 2));
        }),
    );
    report(
        "compile and publish 10,000 flags into an empty snapshot",
        median(1, |_| {
            black_box(Snapshot::empty().apply((0..FLAGS).map(|nth| compiled(nth, 1)), 1, 0));
        }),
    );
}
