//! A document in: an environment's shared parts, its flags, and warnings with the path of each.
//!
//! | what stands there | what is done |
//! |---|---|
//! | JSON that cannot be read, a default that is no variant | the document is refused |
//! | a number beyond ±(2^53 − 1) among values or metadata | refused: clients would read another |
//! | a key that is no resource's name, what is larger than a flag may be | refused |
//! | no `flags`, or a flag that is no object | refused: a typo would otherwise be an empty set |
//! | `state` missing or odd | a warning, and enabled, as flagd does |
//! | `targeting` that is no object, unknown keys, metadata of odd kinds | a warning; kept where a flag has a place for it |
//! | `targeting` that does not compile | a warning; the flag answers PARSE_ERROR |
//! | a key written twice | a warning; the later counts |
//!
//! Targeting and shared rules are kept as text with its whitespace normalized and whole numbers without a point.
//! What the document does not mention of the environment stays as it is; what it mentions replaces what was there.

use std::collections::BTreeMap;
use std::fmt;

use featureops_proto::v1::{self, ValueType};
use featureops_proto::{Collection, Name};
use prost_types::{Struct, Value};
use serde_json::{Map, Value as Json};

use super::document::{self, Path};
use super::value;
use crate::compile;
use crate::evaluate::type_of;
use crate::limits;
use crate::refusal::{CompileError, Outcome, refused, within};
use crate::size::check_size;

/// What a document says.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The present environment with what the document says of it.
    pub environment: v1::Environment,
    /// Sorted by id, each `imported`.
    pub flags: Vec<v1::Flag>,
    /// In the order of the document's parts; at most [`limits::MAX_WARNINGS`], and one that counts the rest.
    pub warnings: Vec<v1::ImportWarning>,
    /// How many the last of them counts.
    pub more: usize,
}

impl Imported {
    /// The warnings themselves, to which others may be added before they are [`bounded`] again, and how many more there were.
    #[must_use]
    pub fn take_warnings(&mut self) -> (Vec<v1::ImportWarning>, usize) {
        let mut warnings = std::mem::take(&mut self.warnings);
        let more = std::mem::take(&mut self.more);
        if more > 0 {
            warnings.pop();
        }
        (warnings, more)
    }
}

/// At most [`limits::MAX_WARNINGS`], and one that counts the others and those that were left out before.
#[must_use]
pub fn bounded(mut warnings: Vec<v1::ImportWarning>, mut more: usize) -> Vec<v1::ImportWarning> {
    more += warnings.len().saturating_sub(limits::MAX_WARNINGS);
    warnings.truncate(limits::MAX_WARNINGS);
    if more > 0 {
        let message = format!("{more} more warnings; mend the first ones and import again");
        warnings.push(v1::ImportWarning { path: "document".to_owned(), message });
    }
    warnings
}

/// Takes in a flagd document for an environment, given its id and what it is at present.
///
/// # Errors
/// When the document cannot be kept as it stands, with the path to what is in the way.
pub fn import(text: &str, environment: &str, present: &v1::Environment) -> Outcome<Imported> {
    // Any flag's name tells whether the environment's id is one.
    if let Err(error) = Name::parse(&Name::format(environment, Collection::Flags, "x"), Collection::Flags) {
        return refused("environment", environment, error);
    }
    let document = document::read(text)?;
    let mut warnings = Warnings::default();
    for path in document.duplicates {
        warnings.add(path, "this key is written more than once; the last one counts");
    }
    let root = Path::Root("");
    let mut environment = v1::Environment { name: format!("environments/{environment}"), ..present.clone() };
    let mut flags = None;
    for (key, given) in document.root {
        let path = root.key(&key);
        match key.as_str() {
            "flags" => flags = Some(given),
            "metadata" if given.is_null() => {}
            "metadata" => environment.metadata = metadata(given, path, &mut warnings)?,
            "$evaluators" if given.is_null() => {}
            "$evaluators" => environment.evaluators = evaluators(given, path, &mut warnings)?,
            "$schema" => {}
            _ => warnings.add(path, "no part of a flagd document; it was left out"),
        }
    }
    let Some(flags) = flags else {
        return refused("flags", "", "a document without flags; write \"flags\": {} for an empty set");
    };
    let flags = by_key(flags, root.key("flags"), &mut warnings)?;
    let id = environment.name.strip_prefix("environments/").unwrap_or_default();
    let flags = flags
        .into_iter()
        .map(|(key, given)| flag(&key, given, id, &mut warnings))
        .collect::<Outcome<Vec<_>>>()?;
    for flag in &flags {
        check_served(flag, &environment, &mut warnings)?;
    }
    let more = warnings.more;
    Ok(Imported { environment, flags, warnings: bounded(warnings.kept, more), more })
}

