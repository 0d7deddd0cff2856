//! `flag set`: a definition from a file, or from options.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use featureops_proto::Collection::Flags;
use featureops_proto::v1;

use super::show_written;
use crate::cli::failure::{Exit, Failure};
use crate::cli::render::{self, value_of_json};
use crate::cli::rule::parse_named_rule;
use crate::cli::session::{Session, WriteArgs, verb};
use crate::cli::span::parse_span;
use crate::rpc::flag_service_client::FlagServiceClient;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Type {
    Boolean,
    String,
    Number,
    Object,
}

impl Type {
    pub const fn message(self) -> v1::ValueType {
        match self {
            Self::Boolean => v1::ValueType::Boolean,
            Self::String => v1::ValueType::String,
            Self::Number => v1::ValueType::Number,
            Self::Object => v1::ValueType::Object,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Purpose {
    Release,
    Experiment,
    Operational,
    Permanent,
}

impl Purpose {
    const fn message(self) -> v1::Purpose {
        match self {
            Self::Release => v1::Purpose::Release,
            Self::Experiment => v1::Purpose::Experiment,
            Self::Operational => v1::Purpose::Operational,
            Self::Permanent => v1::Purpose::Permanent,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  featureops flag set checkout --type boolean --variant on=true --variant off=false \\
    --default off --safe off --rule 'country = \"DE\" -> on' \\
    --rule 'plan in [\"pro\",\"team\"] and age >= 18 -> split on=2500,off=7500'
  featureops flag set checkout --update --disabled
  featureops flag get checkout -o yaml > flag.yaml && featureops flag set checkout --file flag.yaml

Rules: conditions joined by 'and', an arrow, and a variant, a split in basis points (or percent), or a ramp:
  --rule 'country = \"DE\" -> ramp on from 1% at \"2026-12-01T08:00:00Z\" to 100% at \"2026-12-08T08:00:00Z\" else off'
which grows by itself, second by second; a unit that has its variant keeps it.
'sticky' instead of 'split' keeps who has what: 'beta: always -> sticky new=10%,old=90%', written again under the same id with other
weights, moves as few units as it must, and a variant that grows loses none.
Operators: = != < <= > >= in, not in, starts_with, ends_with, contains, exists, not exists;
and in-segment(NAME,...), not in-segment(NAME,...).
'id: ...' names a rule. Text stands in quotes. An alternative ('or') is another --rule.")]
pub struct SetArgs {
    key: String,
    /// The whole definition as JSON or YAML, as `flag get -o yaml` prints it; `-` reads standard input. Targeting may stand
    /// there as text or as the JSON it is.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["type", "variant", "default", "safe", "rule", "owner", "tag", "description", "disabled", "stale_after", "targeting", "metadata", "purpose", "prerequisite", "no_prerequisites", "update"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    fields: Fields,
    /// Change only what is given; without it the whole definition is replaced.
    #[arg(long)]
    update: bool,
    /// Refuse if the flag changed since this etag was read.
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// What a command names of a flag's definition.
#[derive(Debug, Args)]
pub struct Fields {
    /// The type of every variant's value.
    #[arg(long = "type", id = "type", value_enum)]
    kind: Option<Type>,
    /// A variant and its value, as on=true; objects as JSON. Repeatable.
    #[arg(long, value_name = "NAME=VALUE")]
    variant: Vec<String>,
    /// Served when no rule matches; without one the caller's code default is used.
    #[arg(long, value_name = "VARIANT")]
    default: Option<String>,
    /// Served to everybody when the flag trips.
    #[arg(long, value_name = "VARIANT")]
    safe: Option<String>,
    /// A targeting rule; the first that matches serves. Repeatable, in order.
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    #[arg(long)]
    owner: Option<String>,
    /// Repeatable.
    #[arg(long)]
    tag: Vec<String>,
    #[arg(long)]
    description: Option<String>,
    /// JsonLogic as flagd writes it, instead of rules; @FILE reads a file.
    #[arg(long, value_name = "JSON", conflicts_with = "rule")]
    targeting: Option<String>,
    /// Another flag that must serve one of these variants, as new-cart=on,beta; else the default is served. Repeatable.
    #[arg(long, value_name = "FLAG=VARIANT,...", conflicts_with = "no_prerequisites")]
    prerequisite: Vec<String>,
    /// Rest on no other flag any more.
    #[arg(long)]
    no_prerequisites: bool,
    /// Handed to clients with every answer, as team=payments. Repeatable.
    #[arg(long, value_name = "NAME=VALUE")]
    metadata: Vec<String>,
    /// What the flag is for.
    #[arg(long, value_enum)]
    purpose: Option<Purpose>,
    /// Turn the flag off (or, with --update --disabled=false, on again).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    disabled: Option<bool>,
    /// Serve the safe variant once a node's state is older than this.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    stale_after: Option<std::time::Duration>,
}

pub async fn set(session: &Session, args: SetArgs) -> Result<(), Failure> {
    let name = session.name(Flags, &args.key)?;
    let mut read_etag = String::new();
    let (flag, mask) = match &args.file {
        Some(path) => {
            let mut flag = read_flag(path)?;
            if !flag.name.is_empty() && flag.name != name {
                return Err(Failure::usage(format!("the file defines {}, not {name}", flag.name)));
            }
            flag.name = name;
            // What `flag get` printed carries the etag of what was read: between reading and writing nobody else's
            // change is lost. A file kept as the truth has none.
            read_etag = std::mem::take(&mut flag.etag);
            (flag, Vec::new())
        }
        None => definition(&args, name)?,
    };
    let guarded = args.file.is_some() && args.etag.is_none() && !read_etag.is_empty();
    let etag = args.etag.clone().unwrap_or(read_etag);
    let id = args.write.request.id()?;
    let request = v1::SetFlagRequest {
        flag: Some(flag),
        update_mask: args.update.then_some(prost_types::FieldMask { paths: mask }),
        request_id: id.clone(),
        validate_only: args.write.dry_run,
        etag,
    };
    let flag = session
        .client
        .write(&id, request, |channel, request| async move {
            FlagServiceClient::new(channel).set_flag(request).await
        })
        .await
        .map_err(|failure| match failure.exit {
            Exit::Conflict if guarded => failure.note(
                "the file carries the etag it was read with: read it again, or remove the etag to overwrite",
            ),
            _ => failure,
        })?;
    show_written(session, &flag, verb(args.write.dry_run, "set", "would set"))
}

/// The flag the options describe, and the fields they name.
fn definition(args: &SetArgs, name: String) -> Result<(v1::Flag, Vec<String>), Failure> {
    let (flag, mask) = named(&args.fields, name)?;
    if !args.update && (args.fields.kind.is_none() || args.fields.variant.is_empty()) {
        return Err(Failure::usage("a definition needs --type and --variant, or --file")
            .note("to change only what is given, add --update"));
    }
    if args.update && mask.is_empty() {
        return Err(Failure::usage("--update needs something to change"));
    }
    Ok((flag, mask))
}

/// The fields that options name, in an otherwise empty flag.
pub fn named(args: &Fields, name: String) -> Result<(v1::Flag, Vec<String>), Failure> {
    let mut flag = v1::Flag { name, ..v1::Flag::default() };
    let mut mask = Vec::new();
    let mut named = |field: &str| mask.push(field.to_owned());
    if let Some(kind) = args.kind {
        flag.r#type = kind.message().into();
        named("type");
    }
    if !args.variant.is_empty() {
        named("variants");
    }
    for text in &args.variant {
        let (variant, value) = variant(text, args.kind)?;
        if flag.variants.insert(variant.clone(), value).is_some() {
            return Err(Failure::usage(format!("--variant {variant} is given twice")));
        }
    }
    if let Some(default) = &args.default {
        flag.default_variant = Some(default.clone());
        named("default_variant");
    }
    if let Some(safe) = &args.safe {
        flag.safe_variant = Some(safe.clone());
        named("safe_variant");
    }
    for (place, text) in args.rule.iter().enumerate() {
        let (id, mut rule) = parse_named_rule(text)
            .map_err(|error| Failure::usage(format!("--rule {}: {error}", place + 1)))?;
        let sticky = matches!(&rule.serve, Some(v1::rule::Serve::Split(split)) if split.sticky);
        if sticky && id.is_none() {
            return Err(Failure::usage(format!(
                "--rule {}: a sticky split keeps its map under its rule's id, which must be written: 'beta: always -> sticky …'",
                place + 1
            )));
        }
        rule.id = id.unwrap_or_else(|| format!("rule-{}", place + 1));
        flag.rules.push(rule);
    }
    if !args.rule.is_empty() {
        named("rules");
        // One or the other: what is given takes the other's place.
        named("targeting");
    }
    if let Some(owner) = &args.owner {
        flag.owner.clone_from(owner);
        named("owner");
    }
    if !args.tag.is_empty() {
        flag.tags.clone_from(&args.tag);
        named("tags");
    }
    if let Some(description) = &args.description {
        flag.description.clone_from(description);
        named("description");
    }
    if let Some(disabled) = args.disabled {
        flag.disabled = disabled;
        named("disabled");
    }
    if let Some(span) = args.stale_after {
        flag.stale_after_seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        named("stale_after_seconds");
    }
    if let Some(targeting) = &args.targeting {
        flag.targeting = match targeting.strip_prefix('@') {
            Some(path) => render::read_text(std::path::Path::new(path))?,
            None => targeting.clone(),
        };
        named("targeting");
        if args.rule.is_empty() {
            named("rules");
        }
    }
    if !args.prerequisite.is_empty() || args.no_prerequisites {
        flag.prerequisites =
            args.prerequisite.iter().map(|text| prerequisite(text)).collect::<Result<_, _>>()?;
        named("prerequisites");
    }
    if !args.metadata.is_empty() {
        flag.metadata = Some(metadata(&args.metadata)?);
        named("metadata");
    }
    if let Some(purpose) = args.purpose {
        flag.purpose = purpose.message().into();
        named("purpose");
    }
    Ok((flag, mask))
}

/// `on=true` by the flag's type. Without a type (an update) a value that reads as JSON is one.
fn variant(text: &str, kind: Option<Type>) -> Result<(String, prost_types::Value), Failure> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(Failure::usage(format!("--variant '{text}' must be NAME=VALUE, as on=true")));
    };
    let wrong = |wanted: &str| Failure::usage(format!("--variant {name}: '{value}' is not {wanted}"));
    let json: Option<serde_json::Value> = serde_json::from_str(value).ok();
    let json = match (kind, json) {
        (Some(Type::String), _) => serde_json::Value::String(value.to_owned()),
        (Some(Type::Boolean), Some(json)) if json.is_boolean() => json,
        (Some(Type::Boolean), _) => return Err(wrong("true or false")),
        (Some(Type::Number), Some(json)) if json.is_number() => json,
        (Some(Type::Number), _) => return Err(wrong("a number")),
        (Some(Type::Object), Some(json)) if json.is_object() => json,
        (Some(Type::Object), _) => return Err(wrong("a JSON object")),
        (None, Some(json)) => json,
        (None, None) => serde_json::Value::String(value.to_owned()),
    };
    Ok((name.to_owned(), value_of_json(&json)))
}

/// `new-cart=on,beta`.
fn prerequisite(text: &str) -> Result<v1::Prerequisite, Failure> {
    let (flag, variants) = text.split_once('=').unwrap_or_default();
    let variants: Vec<String> = variants.split(',').map(|variant| variant.trim().to_owned()).collect();
    if flag.is_empty() || variants.iter().any(String::is_empty) {
        let message = format!("--prerequisite '{text}' must be FLAG=VARIANT,..., as new-cart=on,beta");
        return Err(Failure::usage(message));
    }
    Ok(v1::Prerequisite { flag: flag.trim().to_owned(), variants })
}

/// Names and values as clients get them; a value that reads as JSON is one (18, true, "18"), else it is text.
pub fn metadata(given: &[String]) -> Result<prost_types::Struct, Failure> {
    let mut fields = std::collections::BTreeMap::new();
    for text in given {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Failure::usage(format!("--metadata '{text}' must be NAME=VALUE, as team=payments")));
        };
        let value =
            serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::String(value.to_owned()));
        fields.insert(name.to_owned(), value_of_json(&value));
    }
    Ok(prost_types::Struct { fields })
}

fn read_flag(path: &std::path::Path) -> Result<v1::Flag, Failure> {
    let fault = |message: String| Failure::usage(format!("{}: {message}", path.display()));
    let mut given = render::parse_object(&render::read_text(path)?).map_err(fault)?;
    easier(&mut given);
    render::message_of(given).map_err(fault)
}

/// What a person writes by hand and the message's own form knows otherwise: targeting as the JSON it is, and a purpose in
/// small letters.
pub fn easier(flag: &mut serde_json::Value) {
    let Some(fields) = flag.as_object_mut() else { return };
    if let Some(targeting) = fields.get_mut("targeting").filter(|targeting| targeting.is_object()) {
        *targeting = serde_json::Value::String(targeting.to_string());
    }
    if let Some(serde_json::Value::String(purpose)) = fields.get_mut("purpose") {
        *purpose = purpose.to_ascii_uppercase();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flag::describe;
    use crate::cli::page::Page;
    use crate::cli::render::value_text;
    use clap::Parser;

    #[derive(Parser)]
    struct Harness {
        #[command(flatten)]
        set: SetArgs,
    }

    fn parsed(args: &[&str]) -> Result<(v1::Flag, Vec<String>), Failure> {
        let harness =
            Harness::try_parse_from(["set"].iter().chain(args)).unwrap_or_else(|error| panic!("{error}"));
        definition(&harness.set, "environments/production/flags/checkout".to_owned())
    }

    #[test]
    fn quick_options_make_a_definition() {
        let (flag, _) = parsed(&[
            "checkout",
            "--type",
            "boolean",
            "--variant",
            "on=true",
            "--variant",
            "off=false",
            "--default",
            "off",
            "--safe",
            "off",
            "--rule",
            "country = \"DE\" -> on",
            "--rule",
            "beta: vip exists -> split on=25%,off=75%",
            "--owner",
            "payments",
            "--tag",
            "a",
            "--tag",
            "b",
            "--stale-after",
            "5m",
        ])
        .unwrap();
        assert_eq!(flag.r#type(), v1::ValueType::Boolean);
        assert_eq!(flag.variants.len(), 2);
        assert_eq!(flag.rules.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["rule-1", "beta"]);
        assert_eq!((flag.tags.len(), flag.stale_after_seconds), (2, 300));
        let mut page = Page::new(false);
        describe(&mut page, &flag);
        let text = page.into_text();
        assert!(text.starts_with("checkout is active\n"), "{text}");
        assert!(text.contains("rule-1  country = \"DE\" -> on\n"), "{text}");
        assert!(text.contains("beta    vip exists -> split on=2500,off=7500\n"), "{text}");
    }

    #[test]
    fn a_sticky_split_asks_for_an_id_that_is_written() {
        let variants = ["--variant", "on=true", "--variant", "off=false"];
        let words = ["checkout", "--type", "boolean"].into_iter().chain(variants);
        let rule = |text: &str| {
            let words: Vec<&str> = words.clone().chain(["--rule", text]).collect();
            parsed(&words)
        };
        let (flag, _) = rule("beta: always -> sticky on=25%,off=75%").unwrap();
        assert_eq!(flag.rules[0].id, "beta");
        // The name that it would get by itself, written, is one.
        assert_eq!(rule("rule-1: always -> sticky on=25%,off=75%").unwrap().0.rules[0].id, "rule-1");
        // And an attribute of that name is none.
        for text in ["always -> sticky on=25%,off=75%", "rule-1 exists -> sticky on=25%,off=75%"] {
            let refused = rule(text).unwrap_err().render();
            assert!(refused.contains("must be written"), "{text}: {refused}");
        }
    }

    #[test]
    fn an_update_names_only_what_is_given() {
        let (flag, mask) = parsed(&["checkout", "--update", "--disabled=false"]).unwrap();
        assert_eq!((flag.disabled, mask), (false, vec!["disabled".to_owned()]));
        assert!(parsed(&["checkout", "--disabled"]).unwrap_err().render().contains("--update"));
        assert!(parsed(&["checkout", "--update"]).is_err());
    }

    #[test]
    fn variants_have_the_flags_type() {
        for (text, kind, part) in [
            ("on", Some(Type::Boolean), "NAME=VALUE"),
            ("on=yes", Some(Type::Boolean), "true or false"),
            ("n=x", Some(Type::Number), "a number"),
            ("o=[1]", Some(Type::Object), "a JSON object"),
        ] {
            assert!(variant(text, kind).unwrap_err().message.contains(part), "{text}");
        }
        assert_eq!(value_text(&variant("s=true", Some(Type::String)).unwrap().1), "\"true\"");
        assert_eq!(value_text(&variant("o={\"a\":1}", Some(Type::Object)).unwrap().1), "{\"a\":1}");
        let error =
            parsed(&["c", "--type", "boolean", "--variant", "on=true", "--rule", "x = y -> on"]).unwrap_err();
        assert!(error.render().contains("--rule 1: text stands in quotes"), "{}", error.render());
    }

    #[test]
    fn targeting_metadata_and_purpose_come_by_file_and_by_option() {
        let options = ["checkout", "--update", "--purpose", "release", "--metadata", "team=payments"];
        let targeting = ["--metadata", "level=3", "--targeting", r#"{"if":[true,"on"]}"#];
        let (flag, mask) = parsed(&[options.as_slice(), &targeting].concat()).unwrap();
        assert_eq!(mask, ["targeting", "rules", "metadata", "purpose"]);
        assert_eq!(flag.targeting, r#"{"if":[true,"on"]}"#);
        assert_eq!(flag.metadata.as_ref().unwrap().fields["level"], 3.0.into());
        let mut folder = tempfile::NamedTempFile::new().unwrap();
        let text = "purpose: release\nmetadata: {team: payments, level: 3}\ntargeting: {if: [true, 'on']}\n";
        std::io::Write::write_all(&mut folder, text.as_bytes()).unwrap();
        let read = read_flag(folder.path()).unwrap();
        assert_eq!(
            (read.targeting, read.purpose, read.metadata),
            (flag.targeting, flag.purpose, flag.metadata)
        );
        assert!(metadata(&["team".to_owned()]).is_err());
    }

    #[test]
    fn prerequisites_and_forced_units_are_given_and_shown() {
        let (mut flag, mask) =
            parsed(&["checkout", "--update", "--prerequisite", "new-cart=on, beta", "--prerequisite", "b=x"])
                .unwrap();
        assert_eq!(mask, ["prerequisites"]);
        assert_eq!(flag.prerequisites[0].variants, ["on", "beta"]);
        flag.forced.insert("ada".to_owned(), "on".to_owned());
        let mut page = Page::new(false);
        describe(&mut page, &flag);
        let text = page.into_text();
        for line in ["new-cart  on, beta\n", "b         x\n", "ada   on\n"] {
            assert!(text.contains(line), "{line}{text}");
        }
        let (flag, mask) = parsed(&["checkout", "--update", "--no-prerequisites"]).unwrap();
        assert_eq!((flag.prerequisites, mask), (vec![], vec!["prerequisites".to_owned()]));
        for wrong in ["new-cart", "=on", "new-cart=", "new-cart=on,,beta"] {
            assert!(prerequisite(wrong).unwrap_err().message.contains("FLAG=VARIANT"), "{wrong}");
        }
    }
}
