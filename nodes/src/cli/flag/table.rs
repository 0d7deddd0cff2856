//! The table of a flag test: contexts, and what each should be answered.
//!
//! | field | meaning |
//! |---|---|
//! | `flag` | the flag's key |
//! | `unit` | the targeting key |
//! | `context` | attributes, an object; in a CSV every further column is an attribute |
//! | `variant` | expected; `null` is the code default |
//! | `value` | expected |
//! | `reason` | expected, as STATIC or targeting_match |
//! | `error` | expected, as FLAG_NOT_FOUND |
//! | `name` | shown when it fails |
//!
//! What is not named (in a CSV: an empty cell) is not compared. A case that compares nothing is a mistake, and is said.

use std::path::Path;

use featureops_proto::v1::{EvaluationError, Reason};
use prost_types::{Struct, Value};
use serde_json::Value as Json;

use crate::cli::failure::Failure;
use crate::cli::render::{self, value_of_json};
use crate::nearest::suggestion;

/// Cases of one table.
const CASES_MAX: usize = 100_000;
const FIELDS: &[&str] = &["flag", "unit", "context", "variant", "value", "reason", "error", "name"];

/// One line of the table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Case {
    /// What people find it by: its name or its place.
    pub name: String,
    pub flag: String,
    pub context: Struct,
    /// Expected; the inner one absent is the code default.
    pub variant: Option<Option<String>>,
    pub value: Option<Value>,
    pub reason: Option<Reason>,
    pub error: Option<EvaluationError>,
}

/// Reads a table: CSV by its ending, else JSON or YAML.
///
/// # Errors
/// Names the file and the case.
pub fn read(path: &Path) -> Result<Vec<Case>, Failure> {
    let text = render::read_text(path)?;
    let csv = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    let cases = if csv { of_csv(&text) } else { of_json(&text) };
    cases
        .and_then(|cases| match cases.len() {
            0 => Err("holds no case".to_owned()),
            1..=CASES_MAX => Ok(cases),
            more => Err(format!("holds {more} cases, at most {CASES_MAX} are run at once; split it")),
        })
        .map_err(|message| Failure::usage(format!("{}: {message}", path.display())))
}

fn of_json(text: &str) -> Result<Vec<Case>, String> {
    let mut parsed = render::parse_object(text)?;
    if let Some(cases) = parsed.get_mut("cases") {
        parsed = cases.take();
    }
    let Json::Array(cases) = parsed else {
        return Err("must be a list of cases, or an object with one as 'cases'".to_owned());
    };
    cases
        .into_iter()
        .enumerate()
        .map(|(at, case)| {
            let place = format!("case {}", at + 1);
            of_fields(&place, case).map_err(|message| format!("{place}: {message}"))
        })
        .collect()
}

fn of_csv(text: &str) -> Result<Vec<Case>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let columns = reader.headers().map_err(|error| error.to_string())?.clone();
    let mut cases = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let (mut fields, mut context) = (serde_json::Map::new(), serde_json::Map::new());
        for (column, cell) in columns.iter().zip(&record).filter(|(_, cell)| !cell.is_empty()) {
            let read = || serde_json::from_str(cell).unwrap_or_else(|_| Json::String(cell.to_owned()));
            match column {
                "variant" if cell == "null" => fields.insert(column.to_owned(), Json::Null),
                "value" => fields.insert(column.to_owned(), read()),
                // A context as a whole is JSON in its cell; a column is one attribute.
                "context" => match read() {
                    Json::Object(given) => {
                        context.extend(given);
                        None
                    }
                    _ => return Err(format!("line {line}: context: must be a JSON object")),
                },
                own if FIELDS.contains(&own) => fields.insert(own.to_owned(), Json::String(cell.to_owned())),
                attribute => {
                    let attribute = attribute.strip_prefix("context.").unwrap_or(attribute);
                    context.insert(attribute.to_owned(), read())
                }
            };
        }
        fields.insert("context".to_owned(), Json::Object(context));
        let place = format!("line {line}");
        cases.push(of_fields(&place, Json::Object(fields)).map_err(|message| format!("{place}: {message}"))?);
    }
    Ok(cases)
}

