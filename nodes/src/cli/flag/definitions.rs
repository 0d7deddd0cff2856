//! Definitions to test or to look through: of the server, or of a file without one.

use std::path::Path;

use featureops_evaluation::{Snapshot, compile, flagd};
use featureops_proto::{Collection, Name, v1};
use serde_json::Value as Json;

use super::definition::easier;
use crate::cli::failure::Failure;
use crate::cli::render::{self, key_of};
use crate::cli::session::Session;

/// Flags and what they share.
#[derive(Debug, Default)]
pub struct Definitions {
    pub environment: v1::Environment,
    pub flags: Vec<v1::Flag>,
    /// Of the server; a file has none.
    pub segments: Vec<v1::Segment>,
}

/// Those of the server.
pub async fn fetch(session: &Session) -> Result<Definitions, Failure> {
    let environment = crate::cli::environment::fetch(session, &session.parent()).await?;
    let segments = crate::cli::segment::fetch_all(session).await?.segments;
    Ok(Definitions { environment, flags: super::fetch_all(session, false).await?.flags, segments })
}

/// Those of a file: a flagd document, a flag, or a list of flags as `flag list -o yaml` prints it.
///
/// # Errors
/// Names the file and the place in it.
pub fn read(path: &Path, environment: &str) -> Result<Definitions, Failure> {
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
        let segments = Vec::new();
        return Ok(Definitions { environment: read.environment, flags: read.flags, segments });
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
    Ok(Definitions { environment, flags, segments: Vec::new() })
}

impl Definitions {
    /// What a node would evaluate, as of log time `now_ms`.
    ///
    /// # Errors
    /// Names the flag that does not compile, and the place in it.
    pub fn snapshot(&self, now_ms: i64) -> Result<Snapshot, Failure> {
        let compiled = self
            .flags
            .iter()
            .map(|flag| {
                compile(flag, &self.environment)
                    .map_err(|error| Failure::usage(format!("flag {}: {error}", key_of(&flag.name))))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Snapshot::empty().apply(compiled, 1, now_ms))
    }
}

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
}
