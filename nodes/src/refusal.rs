//! Every way a request is turned down, mapped once to a gRPC status with details a program can read.
//!
//! ```text
//!   request field   ── invalid()  ──> INVALID_ARGUMENT + BadRequest{field, value, way out} + ErrorInfo
//!   replicated data ── refused()  ──> status of its ErrorCode + ErrorInfo{reason = code, domain = featureops}
//!   no answer       ── Failure    ──> UNAVAILABLE, UNKNOWN ...: whether it is safe to repeat stands in the message
//! ```

use std::time::Duration;

use featureops_proto::log::Refusal;
use featureops_proto::{ErrorCode, NameError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "featureops";
/// Characters of a caller's value that are shown back.
const SHOWN_CHARACTERS: usize = 80;
/// Characters of a field's path, which may hold a caller's names too.
const FIELD_CHARACTERS: usize = 160;
/// Characters of a message. A status travels in headers, several times encoded, and clients refuse above 16 KiB of them.
const MESSAGE_CHARACTERS: usize = 600;
/// Faults that one answer names.
const FAULTS_MAX: usize = 8;

/// The gRPC code of an error code. The only place where this is decided.
#[must_use]
pub fn status_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument | ErrorCode::ContentMismatch => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::AlreadyExists => Code::AlreadyExists,
        ErrorCode::EtagMismatch | ErrorCode::Fenced | ErrorCode::StaleDecision => Code::Aborted,
        ErrorCode::WrongState
        | ErrorCode::DigestMismatch
        | ErrorCode::CoolDown
        | ErrorCode::Frozen
        | ErrorCode::OverCap
        | ErrorCode::BelowFloor
        | ErrorCode::Tripped
        | ErrorCode::FeatureLevelTooLow
        | ErrorCode::WrongUnitKey => Code::FailedPrecondition,
        ErrorCode::NotPermitted | ErrorCode::AutonomyTooLow => Code::PermissionDenied,
        ErrorCode::TooFrequent | ErrorCode::LimitReached | ErrorCode::TooManyProducers => {
            Code::ResourceExhausted
        }
        ErrorCode::SequenceTooOld | ErrorCode::SequenceTooFar => Code::OutOfRange,
        ErrorCode::NotInitialized => Code::Unavailable,
    }
}

/// Why a command got no reply from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Another node leads, or none; nothing was proposed.
    NotLeader(String),
    /// What is asked for cannot be done yet; nothing was proposed.
    NotReady(String),
    /// The proposer's queue is full; nothing was proposed.
    Overloaded(String),
    /// The fold stopped or the node drains; nothing was proposed.
    Halted(String),
    /// The command breaks a bound of the log; nothing was proposed.
    TooLarge(String),
    /// The log may hold the command, or not.
    Unknown(String),
    /// The command took effect at this position, but this node's evaluations do not show it yet.
    Unseen(String),
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let (code, reason, message) = match failure {
            Failure::NotLeader(detail) => (
                Code::Unavailable,
                "NOT_LEADER",
                format!("this node cannot write now: {detail}; try again, or ask another node"),
            ),
            Failure::NotReady(detail) => {
                (Code::Unavailable, "NOT_READY", format!("{detail}; nothing was written: try again"))
            }
            Failure::Overloaded(detail) => (
                Code::ResourceExhausted,
                "OVERLOADED",
                format!("{detail}; nothing was written: try again later"),
            ),
            Failure::Halted(detail) => (
                Code::Unavailable,
                "HALTED",
                format!(
                    "{detail}; nothing was written, evaluation goes on: see /readyz?verbose or 'featureops doctor'"
                ),
            ),
            Failure::TooLarge(detail) => (
                Code::InvalidArgument,
                "TOO_LARGE",
                format!("{detail}; nothing was written: send less at once"),
            ),
            Failure::Unknown(detail) => (
                Code::Unknown,
                "UNKNOWN_OUTCOME",
                format!(
                    "{detail}; it is unknown whether it took effect: repeating it with the same request_id \
                     (facts: the same producer and sequence) is safe"
                ),
            ),
            Failure::Unseen(position) => (
                Code::Unknown,
                "NOT_PUBLISHED",
                format!(
                    "it took effect at {position}, but evaluations of this node do not show it yet: repeating it with the \
                     same request_id is safe; see 'publication' in 'featureops doctor'"
                ),
            ),
        };
        with_reason(code, reason, message, &[])
    }
}

