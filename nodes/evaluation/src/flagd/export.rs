//! A document out: flags as every flagd client evaluates them by itself.
//!
//! Two forms. [`export`] keeps `$evaluators` and the environment's metadata apart, so that what was imported is exported
//! again: `export(import(document))` is the document, but for `{}` as targeting, nulls for defaults, the list form of
//! `flags` and what the schema does not know. [`export_for_sync`] is what a stream of flags carries: both merged into
//! the flags, and each flag's source.
//!
//! Some clients refuse the whole set for one flag they cannot read: a default that is not there (Rust), no variants,
//! metadata that are no scalars (Python). So a stream says `""` for no default, which means the same, and leaves out such
//! metadata, which no client could hand on, and flags without variants, which have nothing to serve.
//!
//! | here | in the document |
//! |---|---|
//! | archived | left out |
//! | tripped | its safe variant for everybody: the default, and no targeting |
//! | disabled | `DISABLED`, with all it has |
//! | targeting, then an experiment | the allocation where targeting gives null |
//! | rules, splits, an allocation | as [`super::rules`] says |
//! | segments | their clauses put in, their lists left out, as [`super::segments`] says |
//! | forced units, prerequisites | put before the rule, as [`super::prerequisites`] says |
//! | a safe variant, staleness, owner, tags, description | no word for them |

use std::collections::BTreeMap;

use featureops_proto::v1;
use featureops_proto::{Collection, Name};
use prost_types::Struct;
use prost_types::value::Kind;
use serde_json::{Map, Value as Json, json};

use super::segments::Segments;
use super::{prerequisites, rules, value};
use crate::limits;

/// Finds another flag of the environment, by its id.
pub type Others<'f> = &'f dyn Fn(&str) -> Option<&'f v1::Flag>;

/// The document of an environment's flags, shared rules and metadata apart. None of them asks about a segment.
#[must_use]
pub fn export(flags: &[v1::Flag], environment: &v1::Environment) -> Json {
    export_with_segments(flags, environment, &[])
}

/// The same of flags that may ask about these segments.
#[must_use]
pub fn export_with_segments(
    flags: &[v1::Flag],
    environment: &v1::Environment,
    segments: &[v1::Segment],
) -> Json {
    let mut document = Map::new();
    let form = SyncForm::of(environment).with_segments(segments);
    let write = |flag: &v1::Flag, others: Others<'_>| entry_of(flag, &form, others);
    document.insert("flags".to_owned(), written(flags, write));
    if !environment.evaluators.is_empty() {
        let rules = environment.evaluators.iter().map(|(name, text)| (name.clone(), parsed(text))).collect();
        document.insert("$evaluators".to_owned(), Json::Object(rules));
    }
    if let Some(metadata) = &environment.metadata {
        document.insert("metadata".to_owned(), value::object_to_json(metadata));
    }
    Json::Object(document)
}

/// The document of an environment's flags as a stream carries it, everything shared merged into the flags.
#[must_use]
pub fn export_for_sync(flags: &[v1::Flag], environment: &v1::Environment) -> Json {
    let form = SyncForm::of(environment);
    json!({ "flags": written(flags, |flag, others| form.flag(flag, others)) })
}

pub(super) fn key(flag: &v1::Flag) -> Option<&str> {
    Some(Name::parse(&flag.name, Collection::Flags).ok()?.id)
}

pub(super) fn by_key(flags: &[v1::Flag]) -> BTreeMap<&str, &v1::Flag> {
    flags.iter().filter_map(|flag| Some((key(flag)?, flag))).collect()
}

fn written(flags: &[v1::Flag], write: impl Fn(&v1::Flag, Others<'_>) -> Option<Json>) -> Json {
    let by_key = by_key(flags);
    let find = |id: &str| by_key.get(id).copied();
    let entry = |flag| Some((key(flag)?.to_owned(), write(flag, &find)?));
    Json::Object(flags.iter().filter_map(entry).collect())
}

/// Writes flags one by one as a stream carries them; the environment's shared rules are read once.
#[derive(Debug)]
pub struct SyncForm<'e> {
    environment: &'e v1::Environment,
    source: &'e str,
    /// Each with the bytes of its text.
    evaluators: BTreeMap<&'e str, (Json, usize)>,
    segments: Segments<'e>,
}

impl<'e> SyncForm<'e> {
    /// For flags of an environment.
    #[must_use]
    pub fn of(environment: &'e v1::Environment) -> Self {
        let id = environment.name.strip_prefix("environments/").unwrap_or(&environment.name);
        let evaluators = environment.evaluators.iter();
        Self {
            environment,
            source: if environment.source.is_empty() { id } else { &environment.source },
            evaluators: evaluators.map(|(name, text)| (name.as_str(), (parsed(text), text.len()))).collect(),
            segments: Segments::default(),
        }
    }

    /// For flags that may ask about these segments.
    #[must_use]
    pub fn with_segments(self, segments: impl IntoIterator<Item = &'e v1::Segment>) -> Self {
        Self { segments: Segments::of(segments), ..self }
    }