/// Warns about what of a flag answers with an error.
///
/// # Errors
/// When the flag cannot be served at all, as one with too many variants.
fn check_served(flag: &v1::Flag, environment: &v1::Environment, warnings: &mut Warnings) -> Outcome<()> {
    let key = Name::parse(&flag.name, Collection::Flags).map_or("", |name| name.id);
    if let Err(error) = compile::check(flag, environment) {
        return Err(CompileError { path: format!("flags.{key}.{}", error.path), ..error });
    }
    for (path, message) in compile::warnings(flag, environment) {
        warnings.add(format_args!("flags.{key}.{path}"), message);
    }
    Ok(())
}

#[derive(Default)]
struct Warnings {
    kept: Vec<v1::ImportWarning>,
    more: usize,
}

impl Warnings {
    fn add(&mut self, path: impl fmt::Display, message: impl fmt::Display) {
        if self.kept.len() < limits::MAX_WARNINGS {
            self.kept.push(v1::ImportWarning { path: path.to_string(), message: message.to_string() });
        } else {
            self.more += 1;
        }
    }
}

/// The flags by their keys, from a map, or from a list of flags that hold theirs.
fn by_key(given: Json, path: Path<'_>, warnings: &mut Warnings) -> Outcome<BTreeMap<String, Json>> {
    let mut flags = BTreeMap::new();
    match given {
        Json::Object(fields) => flags.extend(fields),
        Json::Array(list) => {
            for (at, mut given) in list.into_iter().enumerate() {
                let own = path.index(at);
                let key = match &mut given {
                    Json::Object(fields) => fields.remove("key"),
                    _ => None,
                };
                let Some(Json::String(key)) = key else {
                    return refused(
                        own.key("key"),
                        "",
                        "a flag in a list is an object with its key, a string",
                    );
                };
                if flags.insert(key, given).is_some() {
                    warnings
                        .add(own.key("key"), "an earlier flag of the list has this key; the last one counts");
                }
            }
        }
        other => {
            return refused(
                path,
                kind_of(&other),
                "flags are an object by key, or a list of flags with keys",
            );
        }
    }
    within(path, flags.len(), limits::MAX_DOCUMENT_FLAGS, "flags")?;
    Ok(flags)
}

/// One flag's entry, without what there is to warn of in it.
pub(super) fn entry(key: &str, given: Json, environment: &str) -> Outcome<v1::Flag> {
    flag(key, given, environment, &mut Warnings::default())
}

fn flag(key: &str, given: Json, environment: &str, warnings: &mut Warnings) -> Outcome<v1::Flag> {
    let (root, flags);
    root = Path::Root("");
    flags = root.key("flags");
    let path = flags.key(key);
    let name = Name::format(environment, Collection::Flags, key);
    if Name::parse(&name, Collection::Flags).is_err() {
        let way_out =
            "a flag's key has 1 to 128 letters, digits or . _ - : and names the flag here; rename it";
        return refused(path, key, way_out);
    }
    let Json::Object(fields) = given else { return refused(path, kind_of(&given), "a flag is an object") };
    let mut flag = v1::Flag { name, imported: true, ..v1::Flag::default() };
    let (mut state, mut default) = (None, Json::Null);
    for (part, given) in fields {
        let own = path.key(&part);
        match part.as_str() {
            "state" => state = Some(given),
            "variants" => flag.variants = variants(given, own, warnings)?,
            "defaultVariant" => default = given,
            "targeting" => flag.targeting = targeting(given, own, warnings)?,
            "metadata" => flag.metadata = metadata(given, own, warnings)?,
            _ => warnings.add(own, "no part of a flag; it was left out"),
        }
    }
    flag.disabled = match state {
        Some(Json::String(state)) if state == "ENABLED" => false,
        Some(Json::String(state)) if state == "DISABLED" => true,
        odd => {
            let found = odd.map_or_else(|| "missing".to_owned(), |odd| clip(&odd));
            let message = format!("{found} is no state; write ENABLED or DISABLED. It counts as ENABLED");
            warnings.add(path.key("state"), message);
            false
        }
    };
    flag.default_variant = default_variant(default, &flag.variants, path.key("defaultVariant"), warnings)?;
    flag.r#type = common_type(&flag.variants).into();
    check_flag_size(&flag, path)?;
    Ok(flag)
}

fn variants(given: Json, path: Path<'_>, warnings: &mut Warnings) -> Outcome<BTreeMap<String, Value>> {
    let Json::Object(fields) = given else {
        warnings.add(path, format_args!("{}, not an object; the flag has no variants", kind_of(&given)));
        return Ok(BTreeMap::new());
    };
    fields
        .into_iter()
        .map(|(name, given)| {
            let value = value::from_json(given, path.key(&name), 1)?;
            Ok((name, value))
        })
        .collect()
}

