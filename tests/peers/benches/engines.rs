//! Nanoseconds per evaluation beside other engines, in one process and one run: ten rules that do not match and then a
//! rollout, and the first rule. Each engine gets its own form of the same flag and a context that is decoded already.
//!
//! Engines take turns, round by round, so that what else the machine does falls on all of them alike.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use featureops_evaluation::{Context, Snapshot, compile, evaluate};
use featureops_proto::v1::{self, condition::Operator, rule::Serve};
use growthbook_rust::growthbook::GrowthBook;
use growthbook_rust::model_public::GrowthBookAttribute;
use launchdarkly_server_sdk_evaluation as launchdarkly;
use open_feature::EvaluationContext;
use prost_types::{Struct, Value};
use serde_json::{Value as Json, json};
use unleash_yggdrasil::EngineState;

const ROUNDS: usize = 15;
const KEYS: [(&str, &str); 3] = [("country", "FR"), ("plan", "free"), ("email", "bob@example.com")];

struct Engine<'e> {
    name: &'static str,
    times: usize,
    work: Box<dyn FnMut(usize) + 'e>,
    rounds: Vec<Duration>,
}

fn engine<'e>(name: &'static str, times: usize, work: impl FnMut(usize) + 'e) -> Engine<'e> {
    Engine { name, times, work: Box::new(work), rounds: Vec::new() }
}

fn report(title: &str, mut engines: Vec<Engine<'_>>) {
    for _ in 0..ROUNDS {
        for engine in &mut engines {
            let start = Instant::now();
            (0..engine.times).for_each(&mut engine.work);
            engine.rounds.push(start.elapsed() / engine.times as u32);
        }
    }
    println!("{title}");
    let mut first = None;
    for engine in &mut engines {
        engine.rounds.sort_unstable();
        let (best, median) = (engine.rounds[0], engine.rounds[ROUNDS / 2]);
        let base = *first.get_or_insert(median);
        let ratio = median.as_secs_f64() / base.as_secs_f64();
        println!("  {:<44} {median:>10.0?} median {best:>10.0?} best {ratio:>8.1} x", engine.name);
    }
}

fn wanted(nth: usize, first: bool) -> (&'static str, String) {
    let (key, value) = KEYS[nth % 3];
    if first && nth == 0 { ("country", "DE".to_owned()) } else { (key, format!("{value}{nth}")) }
}

fn native(rules: usize, first: bool) -> v1::Flag {
    let rule = |nth: usize| {
        let (attribute, value) = wanted(nth, first);
        v1::Rule {
            id: format!("rule-{nth}"),
            conditions: vec![v1::Condition {
                attribute: attribute.to_owned(),
                operator: Operator::Equals.into(),
                values: vec![Value::from(value)],
            }],
            serve: Some(Serve::Variant("b".to_owned())),
        }
    };
    let entry = |(variant, weight_basis_points): (&str, u32)| v1::WeightedVariant {
        variant: variant.to_owned(),
        weight_basis_points,
    };
    let split = v1::Split { variants: [("b", 3_000), ("c", 7_000)].map(entry).into(), ..v1::Split::default() };
    let last = v1::Rule { id: "last".to_owned(), conditions: vec![], serve: Some(Serve::Split(split)) };
    v1::Flag { rules: (0..rules).map(rule).chain([last]).collect(), ..targeted("") }
}

