//! Messages as text: canonical proto3 JSON, the same as YAML, and back from files; values and numbers for tables.
//!
//! JSON comes from the descriptors and not from hand-written code, so that a field added to the API is printed and
//! read without a change here.

use std::sync::OnceLock;

use featureops_proto::v1;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::failure::Failure;
use super::reading::{open, text_within};
use crate::fronts::json::{Json, value};
use crate::nearest::nearest;

/// A public message and its full name, by which its descriptor is found.
pub trait Named: Message + Default {
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ident),* $(,)?) => {
        $(impl Named for v1::$message {
            const NAME: &'static str = concat!("featureops.v1.", stringify!($message));
        })*
    };
}

named!(
    AuditRecord,
    BackupManifest,
    BackupManifests,
    UpgradePlan,
    BudgetsStatus,
    CreateTokenResponse,
    ListTokensResponse,
    RebalanceOwnersResponse,
    RevokeTokenResponse,
    Token,
    Cluster,
    ListSchedulesResponse,
    Schedule,
    Decision,
    DeleteHoldoutResponse,
    DeleteLayerResponse,
    DeleteSegmentResponse,
    Environment,
    Experiment,
    EraseUnitResponse,
    ExperimentSample,
    ExperimentSeries,
    ExperimentStatus,
    ExplainResponse,
    Flag,
    Holdout,
    ImportFlagsResponse,
    Layer,
    PromoteFlagsResponse,
    ListAuditResponse,
    ListDecisionsResponse,
    ListEnvironmentsResponse,
    ListExperimentsResponse,
    ListFlagsResponse,
    ListFlagVersionsResponse,
    ListHoldoutsResponse,
    ListLayersResponse,
    ListMetricsResponse,
    ListSegmentsResponse,
    Metric,
    NodeHealth,
    Oversight,
    RaiseAlarmResponse,
    ReplayDecisionResponse,
    Segment,
    TestSegmentResponse,
    UpdateSegmentUnitsResponse,
    VerifyAuditResponse,
);

fn descriptor(name: &str) -> Result<MessageDescriptor, Failure> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(featureops_proto::DESCRIPTORS).ok())
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(name))
        .ok_or_else(|| Failure::internal(format!("no descriptor of {name}")))
}

fn dynamic<M: Named>(message: &M) -> Result<DynamicMessage, Failure> {
    DynamicMessage::decode(descriptor(M::NAME)?, message.encode_to_vec().as_slice())
        .map_err(|error| Failure::internal(format!("{} could not be rendered: {error}", M::NAME)))
}

/// Canonical JSON, indented.
pub fn json<M: Named>(message: &M) -> Result<String, Failure> {
    serde_json::to_string_pretty(&dynamic(message)?).map_err(|error| Failure::internal(error.to_string()))
}

/// Canonical JSON on one line, for streams.
pub fn json_line<M: Named>(message: &M) -> Result<String, Failure> {
    serde_json::to_string(&dynamic(message)?).map_err(|error| Failure::internal(error.to_string()))
}

/// The canonical JSON as YAML.
pub fn yaml<M: Named>(message: &M) -> Result<String, Failure> {
    yaml_text(&dynamic(message)?)
}

/// Words that YAML 1.1, which most tools still read, takes for true and false: `on: ...` would be the key `true`.
const YAML_1_1_WORDS: [&str; 8] = ["on", "off", "yes", "no", "y", "n", "true", "false"];

/// Any value as YAML, which YAML 1.1 and 1.2 read alike; ends with a line's end.
///
/// # Errors
/// It cannot be written.
pub fn yaml_text(value: &impl serde::Serialize) -> Result<String, Failure> {
    let fault = |error: serde_yaml_ng::Error| Failure::internal(error.to_string());
    let mut value = serde_yaml_ng::to_value(value).map_err(fault)?;
    // The writer quotes what 1.2 would misread and cannot be told of more. So each word goes through it between marks, which
    // stand nowhere else in the text, and the marks become quotes.
    let mut mark = "Q".to_owned();
    let plain = serde_yaml_ng::to_string(&value).map_err(fault)?;
    while plain.contains(&mark) {
        mark.push('Q');
    }
    mark_words(&mut value, &mark);
    let mut text = serde_yaml_ng::to_string(&value).map_err(fault)?.replace(&mark, "\"");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn mark_words(value: &mut serde_yaml_ng::Value, mark: &str) {
    use serde_yaml_ng::Value as Yaml;
    match value {
        Yaml::String(text) if YAML_1_1_WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) => {
            *text = format!("{mark}{text}{mark}");
        }
        Yaml::Sequence(items) => items.iter_mut().for_each(|item| mark_words(item, mark)),
        Yaml::Mapping(fields) => {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(mut key, mut value)| {
                    mark_words(&mut key, mark);
                    mark_words(&mut value, mark);
                    (key, value)
                })
                .collect();
        }
        _ => {}
    }
}

