//! Deterministic CBOR (RFC 8949, 4.2.1): what the third generation of `fractional` hashes.
//!
//! The bytes go straight into a sink, piece by piece. Whole floats from −2^63 to 2^64 − 1 are written as integers and −0
//! as 0, so that no client's number types show; other floats take the shortest of 16, 32 and 64 bits that keeps them.
//! Keys are sorted by their encodings, which for texts means by length, then by bytes.

use prost_types::{Struct, Value, value::Kind};

use super::value::Stop;
use crate::limits;
use crate::murmur::Murmur3;

/// Takes bytes.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Murmur3 {
    fn put(&mut self, bytes: &[u8]) {
        *self = self.with(bytes);
    }
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const TEXT: u8 = 3;
const LIST: u8 = 4;
const MAP: u8 = 5;

/// A head: the major type and its argument in the fewest bytes.
fn head(sink: &mut impl Sink, major: u8, argument: u64) {
    let major = major << 5;
    // Each cast is within the range that its arm names.
    match argument {
        0..=23 => sink.put(&[major | argument as u8]),
        24..=0xff => sink.put(&[major | 24, argument as u8]),
        0x100..=0xffff => {
            let [a, b] = (argument as u16).to_be_bytes();
            sink.put(&[major | 25, a, b]);
        }
        0x1_0000..=0xffff_ffff => {
            let [a, b, c, d] = (argument as u32).to_be_bytes();
            sink.put(&[major | 26, a, b, c, d]);
        }
        _ => {
            sink.put(&[major | 27]);
            sink.put(&argument.to_be_bytes());
        }
    }
}

pub(crate) fn text(sink: &mut impl Sink, text: &str) {
    head(sink, TEXT, text.len() as u64);
    sink.put(text.as_bytes());
}

/// The head of a text of so many bytes, which follow.
pub(crate) fn text_head(sink: &mut impl Sink, bytes: usize) {
    head(sink, TEXT, bytes as u64);
}

pub(crate) fn boolean(sink: &mut impl Sink, value: bool) {
    sink.put(&[if value { 0xf5 } else { 0xf4 }]);
}

pub(crate) fn number(sink: &mut impl Sink, number: f64) {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    const TWO_64: f64 = 18_446_744_073_709_551_616.0;
    if number.trunc() == number && (0.0..TWO_64).contains(&number) {
        head(sink, UNSIGNED, number as u64);
    } else if number.trunc() == number && (-TWO_63..0.0).contains(&number) {
        // −1 − n; exact, because n is whole and within i64.
        head(sink, NEGATIVE, !(number as i64) as u64);
    } else if let Some(half) = half_of(number) {
        let [a, b] = half.to_be_bytes();
        sink.put(&[0xf9, a, b]);
    } else if f64::from(number as f32) == number {
        let [a, b, c, d] = (number as f32).to_be_bytes();
        sink.put(&[0xfa, a, b, c, d]);
    } else {
        sink.put(&[0xfb]);
        sink.put(&number.to_be_bytes());
    }
}

/// The 16-bit float of exactly this value.
fn half_of(number: f64) -> Option<u16> {
    if number.is_nan() {
        return Some(0x7e00);
    }
    let bits = number.to_bits();
    let sign = ((bits >> 48) & 0x8000) as u16;
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1_023;
    let fraction = bits & ((1 << 52) - 1);
    match exponent {
        // Infinity: a not-a-number returned above.
        1_024 => Some(sign | 0x7c00),
        -14..=15 if fraction.trailing_zeros() >= 42 => {
            Some(sign | ((exponent + 15) as u16) << 10 | (fraction >> 42) as u16)
        }
        // Subnormal: a whole number of 2^-24.
        -24..=-15 => {
            let whole = fraction | 1 << 52;
            // 42 + (−14 − exponent) bits fall away.
            let shift = (28 - exponent) as u32;
            (whole.trailing_zeros() >= shift).then(|| sign | (whole >> shift) as u16)
        }
        _ => None,
    }
}

/// The head of a list; its items follow.
pub(crate) fn list_head(sink: &mut impl Sink, items: usize) {
    head(sink, LIST, items as u64);
}

/// A value of any depth up to the limit. `steps` is the budget: sorting keys without memory takes passes over them.
pub(crate) fn value(sink: &mut impl Sink, given: &Value, depth: usize, steps: &mut u32) -> Result<(), Stop> {
    spend(steps, 1)?;
    if depth > limits::MAX_TARGETING_DEPTH {
        return Err(Stop::OverBudget);
    }
    match &given.kind {
        None | Some(Kind::NullValue(_)) => sink.put(&[0xf6]),
        Some(Kind::BoolValue(given)) => boolean(sink, *given),
        Some(Kind::NumberValue(given)) => number(sink, *given),
        Some(Kind::StringValue(given)) => text(sink, given),
        Some(Kind::ListValue(list)) => {
            list_head(sink, list.values.len());
            for item in &list.values {
                value(sink, item, depth + 1, steps)?;
            }
        }
        Some(Kind::StructValue(given)) => object(sink, given, depth, steps)?,
    }
    Ok(())
}

/// An object. Its keys are sorted by bytes already, so one pass for each length that occurs sorts them by length first.
pub(crate) fn object(
    sink: &mut impl Sink,
    given: &Struct,
    depth: usize,
    steps: &mut u32,
) -> Result<(), Stop> {
    head(sink, MAP, given.fields.len() as u64);
    let mut next = given.fields.keys().map(String::len).min();
    while let Some(length) = next {
        // No object that a message can hold has 2^32 fields.
        spend(steps, given.fields.len() as u32)?;
        next = None;
        for (key, field) in &given.fields {
            if key.len() == length {
                text(sink, key);
                value(sink, field, depth + 1, steps)?;
            } else if key.len() > length {
                next = Some(next.map_or(key.len(), |least: usize| least.min(key.len())));
            }
        }
    }
    Ok(())
}

