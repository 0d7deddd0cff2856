//! Forced units and prerequisites as JsonLogic: a client on its own has no word for them, so they are compiled away.
//!
//! ```text
//!   checkout rests on new-cart = on      {"if": [ units forced, "on", ..., new-cart serves on, checkout's own rule ]}
//!                                                                            │
//!   forced ─> its prerequisites ─> its rules or targeting ─> its allocation ─> its default,
//!   each end not a variant but whether it is one that is named
//! ```
//!
//! A bucket is a hash of the flag's key and the unit. Within another flag's rule the key is written out, as
//! `fractional(cat("new-cart", targetingKey), ...)`, and so is `$flagd.flagKey`; shared rules are put in.
//!
//! What the dialect cannot say counts as not served, as does what would not fit into a rule's bounds:
//!
//! * another flag's split, allocation or `fractional` with FRACTIONAL_VERSION_3: it hashes a list, which stands for a
//!   stretch where a text stands for what is hashed;
//! * another flag's `fractional` over the items of a list, and `$flagd` as a whole.
//!
//! [`lost`] says what of a flag's prerequisites this takes away. And these differ: another flag's targeting that cannot be evaluated is an error of this one, and a result that is a
//! number names no variant.

use std::collections::{BTreeMap, BTreeSet};

use featureops_proto::v1::{self, FractionalVersion, rule};
use serde_json::{Value as Json, json};

use super::export::{Others, SyncForm, parsed};
use super::rules::{admits, all, matches, not, ramp_stretches};
use super::segments::Inlining;
use crate::limits;
use crate::ramp::Shares;
use crate::size::check_size;
use crate::split;

/// Levels of JSON that every reader takes.
const MAX_JSON_DEPTH: usize = 100;
/// What of another flag FRACTIONAL_VERSION_3 has no words for.
const BUCKETS: &str = "with FRACTIONAL_VERSION_3 the buckets";
/// Why prerequisites that could be said are not.
const TOO_LARGE: &str = "with all it rests on it is more than a rule may hold";
/// Text of what `fractional` hashes that is written twice.
const MAX_HASHED_BYTES: usize = 4_096;

/// The rule under what stands before it: `None` when the flag has one answer.
pub(super) fn under(
    flag: &v1::Flag,
    rest: Option<Json>,
    form: &SyncForm<'_>,
    others: Others<'_>,
) -> Option<Json> {
    if flag.forced.is_empty() && flag.prerequisites.is_empty() {
        return rest;
    }
    let mut arguments = forced(flag, |variant| Json::from(variant));
    let mut inlined = Inlined::of(form, others);
    // Without a rule of its own a flag serves its default, whether or not its prerequisites hold.
    if let Some(rest) = rest {
        match inlined.hold(flag, 1) {
            Json::Bool(false) => {}
            Json::Bool(true) if arguments.is_empty() => return Some(rest),
            Json::Bool(true) => arguments.push(rest),
            holds if fits(&holds) => arguments.extend([holds, rest]),
            _ => {}
        }
    }
    (!arguments.is_empty()).then(|| json!({ "if": arguments }))
}

/// What of its prerequisites a flag's rule does not say, so that they count as not held in a client that evaluates by itself.
pub(super) fn lost(flag: &v1::Flag, form: &SyncForm<'_>, others: Others<'_>) -> Vec<String> {
    let mut inlined = Inlined::of(form, others);
    let holds = inlined.hold(flag, 1);
    if inlined.lost.is_empty() && !fits(&holds) {
        inlined.lost.insert(TOO_LARGE.to_owned());
    }
    inlined.lost.into_iter().collect()
}

fn fits(rule: &Json) -> bool {
    deep(rule, 0) <= MAX_JSON_DEPTH && rule.to_string().len() <= limits::MAX_TARGETING_BYTES
}

pub(super) fn deep(rule: &Json, above: usize) -> usize {
    let inner = |value| deep(value, above + 1);
    match rule {
        _ if above > MAX_JSON_DEPTH => above,
        Json::Object(fields) => fields.values().map(inner).max().unwrap_or(above),
        Json::Array(values) => values.iter().map(inner).max().unwrap_or(above),
        _ => above,
    }
}

