//! What a rule computes with: borrowed values, JavaScript's conversions, and the arena of what operators make.
//!
//! A value borrows from the rule, from the context or from the arena, so that looking up, comparing and hashing copy
//! nothing. What `cat`, `map` and their kin make lies in the arena, named by its place there; the arena is bounded, and
//! beyond its bound evaluation stops.
//!
//! Lists and objects are not numbers and equal nothing, themselves included: the engines disagree on all else.

use std::fmt::Write as _;

use prost_types::{Struct, Value, value::Kind};
use smallvec::SmallVec;

use crate::limits;

/// Evaluation stops: the rule cannot be evaluated, or its budget is spent. Both answer PARSE_ERROR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    UnknownOperator,
    OverBudget,
}

/// A value in the course of an evaluation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(&'a str),
    List(&'a [Value]),
    Object(&'a Struct),
    /// Text that lies in the arena.
    MadeText(Span),
    /// A list whose items lie in the arena.
    MadeList(Span),
    /// The whole context.
    Root,
    /// What `$flagd` holds.
    Flagd,
    /// The two values that `reduce` offers, in the arena: current, accumulator.
    Reduction(Span),
}

/// Where in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl<'a> Val<'a> {
    pub(crate) fn of(value: &'a Value) -> Self {
        match &value.kind {
            None | Some(Kind::NullValue(_)) => Self::Null,
            Some(Kind::BoolValue(value)) => Self::Bool(*value),
            Some(Kind::NumberValue(value)) => Self::Number(*value),
            Some(Kind::StringValue(value)) => Self::Text(value),
            Some(Kind::ListValue(list)) => Self::List(&list.values),
            Some(Kind::StructValue(object)) => Self::Object(object),
        }
    }

    pub(crate) const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(crate) const fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::MadeList(_))
    }
}

/// What operators made: texts in one buffer, items of lists in another. Small rules need no memory of their own.
#[derive(Debug, Default)]
pub(crate) struct Arena<'a> {
    text: SmallVec<[u8; 256]>,
    items: SmallVec<[Val<'a>; 16]>,
}

impl<'a> Arena<'a> {
    /// The text of a value, if it is one.
    pub(crate) fn text<'v>(&'v self, value: Val<'a>) -> Option<&'v str>
    where
        'a: 'v,
    {
        match value {
            Val::Text(text) => Some(text),
            Val::MadeText(span) => {
                let end = span.start as usize + span.len as usize;
                // Only whole texts are put in, and cut between characters.
                std::str::from_utf8(self.text.get(span.start as usize..end)?).ok()
            }
            _ => None,
        }
    }

    /// A list's length; anything else has no items.
    pub(crate) const fn len(value: Val<'a>) -> usize {
        match value {
            Val::List(values) => values.len(),
            Val::MadeList(span) | Val::Reduction(span) => span.len as usize,
            _ => 0,
        }
    }

    pub(crate) fn item(&self, list: Val<'a>, nth: usize) -> Option<Val<'a>> {
        match list {
            Val::List(values) => values.get(nth).map(Val::of),
            Val::MadeList(span) | Val::Reduction(span) if nth < span.len as usize => {
                self.items.get(span.start as usize + nth).copied()
            }
            _ => None,
        }
    }

    /// Room for items, all null; a list is filled while other values are made.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<Span, Stop> {
        let start = self.items.len();
        if start + count > limits::MAX_TARGETING_ITEMS {
            return Err(Stop::OverBudget);
        }
        self.items.resize(start + count, Val::Null);
        // Both are below the limit.
        Ok(Span { start: start as u32, len: count as u32 })
    }

    pub(crate) fn fill(&mut self, span: Span, nth: usize, value: Val<'a>) {
        if let Some(item) = self.items.get_mut(span.start as usize + nth) {
            *item = value;
        }
    }

    /// Where the next text will begin.
    pub(crate) fn text_start(&self) -> u32 {
        // Below the limit.
        self.text.len() as u32
    }

