//! A native flag, exported: clients that evaluate it by themselves serve what the server serves.
//!
//! Told by the document that is expected, by hand; and by the official in-process engines, which run when they are
//! there: `FEATUREOPS_PYTHON` names an interpreter with openfeature-flagd-core 2.0, `FEATUREOPS_NODE_MODULES` a folder
//! with @openfeature/flagd-core 4.0. The cases they are given stay in the target folder.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test's helpers may fail")]

mod generated;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use featureops_evaluation::flagd::{export, export_for_sync, import};
use featureops_evaluation::{Context, Snapshot, compile, evaluate};
use featureops_proto::v1::{self, condition::Operator, rule};
use generated::{ENVIRONMENT, number};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost_types::{Struct, Value, value::Kind};
use serde_json::{Value as Json, json};

fn flag() -> v1::Flag {
    v1::Flag {
        name: "environments/production/flags/checkout".to_owned(),
        r#type: v1::ValueType::Boolean.into(),
        variants: [("off".to_owned(), Value::from(false)), ("on".to_owned(), Value::from(true))].into(),
        default_variant: Some("off".to_owned()),
        safe_variant: Some("off".to_owned()),
        ..v1::Flag::default()
    }
}

fn exported(flag: v1::Flag) -> Json {
    export(&[flag], &v1::Environment::default())["flags"]["checkout"].clone()
}

fn condition(attribute: &str, operator: Operator, values: impl IntoIterator<Item = Value>) -> v1::Condition {
    let values = values.into_iter().collect();
    v1::Condition { attribute: attribute.to_owned(), operator: operator.into(), values }
}

fn rule(conditions: Vec<v1::Condition>, serve: rule::Serve) -> v1::Rule {
    v1::Rule { id: "r".to_owned(), conditions, serve: Some(serve) }
}

fn variant(name: &str) -> rule::Serve {
    rule::Serve::Variant(name.to_owned())
}

fn split(entries: &[(&str, u32)]) -> rule::Serve {
    let entry = |(name, weight): &(&str, u32)| v1::WeightedVariant {
        variant: (*name).to_owned(),
        weight_basis_points: *weight,
    };
    rule::Serve::Split(v1::Split { variants: entries.iter().map(entry).collect(), ..v1::Split::default() })
}

fn allocation() -> v1::Allocation {
    let run = |(arm, length)| v1::Run { arm, length };
    v1::Allocation {
        variants: vec!["off".to_owned(), "on".to_owned()],
        runs: [(0, 3_000), (1, 1_000), (1, 500), (0, 0), (1, 0), (0, 5_500)].map(run).into(),
        ..v1::Allocation::default()
    }
}

#[test]
fn a_flags_state_in_the_document() {
    let on_off = json!({"off": false, "on": true});
    assert_eq!(exported(flag()), json!({"state": "ENABLED", "variants": on_off, "defaultVariant": "off"}));
    let rules = vec![rule(vec![], variant("on"))];
    let with_rules = v1::Flag { rules, ..flag() };
    assert_eq!(exported(with_rules.clone())["targeting"], json!({"if": [true, "on"]}));
    assert_eq!(exported(v1::Flag { disabled: true, ..flag() })["state"], "DISABLED");
    let tripped = v1::Flag {
        trip: Some(v1::Trip::default()),
        disabled: true,
        allocation: Some(allocation()),
        safe_variant: Some("on".to_owned()),
        ..with_rules
    };
    let answer = json!({"state": "ENABLED", "variants": on_off, "defaultVariant": "on"});
    assert_eq!(exported(tripped.clone()), answer);
    let nothing_safe = v1::Flag { safe_variant: None, ..tripped.clone() };
    assert_eq!(exported(nothing_safe), json!({"state": "ENABLED", "variants": on_off}));
    assert_eq!(exported(v1::Flag { archived: true, ..tripped }), Json::Null);
}

