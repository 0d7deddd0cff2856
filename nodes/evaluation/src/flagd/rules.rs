//! Native rules as JsonLogic that means the same in every client.
//!
//! JsonLogic converts types where native conditions never do, its engines differ in how, and some refuse to answer
//! where others convert. So a comparison stands behind guards made of what all of them agree on:
//!
//! | guard | written | because |
//! |---|---|---|
//! | is a text | `starts_with(x, "")` | null or false for all but texts |
//! | is no list | `in(x, merge(x))` | a list is merged away, anything else is found in itself |
//! | begins like a number | `in(substr(cat(x), 0, 1), "-0123456789")` | not so null, booleans, `[object Object]`, `{…` |
//! | is there | `!==(x, null)` | missing is null |
//!
//! A number is what is there, no list, no text and begins like one. Booleans are guarded too, because in Python
//! `True == 1`. A list is searched as `merge(x)`, which is a list whatever x is.
//!
//! A rule is a pair in one flat `if`; what always holds becomes its last argument and ends it, as does the allocation.
//! A split is `fractional` without a first argument: flag key and unit. Without a unit it gives null, which serves the
//! default, also here. A ramp is the same with weights from `$flagd.timestamp`: the client's own clock.
//!
//! What the dialect cannot say, and so is evaluated otherwise by a client on its own:
//!
//! * a context's infinities and not-a-numbers, which are no JSON;
//! * an attribute below `$flagd`: clients put their own there;
//! * an attribute's key with a backslash, or `constructor`, `__proto__` and their kin, in JavaScript;
//! * receipts (a client on its own serves the bucket's arm) and staleness.

use featureops_proto::v1::{self, condition::Operator, rule};
use prost_types::{Value, value::Kind};
use serde_json::{Value as Json, json};

use super::segments::{Inlining, every};
use super::value::{number_to_json, to_json};
use crate::bucket::BUCKETS;
use crate::placement;
use crate::ramp::Shares;
use crate::split;

/// A native flag's targeting; `None` when it has one answer.
pub(super) fn targeting(flag: &v1::Flag, segments: &Inlining<'_, '_>) -> Option<Json> {
    let mut arguments = Vec::new();
    let mut last = None;
    for rule in &flag.rules {
        let served = match &rule.serve {
            Some(rule::Serve::Variant(variant)) => Json::from(variant.as_str()),
            Some(rule::Serve::Split(split)) => fractional(split::stretches(split)),
            Some(rule::Serve::Ramp(ramp)) => {
                let Ok(shares) = Shares::of(ramp) else { return Some(broken()) };
                let default = flag.default_variant.as_deref();
                let otherwise =
                    if ramp.otherwise.is_empty() { default } else { Some(ramp.otherwise.as_str()) };
                json!({ "fractional": ramp_stretches(&shares, ramp.variant.as_str().into(), otherwise.into()) })
            }
            // No door lets it in; the flag answers GENERAL here, and an error there.
            None => return Some(broken()),
        };
        match matches(rule, segments) {
            None => return Some(broken()),
            Some(Json::Bool(false)) => {}
            Some(Json::Bool(true)) => {
                last = Some(served);
                break;
            }
            Some(condition) => arguments.extend([condition, served]),
        }
    }
    last = last.or_else(|| flag.allocation.as_ref().map(allocation));
    match (arguments.is_empty(), last) {
        (true, None) => None,
        // Clients want an object, not a bare name.
        (true, Some(Json::String(variant))) => Some(json!({ "if": [true, variant] })),
        (true, Some(fractional)) => Some(fractional),
        (false, last) => {
            arguments.extend(last);
            Some(json!({ "if": arguments }))
        }
    }
}

/// An experiment's allocation; null for whom its layer or a holdout keeps out.
pub(super) fn allocation(given: &v1::Allocation) -> Json {
    let arms = fractional(given.runs.iter().map(|run| {
        let variant = given.variants.get(run.arm as usize);
        (variant.map_or("", String::as_str), run.length)
    }));
    match admits(given) {
        Some(admits) => json!({ "if": [admits, arms] }),
        None => arms,
    }
}

/// Whether layer and holdouts leave the unit to the experiment; `None` when they always do. A flag's key is no part of it, so
/// it means the same within another flag's rule.
pub(super) fn admits(given: &v1::Allocation) -> Option<Json> {
    let mut conditions = Vec::new();
    if !given.layer.is_empty() {
        conditions.extend(slotted(&placement::layer_text(&given.layer), &placement::ranges(given), "in"));
    }
    for share in given.holdouts.iter().filter(|share| share.basis_points > 0) {
        let held = [(0, share.basis_points)];
        conditions.extend(slotted(&placement::holdout_text(&share.holdout), &held, "out"));
    }
    all(conditions)
}

