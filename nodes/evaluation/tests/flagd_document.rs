//! The flagd document: what it says is kept, what it cannot say is refused, and it comes out as it went in.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test's helpers may fail")]

mod generated;

use std::path::PathBuf;

use featureops_evaluation::flagd::{Imported, bounded, export, export_for_sync, import};
use featureops_evaluation::limits;
use featureops_proto::v1;
use proptest::prelude::*;
use prost_types::{Value, value::Kind};
use serde_json::{Value as Json, json};

fn taken_in(document: &str) -> Imported {
    import(document, "production", &v1::Environment::default()).unwrap()
}

fn refusal(document: &str) -> String {
    import(document, "production", &v1::Environment::default()).unwrap_err().to_string()
}

fn warnings(document: &str) -> Vec<String> {
    let said = taken_in(document).warnings.into_iter();
    said.map(|warning| format!("{}: {}", warning.path, warning.message)).collect()
}

/// What a round trip may change: the list form of flags, `{}` as targeting, defaults that are none, numbers' spelling.
fn normal(mut document: Json) -> Json {
    fn numbers(json: &mut Json) {
        match json {
            Json::Number(number) => {
                let double = number.as_f64().unwrap();
                if double.trunc() == double && double.abs() < 9e15 && double.to_bits() != (-0.0f64).to_bits()
                {
                    *json = Json::from(double as i64);
                }
            }
            Json::Array(values) => values.iter_mut().for_each(numbers),
            Json::Object(fields) => fields.values_mut().for_each(numbers),
            _ => {}
        }
    }
    numbers(&mut document);
    let root = document.as_object_mut().unwrap();
    root.remove("$schema");
    if let Some(Json::Array(list)) = root.get("flags") {
        let by_key = list.iter().map(|flag| {
            let mut flag = flag.as_object().unwrap().clone();
            let Some(Json::String(key)) = flag.remove("key") else { panic!("a flag without a key") };
            (key, Json::Object(flag))
        });
        let by_key = by_key.collect();
        root.insert("flags".to_owned(), by_key);
    }
    for flag in root.get_mut("flags").unwrap().as_object_mut().unwrap().values_mut() {
        let flag = flag.as_object_mut().unwrap();
        flag.retain(|key, value| match key.as_str() {
            "defaultVariant" => !value.is_null() && *value != "",
            "targeting" => !value.is_null() && *value != json!({}),
            _ => true,
        });
    }
    document
}

