//! Definitions to test or to look through: of the server, or of files without one.
//!
//! A file of segments may name the units of their lists. Their hashes are made by a key of this process, which keeps nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use featureops_evaluation::flagd::asked;
use featureops_evaluation::{Snapshot, UnitKey, UnitList, compile, compile_segment, flagd};
use featureops_proto::{Collection, Name, v1};
use serde_json::Value as Json;

use super::definition::easier;
use crate::cli::failure::Failure;
use crate::cli::render::{self, key_of};
use crate::cli::session::Session;

/// Hashes of who is on a segment's list, by the segment's name.
type Units = BTreeMap<String, Vec<u64>>;

/// By which units of a file's lists are hashed.
pub const KEY: UnitKey = UnitKey::new([0; 16]);

/// Files to ask instead of a server.
#[derive(Debug, Args)]
pub struct DefinitionsArgs {
    /// Take these definitions instead of the server's: a flagd document, a flag, or a list of flags, as JSON or YAML.
    #[arg(long, value_name = "FILE")]
    definitions: Option<PathBuf>,
    /// The segments that they ask about: one, or a list as `segment list -o yaml` prints it. `units: [user-1]` names who is
    /// on a segment's list.
    #[arg(long, value_name = "FILE", requires = "definitions")]
    segments: Option<PathBuf>,
}

impl DefinitionsArgs {
    /// Those of the files, if any are named.
    pub fn read(&self, environment: &str) -> Result<Option<Definitions>, Failure> {
        let Some(path) = &self.definitions else { return Ok(None) };
        let mut found = read(path, environment)?;
        if let Some(path) = &self.segments {
            let parsed = parse_segments(&render::read_text(path)?, environment);
            (found.segments, found.units) =
                parsed.map_err(|message| Failure::usage(format!("{}: {message}", path.display())))?;
        }
        Ok(Some(found))
    }
}

/// Flags and what they share.
#[derive(Debug, Default)]
pub struct Definitions {
    pub environment: v1::Environment,
    pub flags: Vec<v1::Flag>,
    pub segments: Vec<v1::Segment>,
    /// Who is on their lists, by the segment's name. A server does not say.
    units: Units,
}

/// Those of the server.
pub async fn fetch(session: &Session) -> Result<Definitions, Failure> {
    let environment = crate::cli::environment::fetch(session, &session.parent()).await?;
    let segments = crate::cli::segment::fetch_all(session).await?.segments;
    let flags = super::fetch_all(session, false).await?.flags;
    Ok(Definitions { environment, flags, segments, units: BTreeMap::new() })
}

/// Those of a file: a flagd document, a flag, or a list of flags as `flag list -o yaml` prints it.
///
/// # Errors
/// Names the file and the place in it.
fn read(path: &Path, environment: &str) -> Result<Definitions, Failure> {
    parse(&render::read_text(path)?, environment)
        .map_err(|message| Failure::usage(format!("{}: {message}", path.display())))
}

fn parse(text: &str, id: &str) -> Result<Definitions, String> {
    let parsed = render::parse_object(text)?;
    let environment = v1::Environment { name: format!("environments/{id}"), ..v1::Environment::default() };
    let is_document = match parsed.get("flags") {
        Some(Json::Object(_)) => true,
        Some(Json::Array(flags)) => flags.first().is_none_or(|flag| flag.get("key").is_some()),
        _ => false,
    };
    if is_document {
        let text = if text.trim_start().starts_with('{') { text.to_owned() } else { parsed.to_string() };
        let read = flagd::import(&text, id, &environment).map_err(|error| error.to_string())?;
        let (environment, flags) = (read.environment, read.flags);
        return Ok(Definitions { environment, flags, ..Definitions::default() });
    }
    let given = match parsed {
        Json::Array(flags) => flags,
        Json::Object(mut fields) => match fields.remove("flags") {
            Some(Json::Array(flags)) => flags,
            _ => vec![Json::Object(fields)],
        },
        _ => return Err("must hold a flagd document, a flag or a list of flags".to_owned()),
    };
    let mut flags = Vec::with_capacity(given.len());
    for (at, mut given) in given.into_iter().enumerate() {
        easier(&mut given);
        let mut flag: v1::Flag =
            render::message_of(given).map_err(|error| format!("flags[{at}]: {error}"))?;
        if flag.name.is_empty() {
            return Err(format!("flags[{at}].name: is missing; a flag in a file is known by its name"));
        }
        flag.name = Name::format(id, Collection::Flags, key_of(&flag.name));
        flags.push(flag);
    }
    Ok(Definitions { environment, flags, ..Definitions::default() })
}

