//! A variant's value as the type that was asked for. Nothing is rounded or cut: what is of another type is said to be.

use prost_types::value::Kind;
use prost_types::{Struct, Value};

pub use featureops_evaluation::{as_float, as_integer};

/// The value as a truth.
#[must_use]
pub fn as_boolean(value: &Value) -> Option<bool> {
    match value.kind {
        Some(Kind::BoolValue(truth)) => Some(truth),
        _ => None,
    }
}

/// The value as a text.
#[must_use]
pub fn as_text(value: &Value) -> Option<String> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The value as an object.
#[must_use]
pub fn as_object(value: &Value) -> Option<Struct> {
    match &value.kind {
        Some(Kind::StructValue(object)) => Some(object.clone()),
        _ => None,
    }
}