    pub(super) const fn segments(&self) -> &Segments<'e> {
        &self.segments
    }

    /// What selectors call `source`.
    #[must_use]
    pub const fn source(&self) -> &'e str {
        self.source
    }

    pub(super) const fn environment(&self) -> &'e v1::Environment {
        self.environment
    }

    /// Puts shared rules where they are named, within their bounds.
    pub(super) fn put_in(&self, rule: &mut Json) {
        self.expand(rule, &mut Expansion { room: limits::MAX_TARGETING_BYTES, open: Vec::new() }, 1);
    }

    /// The flag's definition, without its key. `None` for an archived flag and one without variants.
    #[must_use]
    pub fn flag(&self, flag: &v1::Flag, others: Others<'_>) -> Option<Json> {
        if flag.variants.is_empty() {
            return None;
        }
        let mut rule = rule_of(flag, self, others)?;
        if let Some(rule) = &mut rule {
            self.put_in(rule);
        }
        let mut definition = definition(flag, rule);
        let fields = definition.as_object_mut()?;
        fields.entry("defaultVariant").or_insert_with(|| Json::from(""));
        fields.insert("source".to_owned(), Json::from(self.source));
        match merged(self.environment.metadata.as_ref(), flag.metadata.as_ref()) {
            Json::Object(metadata) if metadata.is_empty() => fields.remove("metadata"),
            metadata => fields.insert("metadata".to_owned(), metadata),
        };
        Some(definition)
    }

    /// Puts shared rules where they are named, and those that they name. What evaluation here refuses, a rule that
    /// contains itself or grows beyond all bounds, keeps its reference, so that a client says PARSE_ERROR too.
    fn expand(&self, rule: &mut Json, expansion: &mut Expansion<'e>, depth: usize) {
        if depth > limits::MAX_TARGETING_DEPTH {
            return;
        }
        match rule {
            Json::Object(fields) => {
                let name = if fields.len() == 1 { fields.get("$ref").and_then(Json::as_str) } else { None };
                match name.and_then(|name| self.evaluators.get_key_value(name)) {
                    Some((name, (shared, bytes)))
                        if *bytes <= expansion.room && !expansion.open.contains(name) =>
                    {
                        expansion.room -= bytes;
                        *rule = shared.clone();
                        expansion.open.push(name);
                        self.expand(rule, expansion, depth);
                        expansion.open.pop();
                    }
                    _ => fields.values_mut().for_each(|value| self.expand(value, expansion, depth + 1)),
                }
            }
            Json::Array(values) => {
                values.iter_mut().for_each(|value| self.expand(value, expansion, depth + 1));
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }
}

/// How far shared rules were put in.
struct Expansion<'e> {
    /// Bytes that may still be put in.
    room: usize,
    /// The shared rules that are being put in.
    open: Vec<&'e str>,
}

/// The environment's metadata under the flag's own: strings, numbers and booleans. A null hides nothing.
fn merged(shared: Option<&Struct>, own: Option<&Struct>) -> Json {
    let fields = [shared, own].into_iter().flatten().flat_map(|metadata| &metadata.fields);
    let scalars = fields.filter(|(key, value)| !key.is_empty() && is_scalar(value));
    Json::Object(scalars.map(|(key, value)| (key.clone(), value::to_json(value))).collect())
}

const fn is_scalar(value: &prost_types::Value) -> bool {
    matches!(value.kind, Some(Kind::BoolValue(_) | Kind::NumberValue(_) | Kind::StringValue(_)))
}

/// A flag without its key. A tripped flag has one answer for everybody.
fn definition(flag: &v1::Flag, targeting: Option<Json>) -> Json {
    let tripped = flag.trip.is_some();
    let mut fields = Map::new();
    let state = if flag.disabled && !tripped { "DISABLED" } else { "ENABLED" };
    fields.insert("state".to_owned(), Json::from(state));
    let variants = flag.variants.iter().map(|(name, value)| (name.clone(), value::to_json(value))).collect();
    fields.insert("variants".to_owned(), Json::Object(variants));
    if let Some(default) = if tripped { &flag.safe_variant } else { &flag.default_variant } {
        fields.insert("defaultVariant".to_owned(), Json::from(default.as_str()));
    }
    if let Some(targeting) = targeting {
        fields.insert("targeting".to_owned(), targeting);
    }
    if let Some(metadata) = &flag.metadata {
        fields.insert("metadata".to_owned(), value::object_to_json(metadata));
    }
    Json::Object(fields)
}

/// What varies: `None` for an archived flag, `Some(None)` for one that has a single answer.
#[allow(clippy::option_option, reason = "a flag may be absent, and a flag may have no rule")]
fn rule_of(flag: &v1::Flag, form: &SyncForm<'_>, others: Others<'_>) -> Option<Option<Json>> {
    if flag.archived {
        return None;
    }
    if flag.trip.is_some() {
        return Some(None);
    }
    Some(prerequisites::under(flag, own_rule(flag, form), form, others))
}

/// The flag's entry in a document. `None` for an archived flag.
pub(super) fn entry_of(flag: &v1::Flag, form: &SyncForm<'_>, others: Others<'_>) -> Option<Json> {
    Some(definition(flag, rule_of(flag, form, others)?))
}

fn own_rule(flag: &v1::Flag, form: &SyncForm<'_>) -> Option<Json> {
    if flag.targeting.is_empty() {
        return rules::targeting(flag, &form.segments().inlining());
    }
    let targeting = parsed(&flag.targeting);
    Some(match flag.allocation.as_ref().map(rules::allocation) {
        // Evaluated twice, and the same both times: a context does not change within an evaluation.
        Some(allocation) => json!({ "if": [{ "===": [targeting, null] }, allocation, targeting] }),
        None => targeting,
    })
}

/// A rule's JSON. Text that is none, which no door lets in, is written as a string: no client serves a variant for it.
pub(super) fn parsed(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| Json::from(text))
}