/// Largest definition file.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reads a message from a file of canonical JSON or YAML (by its ending; `-` is standard input, either).
///
/// # Errors
/// Names the file, and for an unknown field the nearest known one.
pub fn read_message<M: Named>(path: &std::path::Path) -> Result<M, Failure> {
    parse_message(&read_text(path)?)
        .map_err(|message| Failure::usage(format!("{}: {message}", path.display())))
}

/// Reads a definition's text; `-` is standard input.
///
/// # Errors
/// Names the file.
pub fn read_text(path: &std::path::Path) -> Result<String, Failure> {
    let read = open(path).and_then(|source| text_within(source, MAX_FILE_BYTES, "; split it"));
    read.map_err(|message| Failure::usage(format!("{}: {message}", path.display())))
}

/// Parses canonical JSON or YAML.
pub fn parse_message<M: Named>(text: &str) -> Result<M, String> {
    message_of(parse_object(text)?)
}

/// Parses JSON or YAML. JSON is tried first: nearly all of it is YAML too, but its errors are clearer.
pub fn parse_object(text: &str) -> Result<serde_json::Value, String> {
    if text.trim_start().starts_with(['{', '[']) {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        serde_yaml_ng::from_str(text).map_err(|error| error.to_string())
    }
}

/// The message that canonical JSON holds.
pub fn message_of<M: Named>(parsed: serde_json::Value) -> Result<M, String> {
    let descriptor = descriptor(M::NAME).map_err(|failure| failure.message)?;
    if !parsed.is_object() {
        return Err(format!("must hold one {}", M::NAME));
    }
    let dynamic = DynamicMessage::deserialize(descriptor.clone(), parsed)
        .map_err(|error| with_nearest(&descriptor, &error.to_string()))?;
    M::decode(dynamic.encode_to_vec().as_slice()).map_err(|error| error.to_string())
}

/// Adds the nearest field name to an error about an unknown one.
fn with_nearest(descriptor: &MessageDescriptor, error: &str) -> String {
    let unknown =
        error.split_once("field name '").and_then(|(_, rest)| rest.split_once('\'')).map(|(name, _)| name);
    let Some(unknown) = unknown else { return error.to_owned() };
    let mut names = std::collections::BTreeSet::new();
    field_names(descriptor, &mut names, 0);
    match nearest(unknown, names.iter().map(String::as_str)) {
        Some(near) => format!("{error}; did you mean '{near}'?"),
        None => error.to_owned(),
    }
}

fn field_names(descriptor: &MessageDescriptor, names: &mut std::collections::BTreeSet<String>, depth: usize) {
    for field in descriptor.fields() {
        names.insert(field.json_name().to_owned());
        // Definitions nest four deep (flag, rule, condition, value); the bound also ends recursive messages.
        if depth < 4
            && let Some(inner) = field.kind().as_message()
        {
            field_names(inner, names, depth + 1);
        }
    }
}

/// A value as JSON, as it stands in a rule's text.
#[must_use]
pub fn value_text(value: &prost_types::Value) -> String {
    serde_json::to_string(&Json(value)).unwrap_or_default()
}

/// JSON as a protobuf value.
#[must_use]
pub fn value_of_json(json: &serde_json::Value) -> prost_types::Value {
    value(json.clone())
}