/// Segments, and the hashes of those on their lists.
fn parse_segments(text: &str, id: &str) -> Result<(Vec<v1::Segment>, Units), String> {
    let given = match render::parse_object(text)? {
        Json::Array(segments) => segments,
        Json::Object(mut fields) => match fields.remove("segments") {
            Some(Json::Array(segments)) => segments,
            _ => vec![Json::Object(fields)],
        },
        _ => return Err("must hold a segment or a list of segments".to_owned()),
    };
    let (mut segments, mut units) = (Vec::with_capacity(given.len()), BTreeMap::new());
    for (at, mut given) in given.into_iter().enumerate() {
        let listed = given.as_object_mut().and_then(|fields| fields.remove("units"));
        let mut segment: v1::Segment =
            render::message_of(given).map_err(|error| format!("segments[{at}]: {error}"))?;
        if segment.name.is_empty() {
            return Err(format!("segments[{at}].name: is missing; flags ask about a segment by its name"));
        }
        segment.name = Name::format(id, Collection::Segments, key_of(&segment.name));
        if let Some(listed) = listed {
            let texts: Option<Vec<&str>> =
                listed.as_array().and_then(|units| units.iter().map(Json::as_str).collect());
            let Some(texts) = texts else {
                return Err(format!("segments[{at}].units: must be a list of texts, the targeting keys"));
            };
            let hashes: BTreeSet<u64> = texts.iter().map(|unit| KEY.hash(unit.as_bytes())).collect();
            segment.unit_count = hashes.len() as u64;
            units.insert(segment.name.clone(), hashes.into_iter().collect());
        }
        segments.push(segment);
    }
    Ok((segments, units))
}

impl Definitions {
    /// Flags and segments that ask about a segment which is not among these, each with its path and that segment.
    pub fn unknown_segments(&self) -> Vec<(String, String, String)> {
        let known: BTreeSet<&str> = self.segments.iter().map(|segment| key_of(&segment.name)).collect();
        let rules = self.flags.iter().filter(|flag| !flag.archived).flat_map(|flag| {
            let places = flag.rules.iter().enumerate();
            let flag = key_of(&flag.name);
            places.map(move |(at, rule)| (flag, format!("rules[{at}].conditions"), &rule.conditions))
        });
        let clauses = self.segments.iter().flat_map(|segment| {
            let id = key_of(&segment.name);
            let places = segment.clauses.iter().enumerate();
            places.map(move |(at, clause)| ("", format!("segments.{id}.clauses[{at}]"), &clause.conditions))
        });
        rules
            .chain(clauses)
            .flat_map(|(flag, path, conditions)| {
                let asked = conditions.iter().flat_map(asked).filter(|id| !known.contains(id));
                asked.map(move |id| (flag.to_owned(), path.clone(), id.to_owned()))
            })
            .collect()
    }