#[test]
fn rules_splits_and_allocations_in_the_document() {
    let german = || condition("country", Operator::Equals, [Value::from("DE")]);
    let beta = || condition("beta", Operator::Exists, []);
    let runs = json!({"fractional": [["off", 3_000], ["on", 1_500], ["off", 5_500]]});
    let first = json!({"===": [{"var": "country"}, "DE"]});
    let second = json!({"!==": [{"var": "beta"}, null]});
    let given = |rules, allocation| exported(v1::Flag { rules, allocation, ..flag() })["targeting"].clone();
    let experiment = Some(allocation());
    assert_eq!(given(vec![], experiment.clone()), runs);
    assert_eq!(
        given(vec![rule(vec![german(), beta()], variant("on"))], None),
        json!({"if": [{"and": [first, second]}, "on"]})
    );
    let halves = || split(&[("on", 5_000), ("off", 0), ("off", 5_000)]);
    let rules = vec![rule(vec![german()], halves()), rule(vec![beta()], variant("on"))];
    let half = json!({"fractional": [["on", 5_000], ["off", 5_000]]});
    assert_eq!(given(rules, experiment.clone()), json!({"if": [first, half, second, "on", runs]}));
    // What always holds ends the rules.
    let rules = vec![rule(vec![], halves()), rule(vec![german()], variant("on"))];
    assert_eq!(given(rules, experiment.clone()), half);
    // Targeting first; an experiment gets those whom it leaves to the default.
    let targeting = json!({"if": [{"$ref": "staff"}, "on", null]});
    let both = v1::Flag { targeting: targeting.to_string(), allocation: experiment, ..flag() };
    assert_eq!(exported(both)["targeting"], json!({"if": [{"===": [targeting, null]}, runs, targeting]}));
}

#[test]
fn every_operator_in_the_document() {
    let x = json!({"var": "x"});
    let no_list = json!({"in": [x, {"merge": [x]}]});
    let no_text = json!({"!": [{"starts_with": [x, ""]}]});
    let like_a_number = json!({"in": [{"substr": [{"cat": [x]}, 0, 1]}, "-0123456789"]});
    let there = json!({"!==": [x, null]});
    let text = |text: &str| vec![Value::from(text)];
    let cases = [
        (Operator::Equals, text("DE"), json!({"===": [x, "DE"]})),
        (Operator::NotEquals, text("DE"), json!({"!": [{"===": [x, "DE"]}]})),
        (Operator::Equals, vec![number(18.0)], json!({"===": [x, 18]})),
        (Operator::Equals, vec![number(1.0)], json!({"and": [{"===": [x, 1]}, like_a_number]})),
        (
            Operator::Equals,
            vec![Value::from(false)],
            json!({"and": [{"===": [x, false]}, {"!": [like_a_number]}]}),
        ),
        (
            Operator::Less,
            vec![number(18.5)],
            json!({"and": [there, no_list, no_text, like_a_number, {"<": [x, 18.5]}]}),
        ),
        (Operator::In, vec![Value::from("DE"), number(7.0)], json!({"in": [x, ["DE", 7]]})),
        (
            Operator::NotIn,
            vec![Value::from("DE"), number(0.0)],
            json!({"!": [{"or": [{"in": [x, ["DE"]]}, {"and": [{"===": [x, 0]}, like_a_number]}]}]}),
        ),
        (Operator::StartsWith, text("D"), json!({"starts_with": [x, "D"]})),
        (Operator::EndsWith, text("E"), json!({"ends_with": [x, "E"]})),
        (
            Operator::Contains,
            text("b"),
            json!({"or": [
                {"and": [{"starts_with": [x, ""]}, {"in": ["b", x]}]},
                {"in": ["b", {"merge": [x]}]}
            ]}),
        ),
        (
            Operator::Contains,
            vec![number(7.0)],
            json!({"and": [{"!": [no_list]}, {"in": [7, {"merge": [x]}]}]}),
        ),
        (Operator::Exists, vec![], there.clone()),
        (Operator::NotExists, vec![], json!({"===": [x, null]})),
    ];
    for (operator, values, expected) in cases {
        let rules = vec![rule(vec![condition("x", operator, values)], variant("on"))];
        let targeting = &exported(v1::Flag { rules, ..flag() })["targeting"];
        assert_eq!(targeting, &json!({"if": [expected, "on"]}), "{operator:?}");
    }
    // Engines index lists and texts, and know their length.
    let rules = vec![rule(vec![condition("x.y.0", Operator::Exists, [])], variant("on"))];
    let inner = json!({"var": ["x.y", null]});
    let guard = json!({"and": [{"in": [inner, {"merge": [inner]}]}, {"!": [{"starts_with": [inner, ""]}]}]});
    let found = json!({"if": [guard, {"var": ["x.y.0", null]}, null]});
    let targeting = &exported(v1::Flag { rules, ..flag() })["targeting"];
    assert_eq!(targeting, &json!({"if": [{"!==": [found, null]}, "on"]}));
}

