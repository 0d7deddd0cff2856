//! Differential test: rules drawn at random mean the same here, in an independent JsonLogic engine (`datalogic-rs`) and, with
//! flagd's own operators, in flagd's official engine for Rust.
//!
//! Rules are drawn well typed, from what the field agrees on. Left out, because the engines disagree among themselves:
//! null compared or added, `==` between booleans and texts, text that is no number in arithmetic, lists in `cat` and `==`.

use datalogic_rs::Engine;
use featureops_evaluation::{Context, logic::apply};
use featureops_proto::v1::{Environment, FractionalVersion};
use flagd_evaluation_engine::Operator;
use open_feature::EvaluationContext;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Value as Json, json};

/// Chance with a seed: the same rules in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn pick<'p, T: ?Sized>(&mut self, from: &[&'p T]) -> &'p T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn numbers(chance: &mut Chance, depth: u32) -> Json {
    match if depth == 0 { chance.below(3) } else { chance.below(12) } {
        0 => json!(chance.below(100) as i64 - 50),
        1 => json!((chance.below(400) as f64 - 200.0) / 4.0),
        2 => json!({"var": chance.pick(&["n", "o.five", "list.1", "o.deep.seven"])}),
        3 => json!({"var": ["none", numbers(chance, depth - 1)]}),
        4 => {
            json!({chance.pick(&["+", "*", "max", "min"]): [numbers(chance, depth - 1), numbers(chance, depth - 1), numbers(chance, 0)]})
        }
        5 => json!({"-": [numbers(chance, depth - 1), numbers(chance, depth - 1)]}),
        6 => json!({"-": [numbers(chance, depth - 1)]}),
        7 => json!({"%": [numbers(chance, depth - 1), chance.below(9) + 1]}),
        8 => json!({"/": [numbers(chance, depth - 1), 1 << (1 + chance.below(3))]}),
        9 => {
            json!({"if": [booleans(chance, depth - 1), numbers(chance, depth - 1), numbers(chance, depth - 1)]})
        }
        10 => {
            json!({"reduce": [lists(chance, depth - 1), {"+": [{"var": "current"}, {"var": "accumulator"}]}, numbers(chance, 0)]})
        }
        _ => json!({"+": [chance.pick(&["1", "2.5", "-3"]), numbers(chance, depth - 1)]}),
    }
}

fn texts(chance: &mut Chance, depth: u32) -> Json {
    match if depth == 0 { chance.below(2) } else { chance.below(6) } {
        0 => json!(chance.pick(&["", "a", "abc", "ünï", "10", "9", "Springfield"])),
        1 => json!({"var": chance.pick(&["t", "o.text", "texts.0", "empty"])}),
        2 => json!({"cat": [texts(chance, depth - 1), texts(chance, depth - 1), chance.below(50)]}),
        3 => json!({"substr": [texts(chance, depth - 1), chance.below(9) as i64 - 4]}),
        4 => {
            json!({"substr": [texts(chance, depth - 1), chance.below(9) as i64 - 4, chance.below(9) as i64 - 4]})
        }
        _ => {
            json!({"if": [booleans(chance, depth - 1), texts(chance, depth - 1), booleans(chance, 0), texts(chance, 0), texts(chance, depth - 1)]})
        }
    }
}

fn lists(chance: &mut Chance, depth: u32) -> Json {
    match if depth == 0 { chance.below(2) } else { chance.below(5) } {
        0 => json!({"var": "list"}),
        1 => json!([numbers(chance, 0), numbers(chance, 0), numbers(chance, 0)]),
        2 => json!({"map": [lists(chance, depth - 1), {"+": [{"var": ""}, chance.below(5)]}]}),
        3 => {
            json!({"filter": [lists(chance, depth - 1), {chance.pick(&["<", ">", "!=", "==="]): [{"var": ""}, chance.below(20)]}]})
        }
        _ => json!({"merge": [lists(chance, depth - 1), numbers(chance, 0), lists(chance, depth - 1)]}),
    }
}

fn booleans(chance: &mut Chance, depth: u32) -> Json {
    let below = depth.saturating_sub(1);
    match if depth == 0 { chance.below(2) } else { chance.below(14) } {
        0 => json!(chance.below(2) == 0),
        1 => json!({"var": chance.pick(&["yes", "no"])}),
        2 => {
            json!({chance.pick(&["==", "!=", "===", "!==", "<", "<=", ">", ">="]): [numbers(chance, below), numbers(chance, below)]})
        }
        3 => {
            json!({chance.pick(&["==", "!=", "===", "!==", "<", "<=", ">", ">="]): [texts(chance, below), texts(chance, below)]})
        }
        4 => {
            json!({chance.pick(&["<", "<="]): [numbers(chance, below), numbers(chance, below), numbers(chance, below)]})
        }
        5 => json!({chance.pick(&["==", "<"]): [chance.pick(&["1", "2.5", "10"]), numbers(chance, below)]}),
        6 => {
            json!({chance.pick(&["and", "or"]): [booleans(chance, below), booleans(chance, below), booleans(chance, below)]})
        }
        7 => json!({chance.pick(&["!", "!!"]): [booleans(chance, below)]}),
        8 => {
            let values = [numbers(chance, below), texts(chance, below), lists(chance, below)];
            json!({chance.pick(&["!", "!!"]): [values[chance.below(3) as usize]]})
        }
        9 => json!({"in": [texts(chance, below), texts(chance, below)]}),
        10 => json!({"in": [texts(chance, below), ["a", "10", 10, true]]}),
        11 => json!({"in": [numbers(chance, below), lists(chance, below)]}),
        12 => {
            json!({chance.pick(&["all", "some", "none"]): [lists(chance, below), {chance.pick(&["<", ">"]): [{"var": ""}, chance.below(20)]}]})
        }
        _ => json!({"!!": [{"missing": ["n", chance.pick(&["t", "none", "o.none", "o.five"])]}]}),
    }
}