/// `None` when the caller's code default is to be used.
fn default_variant(
    given: Json,
    variants: &BTreeMap<String, Value>,
    path: Path<'_>,
    warnings: &mut Warnings,
) -> Outcome<Option<String>> {
    let name = match given {
        Json::Null => return Ok(None),
        Json::String(name) if name.is_empty() => return Ok(None),
        Json::String(name) => name,
        // As its text, which is what a boolean result of targeting is.
        Json::Bool(name) => {
            warnings.add(path, format_args!("a boolean; it counts as \"{name}\""));
            name.to_string()
        }
        other => return refused(path, kind_of(&other), "a default is the name of a variant, a string"),
    };
    if !variants.contains_key(&name) {
        let known: Vec<&str> = variants.keys().take(8).map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return refused(path, name, format_args!("no such variant; this flag has {known}"));
    }
    Ok(Some(name))
}

/// The rule's text; empty when there is none.
fn targeting(given: Json, path: Path<'_>, warnings: &mut Warnings) -> Outcome<String> {
    match &given {
        Json::Null => return Ok(String::new()),
        Json::Object(fields) if fields.is_empty() => return Ok(String::new()),
        Json::Object(_) => {}
        other => warnings.add(path, format_args!("{}, not an object of JsonLogic", kind_of(other))),
    }
    let text = rule_text(given, path, warnings);
    within(path, text.len(), limits::MAX_FLAG_BYTES, "bytes of targeting")?;
    Ok(text)
}

fn rule_text(mut rule: Json, path: Path<'_>, warnings: &mut Warnings) -> String {
    value::normalize(&mut rule, path, &mut |path, number| {
        warnings.add(
            path,
            format_args!("{number} is beyond 2^53 - 1: clients compare it with its neighbours as equal"),
        );
    });
    rule.to_string()
}

fn evaluators(given: Json, path: Path<'_>, warnings: &mut Warnings) -> Outcome<BTreeMap<String, String>> {
    let Json::Object(fields) = given else {
        warnings.add(path, format_args!("{}, not an object; there are no shared rules", kind_of(&given)));
        return Ok(BTreeMap::new());
    };
    within(path, fields.len(), limits::MAX_EVALUATORS, "shared rules")?;
    if fields.contains_key("$evaluators") {
        let way_out =
            "wraps shared rules once more; write them by their names, {\"$evaluators\": {\"NAME\": {...}}}";
        return refused(path.key("$evaluators"), "$evaluators", way_out);
    }
    fields
        .into_iter()
        .map(|(name, rule)| {
            let own = path.key(&name);
            if !rule.is_object() {
                warnings.add(own, format_args!("{}, not an object of JsonLogic", kind_of(&rule)));
            }
            let text = rule_text(rule, own, warnings);
            within(own, text.len(), limits::MAX_FLAG_BYTES, "bytes of a shared rule")?;
            Ok((name, text))
        })
        .collect()
}

fn metadata(given: Json, path: Path<'_>, warnings: &mut Warnings) -> Outcome<Option<Struct>> {
    let fields: Map<String, Json> = match given {
        Json::Null => return Ok(None),
        Json::Object(fields) => fields,
        other => {
            warnings.add(path, format_args!("{}, not an object; it was left out", kind_of(&other)));
            return Ok(None);
        }
    };
    for (key, value) in &fields {
        if !matches!(value, Json::String(_) | Json::Number(_) | Json::Bool(_)) {
            let found = kind_of(value);
            warnings.add(path.key(key), format_args!("{found}; metadata are strings, numbers and booleans"));
        }
    }
    value::fields_of(fields, path, 1).map(Some)
}

/// The type of all variants, or `Unspecified`.
fn common_type(variants: &BTreeMap<String, Value>) -> ValueType {
    let mut types = variants.values().map(type_of);
    let first = types.next().unwrap_or_default();
    if types.all(|other| other == first) { first } else { ValueType::Unspecified }
}

fn check_flag_size(flag: &v1::Flag, path: Path<'_>) -> Outcome<()> {
    check_size(flag).map_err(|error| CompileError { path: path.to_string(), ..error })?;
    let bytes =
        flag.metadata.as_ref().map_or(0, |metadata| value::object_to_json(metadata).to_string().len());
    within(path.key("metadata"), bytes, limits::MAX_FLAG_BYTES, "bytes of metadata")
}

const fn kind_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

fn clip(json: &Json) -> String {
    match json {
        Json::String(text) => format!("'{}'", text.chars().take(80).collect::<String>()),
        other => kind_of(other).to_owned(),
    }
}