fn of_fields(place: &str, given: Json) -> Result<Case, String> {
    let Json::Object(fields) = given else { return Err("must be an object".to_owned()) };
    let mut case = Case { name: place.to_owned(), ..Case::default() };
    let mut unit = None;
    for (field, given) in fields {
        let text = |given: Json| match given {
            Json::String(text) => Ok(text),
            other => Err(format!("{field}: '{other}' is not text")),
        };
        match field.as_str() {
            "flag" => case.flag = text(given)?,
            "name" => case.name = format!("{place} ({})", text(given)?),
            "unit" => unit = Some(text(given)?),
            "context" => match value_of_json(&given).kind {
                Some(prost_types::value::Kind::StructValue(context)) => case.context = context,
                _ => return Err("context: must be an object".to_owned()),
            },
            "variant" if given.is_null() => case.variant = Some(None),
            "variant" => case.variant = Some(Some(text(given)?)),
            "value" => case.value = Some(value_of_json(&given)),
            "reason" => {
                let word = word(&text(given)?);
                let known = Reason::from_str_name(&word).filter(|reason| *reason != Reason::Unspecified);
                case.reason = Some(known.ok_or_else(|| {
                    format!(
                        "reason: '{word}' is none; {}",
                        suggestion(
                            &word,
                            &[
                                "STATIC",
                                "TARGETING_MATCH",
                                "SPLIT",
                                "DEFAULT",
                                "DISABLED",
                                "TRIPPED",
                                "STALE",
                                "ERROR"
                            ]
                        )
                    )
                })?);
            }
            "error" => {
                let word = word(&text(given)?);
                let known = EvaluationError::from_str_name(&word)
                    .filter(|error| *error != EvaluationError::Unspecified);
                case.error = Some(known.ok_or_else(|| {
                    let known = ["FLAG_NOT_FOUND", "TYPE_MISMATCH", "GENERAL", "PARSE_ERROR"];
                    format!("error: '{word}' is none; {}", suggestion(&word, &known))
                })?);
            }
            other => return Err(format!("'{other}' is not known; {}", suggestion(other, FIELDS))),
        }
    }
    if case.flag.is_empty() {
        return Err("flag: is missing".to_owned());
    }
    if case.variant.is_none() && case.value.is_none() && case.reason.is_none() && case.error.is_none() {
        return Err("expects nothing; name a variant, a value, a reason or an error".to_owned());
    }
    if let Some(unit) = unit {
        case.context.fields.insert("targetingKey".to_owned(), unit.into());
    }
    Ok(case)
}

fn word(text: &str) -> String {
    text.trim().to_ascii_uppercase().replace([' ', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_say_the_same() {
        let json = r#"[{"flag": "f", "unit": "u1", "context": {"country": "DE", "age": 18}, "variant": "on", "reason": "targeting match"},
            {"flag": "f", "variant": null, "value": {"a": 1}, "error": "general"}]"#;
        let yaml = "cases:\n- {flag: f, unit: u1, context: {country: DE, age: 18}, variant: 'on', reason: TARGETING_MATCH}\n\
                    - {flag: f, variant: null, value: {a: 1}, error: GENERAL}\n";
        let csv = "flag,unit,variant,value,reason,error,country,context.age\n\
                   f,u1,on,,targeting_match,,DE,18\nf,,null,\"{\"\"a\"\":1}\",,GENERAL,,\n";
        let first = of_json(json).unwrap();
        assert_eq!(of_json(yaml).unwrap(), first);
        let places = |cases: Vec<Case>| -> Vec<Case> {
            cases.into_iter().map(|case| Case { name: String::new(), ..case }).collect()
        };
        assert_eq!(places(of_csv(csv).unwrap()), places(first.clone()));
        assert_eq!(first[0].context.fields["targetingKey"], "u1".into());
        assert_eq!((first[1].variant.clone(), first[0].reason), (Some(None), Some(Reason::TargetingMatch)));
    }

    #[test]
    fn faults_name_the_case_and_the_way_out() {
        for (text, part) in [
            ("7", "a list of cases"),
            (r#"[{"flag": "f"}]"#, "case 1: expects nothing"),
            (r#"[{"variant": "on"}]"#, "case 1: flag: is missing"),
            (r#"[{"flag": "f", "varient": "on"}]"#, "did you mean 'variant'?"),
            (r#"[{"flag": "f", "reason": "STATIK"}]"#, "did you mean 'STATIC'?"),
            (r#"[{"flag": "f", "error": "PARSE"}]"#, "known: FLAG_NOT_FOUND"),
            (r#"[{"flag": "f", "variant": 7}]"#, "variant: '7' is not text"),
        ] {
            let error = of_json(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(of_csv("flag,context,variant\nf,7,on\n").unwrap_err().contains("line 2: context"));
    }
}