/// A context as JSON, when JSON can say it. Clients carry a unit as a text.
fn context_json(context: &Struct) -> Option<Json> {
    fn of(value: &Value) -> Option<Json> {
        Some(match value.kind.as_ref() {
            None | Some(Kind::NullValue(_)) => Json::Null,
            Some(Kind::BoolValue(value)) => Json::from(*value),
            Some(Kind::NumberValue(number)) if !number.is_finite() => return None,
            // Some clients send whole numbers as integers, some as floats.
            Some(Kind::NumberValue(number)) if *number == 18.0 => Json::from(18),
            Some(Kind::NumberValue(number)) => Json::from(*number),
            Some(Kind::StringValue(text)) => Json::from(text.as_str()),
            Some(Kind::ListValue(list)) => list.values.iter().map(of).collect::<Option<Json>>()?,
            Some(Kind::StructValue(object)) => context_json(object)?,
        })
    }
    let unit = context.fields.get("targetingKey");
    if unit.is_some_and(|unit| !matches!(unit.kind, Some(Kind::StringValue(_)))) {
        return None;
    }
    let fields = context.fields.iter().map(|(key, value)| Some((key.clone(), of(value)?)));
    Some(Json::Object(fields.collect::<Option<_>>()?))
}

/// Where an engine may see something and a native path does not.
fn attributes() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::weighted(
        0.3,
        prop::sample::select(vec![
            "groups.0",
            "groups.length",
            "country.0",
            "country.length",
            "account.0.plan",
        ]),
    )
}

fn reach_further(flag: &mut v1::Flag, attributes: Vec<Option<&str>>) {
    let conditions = flag.rules.iter_mut().flat_map(|rule| &mut rule.conditions);
    for (condition, attribute) in conditions.zip(attributes) {
        if let Some(attribute) = attribute {
            condition.attribute = attribute.to_owned();
        }
    }
}

/// Flags under their own keys, and contexts with what the server serves. ASCII units only: the Node engine hashes
/// others by UTF-16.
fn suite(flags: usize, contexts: usize, generation: v1::FractionalVersion) -> Json {
    let mut runner = TestRunner::deterministic();
    let mut draw = || {
        let attribute = prop::collection::vec(attributes(), 12);
        let given = (generated::flag(), attribute, prop::collection::vec(generated::context(), contexts));
        given.new_tree(&mut runner).unwrap().current()
    };
    let environment = v1::Environment { fractional: generation.into(), ..v1::Environment::default() };
    let (mut all, mut cases) = (Vec::new(), Vec::new());
    for nth in 0..flags {
        let (mut flag, attributes, contexts) = draw();
        let key = format!("flag-{nth}");
        flag.name = format!("environments/{ENVIRONMENT}/flags/{key}");
        flag.archived = false;
        reach_further(&mut flag, attributes);
        // Their engines have the machine's clock.
        generated::postpone_ramps(&mut flag);
        let snapshot = Snapshot::empty().apply([compile(&flag, &environment).unwrap()], 1, 0);
        let value_type = match flag.r#type() {
            v1::ValueType::Boolean => "boolean",
            v1::ValueType::String => "string",
            v1::ValueType::Number => "float",
            _ => "object",
        };
        for context in contexts {
            let Some(json) = context_json(&context) else { continue };
            if json["targetingKey"].as_str().is_some_and(|unit| !unit.is_ascii()) {
                continue;
            }
            let variant = evaluate(&snapshot, ENVIRONMENT, &key, &Context::new(&context), 0).variant;
            cases.push(json!({"flag": key, "type": value_type, "context": json, "variant": variant}));
        }
        all.push(flag);
    }
    json!({"document": export_for_sync(&all, &environment), "cases": cases})
}