/// Pairs of an `if`: units, and what they get.
fn forced(flag: &v1::Flag, write: impl Fn(&str) -> Json) -> Vec<Json> {
    let mut by_variant = BTreeMap::<&str, Vec<&str>>::new();
    for (unit, variant) in &flag.forced {
        by_variant.entry(variant).or_default().push(unit);
    }
    let pairs = by_variant.into_iter();
    pairs.flat_map(|(variant, units)| [json!({ "in": [unit(), units] }), write(variant)]).collect()
}

fn unit() -> Json {
    json!({ "var": "targetingKey" })
}

/// A unit is a text that is not empty.
fn has_unit() -> Json {
    json!({ "and": [{ "starts_with": [unit(), ""] }, { "!==": [unit(), ""] }] })
}

/// Other flags, put into the rule of one.
struct Inlined<'i, 'f> {
    form: &'i SyncForm<'i>,
    others: Others<'f>,
    segments: Inlining<'i, 'i>,
    /// Flags that may still be put in, each as often as it is named.
    flags: usize,
    /// Bytes of definitions that may still be put in.
    bytes: usize,
    /// What the dialect cannot say, or has no room for.
    lost: BTreeSet<String>,
}

impl<'i, 'f> Inlined<'i, 'f> {
    fn of(form: &'i SyncForm<'i>, others: Others<'f>) -> Self {
        Self {
            form,
            others,
            segments: form.segments().inlining(),
            flags: limits::MAX_PREREQUISITE_FLAGS,
            bytes: limits::MAX_TARGETING_BYTES,
            lost: BTreeSet::new(),
        }
    }

    fn loses(&mut self, id: &str, what: &str) -> Json {
        self.lost.insert(format!("{what} of flag {id} cannot be said there"));
        Json::Bool(false)
    }

    /// Whether all prerequisites of a flag hold: a condition, or a boolean when that is always the same.
    fn hold(&mut self, flag: &v1::Flag, level: usize) -> Json {
        let mut conditions = Vec::new();
        for prerequisite in &flag.prerequisites {
            match self.serves(&prerequisite.flag, &prerequisite.variants, level) {
                Json::Bool(true) => {}
                Json::Bool(false) => return Json::Bool(false),
                holds => conditions.push(holds),
            }
        }
        all(conditions).unwrap_or(Json::Bool(true))
    }

    /// Whether a flag serves one of these variants.
    fn serves(&mut self, id: &str, variants: &[String], level: usize) -> Json {
        let Some(flag) = (self.others)(id).filter(|flag| !flag.archived) else { return Json::Bool(false) };
        let wanted = |name: &str| Json::Bool(variants.iter().any(|variant| variant == name));
        let of = |variant: &Option<String>| variant.as_deref().map_or(Json::Bool(false), wanted);
        if flag.trip.is_some() {
            return of(&flag.safe_variant);
        }
        let Ok(bytes) = check_size(flag) else { return Json::Bool(false) };
        // Evaluation here follows no more levels either.
        if flag.disabled || level > limits::MAX_PREREQUISITE_LEVELS {
            return Json::Bool(false);
        }
        if self.flags == 0 || self.bytes < bytes {
            self.lost.insert(TOO_LARGE.to_owned());
            return Json::Bool(false);
        }
        self.flags -= 1;
        self.bytes -= bytes;
        let default = of(&flag.default_variant);
        let mut arguments = forced(flag, wanted);
        let last = match self.hold(flag, level + 1) {
            Json::Bool(false) => default,
            holds => {
                if !holds.is_boolean() {
                    arguments.extend([not(holds), default.clone()]);
                }
                self.chosen(id, flag, &wanted, default, &mut arguments).unwrap_or(Json::Bool(false))
            }
        };
        // Where every end is the same nothing is asked.
        if arguments.iter().skip(1).step_by(2).all(|end| end == &last && last.is_boolean()) {
            return last;
        }
        arguments.push(last);
        json!({ "if": arguments })
    }

