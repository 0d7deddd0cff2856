//! What a document cannot say is told, and nothing else is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail")]

use featureops_evaluation::flagd::{What, export_for_sync, left_out, left_out_of};
use featureops_proto::v1::{self, FractionalVersion, rule::Serve};
use prost_types::Value;
use serde_json::Value as Json;

fn flag(id: &str) -> v1::Flag {
    v1::Flag {
        name: format!("environments/production/flags/{id}"),
        r#type: v1::ValueType::String.into(),
        variants: ["off", "on"].map(|name| (name.to_owned(), Value::from(name))).into(),
        default_variant: Some("off".to_owned()),
        rules: vec![serving(Serve::Variant("on".to_owned()))],
        ..v1::Flag::default()
    }
}

fn serving(serve: Serve) -> v1::Rule {
    v1::Rule { id: "all".to_owned(), serve: Some(serve), ..v1::Rule::default() }
}

fn resting(other: &str) -> v1::Flag {
    let needs = v1::Prerequisite { flag: other.to_owned(), variants: vec!["on".to_owned()] };
    v1::Flag { prerequisites: vec![needs], ..flag("checkout") }
}

fn halves() -> Serve {
    let entry = |name: &str| v1::WeightedVariant { variant: name.to_owned(), weight_basis_points: 5_000 };
    Serve::Split(v1::Split { variants: ["on", "off"].map(entry).into(), ..v1::Split::default() })
}

fn targeting(rule: &str) -> v1::Flag {
    v1::Flag { rules: vec![], targeting: rule.to_owned(), ..flag("cart") }
}

/// What is told of `checkout`, which rests on this flag, and whether its entry asks anything.
fn told(cart: v1::Flag, checkout: v1::Flag, generation: FractionalVersion) -> (Vec<String>, bool) {
    let environment = v1::Environment { fractional: generation.into(), ..v1::Environment::default() };
    let flags = [cart, checkout];
    let told = left_out(&flags, &environment, &[]);
    assert!(told.iter().all(|lost| lost.flag == "checkout" && lost.what == What::Prerequisite));
    let document = export_for_sync(&flags, &environment);
    let asks = document["flags"]["checkout"].get("targeting").is_some_and(|rule| *rule != Json::Null);
    (told.into_iter().map(|lost| lost.message).collect(), asks)
}

#[test]
fn a_bucket_of_the_third_generation_behind_a_prerequisite_is_told() {
    let (two, three) = (FractionalVersion::FractionalVersion2, FractionalVersion::FractionalVersion3);
    let split = || v1::Flag { rules: vec![serving(halves())], ..flag("cart") };
    let experiment = || v1::Flag {
        rules: vec![],
        allocation: Some(v1::Allocation {
            variants: vec!["off".to_owned(), "on".to_owned()],
            runs: [(0, 5_000), (1, 5_000)].map(|(arm, length)| v1::Run { arm, length }).into(),
            ..v1::Allocation::default()
        }),
        ..flag("cart")
    };
    let ramp = || {
        let second = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let ramp = v1::Ramp {
            variant: "on".to_owned(),
            start_time: second(1_000),
            end_time: second(2_000),
            end_basis_points: Some(10_000),
            ..v1::Ramp::default()
        };
        v1::Flag { rules: vec![serving(Serve::Ramp(ramp))], ..flag("cart") }
    };
    let fractional = || targeting(r#"{"fractional":[["on",1],["off",1]]}"#);
    for cart in [split(), experiment(), ramp(), fractional()] {
        assert_eq!(told(cart.clone(), resting("cart"), two), (vec![], true), "{cart:?}");
        let (messages, asks) = told(cart, resting("cart"), three);
        assert!(messages[0].contains("FRACTIONAL_VERSION_3 the buckets of flag cart"), "{messages:?}");
        assert!((messages.len(), asks) == (1, false));
    }
    // What is the same in every bucket asks for none; nor is anything asked of a flag that has one answer.
    assert_eq!(told(flag("cart"), resting("cart"), three), (vec![], true));
    let off = v1::Flag { rules: vec![], ..flag("cart") };
    assert_eq!(told(off, resting("cart"), three), (vec![], false));
    let one_answer = v1::Flag { rules: vec![], ..resting("cart") };
    assert_eq!(told(split(), one_answer, three), (vec![], false));
    // A tripped flag has its safe variant there too.
    let tripped = v1::Flag { trip: Some(v1::Trip::default()), ..resting("cart") };
    assert_eq!(told(split(), tripped, three).0, Vec::<String>::new());
}

#[test]
fn what_no_generation_can_say_behind_a_prerequisite_is_told() {
    let two = FractionalVersion::FractionalVersion2;
    let messages = |rule: &str| told(targeting(rule), resting("cart"), two).0;
    let whole = messages(r#"{"if":[{"==":[{"var":"$flagd"},1]},"on","off"]}"#);
    assert!(whole.len() == 1 && whole[0].contains("`$flagd` as a whole"), "{whole:?}");
    let items = messages(r#"{"if":[{"some":[{"var":"a"},{"fractional":[["on",1]]}]},"on","off"]}"#);
    assert!(items.len() == 1 && items[0].contains("items of a list"), "{items:?}");
    let long = "x".repeat(5_000);
    let large = messages(&format!(r#"{{"fractional":[{{"var":["a","{long}"]}},["on",1],["off",1]]}}"#));
    assert!(large.len() == 1 && large[0].contains("more than a rule may hold"), "{large:?}");
    assert_eq!(messages(r#"{"if":[{"==":[{"var":"a"},1]},"on","off"]}"#), Vec::<String>::new());
}

#[test]
fn a_flag_behind_many_others_is_told_of_all_the_same_when_it_is_asked_about() {
    let environment = v1::Environment {
        fractional: FractionalVersion::FractionalVersion3.into(),
        ..v1::Environment::default()
    };
    let mut flags = vec![v1::Flag { rules: vec![serving(halves())], ..flag("cart") }];
    flags.extend((0..1_200).map(|number| v1::Flag {
        name: format!("environments/production/flags/a-{number:04}"),
        ..resting("cart")
    }));
    flags.push(v1::Flag { name: "environments/production/flags/z".to_owned(), ..resting("cart") });
    let told = left_out(&flags, &environment, &[]);
    assert_eq!(told.len(), 1_000);
    assert!(told.iter().all(|lost| lost.flag != "z"));
    let of = left_out_of(&flags, &environment, &[]);
    let of_last = of(flags.last().unwrap());
    assert_eq!((of_last.len(), of_last[0].flag.as_str()), (1, "z"));
}
