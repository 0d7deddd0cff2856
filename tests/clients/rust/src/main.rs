//! The official Rust clients behind standard input and output: a request a line of JSON, an answer a line. `child_client.py`
//! is the other end; nothing of the suite is known here.
//!
//! These clients tell an application of no events and have no state to show, so `listen` is refused and `state` is `ready`
//! once a provider was made. Their SDK takes no default value: an application uses its own when an evaluation fails, and
//! that is what is answered here.

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::sync::mpsc;
use std::time::Duration;

use open_feature::{
    Client, EvaluationContext, EvaluationContextFieldValue, EvaluationDetails, EvaluationError,
    EvaluationErrorCode, FlagMetadataValue, OpenFeature, StructValue, Value,
};
use open_feature_flagd::{FlagdOptions, FlagdProvider, ResolverType};
use open_feature_ofrep::{OfrepOptions, OfrepProvider};
use serde_json::{Map, Value as Json, json};

type Refused = String;

#[tokio::main]
async fn main() {
    let (requests, lines) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if requests.send(line).is_err() {
                return;
            }
        }
    });
    let mut clients = HashMap::new();
    // Requests are answered in their order, so a slow one holds up the rest: the other end asks one at a time.
    while let Ok(line) = tokio::task::block_in_place(|| lines.recv()) {
        let said = match serde_json::from_str::<Json>(&line) {
            Ok(request) => match answer(&mut clients, &request).await {
                Ok(answer) => json!({"number": request["number"], "answer": answer}),
                Err(error) => json!({"number": request["number"], "error": error}),
            },
            Err(error) => json!({"number": null, "error": error.to_string()}),
        };
        println!("{said}");
        if std::io::stdout().flush().is_err() {
            return;
        }
    }
}

async fn answer(clients: &mut HashMap<u64, Client>, request: &Json) -> Result<Json, Refused> {
    let handle = request["handle"].as_u64().ok_or("no handle")?;
    match request["request"].as_str().unwrap_or_default() {
        "open" => {
            clients.insert(handle, open(handle, request).await?);
            Ok(Json::Null)
        }
        "evaluate" => {
            let client = clients.get(&handle).ok_or("no such handle")?;
            let contexts = request["contexts"].as_array().ok_or("no contexts")?;
            let mut answers = Vec::with_capacity(contexts.len());
            for context in contexts {
                answers.push(evaluate(client, request, &context_of(context)?).await?);
            }
            Ok(Json::Array(answers))
        }
        "state" if clients.contains_key(&handle) => Ok("ready".into()),
        "close" => {
            clients.remove(&handle);
            Ok(Json::Null)
        }
        other => Err(format!("these clients cannot '{other}'")),
    }
}

async fn open(handle: u64, request: &Json) -> Result<Client, Refused> {
    let host = request["host"].as_str().ok_or("no host")?;
    let port = request["port"].as_u64().and_then(|port| u16::try_from(port).ok()).ok_or("no port")?;
    let options = &request["options"];
    let selector = options["selector"].as_str().map(str::to_owned);
    let name = format!("domain-{handle}");
    let ready = Duration::from_millis(request["readyMs"].as_u64().unwrap_or_default().max(1));
    let mode = request["mode"].as_str().unwrap_or_default();
    let late = |_| format!("{mode}: not ready after {ready:?}");
    if mode == "ofrep" {
        let mut ofrep = OfrepOptions { base_url: format!("http://{host}:{port}"), ..OfrepOptions::default() };
        if let Some(selector) = selector {
            let value = selector.parse().map_err(|_| "the selector is no header value")?;
            ofrep.headers.insert("Flagd-Selector", value);
        }
        if let Some(token) = options["token"].as_str() {
            let value = format!("Bearer {token}").parse().map_err(|_| "the token is no header value")?;
            ofrep.headers.insert("Authorization", value);
        }
        let provider = tokio::time::timeout(ready, OfrepProvider::new(ofrep)).await.map_err(late)?;
        let provider = provider.map_err(|error| error.to_string())?;
        OpenFeature::singleton_mut().await.set_named_provider(&name, provider).await;
    } else {
        let number = |key: &str| options[key].as_u64().and_then(|number| u32::try_from(number).ok());
        let usual = FlagdOptions::default();
        let resolver_type = if mode == "in-process" { ResolverType::InProcess } else { ResolverType::Rpc };
        let flagd = FlagdOptions {
            host: host.to_owned(),
            port,
            // Caches are for rpc; without events to empty it, each answer is asked for.
            cache_settings: None,
            resolver_type,
            selector,
            deadline_ms: number("deadlineMs").unwrap_or(usual.deadline_ms),
            retry_backoff_ms: number("retryBackoffMs").unwrap_or(usual.retry_backoff_ms),
            retry_backoff_max_ms: number("retryBackoffMaxMs").unwrap_or(usual.retry_backoff_max_ms),
            stream_deadline_ms: number("streamDeadlineMs").unwrap_or(usual.stream_deadline_ms),
            ..usual
        };
        let provider = tokio::time::timeout(ready, FlagdProvider::new(flagd)).await.map_err(late)?;
        let provider = provider.map_err(|error| error.to_string())?;
        OpenFeature::singleton_mut().await.set_named_provider(&name, provider).await;
    }
    Ok(OpenFeature::singleton().await.create_named_client(&name))
}