    /// Rules, targeting, the allocation, the default: pairs of an `if`, and its last argument. `None` when the flag answers
    /// with an error.
    fn chosen(
        &mut self,
        id: &str,
        flag: &v1::Flag,
        wanted: &impl Fn(&str) -> Json,
        default: Json,
        arguments: &mut Vec<Json>,
    ) -> Option<Json> {
        for rule in &flag.rules {
            let end = match rule.serve.as_ref()? {
                rule::Serve::Variant(variant) => wanted(variant),
                rule::Serve::Split(split) => self.bucketed(id, split::stretches(split), wanted, &default),
                rule::Serve::Ramp(ramp) => {
                    let off =
                        if ramp.otherwise.is_empty() { default.clone() } else { wanted(&ramp.otherwise) };
                    self.ramped(id, &Shares::of(ramp).ok()?, wanted(&ramp.variant), off, &default)
                }
            };
            match matches(rule, &self.segments)? {
                Json::Bool(false) => {}
                Json::Bool(true) => return Some(end),
                condition => arguments.extend([condition, end]),
            }
        }
        let last = match &flag.allocation {
            Some(given) => {
                let runs = given.runs.iter().map(|run| {
                    let variant = given.variants.get(run.arm as usize);
                    (variant.map_or("", String::as_str), run.length)
                });
                let found = self.bucketed(id, runs, wanted, &default);
                match admits(given) {
                    Some(admits) if found != default => json!({ "if": [admits, found, default] }),
                    _ => found,
                }
            }
            None => default,
        };
        if flag.targeting.is_empty() {
            return Some(last);
        }
        let result = self.targeting(id, &flag.targeting)?;
        // A boolean names the variant of its text.
        let booleans = [true, false].into_iter().filter(|value| wanted(&value.to_string()) == true);
        let named =
            flag.variants.keys().filter(|name| wanted(name) == true).map(|name| Json::from(name.as_str()));
        let named: Vec<Json> = named.chain(booleans.map(Json::from)).collect();
        let one_of = json!({ "in": [result, named] });
        if last == false {
            return Some(one_of);
        }
        arguments.extend([json!({ "===": [result, null] }), last]);
        Some(one_of)
    }

    /// Whether the unit's bucket is in a stretch that is wanted; without a unit the default is served.
    fn bucketed<'s>(
        &mut self,
        id: &str,
        stretches: impl Iterator<Item = (&'s str, u32)>,
        wanted: &impl Fn(&str) -> Json,
        default: &Json,
    ) -> Json {
        let mut entries: Vec<(Json, u64)> = Vec::new();
        for (variant, length) in stretches.filter(|(_, length)| *length > 0) {
            let end = wanted(variant);
            match entries.last_mut() {
                Some((last, sum)) if *last == end => *sum += u64::from(length),
                _ => entries.push((end, length.into())),
            }
        }
        let found = match entries.as_slice() {
            [(end, _)] => end.clone(),
            _ if self.hashes_lists() => self.loses(id, BUCKETS),
            _ => says_yes(id, entries.iter().map(|(end, length)| json!([label(end), length]))),
        };
        for_units(found, default)
    }

    /// Whether the unit is in that part of a ramp which is wanted; without a unit the default is served.
    fn ramped(&mut self, id: &str, shares: &Shares, on: Json, off: Json, default: &Json) -> Json {
        let found = if on == off {
            on
        } else if self.hashes_lists() {
            self.loses(id, BUCKETS)
        } else {
            says_yes(id, ramp_stretches(shares, label(&on).into(), label(&off).into()))
        };
        for_units(found, default)
    }

    fn hashes_lists(&self) -> bool {
        self.form.environment().fractional() == FractionalVersion::FractionalVersion3
    }

    /// Another flag's targeting, as it is evaluated under its own key.
    fn targeting(&mut self, id: &str, text: &str) -> Option<Json> {
        let mut rule = parsed(text);
        self.form.put_in(&mut rule);
        let Some(room) = self.bytes.checked_sub(rule.to_string().len()) else {
            self.lost.insert(TOO_LARGE.to_owned());
            return None;
        };
        self.bytes = room;
        self.under_key(id, rule, false, 0)
    }

