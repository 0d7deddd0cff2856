//! Values between JSON and protobuf, without a loss either way.

use std::collections::BTreeMap;

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, Number, Value as Json};

use super::document::Path;
use crate::limits;
use crate::number::{MAX_SAFE_INTEGER, is_lossless};
use crate::refusal::{Outcome, refused};

/// The value of a JSON text. A number that a double would change is refused, for clients would be served another.
pub(super) fn from_json(json: Json, path: Path<'_>, depth: usize) -> Outcome<Value> {
    if depth > limits::MAX_DEPTH {
        let max = limits::MAX_DEPTH;
        return refused(path, depth, format_args!("values have at most {max} levels; flatten the object"));
    }
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(lossless(&number, path)?),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => {
            let values = values
                .into_iter()
                .enumerate()
                .map(|(at, value)| from_json(value, path.index(at), depth + 1))
                .collect::<Outcome<_>>()?;
            Kind::ListValue(ListValue { values })
        }
        Json::Object(fields) => Kind::StructValue(fields_of(fields, path, depth)?),
    };
    Ok(Value { kind: Some(kind) })
}

/// An object's fields, which lie one level below `depth`.
pub(super) fn fields_of(fields: Map<String, Json>, path: Path<'_>, depth: usize) -> Outcome<Struct> {
    let fields = fields
        .into_iter()
        .map(|(key, value)| {
            let value = from_json(value, path.key(&key), depth + 1)?;
            Ok((key, value))
        })
        .collect::<Outcome<BTreeMap<_, _>>>()?;
    Ok(Struct { fields })
}

fn lossless(number: &Number, path: Path<'_>) -> Outcome<f64> {
    // 2^53 + 1 becomes 2^53 as a double, and is refused with it.
    match number.as_f64() {
        Some(double) if is_lossless(double) => Ok(double),
        _ => refused(
            path,
            number,
            "numbers are at most 2^53 - 1 in size, or clients would read different ones; write a string",
        ),
    }
}

/// A value as JSON; what JSON has no word for (not a number, infinities) is null.
pub(super) fn to_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(*value),
        Some(Kind::NumberValue(number)) => number_to_json(*number),
        Some(Kind::StringValue(text)) => Json::String(text.clone()),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::StructValue(object)) => object_to_json(object),
    }
}

/// An object as JSON.
pub(super) fn object_to_json(object: &Struct) -> Json {
    object.fields.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()
}

/// Whole numbers without a point: some clients take `3.0` for no weight at all. −0 keeps its sign, and so its point.
pub(super) fn number_to_json(number: f64) -> Json {
    let is_whole = number.trunc() == number && number.abs() <= MAX_SAFE_INTEGER as f64;
    if is_whole && !(number == 0.0 && number.is_sign_negative()) {
        return Json::from(number as i64);
    }
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}

/// The same rule with its whole numbers written without a point. `large` hears of numbers that doubles do not tell apart.
pub(super) fn normalize(rule: &mut Json, path: Path<'_>, large: &mut impl FnMut(Path<'_>, &Number)) {
    match rule {
        Json::Number(number) => {
            if !number.as_f64().is_some_and(is_lossless) {
                large(path, number);
            } else if let (true, Some(double)) = (number.is_f64(), number.as_f64()) {
                *rule = number_to_json(double);
            }
        }
        Json::Array(values) => {
            values.iter_mut().enumerate().for_each(|(at, value)| normalize(value, path.index(at), large));
        }
        Json::Object(fields) => {
            fields.iter_mut().for_each(|(key, value)| normalize(value, path.key(key), large));
        }
        Json::Null | Json::Bool(_) | Json::String(_) => {}
    }
}