/// Six significant digits without noise: `0.190183`, `51.3417`, `1.2e-9`.
#[must_use]
pub fn number_text(number: f64) -> String {
    if !number.is_finite() {
        return "-".to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    let magnitude = number.abs().log10().floor() as i32;
    if !(-5..15).contains(&magnitude) {
        return format!("{number:.5e}");
    }
    let decimals = (5 - magnitude).clamp(0, 12) as usize;
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Basis points as a percentage: 2500 → `25 %`.
#[must_use]
pub fn share_text(basis_points: u32) -> String {
    let whole = basis_points / 100;
    match basis_points % 100 {
        0 => format!("{whole} %"),
        part if part % 10 == 0 => format!("{whole}.{} %", part / 10),
        part => format!("{whole}.{part:02} %"),
    }
}

/// A percentage as basis points: 12.34 × 100 is 1233.9999…, and what is within a millionth of an integer was meant as one.
#[must_use]
pub fn basis_points_of_percent(percent: f64) -> f64 {
    let scaled = percent * 100.0;
    if (scaled - scaled.round()).abs() < 1e-6 { scaled.round() } else { scaled }
}

/// A relative change as a signed percentage: 0.0123 → `+1.23 %`; what rounds to nothing has no sign of less.
#[must_use]
pub fn percent_text(fraction: f64) -> String {
    let text = format!("{:+.2} %", fraction * 100.0);
    if text == "-0.00 %" { "+0.00 %".to_owned() } else { text }
}

/// A part of a whole: 0.0123 → `1.23 %`.
#[must_use]
pub fn part_text(fraction: f64) -> String {
    format!("{:.2} %", fraction * 100.0)
}

/// 12345678 → `12,345,678`.
#[must_use]
pub fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The last segment of a resource name: what people type.
#[must_use]
pub fn key_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// An enum's proto name in small letters with spaces: `VALUE_TYPE_BOOLEAN` → `boolean`.
#[must_use]
pub fn word_of(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag() -> v1::Flag {
        v1::Flag {
            name: "environments/production/flags/checkout".into(),
            r#type: v1::ValueType::Boolean.into(),
            variants: [("on".to_owned(), value_of_json(&serde_json::json!(true)))].into(),
            default_variant: Some("on".into()),
            rules: vec![super::super::rule::parse_rule(r#"age >= 18 -> on"#, "adults").unwrap()],
            flag_version: 7,
            create_time: Some(prost_types::Timestamp { seconds: 1_714_979_289, nanos: 0 }),
            ..v1::Flag::default()
        }
    }

    #[test]
    fn json_is_canonical() {
        let expected = r#"{"name":"environments/production/flags/checkout","type":"VALUE_TYPE_BOOLEAN","variants":{"on":true},"defaultVariant":"on","rules":[{"id":"adults","conditions":[{"attribute":"age","operator":"GREATER_OR_EQUAL","values":[18.0]}],"variant":"on"}],"flagVersion":"7","createTime":"2024-05-06T07:08:09Z"}"#;
        assert_eq!(json_line(&flag()).unwrap(), expected);
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let flag = flag();
        assert_eq!(parse_message::<v1::Flag>(&json(&flag).unwrap()).unwrap(), flag);
        assert_eq!(parse_message::<v1::Flag>(&yaml(&flag).unwrap()).unwrap(), flag);
    }

    #[test]
    fn yaml_reads_the_same_by_the_old_rules_and_ends_its_line() {
        let mut flag = flag();
        let variants = ["on", "Off", "NO", "QonQ", "y"]
            .map(|key| (key.to_owned(), value_of_json(&"on\noff: QQ".into())));
        flag.variants = variants.into();
        let text = yaml(&flag).unwrap();
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{text:?}");
        for line in [
            "  \"on\":",
            "  \"Off\":",
            "  \"NO\":",
            "  \"y\":",
            "  QonQ:",
            "defaultVariant: \"on\"",
            "  variant: \"on\"",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} in {text}");
        }
        assert_eq!(parse_message::<v1::Flag>(&text).unwrap(), flag);
        assert_eq!(yaml_text(&serde_json::json!({})).unwrap(), "{}\n");
    }

    #[test]
    fn an_unknown_field_is_named_with_its_nearest() {
        let error = parse_message::<v1::Flag>(r#"{"defaultVarient": "on"}"#).unwrap_err();
        assert!(
            error.contains("defaultVarient") && error.contains("did you mean 'defaultVariant'?"),
            "{error}"
        );
        let error = parse_message::<v1::Flag>("rules: [{conditons: []}]").unwrap_err();
        assert!(error.contains("did you mean 'conditions'?"), "{error}");
        assert!(parse_message::<v1::Flag>("[]").is_err());
        assert!(parse_message::<v1::Flag>("").is_err());
    }

    #[test]
    fn numbers_read_well() {
        for (number, text) in [
            (0.190_182_7, "0.190183"),
            (51.341_7, "51.3417"),
            (0.0, "0"),
            (-3.0, "-3"),
            (1_234_567.0, "1234567"),
            (1.2e-9, "1.20000e-9"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number_text(number), text);
        }
        assert_eq!(
            (share_text(2_500), share_text(1_250), share_text(1_234)),
            ("25 %".into(), "12.5 %".into(), "12.34 %".into())
        );
        assert_eq!(count_text(12_345_678), "12,345,678");
        assert_eq!(percent_text(-0.0123), "-1.23 %");
        assert_eq!(percent_text(-0.000_01), "+0.00 %");
    }
}