async fn evaluate(client: &Client, request: &Json, context: &EvaluationContext) -> Result<Json, Refused> {
    let key = request["key"].as_str().ok_or("no key")?;
    let fallback = &request["default"];
    let context = Some(context);
    let answer = match request["type"].as_str().unwrap_or_default() {
        "Boolean" => said(client.get_bool_details(key, context, None).await, Json::from, fallback),
        "String" => said(client.get_string_details(key, context, None).await, Json::from, fallback),
        "Integer" => said(client.get_int_details(key, context, None).await, Json::from, fallback),
        "Float" => said(client.get_float_details(key, context, None).await, Json::from, fallback),
        "Object" => {
            said(client.get_struct_details::<StructValue>(key, context, None).await, json_of_struct, fallback)
        }
        other => return Err(format!("no type '{other}'")),
    };
    Ok(answer)
}

fn said<T>(
    result: Result<EvaluationDetails<T>, EvaluationError>,
    json_of: impl Fn(T) -> Json,
    fallback: &Json,
) -> Json {
    match result {
        Ok(details) => json!({
            "value": json_of(details.value),
            "reason": details.reason.map(|reason| reason.to_string()).unwrap_or_default(),
            "variant": details.variant,
            "error_code": "",
            "error_message": "",
            "metadata": details.flag_metadata.values.into_iter().map(|(key, value)| (key, json_of_metadata(value)))
                .collect::<Map<_, _>>(),
        }),
        Err(error) => json!({
            "value": fallback,
            "reason": "ERROR",
            "variant": null,
            "error_code": code(&error.code),
            "error_message": error.message.unwrap_or_default(),
            "metadata": {},
        }),
    }
}

/// As the specification writes it.
fn code(code: &EvaluationErrorCode) -> String {
    match code {
        EvaluationErrorCode::ProviderNotReady => "PROVIDER_NOT_READY",
        EvaluationErrorCode::FlagNotFound => "FLAG_NOT_FOUND",
        EvaluationErrorCode::ParseError => "PARSE_ERROR",
        EvaluationErrorCode::TypeMismatch => "TYPE_MISMATCH",
        EvaluationErrorCode::TargetingKeyMissing => "TARGETING_KEY_MISSING",
        EvaluationErrorCode::InvalidContext => "INVALID_CONTEXT",
        EvaluationErrorCode::General(_) => "GENERAL",
    }
    .to_owned()
}

fn json_of_metadata(value: FlagMetadataValue) -> Json {
    match value {
        FlagMetadataValue::Bool(value) => value.into(),
        FlagMetadataValue::Int(value) => value.into(),
        FlagMetadataValue::Float(value) => value.into(),
        FlagMetadataValue::String(value) => value.into(),
    }
}

fn json_of_struct(value: StructValue) -> Json {
    value.fields.into_iter().map(|(key, value)| (key, json_of(value))).collect::<Map<_, _>>().into()
}

fn json_of(value: Value) -> Json {
    match value {
        Value::Bool(value) => value.into(),
        Value::Int(value) => value.into(),
        Value::Float(value) => value.into(),
        Value::String(value) => value.into(),
        Value::Array(values) => values.into_iter().map(json_of).collect(),
        Value::Struct(value) => json_of_struct(value),
    }
}

/// Objects cannot be said to these clients in a way that they understand: they go as the map that they are.
fn context_of(json: &Json) -> Result<EvaluationContext, Refused> {
    let mut context = EvaluationContext::default();
    for (key, value) in json.as_object().ok_or("a context is an object")? {
        let field = match value {
            Json::String(text) if key == "targetingKey" => {
                context.targeting_key = Some(text.clone());
                continue;
            }
            Json::Bool(value) => EvaluationContextFieldValue::Bool(*value),
            Json::String(value) => EvaluationContextFieldValue::String(value.clone()),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => EvaluationContextFieldValue::Int(whole),
                None => EvaluationContextFieldValue::Float(number.as_f64().unwrap_or_default()),
            },
            Json::Null => continue,
            Json::Array(_) | Json::Object(_) => EvaluationContextFieldValue::new_struct(value.clone()),
        };
        context.custom_fields.insert(key.clone(), field);
    }
    Ok(context)
}
