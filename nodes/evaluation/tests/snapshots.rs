//! A snapshot behaves like a map from (environment, flag) to the newest version seen, whatever order changes come in.

use std::collections::BTreeMap;

use featureops_evaluation::{CompiledFlag, Context, Snapshot, compile, evaluate, evaluate_all};
use featureops_proto::v1::{EvaluationError, Flag, ValueType};
use proptest::prelude::*;
use prost_types::Value;

fn flag(environment: usize, key: usize, flag_version: u64, archived: bool) -> Flag {
    Flag {
        name: format!("environments/e{environment}/flags/f{key}"),
        r#type: ValueType::String.into(),
        variants: [("only".to_owned(), Value::from("x"))].into(),
        default_variant: Some("only".to_owned()),
        flag_version,
        archived,
        ..Flag::default()
    }
}

fn compiled(environment: usize, key: usize, flag_version: u64, archived: bool) -> CompiledFlag {
    compile(&flag(environment, key, flag_version, archived), &featureops_proto::v1::Environment::default())
        .unwrap_or_else(|error| unreachable!("{error}"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn versions_positions_and_times_never_go_back(
        publications in prop::collection::vec(
            (prop::collection::vec((0usize..2, 0usize..5, 1u64..20, any::<bool>()), 0..6), 0u64..50, 0i64..50), 1..12),
    ) {
        let mut snapshot = Snapshot::empty();
        let mut model: BTreeMap<(usize, usize), (u64, bool)> = BTreeMap::new();
        let (mut position, mut log_time) = (0, 0);
        for (changes, at, time) in publications {
            let before = snapshot.clone();
            let held: Vec<_> = model.clone().into_iter().collect();
            for &(environment, key, version, archived) in &changes {
                let entry = model.entry((environment, key)).or_insert((version, archived));
                if version >= entry.0 {
                    *entry = (version, archived);
                }
            }
            position = position.max(at);
            log_time = log_time.max(time);
            snapshot = snapshot.apply(changes.into_iter().map(|(e, k, v, a)| compiled(e, k, v, a)), at, time);

            prop_assert_eq!((snapshot.position(), snapshot.log_time_ms()), (position, log_time));
            for (&(environment, key), &(version, archived)) in &model {
                let (environment, key) = (format!("e{environment}"), format!("f{key}"));
                let found = snapshot.get(&environment, &key).map(|flag| (flag.flag_version(), flag.is_archived()));
                prop_assert_eq!(found, Some((version, archived)));
                let evaluation = evaluate(&snapshot, &environment, &key, &Context::empty(), 0);
                prop_assert_eq!(evaluation.error, archived.then_some(EvaluationError::FlagNotFound));
                prop_assert_eq!(evaluation.flag_version, version);
            }
            // The snapshot before is what it was.
            for ((environment, key), (version, _)) in held {
                let flag = before.get(&format!("e{environment}"), &format!("f{key}"));
                prop_assert_eq!(flag.map(CompiledFlag::flag_version), Some(version));
            }
            for environment in 0..2 {
                let listed: Vec<_> = evaluate_all(&snapshot, &format!("e{environment}"), &Context::empty(), 0)
                    .map(|(flag, _)| flag.key().to_owned())
                    .collect();
                let expected: Vec<_> = model
                    .iter()
                    .filter(|((e, _), (_, archived))| *e == environment && !archived)
                    .map(|((_, key), _)| format!("f{key}"))
                    .collect();
                prop_assert_eq!(listed, expected);
            }
        }
    }
}

#[test]
fn unknown_names_are_not_found() {
    let snapshot = Snapshot::empty().apply([compiled(0, 0, 1, false)], 1, 1);
    for (environment, key) in [("e0", "f1"), ("e1", "f0"), ("", ""), ("e0", "")] {
        let evaluation = evaluate(&snapshot, environment, key, &Context::empty(), 0);
        assert_eq!(evaluation.error, Some(EvaluationError::FlagNotFound));
    }
}

#[test]
fn ten_thousand_flags_are_all_found_again() {
    let all = (0..10_000).map(|key| compiled(0, key, 1, false));
    let snapshot = Snapshot::empty().apply(all, 1, 1);
    let changed = snapshot.apply([compiled(0, 4_711, 2, false)], 2, 2);
    for key in 0..10_000 {
        let name = format!("f{key}");
        let (before, after) = (snapshot.get("e0", &name), changed.get("e0", &name));
        if key == 4_711 {
            assert_eq!(after.map(CompiledFlag::flag_version), Some(2));
            assert_eq!(before.map(CompiledFlag::flag_version), Some(1));
        } else {
            // Shared, not copied.
            assert!(std::ptr::eq(before.unwrap(), after.unwrap()), "{name}");
        }
    }
}

#[test]
fn an_unusable_flag_answers_general_and_keeps_its_version() {
    let broken = CompiledFlag::unusable("e0", "f0", 9);
    let snapshot = Snapshot::empty().apply([broken], 1, 1).apply([compiled(0, 0, 8, false)], 2, 2);
    let evaluation = evaluate(&snapshot, "e0", "f0", &Context::empty(), 0);
    assert_eq!((evaluation.error, evaluation.flag_version), (Some(EvaluationError::General), 9));
}
