//! A token's scope against what a request names: read from the message itself by the fields that the table gives, in one place for
//! every method that is asked by one message. A handler that forgets nothing is not needed here.
//!
//! Only a token that has a scope pays for it: its message is decoded twice.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use featureops_proto::{Collection, Name};
use prost_reflect::{DynamicMessage, Value};
use tonic::Status;

use super::grant::{Grant, granted};
use super::rules::{self, At, Flags, Rule};
use crate::host::Host;
use crate::refusal;

/// Bytes before a message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// Holds a request of gRPC against the scope of whoever asks, and passes it on.
pub async fn check(State(host): State<Arc<Host>>, request: Request, next: Next) -> Response {
    let Some(grant) = granted(request.extensions()).filter(|grant| grant.is_scoped()).cloned() else {
        return next.run(request).await;
    };
    let Some(rule) = rules::of(request.uri().path()) else { return next.run(request).await };
    let fields = match rule.at {
        At::Nothing | At::Listed | At::Handler => return next.run(request).await,
        At::Whole => return refused(whole(&grant)),
        At::Names(fields) => fields,
    };
    let (parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, host.limits.request_bytes + HEAD_BYTES).await else {
        let message =
            format!("the request has more than {} bytes, or was not sent whole", host.limits.request_bytes);
        return refused(Status::out_of_range(message));
    };
    let checked = decoded(&host, parts.uri.path(), &bytes)
        .and_then(|message| fits(&host, &grant, rule, fields, &message));
    match checked {
        Ok(()) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(status) => refused(status),
    }
}

fn refused(status: Status) -> Response {
    status.into_http()
}

fn whole(grant: &Grant) -> Status {
    refusal::permission_denied(
        "OUT_OF_SCOPE",
        format!("token '{}' has a scope, and this concerns all environments", grant.id()),
    )
}

/// The one message of a request, by the API's own description.
fn decoded(host: &Host, path: &str, bytes: &[u8]) -> Result<DynamicMessage, Status> {
    let unreadable = || refusal::invalid("request", "", "cannot be read: send one uncompressed message");
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let service = host.access.pool().and_then(|pool| pool.get_service_by_name(service));
    let input = service
        .and_then(|service| service.methods().find(|known| known.name() == method))
        .map(|method| method.input())
        .ok_or_else(unreadable)?;
    let (head, message) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(unreadable)?;
    let length = head.get(1..).and_then(|length| <[u8; 4]>::try_from(length).ok()).map(u32::from_be_bytes);
    // One message and nothing after it: what is looked at here is what the handler reads.
    if head.first() != Some(&0)
        || length.and_then(|length| usize::try_from(length).ok()) != Some(message.len())
    {
        return Err(unreadable());
    }
    DynamicMessage::decode(input, message).map_err(|_| unreadable())
}

fn fits(
    host: &Host,
    grant: &Grant,
    rule: &Rule,
    fields: &[&str],
    message: &DynamicMessage,
) -> Result<(), Status> {
    for field in fields {
        let name = text(message, field);
        let environment = name.strip_prefix("environments/").unwrap_or(&name).split('/').next().unwrap_or("");
        grant.check_environment(environment)?;
        match rule.flags {
            Flags::Any | Flags::Left => {}
            Flags::All => grant.check_all_flags()?,
            Flags::In(field) => grant.check_flag(&text(message, field))?,
            Flags::ByName if grant.flag_prefix().is_empty() => {}
            // What is not there is nobody's: its handler says so.
            Flags::ByName => {
                if let Some(flag) = flag_of(host, &name) {
                    grant.check_flag(&flag)?;
                }
            }
        }
    }
    Ok(())
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let (first, rest) = field.split_once('.').unwrap_or((field, ""));
    match message.get_field_by_name(first).as_deref() {
        Some(Value::String(text)) if rest.is_empty() => text.clone(),
        Some(Value::Message(inner)) if !rest.is_empty() => text(inner, rest),
        _ => String::new(),
    }
}

/// The id of the flag that a resource is, or is about.
fn flag_of(host: &Host, name: &str) -> Option<String> {
    let is = |collection| Name::parse(name, collection).ok();
    if let Some(flag) = is(Collection::Flags) {
        return Some(flag.id.to_owned());
    }
    host.replica.read(|state| {
        if let Some(experiment) = is(Collection::Experiments) {
            return Some(state.experiment(experiment.environment, experiment.id)?.flag);
        }
        if let Some(schedule) = is(Collection::Schedules) {
            return Some(state.schedule(schedule.environment, schedule.id)?.flag);
        }
        let decision = is(Collection::Decisions)?;
        state.decision(decision.environment, decision.id.parse().ok()?).map(|decision| decision.flag)
    })
}
