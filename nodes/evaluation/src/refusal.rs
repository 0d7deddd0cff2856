//! A refusal: where in the definition, what stands there, and the way out.

use std::fmt;

use prost_types::{Value, value::Kind};

/// Why a definition was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// Where, as `rules[2].conditions[0].operator`.
    pub path: String,
    /// What stands there, cut to 80 characters.
    pub value: String,
    /// What is wrong, and the way out.
    pub message: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}': {}", self.path, self.value, self.message)
    }
}

impl std::error::Error for CompileError {}

pub(crate) type Outcome<T> = Result<T, CompileError>;

pub(crate) fn refused<T>(
    path: impl fmt::Display,
    value: impl fmt::Display,
    message: impl fmt::Display,
) -> Outcome<T> {
    let value = value.to_string().chars().take(80).collect();
    Err(CompileError { path: path.to_string(), value, message: message.to_string() })
}

pub(crate) fn within(path: impl fmt::Display, count: usize, max: usize, what: &str) -> Outcome<()> {
    if count <= max {
        return Ok(());
    }
    refused(path, count, format_args!("at most {max} {what} are allowed; split them or use fewer"))
}

/// What a value is, in words.
pub(crate) const fn kind_name(value: &Value) -> &'static str {
    match value.kind {
        None | Some(Kind::NullValue(_)) => "null",
        Some(Kind::BoolValue(_)) => "a boolean",
        Some(Kind::NumberValue(_)) => "a number",
        Some(Kind::StringValue(_)) => "a string",
        Some(Kind::ListValue(_)) => "a list",
        Some(Kind::StructValue(_)) => "an object",
    }
}
