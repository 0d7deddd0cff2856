//! A second, naive model reads `v1::Flag` directly, with all the allocation and repetition that evaluation avoids: the
//! bucket map is written out bucket by bucket, the hash works on the joined bytes, conditions compare rendered values.
//! Evaluation must agree with it on any flag and context, and with itself, and with its own explanation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail")]

mod generated;

use featureops_evaluation::{Context, Evaluation, Key, Receipt, Snapshot, compile, evaluate, explain};
use featureops_proto::v1::{self, EvaluationError, FractionalVersion, Reason, condition::Operator, rule};
use generated::{ENVIRONMENT, EXPERIMENT, FLAG};
use proptest::prelude::*;
use prost_types::{Struct, Value, value::Kind};

/// What both must agree on.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    variant: Option<String>,
    value: Option<Value>,
    reason: Reason,
    error: Option<EvaluationError>,
    bucket: Option<u32>,
    /// Experiment, arm, generation, allocation version, propensity, from a receipt.
    arm: Option<(u32, u32, u32, u32, u32, bool)>,
}

fn answer_of(evaluation: &Evaluation<'_>) -> Answer {
    Answer {
        variant: evaluation.variant.map(str::to_owned),
        value: evaluation.value.cloned(),
        reason: evaluation.reason,
        error: evaluation.error,
        bucket: evaluation.bucket.map(u32::from),
        arm: evaluation.assignment.map(|a| {
            let arm = u32::from(a.arm);
            (a.experiment, arm, a.generation, a.allocation_version, a.propensity_basis_points, a.from_receipt)
        }),
    }
}

/// What all flags of a model are evaluated with.
struct Asked<'a> {
    flags: &'a [v1::Flag],
    version: FractionalVersion,
    context: &'a Struct,
    receipt: Option<&'a Receipt>,
    age_ms: i64,
    now_ms: i64,
}

/// What the flag of a key serves, in the environment of all flags.
fn model_of(key: &str, asked: &Asked<'_>) -> Answer {
    let name = format!("environments/{ENVIRONMENT}/flags/{key}");
    match asked.flags.iter().find(|flag| flag.name == name) {
        Some(flag) => model(flag, key, asked),
        None => Answer {
            variant: None,
            value: None,
            reason: Reason::Error,
            error: Some(EvaluationError::FlagNotFound),
            bucket: None,
            arm: None,
        },
    }
}

