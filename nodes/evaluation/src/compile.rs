//! Compiling: a flag's definition is either resolved completely or refused with the path to what is wrong.
//!
//! [`check`] is the write door's question and [`compile`] the publisher's; they agree because one is the other. Every
//! refusal names the path, the value and the way out, for it is read by a person who typed the definition.

use std::collections::{BTreeMap, BTreeSet};

use featureops_proto::v1::{self, ValueType, condition::Operator, rule};
use featureops_proto::{Collection, Name, unix_ms};
use prost_types::{Struct, Value, value::Kind};

use crate::bucket::{BUCKETS, Stretch};
use crate::condition::{Condition, Scalar, Set, Test};
use crate::context::Path;
use crate::evaluate::type_of;
use crate::flag::{Allocation, Arm, CompiledFlag, Rule, Serve, State, Variant, find};
use crate::limits;
use crate::logic::{self, Generation, Program, Target};
use crate::murmur::Murmur3;
use crate::placement::Placement;
use crate::prerequisite;
use crate::ramp::Ramp;
use crate::refusal::{CompileError, Outcome, kind_name, refused, within};
use crate::segment;
use crate::size::check_size;
use crate::split;

/// Whether the definition can be served.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(flag: &v1::Flag, environment: &v1::Environment) -> Result<(), CompileError> {
    compile(flag, environment).map(|_| ())
}

/// Resolves a flag: its definition, what the log adds to it (version, archived, trip, allocation), and what it shares with
/// the flags of its environment (metadata, shared rules, the generation of `fractional`).
///
/// # Errors
/// The first thing that is wrong.
pub fn compile(flag: &v1::Flag, environment: &v1::Environment) -> Result<CompiledFlag, CompileError> {
    let name = match Name::parse(&flag.name, Collection::Flags) {
        Ok(name) => name,
        Err(error) => return refused("name", &flag.name, error),
    };
    // Before anything is copied.
    check_size(flag)?;
    let (value_type, variants) = if flag.imported { imported_variants(flag)? } else { variants(flag)? };
    // flagd reads an empty name as none.
    let default = flag.default_variant.as_deref().filter(|name| !(flag.imported && name.is_empty()));
    let default = named(&variants, default, "default_variant")?;
    let safe = named(&variants, flag.safe_variant.as_deref(), "safe_variant")?;
    let mut conditions = Conditions::default();
    let rules = rules(flag, &variants, &mut conditions)?;
    let forced = prerequisite::forced(flag, &variants)?;
    let prerequisites = prerequisite::prerequisites(flag, name)?;
    let generation = Generation::of(environment.fractional());
    let (targeting, issues) = targeting(flag, environment, &variants)?;
    if let Some(issue) = issues.into_iter().next()
        && !flag.imported
    {
        return Err(issue);
    }
    Ok(CompiledFlag {
        environment: name.environment.into(),
        key: name.id.into(),
        key_hash: Murmur3::new().with(name.id.as_bytes()),
        generation,
        seed: generation.seed(name.id),
        flag_version: flag.flag_version,
        update_ms: flag.update_time.as_ref().map_or(0, unix_ms),
        face: 0,
        face_position: 0,
        value_type,
        forced,
        prerequisites,
        rules,
        targeting,
        asks_segments: conditions.all.iter().any(|condition| condition.segments().next().is_some()),
        conditions: conditions.all.into(),
        attributes: conditions.attributes.into(),
        allocation: flag
            .allocation
            .as_ref()
            .map(|given| allocation(given, &variants, generation))
            .transpose()?,
        stale_after_ms: stale_after_ms(flag)?,
        state: state(flag),
        metadata: metadata(flag, environment),
        default,
        safe,
        variants,
    })
}

/// What of an imported flag cannot work, with its path: what its evaluations will answer with an error.
///
/// A flag that does not compile at all is refused, not warned about.
#[must_use]
pub fn warnings(flag: &v1::Flag, environment: &v1::Environment) -> Vec<(String, String)> {
    let variants = if flag.imported { imported_variants(flag) } else { variants(flag) };
    let issues = variants.and_then(|(_, variants)| targeting(flag, environment, &variants));
    let issues = issues.map(|(_, issues)| issues).unwrap_or_default();
    issues.into_iter().map(|issue| (issue.path, format!("'{}': {}", issue.value, issue.message))).collect()
}