    pub(crate) fn push_text(&mut self, text: &str) -> Result<(), Stop> {
        if self.text.len() + text.len() > limits::MAX_TARGETING_TEXT_BYTES {
            return Err(Stop::OverBudget);
        }
        self.text.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Appends a text that lies in the arena already.
    fn push_made(&mut self, span: Span) -> Result<(), Stop> {
        let (from, count, at) = (span.start as usize, span.len as usize, self.text.len());
        if at + count > limits::MAX_TARGETING_TEXT_BYTES || from + count > at {
            return Err(Stop::OverBudget);
        }
        self.text.resize(at + count, 0);
        self.text.copy_within(from..from + count, at);
        Ok(())
    }

    /// The text from `start` to here.
    pub(crate) fn text_since(&self, start: u32) -> Val<'a> {
        Val::MadeText(Span { start, len: self.text_start() - start })
    }

    /// Appends a value as JavaScript writes it: null is nothing, the items of a list are joined by commas.
    pub(crate) fn push_value(&mut self, value: Val<'a>, depth: usize) -> Result<(), Stop> {
        match value {
            Val::Null => Ok(()),
            Val::Bool(value) => self.push_text(if value { "true" } else { "false" }),
            Val::Number(number) => self.push_text(Printed::of(number).as_str()),
            Val::Text(text) => self.push_text(text),
            Val::MadeText(span) => self.push_made(span),
            Val::List(_) | Val::MadeList(_) => {
                if depth > limits::MAX_TARGETING_DEPTH {
                    return Err(Stop::OverBudget);
                }
                for nth in 0..Self::len(value) {
                    if nth > 0 {
                        self.push_text(",")?;
                    }
                    self.push_value(self.item(value, nth).unwrap_or(Val::Null), depth + 1)?;
                }
                Ok(())
            }
            Val::Object(_) | Val::Root | Val::Flagd | Val::Reduction(_) => self.push_text("[object Object]"),
        }
    }

    /// Null, false, 0, not-a-number and everything empty are not true.
    pub(crate) fn is_true(value: Val<'a>) -> bool {
        match value {
            Val::Null => false,
            Val::Bool(value) => value,
            Val::Number(number) => number != 0.0 && !number.is_nan(),
            Val::Text(text) => !text.is_empty(),
            Val::MadeText(span) => span.len > 0,
            Val::List(_) | Val::MadeList(_) => Self::len(value) > 0,
            Val::Object(object) => !object.fields.is_empty(),
            Val::Root | Val::Flagd | Val::Reduction(_) => true,
        }
    }

    pub(crate) fn number(&self, value: Val<'a>) -> f64 {
        match value {
            Val::Null => 0.0,
            Val::Bool(value) => f64::from(u8::from(value)),
            Val::Number(number) => number,
            Val::Text(_) | Val::MadeText(_) => self.text(value).map_or(f64::NAN, number_of_text),
            _ => f64::NAN,
        }
    }

    /// `===`: the same type and the same value.
    pub(crate) fn same(&self, a: Val<'a>, b: Val<'a>) -> bool {
        match (a, b) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Number(a), Val::Number(b)) => a == b,
            (Val::Text(a), Val::Text(b)) => a == b,
            _ => match (self.text(a), self.text(b)) {
                (Some(a), Some(b)) => a == b,
                _ => false,
            },
        }
    }

    /// `==`: null equals null only; texts are compared as texts, everything else as numbers.
    #[inline]
    pub(crate) fn equal(&self, a: Val<'a>, b: Val<'a>) -> bool {
        match (a, b) {
            (Val::Text(a), Val::Text(b)) => a == b,
            (Val::Null, Val::Null) => true,
            (Val::Null, _) | (_, Val::Null) => false,
            _ => match (self.text(a), self.text(b)) {
                (Some(a), Some(b)) => a == b,
                _ => self.number(a) == self.number(b),
            },
        }
    }
}

/// A text as a number, as JavaScript reads it: blank is 0, anything that is no number is not-a-number.
pub(crate) fn number_of_text(text: &str) -> f64 {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let radix = match digits.get(..2) {
        Some("0x" | "0X") => 16,
        Some("0o" | "0O") => 8,
        Some("0b" | "0B") => 2,
        _ => 10,
    };
    match digits.as_bytes().first() {
        None if text.is_empty() => 0.0,
        Some(b'0') if radix != 10 && digits.len() == text.len() => {
            let digits = digits.get(2..).unwrap_or_default();
            let fold =
                |sum: f64, digit: char| Some(sum * f64::from(radix) + f64::from(digit.to_digit(radix)?));
            if digits.is_empty() { f64::NAN } else { digits.chars().try_fold(0.0, fold).unwrap_or(f64::NAN) }
        }
        // Rust also reads `inf` and `nan`, which JavaScript does not.
        Some(b'0'..=b'9' | b'.') => text.parse().unwrap_or(f64::NAN),
        Some(b'I') if digits == "Infinity" => {
            if text.starts_with('-') {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }
        }
        _ => f64::NAN,
    }
}