fn model(flag: &v1::Flag, key: &str, asked: &Asked<'_>) -> Answer {
    let &Asked { version, context, receipt, age_ms, now_ms, .. } = asked;
    let say = |variant: Option<&String>, reason| Answer {
        variant: variant.cloned(),
        value: variant.map(|name| flag.variants[name].clone()),
        reason,
        error: None,
        bucket: None,
        arm: None,
    };
    if flag.archived {
        return Answer { error: Some(EvaluationError::FlagNotFound), ..say(None, Reason::Error) };
    }
    if flag.trip.is_some() {
        return say(flag.safe_variant.as_ref(), Reason::Tripped);
    }
    if flag.stale_after_seconds > 0 && age_ms > flag.stale_after_seconds * 1_000 {
        return say(flag.safe_variant.as_ref(), Reason::Stale);
    }
    if flag.disabled {
        return say(None, Reason::Disabled);
    }
    let unit = match attribute(context, "targetingKey").and_then(|value| value.kind) {
        Some(Kind::StringValue(unit)) if !unit.is_empty() => Some(unit),
        _ => None,
    };
    let hash = unit.as_ref().map(|unit| {
        // Texts here are shorter than 24 bytes, so that a head is one byte.
        let text = |text: &str| [&[0x60 + text.len() as u8], text.as_bytes()].concat();
        naive_hash(&match version {
            FractionalVersion::FractionalVersion3 => [vec![0x82], text(key), text(unit)].concat(),
            _ => format!("{key}{unit}").into_bytes(),
        })
    });
    let bucket = hash.map(|hash| (u128::from(hash) * 10_000 / (1 << 32)) as u32);
    let varies = !flag.rules.is_empty()
        || flag.allocation.is_some()
        || flag.stale_after_seconds > 0
        || !flag.prerequisites.is_empty()
        || !flag.forced.is_empty();
    let reason = if varies || flag.default_variant.is_none() { Reason::Default } else { Reason::Static };
    let default = say(flag.default_variant.as_ref(), reason);

    if let Some(forced) = unit.as_ref().and_then(|unit| flag.forced.get(unit)) {
        return say(Some(forced), Reason::TargetingMatch);
    }
    for prerequisite in &flag.prerequisites {
        let served = model_of(&prerequisite.flag, asked).variant;
        if !served.is_some_and(|served| prerequisite.variants.contains(&served)) {
            return default;
        }
    }

    let matching = flag.rules.iter().find(|rule| !rule.conditions.iter().any(|c| !naive_holds(c, context)));
    match matching.and_then(|rule| rule.serve.as_ref()) {
        Some(rule::Serve::Variant(name)) => return say(Some(name), Reason::TargetingMatch),
        Some(rule::Serve::Split(split)) => {
            let mut map = Vec::new();
            if split.sticky {
                for run in &split.runs {
                    map.extend((0..run.length).map(|_| &split.variants[run.arm as usize].variant));
                }
            } else {
                for entry in &split.variants {
                    map.extend((0..entry.weight_basis_points).map(|_| &entry.variant));
                }
            }
            return match bucket {
                Some(at) => Answer { bucket, ..say(Some(map[at as usize]), Reason::Split) },
                None => default,
            };
        }
        Some(rule::Serve::Ramp(ramp)) => {
            let Some(hash) = hash else { return default };
            let otherwise =
                if ramp.otherwise.is_empty() { flag.default_variant.as_ref() } else { Some(&ramp.otherwise) };
            return match if naive_ramp(ramp, hash, now_ms) { Some(&ramp.variant) } else { otherwise } {
                Some(variant) => Answer { bucket, ..say(Some(variant), Reason::Split) },
                None => Answer { bucket, ..default },
            };
        }
        None => {}
    }
    let Some(allocation) = &flag.allocation else { return default };
    let serve_arm = |arm: u32, propensity, from_receipt| Answer {
        bucket: if from_receipt { None } else { bucket },
        arm: Some((
            EXPERIMENT,
            arm,
            allocation.generation,
            allocation.allocation_version,
            propensity,
            from_receipt,
        )),
        ..say(Some(&allocation.variants[arm as usize]), Reason::Split)
    };
    if let Some(receipt) = receipt
        && (receipt.experiment, receipt.generation) == (EXPERIMENT, allocation.generation)
        && usize::from(receipt.arm) < allocation.variants.len()
    {
        return serve_arm(receipt.arm.into(), receipt.propensity_basis_points, true);
    }
    if let Some(unit) = &unit {
        let slot = |text: String| {
            let text = format!("{text}{unit}");
            let hash = naive_hash(&match version {
                // At most 255 bytes, so that a longer head is two.
                FractionalVersion::FractionalVersion3 if text.len() > 23 => {
                    [&[0x78, text.len() as u8], text.as_bytes()].concat()
                }
                FractionalVersion::FractionalVersion3 => {
                    [&[0x60 + text.len() as u8], text.as_bytes()].concat()
                }
                _ => text.into_bytes(),
            });
            (u128::from(hash) * 10_000 / (1 << 32)) as u32
        };
        if !allocation.layer.is_empty() {
            let slot = slot(format!("layer:{}:", allocation.layer));
            if !allocation.slots.iter().any(|range| (range.start..range.start + range.length).contains(&slot))
            {
                return default;
            }
        }
        let held =
            |share: &v1::HoldoutShare| slot(format!("holdout:{}:", share.holdout)) < share.basis_points;
        if allocation.holdouts.iter().any(held) {
            return default;
        }
    }
    let mut map = Vec::new();
    for run in &allocation.runs {
        map.extend(vec![run.arm; run.length as usize]);
    }
    match bucket {
        Some(at) => {
            let arm = map[at as usize];
            let propensity = map.iter().filter(|other| **other == arm).count() as u32;
            serve_arm(arm, propensity, false)
        }
        None => default,
    }
}

/// Whether the unit has the growing variant: s * (end - now) + e * (now - start) of 10,000 * (end - start), all of it over
/// what the weights of every second have in common.
fn naive_ramp(ramp: &v1::Ramp, hash: u32, now_ms: i64) -> bool {
    let (start, end) = (ramp.start_time.unwrap().seconds, ramp.end_time.unwrap().seconds);
    let (from, to) = (i64::from(ramp.start_basis_points), i64::from(ramp.end_basis_points.unwrap_or(10_000)));
    let weight = |now: i64| from * (end - now) + to * (now - start);
    let mut divisor = 10_000 * (end - start);
    for second in start..=end {
        let mut rest = weight(second);
        while rest != 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
    }
    let now = now_ms.div_euclid(1_000).clamp(start, end);
    let sum = (10_000 * (end - start) / divisor) as u128;
    u128::from(hash) * sum / (1 << 32) < (weight(now) / divisor) as u128
}

fn attribute(context: &Struct, path: &str) -> Option<Value> {
    let mut here = Some(Value { kind: Some(Kind::StructValue(context.clone())) });
    for key in path.split('.') {
        here = match here.and_then(|value| value.kind) {
            Some(Kind::StructValue(object)) => object.fields.get(key).cloned(),
            _ => None,
        };
    }
    here.filter(|value| !matches!(value.kind, None | Some(Kind::NullValue(_))))
}