/// Whether the unit's slot is in these ranges, or out of them; `None` when it always is.
fn slotted(text: &str, ranges: &[(u32, u32)], wanted: &str) -> Option<Json> {
    let mut entries: Vec<(&str, u32)> = Vec::new();
    let mut next = 0;
    for (start, end) in ranges {
        entries.extend([("out", start.saturating_sub(next)), ("in", end.saturating_sub(*start))]);
        next = *end;
    }
    entries.push(("out", BUCKETS.saturating_sub(next)));
    entries.retain(|(_, length)| *length > 0);
    if let [(only, _)] = entries.as_slice() {
        return (*only != wanted).then_some(Json::Bool(false));
    }
    let Json::Object(mut fields) = fractional(entries.into_iter()) else { return None };
    if let Some(Json::Array(arguments)) = fields.get_mut("fractional") {
        arguments.insert(0, json!({ "cat": [text, { "var": "targetingKey" }] }));
    }
    Some(json!({ "===": [fields, wanted] }))
}

/// Weights in the order of their buckets. Empty stretches are left out and equal neighbours joined.
fn fractional<'a>(stretches: impl Iterator<Item = (&'a str, u32)>) -> Json {
    let mut entries: Vec<(&str, u64)> = Vec::new();
    for (variant, length) in stretches.filter(|(_, length)| *length > 0) {
        match entries.last_mut() {
            Some((last, sum)) if *last == variant => *sum += u64::from(length),
            _ => entries.push((variant, length.into())),
        }
    }
    json!({ "fractional": entries })
}

/// A ramp's two stretches, their weights computed from the client's clock. In integers with `+ - * min max` alone: some
/// engines serve nobody once a weight is a float.
pub(super) fn ramp_stretches(shares: &Shares, on: Json, off: Json) -> [Json; 2] {
    let second = json!({ "var": "$flagd.timestamp" });
    let (start, end) = (shares.start(), shares.end());
    let passed = json!({ "-": [{ "min": [{ "max": [second, start] }, end] }, start] });
    let grown = match shares.a_second() {
        1 => passed,
        factor => json!({ "*": [passed, factor] }),
    };
    let growing = match shares.at_start() {
        0 => grown.clone(),
        first => json!({ "+": [first, grown] }),
    };
    let shrinking = json!({ "-": [shares.sum() - shares.at_start(), grown] });
    [json!([on, growing]), json!([off, shrinking])]
}

/// An operator that no client knows: PARSE_ERROR.
fn broken() -> Json {
    json!({ "does_not_compile": [] })
}

/// `None` when it always holds.
pub(super) fn all(mut conditions: Vec<Json>) -> Option<Json> {
    match conditions.len() {
        0 | 1 => conditions.pop(),
        _ => Some(json!({ "and": conditions })),
    }
}

/// Whether a rule's conditions hold: a condition, or a boolean when that is always the same. `None` when one of them is not
/// well formed.
pub(super) fn matches(rule: &v1::Rule, segments: &Inlining<'_, '_>) -> Option<Json> {
    rule.conditions.iter().map(|given| condition(given, segments)).collect::<Option<_>>().map(every)
}

/// `None` when the condition is not well formed.
pub(super) fn condition(given: &v1::Condition, segments: &Inlining<'_, '_>) -> Option<Json> {
    let x = attribute(&given.attribute);
    let first = given.values.first();
    Some(match given.operator() {
        Operator::Unspecified => return None,
        Operator::InSegment | Operator::NotInSegment => segments.condition(given)?,
        Operator::Equals => equals(&x, first?)?,
        Operator::NotEquals => not(equals(&x, first?)?),
        Operator::In => is_in(&x, &given.values)?,
        Operator::NotIn => not(is_in(&x, &given.values)?),
        Operator::Less => ordered("<", &x, first?)?,
        Operator::LessOrEqual => ordered("<=", &x, first?)?,
        Operator::Greater => ordered(">", &x, first?)?,
        Operator::GreaterOrEqual => ordered(">=", &x, first?)?,
        Operator::StartsWith => json!({ "starts_with": [x, text(first?)?] }),
        Operator::EndsWith => json!({ "ends_with": [x, text(first?)?] }),
        Operator::Contains => contains(&x, first?)?,
        Operator::Exists => is_there(&x),
        Operator::NotExists => json!({ "===": [x, null] }),
    })
}

