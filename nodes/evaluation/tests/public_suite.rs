//! The public flagd suite's evaluation scenarios, straight through `compile` and `evaluate`, for both generations of
//! `fractional`.
//!
//! The suite is not kept here: it is read from `FEATUREOPS_TESTBED`, or from the package `open-feature-flagd` in cargo's
//! registry. Without either the test says so and passes; the clients' own runner is where it must not be skipped.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test's helpers may fail")]

mod json;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use featureops_evaluation::{CompiledFlag, Context, Snapshot, as_integer, compile, evaluate};
use featureops_proto::v1::{Environment, EvaluationError, Flag, FractionalVersion, Reason, ValueType};
use json::{struct_of, value_of};
use prost_types::{Struct, Value};
use serde_json::Value as Json;

fn testbed() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FEATUREOPS_TESTBED") {
        return Some(PathBuf::from(path));
    }
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(cargo.join("registry/src")).ok()?;
    let suites = registries
        .filter_map(|entry| Some(entry.ok()?.path().join("open-feature-flagd-0.3.0/flagd-testbed")));
    suites.into_iter().find(|path| path.is_dir())
}

/// A document's flags, as the import door takes them.
fn compiled(paths: &[PathBuf], version: FractionalVersion) -> Snapshot {
    let mut flags = Vec::<CompiledFlag>::new();
    let read = |path: &PathBuf| serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let documents: Vec<Json> = paths.iter().map(read).collect();
    let evaluators = documents.iter().filter_map(|document| document["$evaluators"].as_object()).flatten();
    let environment = Environment {
        fractional: version.into(),
        evaluators: evaluators.map(|(name, rule)| (name.clone(), rule.to_string())).collect(),
        ..Environment::default()
    };
    for document in documents {
        for (key, flag) in document["flags"].as_object().unwrap() {
            let flag = Flag {
                name: format!("environments/suite/flags/{key}"),
                variants: struct_of(&flag["variants"]).fields,
                default_variant: flag["defaultVariant"].as_str().map(str::to_owned),
                disabled: flag["state"] == "DISABLED",
                targeting: if flag["targeting"].is_null() {
                    String::new()
                } else {
                    flag["targeting"].to_string()
                },
                metadata: flag["metadata"].is_object().then(|| struct_of(&flag["metadata"])),
                imported: true,
                ..Flag::default()
            };
            flags.push(compile(&flag, &environment).unwrap_or_else(|error| panic!("{key}: {error}")));
        }
    }
    Snapshot::empty().apply(flags, 1, 0)
}

#[derive(Debug)]
struct Scenario {
    name: String,
    tags: Vec<String>,
    /// With the tables that follow them.
    steps: Vec<(String, Vec<Vec<String>>)>,
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|');
    line.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// As much of Gherkin as the suite uses; an outline's rows are scenarios of their own.
fn scenarios(path: &Path) -> Vec<Scenario> {
    #[derive(Default)]
    struct Outline {
        name: String,
        tags: Vec<String>,
        steps: Vec<(String, Vec<Vec<String>>)>,
        /// Tags and rows of each table of examples, the head first.
        examples: Vec<(Vec<String>, Vec<Vec<String>>)>,
    }
    let text = std::fs::read_to_string(path).unwrap();
    let (mut tags, mut outlines) = (Vec::<String>::new(), Vec::<Outline>::new());
    let mut of_feature = None;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
        } else if line.starts_with('@') {
            tags.extend(line.split_whitespace().map(str::to_owned));
        } else if line.starts_with("Feature:") {
            of_feature = Some(std::mem::take(&mut tags));
        } else if line.starts_with("Background:") {
            // Only says that there is a server.
            outlines.push(Outline::default());
        } else if let Some(name) = line.strip_prefix("Scenario").and_then(|rest| rest.split_once(':')) {
            let mut own = of_feature.clone().unwrap_or_default();
            own.append(&mut tags);
            outlines.push(Outline { name: name.1.trim().to_owned(), tags: own, ..Outline::default() });
        } else if line.starts_with("Examples:") {
            outlines.last_mut().unwrap().examples.push((std::mem::take(&mut tags), Vec::new()));
        } else if let Some(outline) = outlines.last_mut() {
            match (line.starts_with('|'), outline.examples.last_mut()) {
                (true, Some(table)) => table.1.push(cells(line)),
                (true, None) => outline.steps.last_mut().unwrap().1.push(cells(line)),
                (false, _) => outline.steps.push((line.to_owned(), Vec::new())),
            }
        }
    }
    let mut found = Vec::new();
    for outline in outlines.into_iter().filter(|outline| !outline.name.is_empty()) {
        if outline.examples.is_empty() {
            found.push(Scenario { name: outline.name, tags: outline.tags, steps: outline.steps });
            continue;
        }
        for (tags, rows) in &outline.examples {
            let (head, rows) = rows.split_first().unwrap();
            for row in rows {
                let fill = |text: &String| {
                    let pairs = head.iter().zip(row);
                    pairs.fold(text.clone(), |text, (key, value)| text.replace(&format!("<{key}>"), value))
                };
                found.push(Scenario {
                    name: format!("{} {row:?}", outline.name),
                    tags: outline.tags.iter().chain(tags).cloned().collect(),
                    steps: outline.steps.iter().map(|(step, table)| (fill(step), table.clone())).collect(),
                });
            }
        }
    }
    found
}