/// Flags that rest on each other, and forced units, as [`suite`] does it. In the third generation another flag's bucket
/// cannot be said, so those that others rest on have none there.
fn families(families: usize, contexts: usize, generation: v1::FractionalVersion) -> Json {
    let mut runner = TestRunner::deterministic();
    let environment = v1::Environment { fractional: generation.into(), ..v1::Environment::default() };
    let (mut all, mut cases) = (Vec::new(), Vec::new());
    for nth in 0..families {
        let given = (generated::family(), prop::collection::vec(generated::context(), contexts));
        let (mut flags, contexts) = given.new_tree(&mut runner).unwrap().current();
        let renamed = |key: &str| format!("family-{nth}-{key}");
        for (at, flag) in flags.iter_mut().enumerate() {
            flag.name = format!("environments/{ENVIRONMENT}/flags/{}", renamed(&generated::key_of(at)));
            flag.prerequisites.iter_mut().for_each(|p| p.flag = renamed(&p.flag));
            flag.archived &= at > 0;
            generated::postpone_ramps(flag);
            if at > 0 && generation == v1::FractionalVersion::FractionalVersion3 {
                flag.allocation = None;
                flag.rules.retain(|rule| matches!(rule.serve, Some(rule::Serve::Variant(_))));
            }
        }
        let compiled = flags.iter().map(|flag| compile(flag, &environment).unwrap());
        let snapshot = Snapshot::empty().apply(compiled, 1, 0);
        let key = renamed(generated::FLAG);
        let value_type = match flags[0].r#type() {
            v1::ValueType::Boolean => "boolean",
            v1::ValueType::String => "string",
            v1::ValueType::Number => "float",
            _ => "object",
        };
        for context in contexts {
            let Some(json) = context_json(&context) else { continue };
            if json["targetingKey"].as_str().is_some_and(|unit| !unit.is_ascii()) {
                continue;
            }
            let variant = evaluate(&snapshot, ENVIRONMENT, &key, &Context::new(&context), 0).variant;
            cases.push(json!({"flag": key, "type": value_type, "context": json, "variant": variant}));
        }
        all.append(&mut flags);
    }
    json!({"document": export_for_sync(&all, &environment), "cases": cases})
}

/// Ramps that are under way by the machine's clock, which is the engines' own. A unit that changes within a minute of now is
/// left out: it may change between two looks at the clock.
#[allow(clippy::disallowed_methods, reason = "the official engines have the machine's clock")]
fn ramps(generation: v1::FractionalVersion) -> Json {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let environment = v1::Environment { fractional: generation.into(), ..v1::Environment::default() };
    let (mut flags, mut cases) = (Vec::new(), Vec::new());
    for (start_basis_points, end_basis_points) in
        [(0, None), (100, None), (0, Some(5_000)), (2_500, Some(7_500))]
    {
        for (nth, span) in [100, 86_400, 1_000_000, 20_000_000].into_iter().enumerate() {
            for tenth in [-1, 0, 1, 3, 5, 8, 10, 12] {
                let start = now - span / 10 * tenth;
                let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
                let ramp = v1::Ramp {
                    variant: "on".to_owned(),
                    otherwise: if nth % 2 == 0 { String::new() } else { "off".to_owned() },
                    start_time: time(start),
                    end_time: time(start + span),
                    start_basis_points,
                    end_basis_points,
                };
                let key = format!("flag-{}", flags.len());
                let flag = v1::Flag {
                    name: format!("environments/{ENVIRONMENT}/flags/{key}"),
                    rules: vec![rule(vec![], rule::Serve::Ramp(ramp))],
                    ..flag()
                };
                let snapshot = Snapshot::empty().apply([compile(&flag, &environment).unwrap()], 1, 0);
                flags.push(flag);
                for unit in (0..40).map(|unit| format!("user-{unit}")) {
                    let context = generated::unit(&unit);
                    let at = |second: i64| {
                        evaluate(&snapshot, ENVIRONMENT, &key, &Context::new(&context), second * 1_000)
                            .variant
                    };
                    if at(now - 60) == at(now + 60) {
                        let context = json!({ "targetingKey": unit });
                        cases.push(
                            json!({"flag": key, "type": "boolean", "context": context, "variant": at(now)}),
                        );
                    }
                }
            }
        }
    }
    assert!(cases.len() > 3_000, "{}", cases.len());
    json!({"document": export_for_sync(&flags, &environment), "cases": cases})
}