/// The attribute's value, null when it is missing.
///
/// An object's key is looked up with a default: without one, Node's interpreter gives `x` for `x.y` when `x` is falsy.
/// Engines index texts and lists, and know their length; a native path descends into objects only. So where a key could
/// be either, what it is looked up in must be no text and no list.
fn attribute(path: &str) -> Json {
    let found = look_up(path);
    let ends = path.match_indices('.').map(|(at, _)| at);
    let guards: Vec<Json> = ends
        .filter_map(|at| path.split_at_checked(at))
        .filter(|(_, rest)| {
            let key = rest.trim_start_matches('.').split('.').next().unwrap_or_default();
            key == "length" || key.bytes().all(|byte| byte.is_ascii_digit())
        })
        .flat_map(|(prefix, _)| {
            let prefix = look_up(prefix);
            [is_no_list(&prefix), not(is_text(&prefix))]
        })
        .collect();
    match all(guards) {
        Some(guard) => json!({ "if": [guard, found, null] }),
        None => found,
    }
}

fn look_up(path: &str) -> Json {
    if path.contains('.') { json!({ "var": [path, null] }) } else { json!({ "var": path }) }
}

pub(super) fn not(condition: Json) -> Json {
    json!({ "!": [condition] })
}

fn is_there(x: &Json) -> Json {
    json!({ "!==": [x, null] })
}

fn is_text(x: &Json) -> Json {
    json!({ "starts_with": [x, ""] })
}

fn is_no_list(x: &Json) -> Json {
    json!({ "in": [x, { "merge": [x] }] })
}

fn begins_like_a_number(x: &Json) -> Json {
    json!({ "in": [{ "substr": [{ "cat": [x] }, 0, 1] }, "-0123456789"] })
}

/// A value that Python takes for another: `True == 1` and `False == 0`.
fn is_ambiguous(value: &Value) -> bool {
    match value.kind {
        Some(Kind::BoolValue(_)) => true,
        Some(Kind::NumberValue(number)) => number == 0.0 || number == 1.0,
        _ => false,
    }
}

fn equals(x: &Json, value: &Value) -> Option<Json> {
    let same = json!({ "===": [x, scalar(value)?] });
    Some(match value.kind {
        Some(Kind::BoolValue(_)) => json!({ "and": [same, not(begins_like_a_number(x))] }),
        _ if is_ambiguous(value) => json!({ "and": [same, begins_like_a_number(x)] }),
        _ => same,
    })
}

fn is_in(x: &Json, values: &[Value]) -> Option<Json> {
    let (ambiguous, clear): (Vec<&Value>, Vec<&Value>) = values.iter().partition(|value| is_ambiguous(value));
    let mut found = Vec::new();
    if !clear.is_empty() {
        let clear = clear.into_iter().map(scalar).collect::<Option<Vec<Json>>>()?;
        found.push(json!({ "in": [x, clear] }));
    }
    for value in ambiguous {
        found.push(equals(x, value)?);
    }
    match found.len() {
        0 | 1 => found.pop(),
        _ => Some(json!({ "or": found })),
    }
}

fn ordered(operator: &str, x: &Json, bound: &Value) -> Option<Json> {
    let Some(Kind::NumberValue(bound)) = bound.kind else { return None };
    let compared = json!({ operator: [x, number_to_json(bound)] });
    Some(json!({
        "and": [is_there(x), is_no_list(x), not(is_text(x)), begins_like_a_number(x), compared]
    }))
}

/// A text in a text, or a scalar in a list.
fn contains(x: &Json, part: &Value) -> Option<Json> {
    let wanted = scalar(part)?;
    let list = json!({ "merge": [x] });
    Some(match &part.kind {
        // Whatever equals the part also contains it, so a text may be taken for the list of itself.
        Some(Kind::StringValue(text)) if text.is_empty() => {
            json!({ "or": [is_text(x), { "in": [wanted, list] }] })
        }
        Some(Kind::StringValue(_)) => {
            json!({ "or": [{ "and": [is_text(x), { "in": [wanted, x] }] }, { "in": [wanted, list] }] })
        }
        _ if is_ambiguous(part) => {
            let same = equals(&json!({ "var": "" }), part)?;
            json!({ "and": [not(is_no_list(x)), { "some": [list, same] }] })
        }
        _ => json!({ "and": [not(is_no_list(x)), { "in": [wanted, list] }] }),
    })
}

fn scalar(value: &Value) -> Option<Json> {
    match value.kind {
        Some(Kind::BoolValue(_) | Kind::NumberValue(_) | Kind::StringValue(_)) => Some(to_json(value)),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}