/// The quoted part of a step that follows `before`. It may hold quotes itself.
fn quoted(step: &str, before: &str) -> Option<String> {
    let rest = &step[step.find(before)? + before.len()..];
    let rest = rest.strip_prefix('"')?;
    let ends = ["\", with ", "\" and "].iter().filter_map(|end| rest.find(end));
    let end = ends.min().or_else(|| rest.strip_suffix('"').map(str::len))?;
    Some(rest[..end].to_owned())
}

fn typed(kind: &str, text: &str) -> Value {
    match kind {
        // As it stands: the suite's escapes are text.
        "String" => Value::from(text),
        "Object" => value_of(
            &serde_json::from_str(text)
                .or_else(|_| serde_json::from_str(&text.replace("\\\"", "\"")))
                .unwrap_or_else(|error| panic!("{text}: {error}")),
        ),
        "Boolean" => Value::from(text == "true"),
        _ => Value::from(text.parse::<f64>().unwrap()),
    }
}

struct Run<'s> {
    snapshot: &'s Snapshot,
    context: Struct,
    kind: String,
    key: String,
    default: String,
}

impl Run<'_> {
    fn set(&mut self, key: &str, value: Value) {
        self.context.fields.insert(key.to_owned(), value);
    }

    fn step(&mut self, step: &str, table: &[Vec<String>]) {
        if let Some((before, _)) = step.split_once("-flag with key ") {
            self.kind = before.rsplit(' ').next().unwrap().to_owned();
            self.key = quoted(step, "-flag with key ").unwrap();
            self.default = quoted(step, " value ").unwrap();
        } else if step.contains("a targeting key") {
            self.set("targetingKey", Value::from(quoted(step, "with value ").unwrap()));
        } else if step.contains("a nested property") {
            let inner = quoted(step, "inner key ").unwrap();
            let value = Value::from(quoted(step, "with value ").unwrap());
            self.set(&quoted(step, "outer key ").unwrap(), Value::from(BTreeMap::from([(inner, value)])));
        } else if step.contains("a context containing a key") {
            let kind = quoted(step, "with type ").unwrap();
            let value = typed(&kind, &quoted(step, "with value ").unwrap());
            self.set(&quoted(step, "containing a key ").unwrap(), value);
        } else if step.contains("flag was evaluated with details")
            || step.ends_with("an evaluator")
            || step.contains("stable flagd provider")
        {
        } else {
            self.then(step, table);
        }
    }

    fn then(&self, step: &str, table: &[Vec<String>]) {
        let expected = match self.kind.as_str() {
            "Boolean" => ValueType::Boolean,
            "String" => ValueType::String,
            "Object" => ValueType::Object,
            _ => ValueType::Number,
        };
        // 2026-11-22, between the suite's two times.
        let now_ms = 1_795_000_000_000;
        let context = Context::new(&self.context);
        let evaluation = evaluate(self.snapshot, "suite", &self.key, &context, now_ms).expecting(expected);
        if let Some(wanted) = quoted(step, "details value should be ") {
            let served = evaluation.value.cloned().unwrap_or_else(|| typed(&self.kind, &self.default));
            assert_eq!(served, typed(&self.kind, &wanted), "{evaluation:?}");
            assert!(self.kind != "Integer" || as_integer(&served).is_some(), "{served:?}");
        } else if let Some(wanted) = quoted(step, "reason should be ") {
            assert_eq!(Some(evaluation.reason), Reason::from_str_name(&wanted), "{evaluation:?}");
        } else if let Some(wanted) = quoted(step, "error-code should be ") {
            let error = evaluation.error.map(|error| error.as_str_name().to_owned());
            assert_eq!(error.unwrap_or_default(), wanted, "{evaluation:?}");
        } else if step.contains("metadata is empty") {
            assert!(self.snapshot.get("suite", &self.key).unwrap().metadata().is_none());
        } else if step.contains("metadata should contain") {
            let metadata = self.snapshot.get("suite", &self.key).unwrap().metadata().unwrap();
            let wanted = table[1..].iter().map(|row| (row[0].clone(), typed(&row[1], &row[2])));
            assert_eq!(metadata.fields, wanted.collect());
        } else {
            panic!("a step that this test does not know: {step}");
        }
    }
}

