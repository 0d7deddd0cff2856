//! A unit's values of an experiment's dimensions, as the log takes them: short texts. What is no text, number or boolean, or is
//! longer than 64 bytes, is as if it were absent.

use featureops_state::MAX_DIMENSION_BYTES;
use prost_types::{Value, value::Kind};

/// The value as the log takes it; empty: absent.
#[must_use]
pub fn text(value: Option<&Value>) -> String {
    let text = match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) if text.len() <= MAX_DIMENSION_BYTES => text.clone(),
        Some(Kind::BoolValue(value)) => value.to_string(),
        Some(Kind::NumberValue(number)) if number.is_finite() => number.to_string(),
        _ => String::new(),
    };
    if text.len() <= MAX_DIMENSION_BYTES { text } else { String::new() }
}

/// The values of the dimensions, in their order; none of an experiment without any.
#[must_use]
pub fn of<'v>(dimensions: &[Box<str>], look: impl Fn(&str) -> Option<&'v Value>) -> Vec<String> {
    dimensions.iter().map(|name| text(look(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_texts_or_absent() {
        let of = |value: Value| text(Some(&value));
        assert_eq!(of(Value::from("DE")), "DE");
        assert_eq!(of(Value::from(true)), "true");
        assert_eq!(of(Value::from(3.0)), "3");
        assert_eq!(of(Value::from(0.25)), "0.25");
        assert_eq!(of(Value::from("x".repeat(64))).len(), 64);
        let list = Value { kind: Some(Kind::ListValue(prost_types::ListValue::default())) };
        for absent in [Value::from("x".repeat(65)), Value::from(f64::NAN), Value::from(1e300), list] {
            assert_eq!(of(absent), "");
        }
        assert_eq!(text(None), "");
    }
}