/// What a request asks for must not be done now; `why` says what stands against it, and the way out.
pub fn not_now(why: impl Into<String>) -> Status {
    with_reason(Code::FailedPrecondition, "REFUSED_NOW", shortened(&why.into(), MESSAGE_CHARACTERS), &[])
}

/// A field whose value can never be accepted. `way_out` says what would be.
pub fn invalid(field: &str, value: impl ToString, way_out: impl ToString) -> Status {
    let (field, value) = (&shortened(field, FIELD_CHARACTERS), clip(&value.to_string()));
    let way_out = shortened(&way_out.to_string(), MESSAGE_CHARACTERS);
    let description = if value.is_empty() { way_out } else { format!("'{value}' {way_out}") };
    let mut details = ErrorDetails::with_bad_request_violation(field, description.clone());
    details.set_error_info(
        ErrorCode::InvalidArgument.as_str(),
        DOMAIN,
        [("field".to_owned(), field.clone()), ("value".to_owned(), value)],
    );
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {description}"), details)
}

/// Several faults of one request.
pub fn invalid_fields(faults: impl IntoIterator<Item = (String, String)>) -> Status {
    let mut details = ErrorDetails::new();
    let mut first = String::new();
    for (field, description) in faults.into_iter().take(FAULTS_MAX) {
        let field = shortened(&field, FIELD_CHARACTERS);
        let description = shortened(&description, MESSAGE_CHARACTERS / 2);
        if first.is_empty() {
            first = format!("{field}: {description}");
        }
        details.add_bad_request_violation(field, description);
    }
    details.set_error_info(ErrorCode::InvalidArgument.as_str(), DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(Code::InvalidArgument, first, details)
}

/// A name of another form.
pub fn bad_name(field: &str) -> impl Fn(NameError) -> Status + '_ {
    move |error| invalid(field, "", error)
}

/// A resource that is not there.
pub fn not_found(field: &str, name: &str) -> Status {
    with_reason(
        status_code(ErrorCode::NotFound),
        ErrorCode::NotFound.as_str(),
        format!("{field}: '{}' does not exist", clip(name)),
        &[("field", field), ("value", &clip(name))],
    )
}

/// A refusal with one of the API's codes.
pub fn coded(code: ErrorCode, message: impl ToString) -> Status {
    with_reason(status_code(code), code.as_str(), message.to_string(), &[])
}

/// What a stream ends with when the node drains.
pub fn draining() -> Status {
    let message = "this node is draining: open the stream again, here later or at another node; facts without an answer are \
                   repeated safely under their producer and sequence";
    with_reason(Code::Unavailable, "DRAINING", message.to_owned(), &[])
}

/// A caller that reached the node by a name that is not loopback.
pub fn foreign_host(authority: &str) -> Status {
    let message = format!(
        "host '{}' is not loopback, and no token was shown: ask for localhost, 127.0.0.1 or [::1], or show a token",
        clip(authority)
    );
    with_reason(Code::PermissionDenied, "FOREIGN_HOST", message, &[])
}

/// A caller whose token is missing, unknown or past its time.
pub fn unauthenticated(reason: &str, message: String) -> Status {
    with_reason(Code::Unauthenticated, reason, message, &[])
}

/// A caller whose token is not for this.
pub fn permission_denied(reason: &str, message: String) -> Status {
    with_reason(Code::PermissionDenied, reason, message, &[])
}

/// A token in a URL, which every proxy on the way writes down.
pub fn token_in_query() -> Status {
    let message = "a token in a URL is refused, whoever's it is: send authorization: Bearer fo_..., and revoke this one, for URLs \
                   are kept in logs";
    with_reason(Code::InvalidArgument, "TOKEN_IN_URL", message.to_owned(), &[])
}