    /// What a node would evaluate, as of log time `now_ms`.
    ///
    /// # Errors
    /// Names the flag or segment that does not compile, and the place in it, or a segment that is not among these.
    pub fn snapshot(&self, now_ms: i64) -> Result<Snapshot, Failure> {
        if let Some((flag, path, segment)) = self.unknown_segments().into_iter().next() {
            let place = if flag.is_empty() { path } else { format!("flag {flag}: {path}") };
            let message =
                format!("{place}: asks about segment {segment}, which is not among the definitions");
            return Err(Failure::usage(message).note(WITH_SEGMENTS));
        }
        let segments = self
            .segments
            .iter()
            .map(|segment| {
                let key = key_of(&segment.name);
                let list = self.units.get(&segment.name);
                let list = list.map(|units| UnitList::new(Arc::new([units.as_slice().into()]), KEY.id()));
                let compiled = compile_segment(segment, list)
                    .map_err(|error| Failure::usage(format!("segment {key}: {error}")))?;
                let id = self.environment.name.strip_prefix("environments/").unwrap_or_default().to_owned();
                Ok::<_, Failure>((id, key.to_owned(), Some(compiled)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let compiled = self
            .flags
            .iter()
            .map(|flag| {
                compile(flag, &self.environment)
                    .map_err(|error| Failure::usage(format!("flag {}: {error}", key_of(&flag.name))))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Snapshot::empty().with_segments(segments).apply(compiled, 1, now_ms))
    }
}

/// The way out for whoever asks about a segment that a file does not hold.
pub const WITH_SEGMENTS: &str = "give them with --segments FILE, as `segment list -o yaml` prints them; `units: [user-1]` names who is on a list";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_a_flag_and_a_list_are_told_apart() {
        let document =
            r#"{"flags": {"a": {"state": "ENABLED", "variants": {"on": true}, "defaultVariant": "on"}}}"#;
        let flag = "name: a\ntype: VALUE_TYPE_BOOLEAN\nvariants: {'on': true}\ndefaultVariant: 'on'\n";
        let listed = format!("{{\"flags\": [{}]}}", serde_yaml_ng::from_str::<Json>(flag).unwrap());
        for text in [document, flag, listed.as_str()] {
            let read = parse(text, "p").unwrap();
            assert_eq!(read.flags[0].name, "environments/p/flags/a", "{text}");
            assert_eq!(read.snapshot(0).unwrap().flags("p").count(), 1);
        }
        assert!(parse("7", "p").unwrap_err().contains("flagd document"));
        assert!(parse("variants: {}", "p").unwrap_err().contains("flags[0].name"));
    }

    #[test]
    fn segments_come_in_a_file_of_their_own_with_who_is_on_their_lists() {
        use featureops_evaluation::{Context, evaluate};
        let flag = "name: a\ntype: VALUE_TYPE_BOOLEAN\nvariants: {'on': true, 'off': false}\ndefaultVariant: 'off'\n\
                    rules: [{id: r, variant: 'on', conditions: [{operator: IN_SEGMENT, values: [beta]}]}]\n";
        let mut read = parse(flag, "p").unwrap();
        let missing = read.snapshot(0).unwrap_err();
        assert!(
            missing.message.contains("flag a: rules[0].conditions: asks about segment beta"),
            "{missing:?}"
        );
        let segments = "segments:\n- {name: environments/q/segments/beta, clauses: [{conditions: [{operator: IN_SEGMENT, \
                        values: [staff]}]}]}\n- {name: staff, units: [ada, bob, ada]}\n";
        let (segments, units) = parse_segments(segments, "p").unwrap();
        assert_eq!((segments.len(), segments[1].unit_count), (2, 2));
        (read.segments, read.units) = (segments[..1].to_vec(), BTreeMap::new());
        let below = read.snapshot(0).unwrap_err();
        assert!(below.message.starts_with("segments.beta.clauses[0]: asks about segment staff"), "{below:?}");
        (read.segments, read.units) = (segments, units);
        let snapshot = read.snapshot(0).unwrap();
        for (unit, variant) in [("ada", "on"), ("eve", "off")] {
            let attributes =
                prost_types::Struct { fields: [("targetingKey".to_owned(), unit.into())].into() };
            let context = Context::new(&attributes).with_unit_key(&KEY);
            assert_eq!(evaluate(&snapshot, "p", "a", &context, 0).variant, Some(variant), "{unit}");
        }
        assert!(parse_segments(r#"[{"clauses": []}]"#, "p").unwrap_err().starts_with("segments[0].name"));
        assert!(parse_segments("name: a\nunits: 7\n", "p").unwrap_err().starts_with("segments[0].units"));
    }
}
