//! How a command ends: one table of exit codes, and the failure that carries one of them.
//!
//! A script branches on the code, a person reads the text. Code 7 exists because an unanswered write is *unknown*, not
//! absent: it may have taken effect, and repeating it with the same request id is safe. Everything the server tells
//! about an error (the field, its value, the way out) is printed; a debug dump never is.

use std::fmt::Write as _;

use featureops_proto::ErrorCode;
use tonic_types::StatusExt as _;

macro_rules! exits {
    ($($variant:ident = $code:literal, $meaning:literal;)*) => {
        /// Why the process ended, as its exit code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit { $(#[doc = $meaning] $variant = $code,)* }

        impl Exit {
            /// Every code with its meaning, for `--help`.
            pub const TABLE: &'static [(u8, &'static str)] = &[$(($code, $meaning),)*];
        }
    };
}

exits! {
    Done = 0, "done";
    Internal = 1, "a flag test or a strict lint did not pass; or an internal error";
    Usage = 2, "the command line or a file given to it is wrong";
    NotFound = 3, "the named resource does not exist";
    Refused = 4, "refused: the state does not allow it, events were not counted, or a check failed";
    Conflict = 5, "conflict: it exists, or it changed since it was read (etag)";
    Unavailable = 6, "no server answered; nothing was changed";
    Unknown = 7, "outcome unknown: it may have taken effect; repeating with the same --request-id is safe";
    Invalid = 8, "a field has a value that can never be accepted";
    NotPermitted = 9, "the principal may not do this";
}

/// The table as shown below every `--help`.
#[must_use]
pub fn exit_code_help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in Exit::TABLE {
        let _ = writeln!(text, "  {code}  {meaning}");
    }
    text
}

/// What is there, if anything is.
///
/// # Errors
/// It could not be read.
pub fn present<T>(read: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(failure) if failure.exit == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A command's failure: its exit code, one sentence, and lines that help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub notes: Vec<String>,
    /// The reader of our output went away (`| head`): not worth a word.
    pub quiet: bool,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), notes: Vec::new(), quiet: false }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message)
    }

    /// A test or a lint ran and found something: 1, as test programs end.
    pub fn found(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message)
    }

    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Writing our own output failed.
    pub fn output(error: &std::io::Error) -> Self {
        let mut failure = Self::internal(format!("output could not be written: {error}"));
        failure.quiet = error.kind() == std::io::ErrorKind::BrokenPipe;
        failure
    }

    /// What standard error shows.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for note in &self.notes {
            for line in note.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }

    /// The server's refusal with everything it said about it.
    #[must_use]
    pub fn from_status(status: &tonic::Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
        let code = ErrorCode::parse(&reason);
        let message = if status.message().is_empty() {
            code.map_or_else(|| status.code().description().to_owned(), |code| code.meaning().to_owned())
        } else {
            status.message().to_owned()
        };
        let mut failure = Self::new(exit_of(status.code(), code), message);
        let add = |failure: &mut Self, note: String| {
            // Servers repeat themselves between the message and the details; people need it once.
            if !note.is_empty() && !failure.message.contains(&note) && !failure.notes.contains(&note) {
                failure.notes.push(note);
            }
        };
        if let Some(bad) = details.bad_request() {
            for violation in &bad.field_violations {
                // The first one usually is the message.
                if !failure.message.contains(&violation.description) {
                    add(&mut failure, format!("field {}: {}", violation.field, violation.description));
                }
            }
        }
        if let Some(precondition) = details.precondition_failure() {
            for violation in &precondition.violations {
                add(
                    &mut failure,
                    format!("{} {}", violation.subject, violation.description).trim().to_owned(),
                );
            }
        }
        if let Some(quota) = details.quota_failure() {
            for violation in &quota.violations {
                add(
                    &mut failure,
                    format!("{} {}", violation.subject, violation.description).trim().to_owned(),
                );
            }
        }
        if let Some(resource) = details.resource_info() {
            add(&mut failure, resource.resource_name.clone());
        }
        if let Some(info) = details.error_info() {
            for (key, value) in sorted(&info.metadata) {
                if !value.is_empty() && !failure.message.contains(value) {
                    add(&mut failure, format!("{key}: {value}"));
                }
            }
        }
        if !reason.is_empty() {
            // Behind the sentence: it is for searching, the sentence is for reading.
            failure.message = format!("{} ({reason})", failure.message);
        }
        if let Some(help) = details.help() {
            for link in &help.links {
                add(&mut failure, format!("{} {}", link.description, link.url).trim().to_owned());
            }
        }
        failure
    }
}

/// A map's entries in order, so that equal errors read equal.
fn sorted(map: &std::collections::HashMap<String, String>) -> std::collections::BTreeMap<&String, &String> {
    map.iter().collect()
}

/// The reason decides where there is one: it is finer than the status.
fn exit_of(status: tonic::Code, reason: Option<ErrorCode>) -> Exit {
    use tonic::Code;
    match reason {
        Some(ErrorCode::InvalidArgument) => return Exit::Invalid,
        Some(ErrorCode::NotFound) => return Exit::NotFound,
        Some(ErrorCode::AlreadyExists | ErrorCode::EtagMismatch) => return Exit::Conflict,
        Some(ErrorCode::NotPermitted) => return Exit::NotPermitted,
        // Not yet a cluster: the server is there but cannot answer.
        Some(ErrorCode::NotInitialized) => return Exit::Unavailable,
        Some(_) => return Exit::Refused,
        None => {}
    }
    match status {
        Code::Ok => Exit::Done,
        Code::InvalidArgument | Code::OutOfRange => Exit::Invalid,
        Code::NotFound => Exit::NotFound,
        Code::FailedPrecondition | Code::ResourceExhausted => Exit::Refused,
        Code::AlreadyExists | Code::Aborted => Exit::Conflict,
        Code::Unavailable => Exit::Unavailable,
        Code::DeadlineExceeded | Code::Cancelled => Exit::Unknown,
        Code::PermissionDenied | Code::Unauthenticated => Exit::NotPermitted,
        Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, FieldViolation};

    #[test]
    fn the_table_has_each_code_once_and_in_order() {
        let codes: Vec<u8> = Exit::TABLE.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, (0..=9).collect::<Vec<_>>());
        assert!(exit_code_help().contains("7  outcome unknown"));
    }

    #[test]
    fn a_refusal_names_field_value_and_way_out() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "INVALID_ARGUMENT",
            "featureops",
            std::collections::HashMap::from([("value".to_owned(), "maybe".to_owned())]),
        );
        details.set_bad_request(vec![FieldViolation::new("flag.default_variant", "name one of: on, off")]);
        let status = tonic::Status::with_error_details(
            tonic::Code::InvalidArgument,
            "default_variant is not a variant",
            details,
        );
        let failure = Failure::from_status(&status);
        assert_eq!(failure.exit, Exit::Invalid);
        let text = failure.render();
        assert!(text.starts_with("error: default_variant is not a variant (INVALID_ARGUMENT)\n"), "{text}");
        assert!(text.contains("  field flag.default_variant: name one of: on, off\n"), "{text}");
        assert!(text.contains("  value: maybe\n"), "{text}");
    }

    #[test]
    fn the_reason_is_finer_than_the_status() {
        assert_eq!(exit_of(tonic::Code::FailedPrecondition, Some(ErrorCode::EtagMismatch)), Exit::Conflict);
        assert_eq!(exit_of(tonic::Code::FailedPrecondition, None), Exit::Refused);
        assert_eq!(exit_of(tonic::Code::FailedPrecondition, Some(ErrorCode::Tripped)), Exit::Refused);
    }
}