/// More than somebody may do in a while; how long to wait.
pub fn too_many(what: String, wait: Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(wait));
    details.set_error_info("TOO_MANY_REQUESTS", DOMAIN, std::collections::HashMap::new());
    let message = format!("{what}; nothing was done: try again in {} ms", wait.as_millis());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// What the fold refused.
pub fn refused(refusal: &Refusal) -> Status {
    let said = shortened(&refusal.message, MESSAGE_CHARACTERS);
    let Some(code) = ErrorCode::parse(&refusal.code) else {
        return with_reason(Code::Internal, &clip(&refusal.code), said, &[]);
    };
    let (field, value) = (shortened(&refusal.field, FIELD_CHARACTERS), clip(&refusal.value));
    let message = match (said.is_empty(), field.is_empty()) {
        (true, _) => code.meaning().to_lowercase(),
        (false, true) => said.clone(),
        (false, false) => format!("{field}: {said}"),
    };
    if code == ErrorCode::InvalidArgument && !field.is_empty() {
        let mut details = ErrorDetails::with_bad_request_violation(field.as_str(), said);
        details.set_error_info(
            code.as_str(),
            DOMAIN,
            [("field".to_owned(), field), ("value".to_owned(), value)],
        );
        return Status::with_error_details(status_code(code), message, details);
    }
    with_reason(status_code(code), code.as_str(), message, &[("field", &field), ("value", &value)])
}

/// Whether the fold refused a command because what it was compiled against has changed.
#[must_use]
pub fn is_moved(status: &Status) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| {
        info.reason == ErrorCode::Fenced.as_str()
            && info.metadata.get("field").is_some_and(|field| field.starts_with("compiled_against."))
    })
}

/// A status whose `ErrorInfo` has this reason.
fn with_reason(code: Code, reason: &str, message: String, metadata: &[(&str, &str)]) -> Status {
    let metadata: std::collections::HashMap<String, String> = metadata
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

/// A caller's text, short enough to be shown back.
pub fn clip(text: &str) -> String {
    shortened(text, SHOWN_CHARACTERS)
}

fn shortened(text: &str, characters: usize) -> String {
    let mut shown: String = text.chars().take(characters).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_and_keeps_its_reason() {
        for code in ErrorCode::ALL {
            let status = refused(&Refusal::new(*code, "flag.rules", "x", "is not so"));
            assert_eq!(status.code(), status_code(*code));
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (code.as_str(), DOMAIN));
            assert_eq!(info.metadata.get("field").map(String::as_str), Some("flag.rules"));
        }
    }

    #[test]
    fn an_invalid_field_names_itself_its_value_and_the_way_out() {
        let status = invalid("page_size", -1, "must be 0 to 1,000");
        assert_eq!(status.message(), "page_size: '-1' must be 0 to 1,000");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "page_size");
    }

    #[test]
    fn whatever_is_refused_fits_into_headers() {
        for text in ["x".repeat(20_000), "é".repeat(20_000)] {
            let fold = Refusal {
                code: "INVALID_ARGUMENT".into(),
                message: text.clone(),
                field: text.clone(),
                value: text.clone(),
            };
            let faults = (0..100).map(|_| (text.clone(), text.clone()));
            for status in [
                invalid(&format!("flag.variants[{text}]"), &text, "numbers are finite"),
                invalid("flag", "", &text),
                refused(&fold),
                refused(&Refusal { code: "WRONG_STATE".into(), ..fold.clone() }),
                invalid_fields(faults),
            ] {
                let mut headers = tonic::codegen::http::HeaderMap::new();
                status.add_header(&mut headers).unwrap();
                let bytes: usize =
                    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
                assert!(bytes < 16 << 10, "{bytes} bytes of headers: {}", status.message());
            }
        }
    }

    #[test]
    fn a_long_value_is_clipped_at_a_character() {
        assert_eq!(clip(&"é".repeat(100_000)).chars().count(), SHOWN_CHARACTERS + 1);
    }
}