    /// `within`: what `var` finds is an item of a list.
    fn under_key(&mut self, id: &str, rule: Json, within: bool, depth: usize) -> Option<Json> {
        if depth > limits::MAX_TARGETING_DEPTH {
            return None;
        }
        let mut inner = |value, within| self.under_key(id, value, within, depth + 1);
        let fields = match rule {
            Json::Array(values) => {
                let values = values.into_iter().map(|value| inner(value, within));
                return values.collect::<Option<Vec<Json>>>().map(Json::Array);
            }
            Json::Object(fields) if fields.len() == 1 => fields,
            other => return Some(other),
        };
        let (operator, given) = fields.into_iter().next()?;
        let given = match operator.as_str() {
            "$ref" => return None,
            "var" if !within => {
                let path = given.as_str().or_else(|| given.as_array()?.first()?.as_str());
                match path {
                    Some("$flagd") => {
                        self.loses(id, "`$flagd` as a whole in the targeting");
                        return None;
                    }
                    Some("$flagd.flagKey") => return Some(Json::from(id)),
                    _ => inner(given, within)?,
                }
            }
            "map" | "filter" | "all" | "none" | "some" | "reduce" => {
                let Json::Array(values) = given else { return None };
                let values = values.into_iter().enumerate();
                let values = values.map(|(at, value)| inner(value, within || at == 1));
                Json::Array(values.collect::<Option<_>>()?)
            }
            "fractional" => {
                let mut given = match inner(given, within)? {
                    Json::Array(values) => values,
                    other => vec![other],
                };
                if within {
                    self.loses(id, "`fractional` over the items of a list in the targeting");
                    return None;
                }
                if self.hashes_lists() && is_stretch(given.first()) {
                    self.loses(id, BUCKETS);
                    return None;
                }
                let by = match given.first() {
                    Some(first) if !is_stretch(Some(first)) => Some(given.remove(0)),
                    _ => None,
                };
                return self.fractional(id, by, given);
            }
            _ => inner(given, within)?,
        };
        Some(json!({ operator: given }))
    }

    /// `by` is what is hashed; if there is none, or it is null, the key and the unit are.
    fn fractional(&mut self, id: &str, by: Option<Json>, stretches: Vec<Json>) -> Option<Json> {
        let written = |by: Json| {
            let arguments: Vec<Json> = std::iter::once(by).chain(stretches.iter().cloned()).collect();
            json!({ "fractional": arguments })
        };
        match by {
            None => Some(json!({ "if": [has_unit(), written(hashed(id)), null] })),
            // Never null, and where a list is hashed null is no unit.
            Some(by) if by.get("cat").is_some() || by.is_string() || self.hashes_lists() => Some(written(by)),
            Some(by) if by.to_string().len() <= MAX_HASHED_BYTES => {
                let there = json!({ "or": [{ "!==": [by, null] }, has_unit()] });
                let by = json!({ "if": [{ "===": [by, null] }, hashed(id), by] });
                Some(json!({ "if": [there, written(by), null] }))
            }
            Some(_) => {
                self.lost.insert(TOO_LARGE.to_owned());
                None
            }
        }
    }
}

/// What was found for a unit; without one the default is served.
fn for_units(found: Json, default: &Json) -> Json {
    if &found == default { found } else { json!({ "if": [has_unit(), found, default] }) }
}

/// How a stretch is labelled that ends so.
fn label(end: &Json) -> &'static str {
    if *end == true { "yes" } else { "no" }
}

/// Whether the unit's bucket of a flag is in a stretch that is labelled so.
fn says_yes(id: &str, stretches: impl IntoIterator<Item = Json>) -> Json {
    let arguments: Vec<Json> = std::iter::once(hashed(id)).chain(stretches).collect();
    json!({ "===": [{ "fractional": arguments }, "yes"] })
}

/// What a bucket of this flag is a hash of.
fn hashed(id: &str) -> Json {
    json!({ "cat": [id, unit()] })
}

/// Whether `fractional`'s first argument is one of its stretches.
fn is_stretch(first: Option<&Json>) -> bool {
    first.is_none_or(Json::is_array)
}