/// The targeting rule, and what in it cannot work.
fn targeting(
    flag: &v1::Flag,
    environment: &v1::Environment,
    variants: &[Variant],
) -> Outcome<(Option<Box<Program>>, Vec<CompileError>)> {
    if flag.targeting.is_empty() {
        return Ok((None, Vec::new()));
    }
    if !flag.rules.is_empty() {
        return refused(
            "targeting",
            &flag.targeting,
            "a flag has rules or targeting, not both: write the rules as targeting, or leave one out",
        );
    }
    let is_variant = |name: &str| find(variants, name).is_some();
    let target = Target {
        evaluators: &environment.evaluators,
        generation: Generation::of(environment.fractional()),
        is_variant: &is_variant,
    };
    let (program, issues) = logic::compile(&flag.targeting, target)?;
    Ok((program.map(Box::new), issues))
}

/// The environment's metadata and the flag's, the flag's first, without nulls.
fn metadata(flag: &v1::Flag, environment: &v1::Environment) -> Option<Box<Struct>> {
    let own = flag.metadata.iter().flat_map(|metadata| &metadata.fields);
    let shared = environment.metadata.iter().flat_map(|metadata| &metadata.fields);
    let is_null = |value: &Value| matches!(value.kind, None | Some(Kind::NullValue(_)));
    let fields: BTreeMap<_, _> = shared
        .chain(own)
        .filter(|(_, value)| !is_null(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    (!fields.is_empty()).then(|| Box::new(Struct { fields }))
}

/// An archived flag is unknown even if it is tripped; a trip stands over everything else.
const fn state(flag: &v1::Flag) -> State {
    match (flag.archived, flag.trip.is_some(), flag.disabled) {
        (true, _, _) => State::Archived,
        (_, true, _) => State::Tripped,
        (_, _, true) => State::Disabled,
        _ => State::Serving,
    }
}

fn value_type(flag: &v1::Flag) -> Outcome<ValueType> {
    match ValueType::try_from(flag.r#type) {
        Ok(ValueType::Unspecified) | Err(_) => {
            refused("type", flag.r#type, "a flag has one type: BOOLEAN, STRING, NUMBER or OBJECT")
        }
        Ok(value_type) => Ok(value_type),
    }
}

fn stale_after_ms(flag: &v1::Flag) -> Outcome<Option<i64>> {
    let seconds = flag.stale_after_seconds;
    match seconds {
        0 => Ok(None),
        1..=limits::MAX_STALE_AFTER_SECONDS if flag.safe_variant.is_some() => Ok(Some(seconds * 1_000)),
        1..=limits::MAX_STALE_AFTER_SECONDS => refused(
            "stale_after_seconds",
            seconds,
            "a stale flag serves its safe variant: name one in safe_variant, or set this to 0",
        ),
        _ => refused(
            "stale_after_seconds",
            seconds,
            format_args!("must be 0 (never) to {}", limits::MAX_STALE_AFTER_SECONDS),
        ),
    }
}

/// Variants as flagd takes them: of several types, null among them, or none at all. The type is that of all, if they
/// have one.
fn imported_variants(flag: &v1::Flag) -> Outcome<(ValueType, Box<[Variant]>)> {
    within("variants", flag.variants.len(), limits::MAX_VARIANTS, "variants")?;
    let mut variants = Vec::with_capacity(flag.variants.len());
    for (name, value) in &flag.variants {
        if name.len() > limits::MAX_NAME_BYTES {
            let max = limits::MAX_NAME_BYTES;
            return refused("variants", name, format_args!("a variant's name has at most {max} bytes"));
        }
        variants.push(Variant { name: name.as_str().into(), value: value.clone() });
    }
    let mut types = variants.iter().map(|variant| type_of(&variant.value));
    let first = types.next().unwrap_or_default();
    let value_type = if types.all(|other| other == first) { first } else { ValueType::Unspecified };
    Ok((value_type, variants.into()))
}

fn variants(flag: &v1::Flag) -> Outcome<(ValueType, Box<[Variant]>)> {
    let value_type = value_type(flag)?;
    if flag.variants.is_empty() {
        return refused("variants", 0, "a flag needs at least one variant");
    }
    within("variants", flag.variants.len(), limits::MAX_VARIANTS, "variants")?;
    let variants: Box<[Variant]> = flag
        .variants
        .iter()
        .map(|(name, value)| {
            check_name(|| "variants".to_owned(), name)?;
            let found = type_of(value);
            if found != value_type {
                return refused(
                    format_args!("variants[{name}]"),
                    kind_name(value),
                    format_args!(
                        "the flag's type is {}: give every variant a value of it",
                        type_name(value_type)
                    ),
                );
            }
            Ok(Variant { name: name.as_str().into(), value: value.clone() })
        })
        .collect::<Outcome<_>>()?;
    Ok((value_type, variants))
}

pub(crate) fn check_name(path: impl Fn() -> String, name: &str) -> Outcome<()> {
    if name.is_empty() || name.len() > limits::MAX_NAME_BYTES || name.chars().any(char::is_control) {
        let max = limits::MAX_NAME_BYTES;
        return refused(path(), name, format_args!("must have 1 to {max} bytes and no control characters"));
    }
    Ok(())
}

const fn type_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::Boolean => "BOOLEAN",
        ValueType::String => "STRING",
        ValueType::Number => "NUMBER",
        ValueType::Object => "OBJECT",
        ValueType::Unspecified => "unspecified",
    }
}

/// The index of a variant.
pub(crate) fn index_of(variants: &[Variant], name: &str, path: impl Fn() -> String) -> Outcome<u16> {
    match find(variants, name) {
        Some(index) => Ok(index),
        None => {
            let known: Vec<&str> = variants.iter().take(8).map(|variant| variant.name.as_ref()).collect();
            refused(path(), name, format_args!("no such variant; this flag has {}", known.join(", ")))
        }
    }
}

/// The default's index; a wrong name has been refused.
fn find_default(flag: &v1::Flag, variants: &[Variant]) -> Option<u16> {
    flag.default_variant.as_deref().and_then(|name| find(variants, name))
}

fn named(variants: &[Variant], name: Option<&str>, path: &str) -> Outcome<Option<u16>> {
    name.map(|name| index_of(variants, name, || path.to_owned())).transpose()
}

/// The conditions of all rules so far, and the attributes they ask about.
#[derive(Default)]
pub(crate) struct Conditions {
    pub(crate) all: Vec<Condition>,
    pub(crate) attributes: Vec<Path>,
    indexes: BTreeMap<Box<str>, u32>,
}

impl Conditions {
    /// Compiles a row of conditions at a path, behind those so far. Says how many there are.
    pub(crate) fn add(&mut self, given: &[v1::Condition], path: &str) -> Outcome<usize> {
        within(path, given.len(), limits::MAX_CONDITIONS, "conditions")?;
        for (nth, given) in given.iter().enumerate() {
            let compiled = condition(given, &format!("{path}[{nth}]"), self)?;
            self.all.push(compiled);
        }
        Ok(given.len())
    }

    /// The attribute's index, the same for the same text.
    fn index_of(&mut self, attribute: &str) -> u32 {
        if let Some(index) = self.indexes.get(attribute) {
            return *index;
        }
        // At most 256 rules of 64 conditions.
        let index = self.attributes.len() as u32;
        self.attributes.push(Path::new(attribute));
        self.indexes.insert(attribute.into(), index);
        index
    }
}

fn rules(flag: &v1::Flag, variants: &[Variant], conditions: &mut Conditions) -> Outcome<Box<[Rule]>> {
    within("rules", flag.rules.len(), limits::MAX_RULES, "rules")?;
    let mut ids = BTreeSet::new();
    flag.rules
        .iter()
        .enumerate()
        .map(|(at, rule)| {
            check_name(|| format!("rules[{at}].id"), &rule.id)?;
            if !ids.insert(rule.id.as_str()) {
                return refused(
                    format_args!("rules[{at}].id"),
                    &rule.id,
                    "another rule has this id; ids are unique in a flag",
                );
            }
            let count = conditions.add(&rule.conditions, &format!("rules[{at}].conditions"))?;
            let serve = match &rule.serve {
                Some(rule::Serve::Variant(name)) => {
                    Serve::Variant(index_of(variants, name, || format!("rules[{at}].variant"))?)
                }
                Some(rule::Serve::Split(given)) => {
                    Serve::Split { stretches: split(given, variants, at)?, sticky: given.sticky }
                }
                Some(rule::Serve::Ramp(given)) => {
                    let default = find_default(flag, variants);
                    Serve::Ramp(Box::new(Ramp::compile(given, variants, default, at)?))
                }
                None => {
                    return refused(
                        format_args!("rules[{at}].serve"),
                        "",
                        "a rule serves a variant, a split or a ramp",
                    );
                }
            };
            Ok(Rule { id: rule.id.as_str().into(), conditions: count, serve })
        })
        .collect()
}

fn split(given: &v1::Split, variants: &[Variant], rule: usize) -> Outcome<Box<[Stretch]>> {
    let path = format!("rules[{rule}].split.variants");
    within(&path, given.variants.len(), limits::MAX_SPLIT, "entries")?;
    let mut stretches = Vec::with_capacity(given.variants.len());
    let mut sum = 0u64;
    for (nth, entry) in given.variants.iter().enumerate() {
        let target = index_of(variants, &entry.variant, || format!("{path}[{nth}].variant"))?;
        sum += u64::from(entry.weight_basis_points);
        stretches.push(Stretch { end: sum.min(u64::from(BUCKETS)) as u16, target });
    }
    if sum != u64::from(BUCKETS) {
        return refused(path, sum, "weights are basis points and must sum to 10000");
    }
    let kept = split::kept(given, &stretches, &format!("rules[{rule}].split"))?;
    Ok(kept.unwrap_or(stretches).into())
}

fn condition(given: &v1::Condition, path: &str, conditions: &mut Conditions) -> Outcome<Condition> {
    if matches!(given.operator(), Operator::InSegment | Operator::NotInSegment) {
        return segment::condition(given, path);
    }
    let keys: Vec<&str> = given.attribute.split('.').collect();
    if given.attribute.len() > limits::MAX_ATTRIBUTE_BYTES
        || keys.len() > limits::MAX_ATTRIBUTE_KEYS
        || keys.iter().any(|key| key.is_empty())
    {
        return refused(
            format_args!("{path}.attribute"),
            &given.attribute,
            format_args!(
                "must be 1 to {} non-empty keys joined by dots, at most {} bytes",
                limits::MAX_ATTRIBUTE_KEYS,
                limits::MAX_ATTRIBUTE_BYTES
            ),
        );
    }
    Ok(Condition { attribute: conditions.index_of(&given.attribute), test: test(given, path)? })
}

fn test(given: &v1::Condition, path: &str) -> Outcome<Test> {
    let operator = match given.operator() {
        Operator::Unspecified => {
            return refused(
                format_args!("{path}.operator"),
                given.operator,
                "not a known operator; use one of EQUALS, NOT_EQUALS, LESS, LESS_OR_EQUAL, GREATER, \
                 GREATER_OR_EQUAL, IN, NOT_IN, STARTS_WITH, ENDS_WITH, CONTAINS, EXISTS, NOT_EXISTS, \
                 IN_SEGMENT, NOT_IN_SEGMENT",
            );
        }
        operator => operator,
    };
    let values = format!("{path}.values");
    within(&values, given.values.len(), limits::MAX_VALUES, "values")?;
    let scalars = given
        .values
        .iter()
        .enumerate()
        .map(|(nth, value)| scalar(value, &format!("{values}[{nth}]")))
        .collect::<Outcome<Vec<Scalar>>>()?;
    let count = scalars.len();
    let arity =
        |wanted: &str| refused(&values, count, format_args!("{} takes {wanted}", operator.as_str_name()));
    match operator {
        Operator::Exists | Operator::NotExists if count > 0 => return arity("no value"),
        Operator::Exists => return Ok(Test::Exists),
        Operator::NotExists => return Ok(Test::NotExists),
        Operator::In | Operator::NotIn if count == 0 => return arity("one value or more"),
        Operator::In => return Ok(Test::In(Set::new(scalars))),
        Operator::NotIn => return Ok(Test::NotIn(Set::new(scalars))),
        _ => {}
    }
    let Ok([only]) = <[Scalar; 1]>::try_from(scalars) else { return arity("exactly one value") };
    let first = format_args!("{values}[0]").to_string();
    Ok(match operator {
        Operator::Equals => Test::Equals(only),
        Operator::NotEquals => Test::NotEquals(only),
        Operator::Contains => Test::Contains(only),
        Operator::StartsWith => Test::StartsWith(text(only, &first)?),
        Operator::EndsWith => Test::EndsWith(text(only, &first)?),
        Operator::Less => Test::Less(number(&only, &first)?),
        Operator::LessOrEqual => Test::LessOrEqual(number(&only, &first)?),
        Operator::Greater => Test::Greater(number(&only, &first)?),
        // The others returned above.
        _ => Test::GreaterOrEqual(number(&only, &first)?),
    })
}

fn scalar(value: &Value, path: &str) -> Outcome<Scalar> {
    match Scalar::of(value) {
        Some(scalar) => Ok(scalar),
        None => refused(
            path,
            kind_name(value),
            "conditions compare with a boolean, a number or a string; for null use NOT_EXISTS",
        ),
    }
}

fn text(scalar: Scalar, path: &str) -> Outcome<Box<str>> {
    match scalar {
        Scalar::Text(text) => Ok(text),
        Scalar::Boolean(value) => refused(path, value, "this operator compares strings: put it in quotes"),
        Scalar::Number(value) => refused(path, value, "this operator compares strings: put it in quotes"),
    }
}

fn number(scalar: &Scalar, path: &str) -> Outcome<f64> {
    let hint = "order is defined for numbers only: send a number, for a time its unix seconds";
    match scalar {
        Scalar::Number(number) => Ok(*number),
        Scalar::Boolean(value) => refused(path, value, hint),
        Scalar::Text(value) => refused(path, value, hint),
    }
}

fn allocation(given: &v1::Allocation, variants: &[Variant], generation: Generation) -> Outcome<Allocation> {
    within("allocation.variants", given.variants.len(), limits::MAX_ARMS, "arms")?;
    within("allocation.runs", given.runs.len(), limits::MAX_RUNS, "runs")?;
    let mut arms = Vec::with_capacity(given.variants.len());
    for (nth, name) in given.variants.iter().enumerate() {
        let variant = index_of(variants, name, || format!("allocation.variants[{nth}]"))?;
        arms.push(Arm { variant, weight_basis_points: 0 });
    }
    let sum: u64 = given.runs.iter().map(|run| u64::from(run.length)).sum();
    if sum != u64::from(BUCKETS) {
        return refused("allocation.runs", sum, "run lengths must sum to 10000, one for each bucket");
    }
    let mut stretches = Vec::with_capacity(given.runs.len());
    let mut end = 0;
    for (nth, run) in given.runs.iter().enumerate() {
        let Some(arm) = arms.get_mut(run.arm as usize) else {
            return refused(
                format_args!("allocation.runs[{nth}].arm"),
                run.arm,
                "no such arm in the allocation",
            );
        };
        end += run.length;
        arm.weight_basis_points += run.length;
        // At most 32 arms and 10,000 buckets.
        stretches.push(Stretch { end: end as u16, target: run.arm as u16 });
    }
    if !arms.iter().map(|arm| arm.weight_basis_points).eq(given.weights_basis_points.iter().copied()) {
        return refused(
            "allocation.weights_basis_points",
            format_args!("{:?}", given.weights_basis_points),
            "must be the sums over each arm's runs, in the order of the arms",
        );
    }
    Ok(Allocation {
        experiment: given.experiment_number,
        generation: given.generation,
        allocation_version: given.allocation_version,
        placement: Placement::of(given, generation)?,
        stretches: stretches.into(),
        arms: arms.into(),
    })
}