fn clients(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients").join(script)
}

fn run(suite: &Json, name: &str, command: &mut Command, after: &[&str]) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, suite.to_string()).unwrap();
    let output = command.arg(file).args(after).output().unwrap();
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{said}{failed}");
}

/// Every operator on every kind of value, one condition each.
fn conditions() -> Json {
    let scalars = || {
        let numbers = [0.0, -0.0, 1.0, 18.0, -3.0, 0.5].map(number);
        let texts =
            ["", "a", "DE", "0", "1", "18", "true", "True", "null", "-", "[object Object]"].map(Value::from);
        numbers.into_iter().chain(texts).chain([true, false].map(Value::from))
    };
    let list = |values: &[Value]| Value::from(values.to_vec());
    let seen: Vec<Value> = scalars()
        .chain(scalars().map(|scalar| list(&[scalar])))
        .chain([
            Value { kind: None },
            list(&[]),
            list(&[Value { kind: None }]),
            list(&[list(&[])]),
            list(&[list(&[number(1.0)])]),
            list(&[Value::from("a"), number(1.0), Value::from(false)]),
            generated::object([]),
            generated::object([("0", Value::from("a")), ("length", number(1.0)), ("a", Value::from(true))]),
            Value::from("Dance: 18 DE"),
            number(1e300),
            number(-1e-7),
        ])
        .collect();
    let environment = v1::Environment::default();
    let (mut flags, mut cases) = (Vec::new(), Vec::new());
    for operator in (1..=13).map(|operator| Operator::try_from(operator).unwrap()) {
        let values: Vec<Vec<Value>> = match operator {
            Operator::Exists | Operator::NotExists => vec![vec![]],
            Operator::In | Operator::NotIn => {
                scalars().map(|scalar| vec![scalar, Value::from("x")]).collect()
            }
            _ => scalars().map(|scalar| vec![scalar]).collect(),
        };
        for (attribute, values) in values
            .iter()
            .flat_map(|values| ["x", "x.0", "x.length", "x.a"].map(|attribute| (attribute, values.clone())))
        {
            let key = format!("flag-{}", flags.len());
            let flag = v1::Flag {
                name: format!("environments/{ENVIRONMENT}/flags/{key}"),
                rules: vec![rule(vec![condition(attribute, operator, values)], variant("on"))],
                ..flag()
            };
            let Ok(compiled) = compile(&flag, &environment) else { continue };
            flags.push(flag);
            let snapshot = Snapshot::empty().apply([compiled], 1, 0);
            for value in seen.iter().map(Some).chain([None]) {
                let fields = value.map(|value| ("x".to_owned(), value.clone())).into_iter().collect();
                let context = Struct { fields };
                let variant = evaluate(&snapshot, ENVIRONMENT, &key, &Context::new(&context), 0).variant;
                let context = context_json(&context).unwrap();
                cases.push(json!({"flag": key, "type": "boolean", "context": context, "variant": variant}));
            }
        }
    }
    json!({"document": export_for_sync(&flags, &environment), "cases": cases})
}

#[test]
fn the_python_engine_serves_what_the_server_serves() {
    let Some(python) = std::env::var_os("FEATUREOPS_PYTHON") else {
        println!("skipped: FEATUREOPS_PYTHON names no interpreter with openfeature-flagd-core");
        return;
    };
    let command = || {
        let mut command = Command::new(&python);
        command.arg(clients("exported_rules.py"));
        command
    };
    run(&conditions(), "exported_conditions_python.json", &mut command(), &[]);
    run(&ramps(v1::FractionalVersion::FractionalVersion3), "exported_ramps_v3.json", &mut command(), &[]);
    let drawn = suite(500, 20, v1::FractionalVersion::FractionalVersion3);
    run(&drawn, "exported_v3.json", &mut command(), &[]);
    let families = families(300, 20, v1::FractionalVersion::FractionalVersion3);
    run(&families, "exported_families_v3.json", &mut command(), &[]);
}