fn run(snapshot: &Snapshot, features: &[PathBuf], version: FractionalVersion) -> (usize, Vec<String>) {
    let foreign: &[&str] = match version {
        FractionalVersion::FractionalVersion3 => &["@fractional-v1", "@fractional-v2", "@deprecated"],
        _ => &["@fractional-v1", "@fractional-v3", "@deprecated"],
    };
    let (mut count, mut failures) = (0, Vec::new());
    for scenario in features.iter().flat_map(|path| scenarios(path)) {
        if scenario.tags.iter().any(|tag| foreign.contains(&tag.as_str())) {
            continue;
        }
        count += 1;
        let done = std::panic::catch_unwind(|| {
            let (kind, key, default) = (String::new(), String::new(), String::new());
            let mut run = Run { snapshot, context: Struct::default(), kind, key, default };
            for (step, table) in &scenario.steps {
                run.step(step, table);
            }
        });
        if let Err(panic) = done {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            failures.push(format!("{} {:?}: {text}", scenario.name, scenario.tags));
        }
    }
    (count, failures)
}

#[test]
fn every_evaluation_scenario_passes_in_both_generations() {
    let Some(testbed) = testbed() else {
        println!("skipped: no public suite; set FEATUREOPS_TESTBED to flagd-testbed");
        return;
    };
    let mut evaluator: Vec<_> = std::fs::read_dir(testbed.join("evaluator/gherkin"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    evaluator.sort();
    let gherkin = ["evaluation", "targeting"].map(|name| testbed.join(format!("gherkin/{name}.feature")));
    let flags = ["testing", "zero", "custom-ops", "evaluator-refs", "edge-case", "disabled", "changing"].map(
        |name| {
            let names = [
                format!("flags/{name}-flags.json"),
                format!("flags/{name}-flag.json"),
                format!("flags/{name}.json"),
            ];
            names.map(|name| testbed.join(name)).into_iter().find(|path| path.exists()).unwrap()
        },
    );
    let testkit = [testbed.join("evaluator/flags/testkit-flags.json")];

    // Scenarios of the evaluator's suite say what the second generation serves.
    let version = FractionalVersion::FractionalVersion2;
    let mut total = run(&compiled(&testkit, version), &evaluator, version);
    for version in [FractionalVersion::FractionalVersion2, FractionalVersion::FractionalVersion3] {
        let (count, failures) = run(&compiled(&flags, version), &gherkin, version);
        println!("{version:?}: {count} scenarios of gherkin/, {} failures", failures.len());
        total.0 += count;
        total.1.extend(failures);
    }
    println!("{} scenarios in all", total.0);
    assert!(total.1.is_empty(), "{}", total.1.join("\n"));
    assert!(total.0 > 300, "only {} scenarios were found", total.0);
    assert_eq!(EvaluationError::ParseError.as_str_name(), "PARSE_ERROR");
}