/// A number as JSON writes it: `1`, `1.5`, `1e+21`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printed {
    bytes: [u8; 40],
    len: usize,
}

impl Printed {
    pub(crate) fn of(number: f64) -> Self {
        let mut printed = Self { bytes: [0; 40], len: 0 };
        let size = number.abs();
        // The longest has 26 characters, so writing cannot fail.
        let _ = if number.is_nan() {
            printed.write_str("NaN")
        } else if number.is_infinite() {
            printed.write_str(if number > 0.0 { "Infinity" } else { "-Infinity" })
        } else if number == 0.0 {
            printed.write_str("0")
        } else if (1e-6..1e21).contains(&size) {
            write!(printed, "{number}")
        } else {
            printed.exponent(number)
        };
        printed
    }

    fn exponent(&mut self, number: f64) -> std::fmt::Result {
        let mut plain = Self { bytes: [0; 40], len: 0 };
        write!(plain, "{number:e}")?;
        let (digits, exponent) = plain.as_str().split_once('e').unwrap_or((plain.as_str(), "0"));
        self.write_str(digits)?;
        self.write_str(if exponent.starts_with('-') { "e" } else { "e+" })?;
        self.write_str(exponent)
    }

    pub(crate) fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl std::fmt::Write for Printed {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_json_prints_them() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (0.000_001, "0.000001"),
            (0.000_000_1, "1e-7"),
            (-1.25e-7, "-1.25e-7"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (-123_456_789.123_456_79, "-123456789.12345679"),
        ] {
            assert_eq!(Printed::of(number).as_str(), text);
        }
    }

    #[test]
    fn texts_are_read_as_javascript_reads_numbers() {
        for (text, number) in [
            ("", 0.0),
            (" \t", 0.0),
            ("1", 1.0),
            (" 1.5 ", 1.5),
            ("-1.5e3", -1500.0),
            ("+.5", 0.5),
            ("5.", 5.0),
            ("0x1F", 31.0),
            ("0b11", 3.0),
            ("Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(number_of_text(text), number, "{text}");
        }
        for text in
            ["inf", "nan", "NaN", "1a", "-", "+", ".", "-0x1", "0x", "0xg", "e5", "infinity", "1 2", "--1"]
        {
            assert!(number_of_text(text).is_nan(), "{text}");
        }
    }

    #[test]
    fn equality_converts_and_identity_does_not() {
        let list = [Value::from(1.0)];
        let arena = Arena::default();
        for (a, b, equal, same) in [
            (Val::Null, Val::Null, true, true),
            (Val::Null, Val::Number(0.0), false, false),
            (Val::Null, Val::Bool(false), false, false),
            (Val::Text("1"), Val::Number(1.0), true, false),
            (Val::Text(""), Val::Number(0.0), true, false),
            (Val::Text("1"), Val::Text("1.0"), false, false),
            (Val::Bool(true), Val::Number(1.0), true, false),
            (Val::Bool(true), Val::Text("1"), true, false),
            (Val::Bool(true), Val::Text("true"), false, false),
            (Val::Number(f64::NAN), Val::Number(f64::NAN), false, false),
            (Val::List(&list), Val::List(&list), false, false),
            (Val::List(&list), Val::Number(1.0), false, false),
        ] {
            assert_eq!((arena.equal(a, b), arena.same(a, b)), (equal, same), "{a:?} {b:?}");
            assert_eq!((arena.equal(b, a), arena.same(b, a)), (equal, same), "{b:?} {a:?}");
        }
    }

    #[test]
    fn the_arena_is_bounded() {
        let mut arena = Arena::default();
        assert!(arena.reserve(limits::MAX_TARGETING_ITEMS).is_ok());
        assert_eq!(arena.reserve(1), Err(Stop::OverBudget));
        let text = "x".repeat(limits::MAX_TARGETING_TEXT_BYTES);
        assert!(arena.push_text(&text).is_ok());
        assert_eq!(arena.push_text("y"), Err(Stop::OverBudget));
        let all = arena.text_since(0);
        assert_eq!(arena.push_value(all, 0), Err(Stop::OverBudget));
    }
}
