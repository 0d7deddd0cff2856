//! The number contract: what is read back is what was written, or it is refused.
//!
//! Every number travels as an IEEE double. Whole numbers are exact up to 2^53 − 1; beyond that two different integers
//! become one double, so a flag with such a number is refused when it is written. An integer is handed out only for a
//! whole number: `0.5` asked for as an integer is another type, never 0.

use prost_types::{Value, value::Kind};

/// The largest whole number a double holds without a neighbour that reads the same: 2^53 − 1.
pub const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

/// Whether a number may be a flag's value: finite, and within ±(2^53 − 1). (Every larger double is whole.)
#[must_use]
pub fn is_lossless(number: f64) -> bool {
    // A NaN compares false.
    number.abs() <= MAX_SAFE_INTEGER as f64
}

/// The value as an integer, when it is a whole number within ±(2^53 − 1).
#[must_use]
pub fn as_integer(value: &Value) -> Option<i64> {
    match value.kind {
        Some(Kind::NumberValue(number)) if is_lossless(number) && number.trunc() == number => {
            Some(number as i64)
        }
        _ => None,
    }
}

/// The value as a double, when it is a number.
#[must_use]
pub fn as_float(value: &Value) -> Option<f64> {
    match value.kind {
        Some(Kind::NumberValue(number)) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_is_read_only_from_a_whole_number_that_is_exact() {
        let largest = MAX_SAFE_INTEGER as f64;
        for (number, integer) in [
            (0.0, Some(0)),
            (-0.0, Some(0)),
            (42.0, Some(42)),
            (0.5, None),
            (-1.5, None),
            (largest, Some(MAX_SAFE_INTEGER)),
            (-largest, Some(-MAX_SAFE_INTEGER)),
            (largest + 1.0, None),
            (1e300, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (f64::NEG_INFINITY, None),
        ] {
            assert_eq!(as_integer(&Value::from(number)), integer, "{number}");
        }
        assert_eq!(as_integer(&Value::from("42")), None);
        assert_eq!(as_float(&Value::from(0.5)), Some(0.5));
        assert_eq!(as_float(&Value::from(true)), None);
    }
}
