//! JSON of values: whole numbers without a point, as clients compare them.

use std::collections::BTreeMap;

use featureops_evaluation::as_integer;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde::{Serialize, Serializer};

/// A value that is written as JSON.
pub struct Json<'a>(pub &'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            None | Some(Kind::NullValue(_)) => serializer.serialize_unit(),
            Some(Kind::BoolValue(value)) => serializer.serialize_bool(*value),
            Some(Kind::NumberValue(number)) => match as_integer(self.0) {
                Some(integer) => serializer.serialize_i64(integer),
                None => serializer.serialize_f64(*number),
            },
            Some(Kind::StringValue(text)) => serializer.serialize_str(text),
            Some(Kind::ListValue(list)) => serializer.collect_seq(list.values.iter().map(Json)),
            Some(Kind::StructValue(object)) => fields(&object.fields, serializer),
        }
    }
}

/// Metadata, an empty object if there is none.
pub struct Object<'a>(pub Option<&'a Struct>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(object) => fields(&object.fields, serializer),
            None => serializer.collect_map(std::iter::empty::<(&str, &str)>()),
        }
    }
}

fn fields<S: Serializer>(fields: &BTreeMap<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(key, value)| (key, Json(value))))
}

/// The value of a JSON text. serde_json has bounded its depth.
#[must_use]
pub fn value(json: serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(value).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(object(fields)),
    };
    Value { kind: Some(kind) }
}

/// The object of a JSON text.
#[must_use]
pub fn object(fields: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, json)| (key, value(json))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_written_again() {
        for text in [r#"{"a":[1,-2.5,true,null,"x"],"b":{}}"#, "9007199254740991", "0.1", r#""""#] {
            let value = value(serde_json::from_str(text).unwrap());
            assert_eq!(serde_json::to_string(&Json(&value)).unwrap(), text);
        }
        assert_eq!(serde_json::to_string(&Object(None)).unwrap(), "{}");
    }
}