/// A scalar as text that tells types apart; equal texts are equal values. NaN and non-scalars have none.
fn rendered(value: &Value) -> Option<String> {
    match value.kind.as_ref()? {
        Kind::BoolValue(value) => Some(format!("boolean {value}")),
        Kind::NumberValue(value) if value.is_nan() => None,
        Kind::NumberValue(value) => Some(format!("number {}", value + 0.0)),
        Kind::StringValue(value) => Some(format!("text {value}")),
        _ => None,
    }
}

fn naive_holds(condition: &v1::Condition, context: &Struct) -> bool {
    let seen = attribute(context, &condition.attribute);
    let wanted: Vec<Option<String>> = condition.values.iter().map(rendered).collect();
    let among = || seen.as_ref().and_then(rendered).is_some_and(|text| wanted.contains(&Some(text)));
    let numbers = || match (seen.as_ref()?.kind.as_ref()?, condition.values[0].kind.as_ref()?) {
        (Kind::NumberValue(seen), Kind::NumberValue(bound)) => seen.partial_cmp(bound),
        _ => None,
    };
    let texts = || match (seen.as_ref()?.kind.clone()?, condition.values[0].kind.clone()?) {
        (Kind::StringValue(seen), Kind::StringValue(part)) => Some((seen, part)),
        _ => None,
    };
    match condition.operator() {
        // Segments have a model of their own, in `segments.rs`.
        Operator::Unspecified | Operator::InSegment | Operator::NotInSegment => false,
        Operator::Equals | Operator::In => among(),
        Operator::NotEquals | Operator::NotIn => !among(),
        Operator::Less => numbers().is_some_and(|order| order.is_lt()),
        Operator::LessOrEqual => numbers().is_some_and(|order| order.is_le()),
        Operator::Greater => numbers().is_some_and(|order| order.is_gt()),
        Operator::GreaterOrEqual => numbers().is_some_and(|order| order.is_ge()),
        Operator::StartsWith => texts().is_some_and(|(seen, part)| seen.find(&part) == Some(0)),
        Operator::EndsWith => texts().is_some_and(|(seen, part)| seen.as_bytes().ends_with(part.as_bytes())),
        Operator::Contains => match &seen {
            Some(Value { kind: Some(Kind::ListValue(list)) }) => list
                .values
                .iter()
                .filter_map(rendered)
                .any(|text| wanted[0].as_deref() == Some(text.as_str())),
            _ => texts().is_some_and(|(seen, part)| seen.split(part.as_str()).count() > 1 || part.is_empty()),
        },
        Operator::Exists => seen.is_some(),
        Operator::NotExists => seen.is_none(),
    }
}

/// MurmurHash3 x86_32, seed 0, over joined bytes, in wide arithmetic.
fn naive_hash(bytes: &[u8]) -> u32 {
    let multiply = |a: u32, b: u32| (u64::from(a) * u64::from(b) % (1 << 32)) as u32;
    let turn = u32::rotate_left;
    let scramble = |k: u32| multiply(turn(multiply(k, 0xcc9e2d51), 15), 0x1b873593);
    let mut hash = 0u32;
    for word in bytes.chunks(4) {
        let value = word.iter().rev().fold(0u32, |sum, byte| sum * 256 + u32::from(*byte));
        hash ^= scramble(value);
        if word.len() == 4 {
            hash = ((u64::from(multiply(turn(hash, 13), 5)) + 0xe6546b64) % (1 << 32)) as u32;
        }
    }
    hash ^= bytes.len() as u32;
    for (shift, factor) in [(16, 0x85ebca6b), (13, 0xc2b2ae35), (16, 1)] {
        hash = multiply(hash ^ (hash >> shift), factor);
    }
    hash
}

prop_compose! {
    fn receipt()(
        experiment in prop::sample::select(vec![EXPERIMENT, EXPERIMENT, 8]),
        arm in 0u8..6,
        generation in 1u32..4,
        propensity_basis_points in 0u32..=10_000,
    ) -> Receipt {
        Receipt { experiment, arm, generation, minute: 1_000, propensity_basis_points, position: 9 }
    }
}