#[test]
fn a_document_becomes_flags_and_comes_out_again() {
    let document = json!({
        "$schema": "https://flagd.dev/schema/v0/flags.json",
        "flags": {
            "welcome": {
                "state": "ENABLED",
                "variants": {"on": true, "off": false},
                "defaultVariant": "off",
                "targeting": {"if": [{"$ref": "staff"}, "on", null]},
                "metadata": {"owner": "growth", "tier": 1, "beta": true}
            },
            "limits": {"state": "DISABLED", "variants": {"one": 1, "half": 0.5}, "defaultVariant": null},
            "mixed": {"state": "ENABLED", "variants": {"a": "x", "b": 2, "c": null, "d": [1, {"e": null}]}},
        },
        "$evaluators": {"staff": {"ends_with": [{"var": "email"}, "@example.com"]}},
        "metadata": {"flagSetId": "shop", "version": 3}
    });
    let imported = taken_in(&document.to_string());
    assert_eq!(imported.warnings, vec![]);
    let [limits, mixed, welcome] = imported.flags.as_slice() else { panic!("three flags") };
    assert_eq!(welcome.name, "environments/production/flags/welcome");
    assert!(welcome.imported && limits.disabled && !welcome.disabled);
    assert_eq!(welcome.targeting, r#"{"if":[{"$ref":"staff"},"on",null]}"#);
    assert_eq!(welcome.default_variant.as_deref(), Some("off"));
    let types = [limits.r#type(), mixed.r#type(), welcome.r#type()];
    assert_eq!(types, [v1::ValueType::Number, v1::ValueType::Unspecified, v1::ValueType::Boolean]);
    assert_eq!(imported.environment.name, "environments/production");
    assert_eq!(imported.environment.evaluators["staff"], r#"{"ends_with":[{"var":"email"},"@example.com"]}"#);
    assert_eq!(export(&imported.flags, &imported.environment), normal(document));

    let sync = export_for_sync(&imported.flags, &imported.environment);
    let welcome = &sync["flags"]["welcome"];
    assert_eq!(
        welcome["targeting"],
        json!({"if": [{"ends_with": [{"var": "email"}, "@example.com"]}, "on", null]})
    );
    assert_eq!(
        welcome["metadata"],
        json!({"owner": "growth", "tier": 1, "beta": true, "flagSetId": "shop", "version": 3})
    );
    assert_eq!(welcome["source"], "production");
    assert_eq!(sync.as_object().unwrap().len(), 1);
}

#[test]
fn flags_may_be_a_list() {
    let list = r#"{"flags": [{"key": "b", "state": "ENABLED", "variants": {"x": 1}}, {"key": "a", "state": "ENABLED", "variants": {}}]}"#;
    let map = r#"{"flags": {"a": {"state": "ENABLED", "variants": {}}, "b": {"state": "ENABLED", "variants": {"x": 1}}}}"#;
    assert_eq!(taken_in(list), taken_in(map));
    assert!(refusal(r#"{"flags": [{"state": "ENABLED"}]}"#).starts_with("flags[0].key"));
    let twice = r#"{"flags": [{"key": "a", "state": "ENABLED", "variants": {"x": 1}}, {"key": "a", "state": "DISABLED", "variants": {}}]}"#;
    let imported = taken_in(twice);
    assert_eq!(imported.flags.len(), 1);
    assert!(imported.flags[0].disabled, "the last one counts");
    assert_eq!(imported.warnings[0].path, "flags[1].key");
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_path() {
    let flag = |inner: &str| format!(r#"{{"flags": {{"f": {{"state": "ENABLED", {inner}}}}}}}"#);
    let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
    let cases = [
        ("", "document 'line 1, column 0': not readable as JSON: EOF"),
        ("{\"flags\": {\n  \"a\": }}", "document 'line 2, column 8': not readable as JSON: expected value"),
        ("{\"flags\": {}} x", "document 'line 1, column 15': not readable as JSON: trailing characters"),
        ("[]", "document 'no object'"),
        ("{}", "flags '': a document without flags"),
        (r#"{"flags": 3}"#, "flags 'a number': flags are an object by key"),
        (r#"{"flags": {"a": 3}}"#, "flags.a 'a number': a flag is an object"),
        (r#"{"flags": {"a b": {}}}"#, "flags.a b 'a b': a flag's key has 1 to 128 letters"),
        (r#"{"flags": {"a/b": {}}}"#, "flags.a/b 'a/b': a flag's key has"),
        (r#"{"flags": {"": {}}}"#, "flags. '': a flag's key has"),
        (
            &flag(r#""variants": {"a": 1}, "defaultVariant": "b""#),
            "flags.f.defaultVariant 'b': no such variant; this flag has a",
        ),
        (
            &flag(r#""defaultVariant": "b""#),
            "flags.f.defaultVariant 'b': no such variant; this flag has none",
        ),
        (&flag(r#""variants": {"a": 1}, "defaultVariant": 1"#), "flags.f.defaultVariant 'a number'"),
        (
            &flag(r#""variants": {"a": {"b": [0, 9007199254740992]}}"#),
            "flags.f.variants.a.b[1] '9007199254740992': numbers are at most 2^53 - 1",
        ),
        (&flag(r#""variants": {"a": -9007199254740993}"#), "flags.f.variants.a '-9007199254740993'"),
        (&flag(r#""variants": {"a": 1e300}"#), "flags.f.variants.a '1e+300'"),
        (&flag(r#""variants": {"a": 123456789012345678901234567890}"#), "flags.f.variants.a"),
        (&flag(r#""variants": {"a": 1e400}"#), "document 'line 1, column"),
        (&flag(r#""metadata": {"n": 9007199254740992}"#), "flags.f.metadata.n"),
        (r#"{"flags": {}, "metadata": {"n": 9007199254740992}}"#, "metadata.n '9007199254740992'"),
        (&flag(&format!(r#""variants": {{"a": {deep}}}"#)), "flags.f.variants.a.a"),
        (
            &flag(&format!(r#""targeting": {}"#, "[".repeat(10_000))),
            "document 'line 1, column 175': not readable as JSON: recursion limit exceeded",
        ),
        (
            &flag(&format!(r#""variants": {{"a": "{}"}}"#, "x".repeat(limits::MAX_FLAG_BYTES))),
            "flags.f '262161': a definition has at most 262144 bytes",
        ),
        (
            &flag(&format!(r#""targeting": {{"cat": "{}"}}"#, "x".repeat(limits::MAX_FLAG_BYTES))),
            "flags.f.targeting '262154': at most 262144 bytes of targeting",
        ),
    ];
    for (document, expected) in cases {
        let said = refusal(document);
        assert!(said.starts_with(expected), "{said}\nexpected {expected}");
    }
    assert!(import("{\"flags\":{}}", "a b", &v1::Environment::default()).is_err());
    let large = " ".repeat(limits::MAX_DOCUMENT_BYTES + 1);
    assert!(refusal(&large).contains("at most 67108864 bytes"));
    let many = format!(r#"{{"flags": {{}}, "x": [{}0]}}"#, "0,".repeat(limits::MAX_DOCUMENT_VALUES));
    assert!(refusal(&many).contains("more than 4000000 values"));
}

#[test]
fn what_the_schema_does_not_know_only_warns() {
    let document = r#"{
        "flags": {
            "f": {
                "state": "enabled", "variants": {"true": 1, "a": 1, "a": 2}, "defaultVariant": true, "source": "x",
                "targeting": "a", "metadata": {"o": {}, "n": null, "s": "x"}
            },
            "g": {"variants": [], "targeting": {"<": [{"var": "n"}, 1e300]}, "metadata": 3},
            "h": {"state": "ENABLED", "variants": {}, "defaultVariant": ""}
        },
        "$evaluators": {"e": true}, "metadata": [], "more": 1
    }"#;
    let expected = [
        "flags.f.variants.a: this key is written more than once; the last one counts",
        "$evaluators.e: a boolean, not an object of JsonLogic",
        "metadata: a list, not an object; it was left out",
        "more: no part of a flagd document; it was left out",
        "flags.f.metadata.n: null; metadata are strings, numbers and booleans",
        "flags.f.metadata.o: an object; metadata are strings, numbers and booleans",
        "flags.f.source: no part of a flag; it was left out",
        "flags.f.targeting: a string, not an object of JsonLogic",
        "flags.f.state: 'enabled' is no state; write ENABLED or DISABLED. It counts as ENABLED",
        "flags.f.defaultVariant: a boolean; it counts as \"true\"",
        "flags.g.metadata: a number, not an object; it was left out",
        "flags.g.targeting.<[1]: 1e+300 is beyond 2^53 - 1: clients compare it with its neighbours as equal",
        "flags.g.variants: a list, not an object; the flag has no variants",
        "flags.g.state: missing is no state; write ENABLED or DISABLED. It counts as ENABLED",
    ];
    assert_eq!(warnings(document), expected);
    let imported = taken_in(document);
    assert_eq!(imported.flags[0].variants["a"], Value::from(2.0), "the last one counts");
    assert_eq!(imported.flags[0].default_variant.as_deref(), Some("true"));
    assert_eq!(imported.flags[0].targeting, "\"a\"");
    assert_eq!(imported.flags[2].default_variant, None);

    let many = format!(r#"{{"flags": {{}}, {}"z": 1}}"#, r#""z": 1, "#.repeat(5_000));
    let mut read = taken_in(&many);
    assert_eq!((read.warnings.len(), read.more), (limits::MAX_WARNINGS + 1, 2));
    // What is found out later counts to the same bound, and the rest is counted once.
    let (mut said, more) = read.take_warnings();
    said.extend((0..5).map(|_| v1::ImportWarning::default()));
    let said = bounded(said, more);
    assert_eq!(said.len(), limits::MAX_WARNINGS + 1);
    assert!(said.last().unwrap().message.starts_with("7 more warnings"), "{:?}", said.last());
    assert_eq!(bounded(vec![v1::ImportWarning::default()], 0).len(), 1);
}

#[test]
fn what_a_document_does_not_mention_stays() {
    let present = v1::Environment {
        source: "shop".to_owned(),
        fractional: v1::FractionalVersion::FractionalVersion3.into(),
        description: "Ours".to_owned(),
        metadata: Some(prost_types::Struct { fields: [("flagSetId".to_owned(), Value::from("s"))].into() }),
        evaluators: [("old".to_owned(), "true".to_owned())].into(),
        ..v1::Environment::default()
    };
    let kept = import(r#"{"flags": {}}"#, "production", &present).unwrap().environment;
    assert_eq!(kept, v1::Environment { name: "environments/production".to_owned(), ..present.clone() });
    let document = r#"{"flags": {}, "metadata": {}, "$evaluators": {"new": {"!": [1.0]}}}"#;
    let changed = import(document, "production", &present).unwrap().environment;
    assert_eq!((changed.source.as_str(), changed.fractional), ("shop", present.fractional));
    assert_eq!(changed.evaluators, [("new".to_owned(), r#"{"!":[1]}"#.to_owned())].into());
    assert_eq!(changed.metadata, Some(prost_types::Struct::default()));
}

#[test]
fn shared_rules_are_put_in_within_bounds() {
    let flag = |targeting: Json| v1::Flag {
        name: "environments/production/flags/f".to_owned(),
        targeting: targeting.to_string(),
        variants: [("on".to_owned(), Value::from(true))].into(),
        ..v1::Flag::default()
    };
    let large = json!({"cat": "x".repeat(200_000)});
    let mut evaluators = vec![
        ("a".to_owned(), r#"{"!":[{"$ref":"b"}]}"#.to_owned()),
        ("b".to_owned(), "true".to_owned()),
        ("one".to_owned(), r#"{"!":[{"$ref":"other"}]}"#.to_owned()),
        ("other".to_owned(), r#"{"!!":[{"$ref":"one"}]}"#.to_owned()),
        ("large".to_owned(), large.to_string()),
    ];
    let tower = (0..900)
        .map(|nth| (format!("t{nth}"), json!({"!": [{"$ref": format!("t{}", nth + 1)}]}).to_string()));
    evaluators.extend(tower);
    let environment = v1::Environment {
        name: "environments/production".to_owned(),
        source: "shop".to_owned(),
        evaluators: evaluators.into_iter().collect(),
        ..v1::Environment::default()
    };
    let targeting =
        |flag: v1::Flag| export_for_sync(&[flag], &environment)["flags"]["f"]["targeting"].clone();
    let given = json!({"if": [{"$ref": "a"}, {"$ref": "b"}, {"$ref": "none"}, {"$ref": "b", "x": 1}]});
    let expanded = json!({"if": [{"!": [true]}, true, {"$ref": "none"}, {"$ref": "b", "x": 1}]});
    assert_eq!(targeting(flag(given)), expanded);
    let itself = json!({"!": [{"!!": [{"$ref": "one"}]}]});
    assert_eq!(targeting(flag(json!({"$ref": "one"}))), itself);
    assert!(targeting(flag(json!({"$ref": "t0"}))).to_string().contains("$ref"), "a tower of 900 levels");
    let bomb = json!({"cat": vec![json!({"$ref": "large"}); 10_000]});
    let text = targeting(flag(bomb)).to_string();
    assert!(text.len() < limits::MAX_TARGETING_BYTES + 10_000 * 20, "{}", text.len());
    assert_eq!(export_for_sync(&[flag(json!({}))], &environment)["flags"]["f"]["source"], "shop");
}

/// Some clients refuse a whole set for one flag that they cannot read.
#[test]
fn a_stream_carries_nothing_that_a_client_stumbles_over() {
    let document = json!({
        "flags": {
            "none": {"state": "ENABLED", "variants": {}},
            "odd": {
                "state": "ENABLED", "variants": {"a": null},
                "metadata": {"": 1, "list": [1], "object": {}, "null": null, "both": null, "text": "own"}
            },
        },
        "metadata": {"both": 1, "text": "shared", "list": true, "odd": {"a": 1}}
    });
    let imported = taken_in(&document.to_string());
    let expected = json!({"flags": {"odd": {
        "state": "ENABLED", "variants": {"a": null}, "defaultVariant": "", "source": "production",
        "metadata": {"both": 1, "text": "own", "list": true}
    }}});
    assert_eq!(export_for_sync(&imported.flags, &imported.environment), expected);
    assert_eq!(export(&imported.flags, &imported.environment), document);
}

/// Where the public suite's flag files are, if they are on this machine.
fn testbed() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("FEATUREOPS_TESTBED") {
        return Some(PathBuf::from(given));
    }
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).ok()?;
    let packages = registries.filter_map(|entry| Some(entry.ok()?.path().join("open-feature-flagd-0.3.0")));
    packages.map(|package| package.join("flagd-testbed")).find(|path| path.is_dir())
}

#[test]
fn the_public_suites_flags_come_out_as_they_went_in() {
    let Some(testbed) = testbed() else {
        println!(
            "skipped: no flagd-testbed; `cargo fetch` open-feature-flagd 0.3.0 or set FEATUREOPS_TESTBED"
        );
        return;
    };
    let mut files = 0;
    for folder in ["flags", "evaluator/flags"] {
        for entry in std::fs::read_dir(testbed.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let imported = taken_in(&text);
            // Rules that do not compile are in there on purpose; nothing else may be warned about.
            let odd: Vec<_> = imported.warnings.iter().filter(|w| !w.path.contains(".targeting")).collect();
            assert!(odd.is_empty(), "{}: {odd:?}", path.display());
            let document = serde_json::from_str(&text).unwrap();
            assert_eq!(
                export(&imported.flags, &imported.environment),
                normal(document),
                "{}",
                path.display()
            );
            files += 1;
        }
    }
    assert!(files >= 10, "{files} files in {}", testbed.display());
}

#[test]
fn a_hundred_thousand_flags_are_taken_in() {
    let flag = r#"{"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
        "targeting": {"if": [{"in": [{"var": "country"}, ["DE", "FR"]]}, "on", {"fractional": [["on", 10], ["off", 90]]}]}}"#;
    let flags: Vec<String> =
        (0..limits::MAX_DOCUMENT_FLAGS).map(|nth| format!("\"flag-{nth}\": {flag}")).collect();
    let imported = taken_in(&format!("{{\"flags\": {{{}}}}}", flags.join(",")));
    assert_eq!((imported.flags.len(), imported.warnings.len()), (limits::MAX_DOCUMENT_FLAGS, 0));
    let sync = export_for_sync(&imported.flags, &imported.environment);
    assert_eq!(sync["flags"].as_object().unwrap().len(), limits::MAX_DOCUMENT_FLAGS);
    let more = format!("{{\"flags\": {{{}, \"one-more\": {flag}}}}}", flags.join(","));
    assert!(refusal(&more).starts_with("flags '100001': at most 100000 flags"));
}

fn json_value() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        (-9_007_199_254_740_991i64..=9_007_199_254_740_991).prop_map(Json::from),
        (-1e9f64..1e9).prop_map(Json::from),
        prop::sample::select(vec![0.0, -0.0, 3.0, 0.1, 1e-7]).prop_map(Json::from),
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        number,
        ".{0,8}".prop_map(Json::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn object() -> impl Strategy<Value = Json> {
    prop::collection::btree_map("[$a-z=<]{1,4}", json_value(), 0..3).prop_map(|map| map.into_iter().collect())
}

fn metadata() -> impl Strategy<Value = Json> {
    let value = prop_oneof![
        any::<bool>().prop_map(Json::from),
        any::<i32>().prop_map(Json::from),
        "[a-z]{0,4}".prop_map(Json::from)
    ];
    prop::collection::btree_map("[a-zA-Z]{1,6}", value, 0..3).prop_map(|map| map.into_iter().collect())
}

prop_compose! {
    fn flag_json()(
        enabled in any::<bool>(),
        variants in prop::collection::btree_map(".{0,5}", json_value(), 0..4),
        default in prop::option::of(any::<prop::sample::Index>()),
        targeting in prop::option::of(object()),
        metadata in prop::option::of(metadata()),
    ) -> Json {
        let mut flag = json!({"state": if enabled { "ENABLED" } else { "DISABLED" }, "variants": &variants});
        if let (Some(default), false) = (default, variants.is_empty()) {
            flag["defaultVariant"] = variants.keys().nth(default.index(variants.len())).unwrap().as_str().into();
        }
        if let Some(targeting) = targeting {
            flag["targeting"] = targeting;
        }
        if let Some(metadata) = metadata {
            flag["metadata"] = metadata;
        }
        flag
    }
}

prop_compose! {
    fn document()(
        flags in prop::collection::btree_map("[a-zA-Z0-9._:-]{0,11}[a-zA-Z0-9_:-]", flag_json(), 0..5),
        evaluators in prop::collection::btree_map("[a-z]{1,5}", object(), 1..3),
        with_evaluators in any::<bool>(),
        metadata in prop::option::of(metadata()),
    ) -> Json {
        let mut document = json!({"flags": flags});
        if with_evaluators {
            document["$evaluators"] = json!(evaluators);
        }
        if let Some(metadata) = metadata {
            document["metadata"] = metadata;
        }
        document
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_048, ..ProptestConfig::default() })]

    #[test]
    fn a_document_is_exported_as_it_was_imported(document in document()) {
        let imported = taken_in(&document.to_string());
        let exported = export(&imported.flags, &imported.environment);
        prop_assert_eq!(&exported, &normal(document));
        let again = import(&exported.to_string(), "production", &imported.environment).unwrap();
        prop_assert_eq!(again, imported);
    }

    #[test]
    fn any_text_is_taken_in_or_refused(text in ".{0,200}", json in json_value()) {
        for text in [text, json.to_string(), json!({"flags": json}).to_string(), json!({"flags": {"f": json}, "$evaluators": json, "metadata": json}).to_string()] {
            if let Ok(imported) = import(&text, "production", &v1::Environment::default()) {
                let exported = export(&imported.flags, &imported.environment).to_string();
                let again = import(&exported, "production", &imported.environment).unwrap();
                prop_assert_eq!((again.flags, again.environment), (imported.flags.clone(), imported.environment.clone()));
                let _ = export_for_sync(&imported.flags, &imported.environment);
            }
        }
    }

    #[test]
    fn any_bytes_are_taken_in_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        document in document(),
        at in any::<prop::sample::Index>(),
    ) {
        let _ = import(&String::from_utf8_lossy(&bytes), "production", &v1::Environment::default());
        let mut text = document.to_string().into_bytes();
        for (nth, byte) in bytes.iter().take(3).enumerate() {
            let at = (at.index(text.len()) + nth) % text.len();
            text[at] = *byte;
        }
        let _ = import(&String::from_utf8_lossy(&text), "production", &v1::Environment::default());
    }

    /// Whatever a flag is, imported or not, readable or not, there is a document of it.
    #[test]
    fn any_flag_is_exported(flag in generated::flag(), targeting in prop::option::of(".{0,20}"), operator in any::<i32>()) {
        let mut flag = v1::Flag { targeting: targeting.unwrap_or_default(), ..flag };
        let environment = v1::Environment::default();
        let _ = export_for_sync(std::slice::from_ref(&flag), &environment);
        for condition in flag.rules.iter_mut().flat_map(|rule| &mut rule.conditions) {
            condition.operator = operator;
            condition.values = vec![Value { kind: None }, Value { kind: Some(Kind::NumberValue(f64::NAN)) }];
        }
        let document = export(std::slice::from_ref(&flag), &environment);
        import(&document.to_string(), "production", &environment).unwrap();
    }
}
