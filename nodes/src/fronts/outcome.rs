//! The outcome table: the one place where an evaluation becomes each protocol's answer.
//!
//! ```text
//!                          flagd v2            flagd v1             OFREP
//!   a variant              value, variant      value, variant       200 value, variant
//!   the code default       ok, both unset      NOT_FOUND            200, neither
//!   disabled               ok, both unset      ok, zero value, ""   200, neither
//!   unknown, archived      NOT_FOUND           NOT_FOUND            404 FLAG_NOT_FOUND
//!   another type           INVALID_ARGUMENT    INVALID_ARGUMENT     400 GENERAL, for null only
//!   unreadable rule        DATA_LOSS           DATA_LOSS            400 PARSE_ERROR
//!   anything else          INTERNAL            INTERNAL             400 GENERAL
//!   unreadable selector    INVALID_ARGUMENT    INVALID_ARGUMENT     400 GENERAL
//! ```
//!
//! flagd says UNKNOWN where this says INTERNAL, and clients then try again for seconds before they give the same answer.
//! Whoever needs the very code sets `flagd_strict_errors`.

use axum::http::StatusCode;
use featureops_evaluation::Evaluation;
use featureops_proto::v1::{EvaluationError, Reason};
use prost_types::Value;
use tonic::{Code, Status};

/// Characters of a key that an error shows back.
const SHOWN_CHARACTERS: usize = 128;

/// What an evaluation came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'s> {
    /// A variant is served.
    Served(&'s str, &'s Value),
    /// The caller's code default is used.
    CodeDefault,
    /// So it is too, for the flag is off.
    Disabled,
    /// There is no answer.
    Failed(Failure),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The key is not known, or the flag is archived.
    NotFound,
    /// The variant's value is of another type than was asked for.
    TypeMismatch,
    /// The rule cannot be read, or takes too many steps.
    Parse,
    /// The rule names a variant that is not there, or the definition is unusable.
    General,
}

impl<'s> Outcome<'s> {
    /// What the evaluation came to.
    #[must_use]
    pub const fn of(evaluation: &Evaluation<'s>) -> Self {
        match (evaluation.error, evaluation.variant, evaluation.value) {
            (Some(error), _, _) => Self::Failed(Failure::of(error)),
            (None, Some(variant), Some(value)) => Self::Served(variant, value),
            _ if matches!(evaluation.reason, Reason::Disabled) => Self::Disabled,
            _ => Self::CodeDefault,
        }
    }
}

/// The reason as OpenFeature's clients know it; some refuse any other word. A tripped flag serves a value that was set
/// beforehand, which is what DEFAULT means; its metadata says the rest.
#[must_use]
pub const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Static => "STATIC",
        Reason::TargetingMatch => "TARGETING_MATCH",
        Reason::Split => "SPLIT",
        Reason::Default | Reason::Tripped => "DEFAULT",
        Reason::Disabled => "DISABLED",
        Reason::Stale => "STALE",
        Reason::Error => "ERROR",
        Reason::Unspecified => "UNKNOWN",
    }
}

impl Failure {
    const fn of(error: EvaluationError) -> Self {
        match error {
            EvaluationError::FlagNotFound => Self::NotFound,
            EvaluationError::TypeMismatch => Self::TypeMismatch,
            EvaluationError::ParseError => Self::Parse,
            EvaluationError::General | EvaluationError::Unspecified => Self::General,
        }
    }

    /// As gRPC says it, in both versions.
    #[must_use]
    pub fn status(self, strict: bool) -> Status {
        let (code, message) = match self {
            Self::NotFound => (Code::NotFound, "Flag not found"),
            Self::TypeMismatch => (Code::InvalidArgument, "Type mismatch error"),
            Self::Parse => (Code::DataLoss, "Error parsing input or configuration"),
            Self::General if strict => (Code::Unknown, "General error"),
            Self::General => (Code::Internal, "General error"),
        };
        Status::new(code, message)
    }

    /// As OFREP says it: status, error code, details.
    #[must_use]
    pub fn ofrep(self, key: &str) -> (StatusCode, &'static str, String) {
        let key: String = key.chars().take(SHOWN_CHARACTERS).collect();
        match self {
            Self::NotFound => {
                (StatusCode::NOT_FOUND, "FLAG_NOT_FOUND", format!("flag `{key}` does not exist"))
            }
            Self::Parse => {
                (StatusCode::BAD_REQUEST, "PARSE_ERROR", format!("error parsing the flag `{key}`"))
            }
            Self::TypeMismatch | Self::General => {
                (StatusCode::BAD_REQUEST, "GENERAL", "error processing the flag for evaluation".to_owned())
            }
        }
    }
}

/// A selector that cannot be read, in gRPC. OFREP says the same words.
#[must_use]
pub fn bad_selector(fault: &str) -> Status {
    Status::invalid_argument(selector_fault(fault))
}

/// The words.
#[must_use]
pub fn selector_fault(fault: &str) -> String {
    format!("invalid selector: {fault}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_is_internal_unless_it_must_be_flagds_own_code() {
        assert_eq!(Failure::General.status(false).code(), Code::Internal);
        assert_eq!(Failure::General.status(true).code(), Code::Unknown);
        for strict in [false, true] {
            assert_eq!(Failure::NotFound.status(strict).code(), Code::NotFound);
            assert_eq!(Failure::Parse.status(strict).code(), Code::DataLoss);
        }
    }

    #[test]
    fn every_reason_is_one_that_clients_know() {
        let known =
            ["STATIC", "TARGETING_MATCH", "SPLIT", "DEFAULT", "DISABLED", "STALE", "ERROR", "UNKNOWN"];
        for number in 0..=8 {
            assert!(known.contains(&reason(Reason::try_from(number).unwrap())));
        }
        assert!(Reason::try_from(9).is_err(), "a new reason needs a word here");
    }
}
