//! `flag test`: a table of contexts and what is expected, compared with what is answered.
//!
//! Asked are the server, by evaluations that imply no exposure, or definitions in a file, by the same evaluation in this
//! process. Ends with 1 when a case does not get what it expects.

use std::path::PathBuf;

use clap::Args;
use featureops_cluster::environment::{Clock as _, SystemClock};
use featureops_evaluation::{Context, evaluate};
use featureops_proto::v1;
use serde_json::json;

use super::definitions::{Definitions, DefinitionsArgs, KEY};
use super::table::{self, Case};
use crate::cli::failure::Failure;
use crate::cli::page::{Page, Tone};
use crate::cli::render::{key_of, value_text};
use crate::cli::session::Session;
use crate::rpc::evaluation_service_client::EvaluationServiceClient;

/// Failures that a table shows; `-o json` has all.
const SHOWN: usize = 50;

#[derive(Debug, Args)]
#[command(after_help = "The table is JSON or YAML, a list of cases:
  - {flag: checkout, unit: user-1, context: {country: DE}, variant: on, reason: TARGETING_MATCH}
  - {flag: checkout, variant: null, reason: DISABLED}          # null: the caller's code default
  - {flag: nothing, error: FLAG_NOT_FOUND}
or CSV, where further columns are attributes and an empty cell is not compared:
  flag,unit,country,variant,value,reason
  checkout,user-1,DE,on,true,TARGETING_MATCH

Experiments and splits: name the unit, its bucket does not change.")]
pub struct TestArgs {
    /// The table; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    definitions: DefinitionsArgs,
}

/// A case and what it got.
struct Run {
    case: Case,
    answer: v1::EvaluateResponse,
    /// Empty: it passed.
    faults: Vec<String>,
}

pub async fn run(session: &Session, args: TestArgs) -> Result<(), Failure> {
    let cases = table::read(&args.file)?;
    let answers = match &args.definitions.read(&session.settings.environment)? {
        Some(definitions) => answers_of_file(session, definitions, &cases)?,
        None => answers_of_server(session, &cases).await?,
    };
    let runs: Vec<Run> = cases
        .into_iter()
        .zip(answers)
        .map(|(case, answer)| Run { faults: faults(&case, &answer), case, answer })
        .collect();
    let failed = runs.iter().filter(|run| !run.faults.is_empty()).count();
    let passed = runs.len() - failed;
    session.show_value(&json(&runs, passed, failed), |page| tell(page, &runs, passed, failed))?;
    if failed > 0 {
        return Err(Failure::found(format!("{failed} of {} cases got another answer", runs.len()))
            .note("see the steps of one with: featureops flag explain FLAG --unit UNIT -a NAME=VALUE"));
    }
    Ok(())
}

async fn answers_of_server(session: &Session, cases: &[Case]) -> Result<Vec<v1::EvaluateResponse>, Failure> {
    let mut answers = Vec::with_capacity(cases.len());
    for case in cases {
        let request = v1::EvaluateRequest {
            environment: session.parent(),
            flag: case.flag.clone(),
            context: Some(case.context.clone()),
            no_exposure: true,
            ..v1::EvaluateRequest::default()
        };
        let answer = session.client.read(request, |channel, request| async move {
            EvaluationServiceClient::new(channel).evaluate(request).await
        });
        answers.push(answer.await.map_err(|failure| failure.note(format!("at {}", case.name)))?);
    }
    Ok(answers)
}

fn answers_of_file(
    session: &Session,
    definitions: &Definitions,
    cases: &[Case],
) -> Result<Vec<v1::EvaluateResponse>, Failure> {
    let environment = &session.settings.environment;
    let now_ms = SystemClock::start().unix_ms();
    let snapshot = definitions.snapshot(now_ms)?;
    let answer = |case: &Case| {
        let context = Context::new(&case.context).with_unit_key(&KEY);
        v1::EvaluateResponse::from(&evaluate(&snapshot, environment, key_of(&case.flag), &context, now_ms))
    };
    Ok(cases.iter().map(answer).collect())
}

/// What a case expected and did not get.
fn faults(case: &Case, answer: &v1::EvaluateResponse) -> Vec<String> {
    let mut faults = Vec::new();
    let mut differs = |what: &str, expected: String, got: String| {
        faults.push(format!("{what}: expected {expected}, got {got}"));
    };
    let named =
        |variant: Option<&String>| variant.map_or_else(|| "the code default".to_owned(), Clone::clone);
    if let Some(expected) = &case.variant
        && *expected != answer.variant
    {
        differs("variant", named(expected.as_ref()), named(answer.variant.as_ref()));
    }
    if let Some(expected) = &case.value
        && Some(expected) != answer.value.as_ref()
    {
        let got = answer.value.as_ref().map_or_else(|| "no value".to_owned(), value_text);
        differs("value", value_text(expected), got);
    }
    if let Some(expected) = case.reason.filter(|expected| *expected != answer.reason()) {
        differs("reason", expected.as_str_name().to_owned(), answer.reason().as_str_name().to_owned());
    }
    if let Some(expected) = case.error.filter(|expected| *expected != answer.error()) {
        differs("error", expected.as_str_name().to_owned(), error_word(answer).to_owned());
    }
    faults
}

fn error_word(answer: &v1::EvaluateResponse) -> &'static str {
    match answer.error() {
        v1::EvaluationError::Unspecified => "none",
        error => error.as_str_name(),
    }
}

fn json(runs: &[Run], passed: usize, failed: usize) -> serde_json::Value {
    let cases: Vec<_> = runs
        .iter()
        .map(|run| {
            let value = run.answer.value.as_ref().map(value_text);
            let value = value.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
            json!({
                "case": run.case.name,
                "flag": run.case.flag,
                "passed": run.faults.is_empty(),
                "faults": run.faults,
                "got": {
                    "variant": run.answer.variant,
                    "value": value,
                    "reason": run.answer.reason().as_str_name(),
                    "error": error_word(&run.answer),
                },
            })
        })
        .collect();
    json!({ "passed": passed, "failed": failed, "cases": cases })
}

fn tell(page: &mut Page, runs: &[Run], passed: usize, failed: usize) {
    for run in runs.iter().filter(|run| !run.faults.is_empty()).take(SHOWN) {
        page.line(Tone::Bad, format!("{}, flag {}: {}", run.case.name, run.case.flag, run.faults.join("; ")));
    }
    if failed > SHOWN {
        page.line(Tone::Faint, format!("and {} more; -o json has all", failed - SHOWN));
    }
    let tone = if failed == 0 { Tone::Good } else { Tone::Bad };
    page.line(tone, format!("{passed} passed, {failed} failed"));
}