#[test]
fn the_node_engine_serves_what_the_server_serves() {
    let Ok(modules) = std::env::var("FEATUREOPS_NODE_MODULES") else {
        println!("skipped: FEATUREOPS_NODE_MODULES names no folder with @openfeature/flagd-core");
        return;
    };
    let command = || {
        let mut command = Command::new("node");
        command.arg(clients("exported_rules.mjs"));
        command
    };
    let generation = v1::FractionalVersion::FractionalVersion2;
    run(&conditions(), "exported_conditions_node.json", &mut command(), &[&modules]);
    run(&ramps(generation), "exported_ramps_v2.json", &mut command(), &[&modules]);
    let drawn = suite(500, 20, generation);
    run(&drawn, "exported_v2.json", &mut command(), &[&modules]);
    let families = families(300, 20, generation);
    run(&families, "exported_families_v2.json", &mut command(), &[&modules]);
}

/// The cases are worth their time: every reason and many answers occur among them.
#[test]
fn the_cases_are_not_all_alike() {
    let generation = v1::FractionalVersion::FractionalVersion2;
    let alone = ["\"if\"", "fractional", "DISABLED", "starts_with", "merge", "some", ".length"];
    // Of those that rest on others: forced units, and another flag's buckets.
    let resting = ["\"if\"", "fractional", "DISABLED", "\"in\":[{\"var\":\"targetingKey\"}", "[\"yes\","];
    for (drawn, cases_min, parts) in [
        (suite(500, 20, generation), 5_000, &alone[..]),
        (families(300, 20, generation), 4_000, &resting[..]),
    ] {
        let cases = drawn["cases"].as_array().unwrap();
        let mut variants = BTreeMap::<&str, usize>::new();
        for case in cases {
            *variants.entry(case["variant"].as_str().unwrap_or("none")).or_default() += 1;
        }
        assert!(cases.len() > cases_min, "{}", cases.len());
        assert!(variants.len() == 5 && variants.values().all(|count| *count > 100), "{variants:?}");
        let flags = drawn["document"]["flags"].as_object().unwrap();
        let with = |part: &str| flags.values().filter(|flag| flag.to_string().contains(part)).count();
        for part in parts {
            assert!(with(part) > 20, "{part}: {}", with(part));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_096, ..ProptestConfig::default() })]

    /// Our own engine is one of those that must agree, by either generation of `fractional`.
    #[test]
    fn our_own_engine_serves_what_the_rules_serve(
        flag in generated::flag(),
        attributes in prop::collection::vec(attributes(), 12),
        contexts in prop::collection::vec(generated::context(), 1..8),
        generation in prop::sample::select(vec![
            v1::FractionalVersion::FractionalVersion2,
            v1::FractionalVersion::FractionalVersion3,
        ]),
        second in -250i64..550,
    ) {
        let now_ms = (generated::RAMP_SECOND + second) * 1_000 + 999;
        let mut flag = v1::Flag { archived: false, stale_after_seconds: 0, ..flag };
        reach_further(&mut flag, attributes);
        let environment = v1::Environment { fractional: generation.into(), ..v1::Environment::default() };
        let document = export(std::slice::from_ref(&flag), &environment).to_string();
        let imported = import(&document, ENVIRONMENT, &environment).unwrap();
        prop_assert_eq!(&imported.warnings, &vec![]);
        let one = |flag: &v1::Flag| Snapshot::empty().apply([compile(flag, &environment).unwrap()], 1, 0);
        let (native, foreign) = (one(&flag), one(&imported.flags[0]));
        for context in &contexts {
            let mut attributes = context.clone();
            attributes.fields.remove("targetingKey");
            if context_json(&attributes).is_none() {
                continue;
            }
            let serve =
                |snapshot| evaluate(snapshot, ENVIRONMENT, generated::FLAG, &Context::new(context), now_ms).variant;
            prop_assert_eq!(serve(&native), serve(&foreign), "{:?}\n{}", context, document);
        }
    }

    /// Flags that rest on others, and forced units: compiled away, they mean the same.
    #[test]
    fn our_own_engine_serves_what_prerequisites_and_forced_units_serve(
        flags in generated::family(),
        contexts in prop::collection::vec(generated::context(), 1..8),
        second in -250i64..550,
    ) {
        let now_ms = (generated::RAMP_SECOND + second) * 1_000;
        let flags: Vec<v1::Flag> =
            flags.into_iter().map(|flag| v1::Flag { stale_after_seconds: 0, ..flag }).collect();
        let environment = v1::Environment::default();
        let document = export(&flags, &environment).to_string();
        let imported = import(&document, ENVIRONMENT, &environment).unwrap();
        prop_assert_eq!(&imported.warnings, &vec![]);
        let all = |flags: &[v1::Flag]| {
            let compiled = flags.iter().map(|flag| compile(flag, &environment).unwrap());
            Snapshot::empty().apply(compiled, 1, 0)
        };
        let (native, foreign) = (all(&flags), all(&imported.flags));
        for context in &contexts {
            let mut attributes = context.clone();
            attributes.fields.remove("targetingKey");
            if context_json(&attributes).is_none() {
                continue;
            }
            let serve =
                |snapshot| evaluate(snapshot, ENVIRONMENT, generated::FLAG, &Context::new(context), now_ms).variant;
            prop_assert_eq!(serve(&native), serve(&foreign), "{:?}\n{}", context, document);
        }
    }
}