fn value_of(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(value_of).collect() }),
        Json::Object(_) => Kind::StructValue(struct_of(json)),
    };
    Value { kind: Some(kind) }
}

fn struct_of(json: &Json) -> Struct {
    let fields = json.as_object().into_iter().flatten();
    Struct { fields: fields.map(|(key, value)| (key.clone(), value_of(value))).collect() }
}

/// Equal up to the last places of a number: engines add in other orders and in whole numbers.
fn agree(ours: &Value, theirs: &Json) -> bool {
    match (ours.kind.as_ref().unwrap(), theirs) {
        (Kind::NumberValue(ours), Json::Number(theirs)) => {
            let theirs = theirs.as_f64().unwrap();
            (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0)
        }
        (Kind::ListValue(ours), Json::Array(theirs)) => {
            ours.values.len() == theirs.len()
                && ours.values.iter().zip(theirs).all(|(ours, theirs)| agree(ours, theirs))
        }
        (Kind::NumberValue(ours), Json::Null) => !ours.is_finite(),
        (_, theirs) => *ours == value_of(theirs),
    }
}

#[test]
fn random_rules_mean_what_they_mean_to_an_independent_engine() {
    let data = json!({
        "n": 12.5, "t": "text", "empty": "", "yes": true, "no": false, "texts": ["x", "yy"],
        "list": [3, 1, 14, 10], "o": {"five": 5, "text": "Spring", "deep": {"seven": 7}},
    });
    let (attributes, environment, engine) = (struct_of(&data), Environment::default(), Engine::new());
    let cases: u64 = std::env::var("FEATUREOPS_CASES").map_or(20_000, |cases| cases.parse().unwrap());
    let (mut compared, mut failures) = (0, Vec::new());
    for seed in 0..cases {
        let mut chance = Chance(seed);
        let rule = match seed % 4 {
            0 => numbers(&mut chance, 4),
            1 => texts(&mut chance, 4),
            2 => lists(&mut chance, 4),
            _ => booleans(&mut chance, 4),
        };
        let Ok(theirs) = engine.eval_str(&rule.to_string(), &data.to_string()) else { continue };
        let theirs: Json = serde_json::from_str(&theirs).unwrap();
        let ours = apply(&rule.to_string(), &environment, "flag", &Context::new(&attributes), 0);
        compared += 1;
        if !ours.as_ref().is_ok_and(|ours| agree(ours, &theirs)) {
            failures.push(format!("seed {seed}: {rule}: here {ours:?}, there {theirs}"));
        }
    }
    println!("{compared} of {cases} rules compared, {} differ", failures.len());
    assert!(failures.is_empty(), "{}", failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n"));
    assert!(compared * 10 > cases * 9, "only {compared} of {cases} were understood there");
}

#[test]
fn fractional_and_versions_mean_what_they_mean_to_flagds_engine() {
    let (engine, mut compared) = (Operator::new(), 0);
    let environment =
        Environment { fractional: FractionalVersion::FractionalVersion3.into(), ..Environment::default() };
    for seed in 0..20_000 {
        let mut chance = Chance(seed);
        let unit = format!("{}{}", chance.pick(&["user-", "ünï-", "あ", ""]), chance.below(1_000_000));
        let version = format!("{}.{}.{}", chance.below(3), chance.below(3), chance.below(3));
        let target =
            format!("{}.{}.{}", chance.below(3), chance.below(3), chance.pick(&["0", "1", "1-rc.1"]));
        let relation = chance.pick(&["=", "!=", "<", "<=", ">", ">=", "^", "~"]);
        let weight = |chance: &mut Chance| {
            let bits = 1 + chance.below(28);
            json!(chance.below(1 << bits))
        };
        let entries = [json!(["a", weight(&mut chance)]), json!(["b", weight(&mut chance)]), json!(["c"])];
        let rule = match seed % 4 {
            0 => json!({ "fractional": entries }),
            1 => {
                json!({"fractional": [{"var": chance.pick(&["unit", "n", "yes", "none"])}, entries[0], entries[1], entries[2]]})
            }
            2 => json!({"if": [{"sem_ver": [version, relation, target]}, "a", "b"]}),
            _ => {
                json!({"if": [{chance.pick(&["starts_with", "ends_with"]): [{"var": "unit"}, chance.pick(&["user", "1", "ü", "7"])]}, "a", "b"]})
            }
        };
        let (number, yes) = (chance.below(1 << 40) as f64 / 64.0, chance.below(2) == 0);
        let theirs_context = EvaluationContext::default()
            .with_targeting_key(unit.clone())
            .with_custom_field("unit", unit.clone())
            .with_custom_field("n", number)
            .with_custom_field("yes", yes);
        let theirs = engine.apply("flag", &rule.to_string(), &theirs_context).unwrap();
        let attributes = struct_of(&json!({"targetingKey": unit, "unit": unit, "n": number, "yes": yes}));
        let ours = apply(&rule.to_string(), &environment, "flag", &Context::new(&attributes), 0).unwrap();
        let ours = match ours.kind {
            Some(Kind::StringValue(text)) => Some(text),
            _ => None,
        };
        assert_eq!(ours, theirs, "seed {seed}: {rule} for {unit} {number} {yes}");
        compared += usize::from(ours.is_some());
    }
    println!("{compared} variants agree");
    assert!(compared > 10_000);
}