/// Takes steps out of the budget.
pub(crate) fn spend(steps: &mut u32, count: u32) -> Result<(), Stop> {
    *steps = steps.checked_sub(count).ok_or(Stop::OverBudget)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Sink for Vec<u8> {
        fn put(&mut self, bytes: &[u8]) {
            self.extend_from_slice(bytes);
        }
    }

    fn hex(given: impl Into<Value>) -> String {
        let (mut bytes, mut steps) = (Vec::new(), 1_000);
        value(&mut bytes, &given.into(), 0, &mut steps).unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn object_of(fields: &[(&str, Value)]) -> Value {
        Value::from(
            Struct { fields: fields.iter().map(|(key, value)| ((*key).into(), value.clone())).collect() }
                .fields,
        )
    }

    /// RFC 8949, appendix A, where its values can be said in JSON.
    #[test]
    fn the_examples_of_the_rfc() {
        for (number, bytes) in [
            (0.0, "00"),
            (-0.0, "00"),
            (1.0, "01"),
            (10.0, "0a"),
            (23.0, "17"),
            (24.0, "1818"),
            (25.0, "1819"),
            (100.0, "1864"),
            (1000.0, "1903e8"),
            (1_000_000.0, "1a000f4240"),
            (1_000_000_000_000.0, "1b000000e8d4a51000"),
            (-1.0, "20"),
            (-10.0, "29"),
            (-100.0, "3863"),
            (-1000.0, "3903e7"),
            (-9_223_372_036_854_775_808.0, "3b7fffffffffffffff"),
            (1.1, "fb3ff199999999999a"),
            (1.5, "f93e00"),
            (3.4028234663852886e38, "fa7f7fffff"),
            (1.0e300, "fb7e37e43c8800759c"),
            (5.960464477539063e-8, "f90001"),
            (0.00006103515625, "f90400"),
            (-4.1, "fbc010666666666666"),
            (f64::INFINITY, "f97c00"),
            (f64::NEG_INFINITY, "f9fc00"),
            (f64::NAN, "f97e00"),
            (0.5, "f93800"),
            (-0.333251953125, "f9b555"),
            (1_023.0 * 2.0f64.powi(-24), "f903ff"),
            (2.0f64.powi(-25), "fa33000000"),
            (100_000.5, "fa47c35040"),
            (18_446_744_073_709_551_616.0, "fa5f800000"),
        ] {
            assert_eq!(hex(number), bytes, "{number}");
        }
        assert_eq!(hex(false), "f4");
        assert_eq!(hex(true), "f5");
        assert_eq!(hex(Value { kind: None }), "f6");
        for (text, bytes) in [
            ("", "60"),
            ("a", "6161"),
            ("IETF", "6449455446"),
            ("\"\\", "62225c"),
            ("\u{fc}", "62c3bc"),
            ("\u{6c34}", "63e6b0b4"),
        ] {
            assert_eq!(hex(text), bytes, "{text}");
        }
        assert_eq!(hex("x".repeat(24)), format!("7818{}", "78".repeat(24)));
        assert_eq!(hex("x".repeat(256)), format!("790100{}", "78".repeat(256)));
        let numbers = |range: std::ops::RangeInclusive<i32>| {
            range.map(|n| Value::from(f64::from(n))).collect::<Vec<_>>()
        };
        assert_eq!(hex(Vec::new()), "80");
        assert_eq!(hex(numbers(1..=3)), "83010203");
        assert_eq!(
            hex(vec![Value::from(1.0), Value::from(numbers(2..=3)), Value::from(numbers(4..=5))]),
            "8301820203820405"
        );
        assert_eq!(hex(numbers(1..=25)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819");
        assert_eq!(hex(object_of(&[])), "a0");
        assert_eq!(
            hex(object_of(&[("a", Value::from(1.0)), ("b", Value::from(numbers(2..=3)))])),
            "a26161016162820203"
        );
        assert_eq!(hex(vec![Value::from("a"), object_of(&[("b", Value::from("c"))])]), "826161a161626163");
    }

    #[test]
    fn keys_are_sorted_by_length_and_then_by_bytes() {
        let one = || Value::from(1.0);
        let keys = ["z", "aa", "", "ab", "b", "aaaa"];
        let fields: Vec<_> = keys.iter().map(|key| (*key, one())).collect();
        assert_eq!(
            hex(object_of(&fields)),
            "a6600161620161 7a0162616101626162016461616161 01".replace(' ', "")
        );
    }

    #[test]
    fn depth_and_steps_are_bounded() {
        let mut deep = Value::from(1.0);
        for _ in 0..1_000 {
            deep = Value::from(vec![deep]);
        }
        let (mut hash, mut steps) = (Murmur3::new(), u32::MAX);
        assert_eq!(value(&mut hash, &deep, 0, &mut steps), Err(Stop::OverBudget));
        let (mut hash, mut steps) = (Murmur3::new(), 3);
        let long = Value::from(vec![Value::from(1.0), Value::from(1.0), Value::from(1.0)]);
        assert_eq!(value(&mut hash, &long, 0, &mut steps), Err(Stop::OverBudget));
    }
}