const LOG_TIME_MS: i64 = 1_790_000_000_000;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 8_192, ..ProptestConfig::default() })]

    #[test]
    fn evaluation_agrees_with_the_naive_model_and_with_its_explanation(
        flags in generated::family(),
        attributes in generated::context(),
        receipt in prop::option::of(receipt()),
        age_ms in prop::sample::select(vec![-1_000_000i64, -77_001, 0, 10_000, 10_001, 60_001, 155_500]),
        version in prop::sample::select(vec![FractionalVersion::Unspecified, FractionalVersion::FractionalVersion3]),
    ) {
        let environment = v1::Environment { fractional: version.into(), ..v1::Environment::default() };
        let flag = flags[0].clone();
        let compiled = || flags.iter().map(|flag| compile(flag, &environment).unwrap());
        let snapshot = Snapshot::empty().apply(compiled(), 1, LOG_TIME_MS);
        let now_ms = LOG_TIME_MS + age_ms;
        let mut context = Context::new(&attributes);
        let key = Key::new(3, [5; 16]).unwrap();
        let unit = context.unit();
        let mut honoured = None;
        if let (Some(receipt), Some(unit)) = (&receipt, unit) {
            let sealed = receipt.seal(&key, unit.as_bytes()).unwrap();
            prop_assert!(context.open_receipt(sealed.as_bytes(), std::slice::from_ref(&key)).is_ok());
            honoured = Some(receipt);
        }
        let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &context, now_ms);
        let asked =
            Asked { flags: &flags, version, context: &attributes, receipt: honoured, age_ms: age_ms.max(0), now_ms };
        prop_assert_eq!(answer_of(&evaluation), model_of(FLAG, &asked));
        prop_assert_eq!(evaluation.flag_version, flag.flag_version);
        prop_assert_eq!(evaluation.variant.is_some(), evaluation.value.is_some());
        prop_assert_eq!(evaluation.error.is_some(), evaluation.reason == Reason::Error);

        // Determinism: again, and from another snapshot of the same flags, put in the other way round.
        let other = Snapshot::empty().apply(compiled().collect::<Vec<_>>().into_iter().rev(), 1, LOG_TIME_MS);
        prop_assert_eq!(evaluate(&other, ENVIRONMENT, FLAG, &context, now_ms), evaluation);

        let explanation = explain(&snapshot, ENVIRONMENT, FLAG, &context, now_ms);
        prop_assert_eq!(explanation.evaluation, evaluation);
        prop_assert!(explanation.steps.len() >= 2);
        if let Some(variant) = evaluation.variant {
            let last = explanation.steps.last().unwrap();
            prop_assert_eq!((last.subject.as_str(), last.finding.as_str()), ("variant", variant));
        }

        // The type check changes nothing but a value of another type.
        for expected in 0..5 {
            let expected = v1::ValueType::try_from(expected).unwrap();
            let checked = evaluation.expecting(expected);
            let fits = expected == v1::ValueType::Unspecified
                || evaluation.value.is_none()
                || i32::from(expected) == flag.r#type;
            if fits {
                prop_assert_eq!(checked, evaluation);
            } else {
                prop_assert_eq!(checked.error, Some(EvaluationError::TypeMismatch));
                prop_assert_eq!((checked.variant, checked.value, checked.assignment), (None, None, None));
            }
        }
    }

    #[test]
    fn static_means_the_same_for_everybody_at_any_time(
        flags in generated::family(),
        one in generated::context(),
        other in generated::context(),
        age_ms in 0i64..100_000,
    ) {
        let environment = v1::Environment::default();
        let compiled = flags.iter().map(|flag| compile(flag, &environment).unwrap());
        let snapshot = Snapshot::empty().apply(compiled, 1, LOG_TIME_MS);
        let first = evaluate(&snapshot, ENVIRONMENT, FLAG, &Context::new(&one), LOG_TIME_MS);
        if first.reason == Reason::Static {
            let second = evaluate(&snapshot, ENVIRONMENT, FLAG, &Context::new(&other), LOG_TIME_MS + age_ms);
            prop_assert_eq!(first, second);
        }
    }

    #[test]
    fn a_tripped_flag_serves_its_safe_variant_to_everybody(
        flag in generated::flag(),
        attributes in generated::context(),
        receipt in receipt(),
        now_ms in any::<i64>(),
    ) {
        let flag = v1::Flag { trip: Some(v1::Trip::default()), archived: false, ..flag };
        let snapshot = Snapshot::empty().apply([compile(&flag, &v1::Environment::default()).unwrap()], 1, LOG_TIME_MS);
        let mut context = Context::new(&attributes);
        let key = Key::new(0, [1; 16]).unwrap();
        if let Some(unit) = context.unit() {
            let sealed = receipt.seal(&key, unit.as_bytes()).unwrap();
            context.open_receipt(sealed.as_bytes(), &[key]).unwrap();
        }
        let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &context, now_ms);
        prop_assert_eq!(evaluation.variant, flag.safe_variant.as_deref());
        prop_assert_eq!(evaluation.reason, Reason::Tripped);
        prop_assert_eq!(evaluation.assignment, None);
    }
}