/// Another flag's targeting is evaluated under its own key, also where a bucket is asked or a shared rule.
#[test]
fn another_flags_targeting_is_put_in_as_it_is_evaluated_there() {
    let environment = v1::Environment {
        evaluators: [("halves".to_owned(), r#"{"fractional":[["on",50],["off",50]]}"#.to_owned())].into(),
        ..v1::Environment::default()
    };
    let rules = [
        r#"{"if":[{"==":[{"var":"plan"},"pro"]},"on",{"fractional":[["on",1],["off",3]]}]}"#,
        r#"{"$ref":"halves"}"#,
        r#"{"fractional":[{"var":"email"},["on",50],["off",50]]}"#,
        r#"{"fractional":[{"cat":[{"var":"$flagd.flagKey"},{"var":"email"}]},["on",50],["off",50]]}"#,
        r#"{"if":[{"in":["new",{"var":"$flagd.flagKey"}]},"on","off"]}"#,
        r#"{"if":[{"some":[{"var":"groups"},{"==":[{"var":""},"beta"]}]},"on"]}"#,
        r#"{"==":[{"var":"plan"},"pro"]}"#,
        "null",
    ];
    for (rule, default) in
        rules.iter().flat_map(|rule| [(rule, None), (rule, Some("on")), (rule, Some("off"))])
    {
        let other = v1::Flag {
            name: format!("environments/{ENVIRONMENT}/flags/new-cart"),
            r#type: v1::ValueType::String.into(),
            variants: ["off", "on", "true", "false"].map(|name| (name.to_owned(), name.into())).into(),
            default_variant: default.map(str::to_owned),
            targeting: (*rule).to_owned(),
            imported: true,
            ..v1::Flag::default()
        };
        let named = ["on", "true"].map(str::to_owned).to_vec();
        let resting = v1::Flag {
            prerequisites: vec![v1::Prerequisite { flag: "new-cart".to_owned(), variants: named }],
            rules: vec![self::rule(vec![], variant("on"))],
            ..flag()
        };
        let flags = [resting, other];
        let all = |flags: &[v1::Flag]| {
            let compiled = flags.iter().map(|flag| compile(flag, &environment).unwrap());
            Snapshot::empty().apply(compiled, 1, 0)
        };
        let native = all(&flags);
        for document in [export(&flags, &environment), export_for_sync(&flags, &environment)] {
            let imported = import(&document.to_string(), ENVIRONMENT, &environment).unwrap();
            let foreign = all(&imported.flags);
            for at in 0..60 {
                let mut fields = BTreeMap::from([("age".to_owned(), number(1.0))]);
                let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
                if at % 5 > 0 {
                    put("targetingKey", Value::from(format!("user-{at}")));
                }
                if at % 3 > 0 {
                    put("email", Value::from(format!("{at}@example.com")));
                }
                put("plan", Value::from(if at % 2 > 0 { "pro" } else { "free" }));
                put("groups", Value::from(vec![Value::from(if at % 7 > 3 { "beta" } else { "x" })]));
                let context = Struct { fields };
                let serve = |s| evaluate(s, ENVIRONMENT, "checkout", &Context::new(&context), 0).variant;
                assert_eq!(serve(&native), serve(&foreign), "{rule} {default:?} {context:?}\n{document}");
            }
        }
    }
}

#[test]
fn another_flags_bucket_counts_as_not_served_where_it_cannot_be_said() {
    let other = |rules, allocation| v1::Flag {
        name: "environments/production/flags/other".to_owned(),
        rules,
        allocation,
        ..flag()
    };
    let resting = v1::Flag {
        prerequisites: vec![v1::Prerequisite { flag: "other".to_owned(), variants: vec!["on".to_owned()] }],
        rules: vec![rule(vec![], variant("on"))],
        ..flag()
    };
    let targeting = |other: v1::Flag, generation: v1::FractionalVersion| {
        let environment = v1::Environment { fractional: generation.into(), ..v1::Environment::default() };
        export(&[resting.clone(), other], &environment)["flags"]["checkout"]["targeting"].clone()
    };
    let (second, third) =
        (v1::FractionalVersion::FractionalVersion2, v1::FractionalVersion::FractionalVersion3);
    let own = json!({"if": [true, "on"]});
    let unit = json!({"var": "targetingKey"});
    let there = json!({"and": [{"starts_with": [unit, ""]}, {"!==": [unit, ""]}]});
    let bucket =
        json!({"fractional": [{"cat": ["other", unit]}, ["no", 3_000], ["yes", 1_500], ["no", 5_500]]});
    let holds = json!({"if": [there, {"===": [bucket, "yes"]}, false]});
    assert_eq!(targeting(other(vec![], Some(allocation())), second), json!({"if": [holds, own]}));
    assert_eq!(targeting(other(vec![], Some(allocation())), third), Json::Null);
    // Where every stretch is the same, nobody asks for the bucket.
    let all = vec![rule(vec![], split(&[("on", 10_000)]))];
    assert_eq!(targeting(other(all, None), third), json!({"if": [{"if": [there, true, false]}, own]}));
    assert_eq!(targeting(other(vec![rule(vec![], variant("on"))], None), third), own);
}

/// A deep chain stays within what readers take, and what does not fit counts as not served.
#[test]
fn levels_and_bytes_of_what_is_put_in_are_bounded() {
    let id = |at: usize| if at == 0 { "checkout".to_owned() } else { format!("f{at}") };
    let german = || condition("country", Operator::Equals, [Value::from("DE")]);
    let link = |at: usize, below: Vec<String>| v1::Flag {
        name: format!("environments/{ENVIRONMENT}/flags/{}", id(at)),
        prerequisites: below
            .into_iter()
            .map(|flag| v1::Prerequisite { flag, variants: vec!["on".to_owned()] })
            .collect(),
        rules: vec![rule(vec![german()], split(&[("on", 9_999), ("off", 1)]))],
        ..flag()
    };
    let environment = v1::Environment::default();
    let chain: Vec<v1::Flag> =
        (0..=16).map(|at| link(at, if at < 16 { vec![id(at + 1)] } else { vec![] })).collect();
    let document = export(&chain, &environment).to_string();
    let imported = import(&document, ENVIRONMENT, &environment).unwrap();
    assert_eq!(imported.warnings, []);
    let foreign =
        Snapshot::empty().apply(imported.flags.iter().map(|f| compile(f, &environment).unwrap()), 1, 0);
    let context = |country: &str| Struct {
        fields: [("targetingKey", "ada"), ("country", country)]
            .map(|(key, value)| (key.to_owned(), Value::from(value)))
            .into(),
    };
    let serve =
        |country| evaluate(&foreign, ENVIRONMENT, "checkout", &Context::new(&context(country)), 0).variant;
    assert_eq!((serve("DE"), serve("FR")), (Some("on"), Some("off")));

    // Sixteen on each of sixteen levels: more ways than fit.
    let place = |level: usize, at: usize| if level == 0 { 0 } else { (level - 1) * 16 + at + 1 };
    let mut web = vec![link(0, (0..16).map(|at| id(place(1, at))).collect())];
    for level in 1..=15 {
        let below =
            |_| if level < 15 { (0..16).map(|at| id(place(level + 1, at))).collect() } else { vec![] };
        web.extend((0..16).map(|at| link(place(level, at), below(at))));
    }
    let written = export(&web, &environment)["flags"]["checkout"].clone();
    assert_eq!(written.get("targeting"), None, "its default");
}