fn targeted(targeting: &str) -> v1::Flag {
    v1::Flag {
        name: "environments/production/flags/checkout".to_owned(),
        r#type: v1::ValueType::String.into(),
        variants: ["a", "b", "c"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("a".to_owned()),
        targeting: targeting.to_owned(),
        ..v1::Flag::default()
    }
}

fn json_logic(rules: usize, first: bool) -> String {
    let mut branches = Vec::new();
    for nth in 0..rules {
        let (attribute, value) = wanted(nth, first);
        branches.extend([json!({"==": [{"var": attribute}, value]}), json!("b")]);
    }
    branches.push(json!({"fractional": [["b", 30], ["c", 70]]}));
    json!({ "if": branches }).to_string()
}

fn unleash(rules: usize, first: bool) -> EngineState {
    let mut strategies = Vec::new();
    for nth in 0..rules {
        let (attribute, value) = wanted(nth, first);
        strategies.push(json!({"name": "default", "constraints": [
            {"contextName": attribute, "operator": "IN", "values": [value]}]}));
    }
    let rollout = json!({"rollout": "30", "stickiness": "userId", "groupId": "checkout"});
    strategies.push(json!({"name": "flexibleRollout", "parameters": rollout}));
    let features = json!({"version": 2, "features": [
        {"name": "checkout", "type": "release", "enabled": true, "strategies": strategies}]});
    let engine = EngineState::default();
    let features: unleash_types::client_features::ClientFeatures = serde_json::from_value(features).unwrap();
    assert!(engine.apply_client_features(features).is_none());
    engine
}

fn launchdarkly_flag(rules: usize, first: bool) -> launchdarkly::Flag {
    let rules: Vec<Json> = (0..rules)
        .map(|nth| {
            let (attribute, value) = wanted(nth, first);
            json!({"id": format!("rule-{nth}"), "variation": 1, "trackEvents": false, "clauses": [
                {"attribute": attribute, "op": "in", "values": [value], "negate": false}]})
        })
        .collect();
    let rollout =
        json!({"variations": [{"variation": 1, "weight": 30_000}, {"variation": 2, "weight": 70_000}]});
    serde_json::from_value(json!({
        "key": "checkout", "version": 1, "on": true, "targets": [], "rules": rules, "prerequisites": [],
        "fallthrough": {"rollout": rollout}, "offVariation": 0, "variations": ["a", "b", "c"],
        "clientSide": false, "salt": "salty", "trackEvents": false, "trackEventsFallthrough": false,
        "debugEventsUntilDate": null,
    }))
    .unwrap()
}

fn growthbook(rules: usize, first: bool) -> GrowthBook {
    let mut all = Vec::new();
    for nth in 0..rules {
        let (attribute, value) = wanted(nth, first);
        all.push(json!({"condition": {attribute: value}, "force": "b"}));
    }
    all.push(json!({"force": "c", "coverage": 0.3, "hashAttribute": "id"}));
    let features = json!({"checkout": {"defaultValue": "a", "rules": all}});
    GrowthBook {
        forced_variations: None,
        features: serde_json::from_value(features).unwrap(),
        attributes: None,
        sticky_bucket_service: None,
        saved_groups: Default::default(),
    }
}

struct NoStore;

impl launchdarkly::Store for NoStore {
    fn flag(&self, _: &str) -> Option<launchdarkly::Flag> {
        None
    }

    fn segment(&self, _: &str) -> Option<launchdarkly::Segment> {
        None
    }
}

fn main() {
    let people = 256;
    let unit = |nth: usize| format!("user-{nth:08}");
    let email = |nth: usize| format!("user-{nth}@example.com");
    let ours: Vec<Struct> = (0..people)
        .map(|nth| Struct {
            fields: [
                ("targetingKey", unit(nth)),
                ("country", "DE".into()),
                ("plan", "pro".into()),
                ("email", email(nth)),
            ]
            .map(|(key, value)| (key.to_owned(), Value::from(value)))
            .into(),
        })
        .collect();
    let unleash_contexts: Vec<unleash_yggdrasil::Context> = (0..people)
        .map(|nth| {
            let properties = [("country", "DE".into()), ("plan", "pro".into()), ("email", email(nth))];
            unleash_yggdrasil::Context {
                user_id: Some(unit(nth)),
                properties: Some(
                    properties.map(|(key, value): (&str, String)| (key.to_owned(), value)).into(),
                ),
                ..Default::default()
            }
        })
        .collect();
    let launchdarkly_contexts: Vec<launchdarkly::Context> = (0..people)
        .map(|nth| {
            let mut builder = launchdarkly::ContextBuilder::new(unit(nth));
            builder.set_string("country", "DE").set_string("plan", "pro").set_string("email", email(nth));
            builder.build().unwrap()
        })
        .collect();
    let growthbook_contexts: Vec<Option<Vec<GrowthBookAttribute>>> = (0..people)
        .map(|nth| {
            let attributes = json!({"id": unit(nth), "country": "DE", "plan": "pro", "email": email(nth)});
            GrowthBookAttribute::from(attributes).ok()
        })
        .collect();
    let flagd_contexts: Vec<EvaluationContext> = (0..people)
        .map(|nth| {
            EvaluationContext::default()
                .with_targeting_key(unit(nth))
                .with_custom_field("country", "DE")
                .with_custom_field("plan", "pro")
                .with_custom_field("email", email(nth))
        })
        .collect();
    let environment = v1::Environment::default();
    let snapshot = |flag: &v1::Flag| Snapshot::empty().apply([compile(flag, &environment).unwrap()], 1, 0);

    for (title, rules, first) in [("ten rules, then a rollout", 10, false), ("the first rule", 10, true)] {
        let rule = json_logic(rules, first);
        let (native, logic) = (snapshot(&native(rules, first)), snapshot(&targeted(&rule)));
        let unleash = unleash(rules, first);
        let launchdarkly_flag = launchdarkly_flag(rules, first);
        let growthbook = growthbook(rules, first);
        let flagd = flagd_evaluation_engine::Operator::new();
        // Each engine is asked once for what it answers, so that none is timed at failing.
        let b = |snapshot: &Snapshot| {
            let variants = ours
                .iter()
                .map(|one| evaluate(snapshot, "production", "checkout", &Context::new(one), 1).variant);
            variants.fold(HashMap::<_, usize>::new(), |mut counts, variant| {
                *counts.entry(variant.map(str::to_owned)).or_default() += 1;
                counts
            })
        };
        println!("here {:?} and {:?}", b(&native), b(&logic));
        let on =
            unleash_contexts.iter().filter(|context| unleash.is_enabled("checkout", context, &None)).count();
        let of = |value: &str| {
            let served = launchdarkly_contexts.iter().filter(|context| {
                let detail = launchdarkly::evaluate(&NoStore, &launchdarkly_flag, context, None);
                detail.value == Some(&launchdarkly::FlagValue::Str(value.to_owned()))
            });
            served.count()
        };
        let growth = growthbook_contexts
            .iter()
            .filter(|context| growthbook.check("checkout", context).value != json!("a"));
        let theirs = flagd_contexts
            .iter()
            .filter(|context| flagd.apply("checkout", &rule, context).unwrap() == Some("b".into()));
        println!(
            "unleash {on} on, launchdarkly {} b, growthbook {} not a, flagd {} b, of {people}",
            of("b"),
            growth.count(),
            theirs.count()
        );
        report(
            title,
            vec![
                engine("here, native rules", 20_000, |nth| {
                    black_box(evaluate(
                        &native,
                        "production",
                        "checkout",
                        &Context::new(&ours[nth % people]),
                        1,
                    ));
                }),
                engine("here, targeting", 20_000, |nth| {
                    black_box(evaluate(
                        &logic,
                        "production",
                        "checkout",
                        &Context::new(&ours[nth % people]),
                        1,
                    ));
                }),
                engine("unleash-yggdrasil 0.21.7", 20_000, |nth| {
                    black_box(unleash.is_enabled("checkout", &unleash_contexts[nth % people], &None));
                }),
                engine("launchdarkly-server-sdk-evaluation 2.2.1", 20_000, |nth| {
                    let context = &launchdarkly_contexts[nth % people];
                    black_box(launchdarkly::evaluate(&NoStore, &launchdarkly_flag, context, None));
                }),
                engine("growthbook-rust 0.4.0", 5_000, |nth| {
                    black_box(growthbook.check("checkout", &growthbook_contexts[nth % people]));
                }),
                engine("flagd-evaluation-engine 0.1.0", 1_000, |nth| {
                    black_box(flagd.apply("checkout", &rule, &flagd_contexts[nth % people]).ok());
                }),
            ],
        );
    }
}
