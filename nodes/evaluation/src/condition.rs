//! One condition: an attribute, an operator, values resolved when the flag was compiled.
//!
//! The rules, the same for every operator:
//!
//! * Types never convert. `"18"` is not 18, and `"true"` is not true.
//! * A missing attribute, or null, satisfies no comparison. An attribute of another type neither.
//! * `NOT_EQUALS`, `NOT_IN` and `NOT_EXISTS` are the exact negations of `EQUALS`, `IN` and `EXISTS`: they hold for a
//!   missing attribute. "Everyone whose country is not DE" includes those without a country; who wants it otherwise
//!   adds `EXISTS`.
//! * Order (`LESS` …) is for numbers only. Text has no order that would serve versions and dates alike.
//! * `CONTAINS` finds text in text, and a scalar in a list.
//! * A NaN in a context equals nothing and has no order.

use prost_types::{Value, value::Kind};

use crate::context::Seen;
use crate::murmur::Murmur3;

#[derive(Debug)]
pub(crate) struct Condition {
    /// The index of its attribute among the flag's: few are asked about many times.
    pub(crate) attribute: u32,
    pub(crate) test: Test,
}

#[derive(Debug)]
pub(crate) enum Test {
    Equals(Scalar),
    NotEquals(Scalar),
    Less(f64),
    LessOrEqual(f64),
    Greater(f64),
    GreaterOrEqual(f64),
    In(Set),
    NotIn(Set),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Scalar),
    Exists,
    NotExists,
    /// In one of these, by id; in none. Asked by [`crate::segment`], not here.
    InSegment(Box<[Box<str>]>),
    NotInSegment(Box<[Box<str>]>),
}

#[derive(Debug)]
pub(crate) enum Scalar {
    Boolean(bool),
    Number(f64),
    Text(Box<str>),
}

impl Scalar {
    /// The scalar of a value; null, lists and objects are none.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        match &value.kind {
            Some(Kind::BoolValue(value)) => Some(Self::Boolean(*value)),
            Some(Kind::NumberValue(value)) => Some(Self::Number(*value)),
            Some(Kind::StringValue(value)) => Some(Self::Text(value.as_str().into())),
            _ => None,
        }
    }

    fn equals(&self, seen: &Seen<'_>) -> bool {
        match (self, seen) {
            (Self::Boolean(own), Seen::Boolean(other)) => own == other,
            (Self::Number(own), Seen::Number(other)) => own == other,
            (Self::Text(own), Seen::Text(other)) => own.as_ref() == *other,
            _ => false,
        }
    }

    fn is(&self, value: &Value) -> bool {
        match (self, &value.kind) {
            (Self::Boolean(own), Some(Kind::BoolValue(other))) => own == other,
            (Self::Number(own), Some(Kind::NumberValue(other))) => own == other,
            (Self::Text(own), Some(Kind::StringValue(other))) => own.as_ref() == other,
            _ => false,
        }
    }
}

/// The values of `IN` by type. Texts are found by their hashes, which lie side by side: a search among a thousand
/// texts would otherwise touch ten places in memory.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// Sorted.
    hashes: Box<[u32]>,
    /// In the order of their hashes.
    texts: Box<[Box<str>]>,
    /// Sorted.
    numbers: Box<[f64]>,
    has_true: bool,
    has_false: bool,
}

impl Set {
    pub(crate) fn new(scalars: impl IntoIterator<Item = Scalar>) -> Self {
        let (mut texts, mut numbers, mut set) = (Vec::new(), Vec::new(), Self::default());
        for scalar in scalars {
            match scalar {
                Scalar::Boolean(true) => set.has_true = true,
                Scalar::Boolean(false) => set.has_false = true,
                Scalar::Number(number) => numbers.push(one_zero(number)),
                Scalar::Text(text) => texts.push((hash_of(&text), text)),
            }
        }
        texts.sort_unstable();
        texts.dedup();
        numbers.sort_unstable_by(f64::total_cmp);
        set.hashes = texts.iter().map(|(hash, _)| *hash).collect();
        set.texts = texts.into_iter().map(|(_, text)| text).collect();
        set.numbers = numbers.into();
        set
    }

    pub(crate) fn holds(&self, seen: &Seen<'_>) -> bool {
        match seen {
            Seen::Boolean(true) => self.has_true,
            Seen::Boolean(false) => self.has_false,
            // A NaN is never found: compile lets none in.
            Seen::Number(number) => {
                let number = one_zero(*number);
                self.numbers.binary_search_by(|own| own.total_cmp(&number)).is_ok()
            }
            Seen::Text(text) => self.holds_text(text),
            Seen::Missing | Seen::List(_) | Seen::Object => false,
        }
    }

    fn holds_text(&self, text: &str) -> bool {
        let hash = hash_of(text);
        let first = self.hashes.partition_point(|own| *own < hash);
        let alike = self.hashes.iter().zip(&self.texts).skip(first).take_while(|(own, _)| **own == hash);
        alike.into_iter().any(|(_, own)| own.as_ref() == text)
    }
}

fn hash_of(text: &str) -> u32 {
    Murmur3::new().with(text.as_bytes()).finish()
}

/// −0 and 0 are equal, but not to the total order that the search needs.
fn one_zero(number: f64) -> f64 {
    if number == 0.0 { 0.0 } else { number }
}

impl Test {
    /// Whether the condition holds for what its attribute is.
    pub(crate) fn holds(&self, seen: &Seen<'_>) -> bool {
        match (self, seen) {
            (Self::Equals(scalar), seen) => scalar.equals(seen),
            (Self::NotEquals(scalar), seen) => !scalar.equals(seen),
            (Self::In(set), seen) => set.holds(seen),
            (Self::NotIn(set), seen) => !set.holds(seen),
            (Self::Less(bound), Seen::Number(number)) => number < bound,
            (Self::LessOrEqual(bound), Seen::Number(number)) => number <= bound,
            (Self::Greater(bound), Seen::Number(number)) => number > bound,
            (Self::GreaterOrEqual(bound), Seen::Number(number)) => number >= bound,
            (Self::StartsWith(part), Seen::Text(text)) => text.starts_with(part.as_ref()),
            (Self::EndsWith(part), Seen::Text(text)) => text.ends_with(part.as_ref()),
            (Self::Contains(Scalar::Text(part)), Seen::Text(text)) => text.contains(part.as_ref()),
            (Self::Contains(scalar), Seen::List(values)) => values.iter().any(|value| scalar.is(value)),
            (Self::Exists, seen) => !matches!(seen, Seen::Missing),
            (Self::NotExists, seen) => matches!(seen, Seen::Missing),
            (
                Self::Less(_)
                | Self::LessOrEqual(_)
                | Self::Greater(_)
                | Self::GreaterOrEqual(_)
                | Self::StartsWith(_)
                | Self::EndsWith(_)
                | Self::Contains(_)
                | Self::InSegment(_),
                _,
            ) => false,
            (Self::NotInSegment(_), _) => true,
        }
    }

    /// The operator, as it is written.
    pub(crate) const fn operator(&self) -> &'static str {
        match self {
            Self::Equals(_) => "EQUALS",
            Self::NotEquals(_) => "NOT_EQUALS",
            Self::Less(_) => "LESS",
            Self::LessOrEqual(_) => "LESS_OR_EQUAL",
            Self::Greater(_) => "GREATER",
            Self::GreaterOrEqual(_) => "GREATER_OR_EQUAL",
            Self::In(_) => "IN",
            Self::NotIn(_) => "NOT_IN",
            Self::StartsWith(_) => "STARTS_WITH",
            Self::EndsWith(_) => "ENDS_WITH",
            Self::Contains(_) => "CONTAINS",
            Self::Exists => "EXISTS",
            Self::NotExists => "NOT_EXISTS",
            Self::InSegment(_) => "IN_SEGMENT",
            Self::NotInSegment(_) => "NOT_IN_SEGMENT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.into())
    }

    #[test]
    fn the_edges_of_every_operator() {
        use Scalar::{Boolean, Number};
        let list = [Value::from("beta"), Value::from(7.0), Value::from(true), Value { kind: None }];
        let set = |scalars: Vec<Scalar>| Test::In(Set::new(scalars));
        let not_in = |scalars: Vec<Scalar>| Test::NotIn(Set::new(scalars));
        let cases = [
            (Test::Equals(Number(18.0)), Seen::Number(18.0), true),
            (Test::Equals(Number(18.0)), Seen::Text("18"), false),
            (Test::Equals(Number(0.0)), Seen::Number(-0.0), true),
            (Test::Equals(Boolean(true)), Seen::Text("true"), false),
            (Test::Equals(text("")), Seen::Missing, false),
            (Test::NotEquals(text("DE")), Seen::Missing, true),
            (Test::NotEquals(text("DE")), Seen::Object, true),
            (Test::NotEquals(text("DE")), Seen::Text("DE"), false),
            (Test::NotEquals(Number(1.0)), Seen::Number(f64::NAN), true),
            (Test::Less(18.0), Seen::Number(18.0), false),
            (Test::Less(18.0), Seen::Number(17.5), true),
            (Test::LessOrEqual(18.0), Seen::Number(18.0), true),
            (Test::LessOrEqual(18.0), Seen::Number(18.5), false),
            (Test::Greater(18.0), Seen::Number(18.0), false),
            (Test::Greater(18.0), Seen::Number(18.5), true),
            (Test::GreaterOrEqual(18.0), Seen::Number(18.0), true),
            (Test::GreaterOrEqual(18.0), Seen::Number(17.5), false),
            (Test::LessOrEqual(18.0), Seen::Number(f64::NAN), false),
            (Test::GreaterOrEqual(18.0), Seen::Number(f64::NAN), false),
            (Test::Less(18.0), Seen::Text("17"), false),
            (Test::Less(18.0), Seen::Missing, false),
            (set(vec![text("DE"), text("FR")]), Seen::Text("FR"), true),
            (set(vec![text("DE"), text("FR")]), Seen::Text("F"), false),
            (set(vec![text("7"), Boolean(true)]), Seen::Number(7.0), false),
            (set(vec![Number(0.0)]), Seen::Number(-0.0), true),
            (set(vec![Number(-0.0)]), Seen::Number(0.0), true),
            (set(vec![Number(1.0)]), Seen::Number(f64::NAN), false),
            (set(vec![Boolean(false)]), Seen::Boolean(false), true),
            (set(vec![Boolean(false)]), Seen::Boolean(true), false),
            (set(vec![text("beta")]), Seen::List(&list), false),
            (not_in(vec![text("DE")]), Seen::Missing, true),
            (not_in(vec![text("DE")]), Seen::Text("DE"), false),
            (Test::StartsWith("ab".into()), Seen::Text("abc"), true),
            (Test::StartsWith("ab".into()), Seen::Text("a"), false),
            (Test::EndsWith("bc".into()), Seen::Text("abc"), true),
            (Test::EndsWith("bc".into()), Seen::Missing, false),
            (Test::Contains(text("b")), Seen::Text("abc"), true),
            (Test::Contains(text("bet")), Seen::List(&list), false),
            (Test::Contains(text("beta")), Seen::List(&list), true),
            (Test::Contains(Number(7.0)), Seen::List(&list), true),
            (Test::Contains(Number(7.0)), Seen::Text("7"), false),
            (Test::Exists, Seen::Object, true),
            (Test::Exists, Seen::Missing, false),
            (Test::NotExists, Seen::Missing, true),
            (Test::NotExists, Seen::Text(""), false),
        ];
        for (test, seen, holds) in cases {
            assert_eq!(test.holds(&seen), holds, "{test:?} for {seen:?}");
        }
    }

    /// Found by search: two texts with one hash, so that a set tells them apart by more than it.
    #[test]
    fn texts_of_one_hash_are_told_apart() {
        let mut seen = std::collections::BTreeMap::new();
        let pair = (0..400_000u32).find_map(|n| {
            let own = format!("unit-{n}");
            seen.insert(hash_of(&own), own.clone()).map(|other| (own, other))
        });
        let (one, other) = pair.expect("about 19 collisions are expected among 400,000");
        let set = Set::new([text(&one)]);
        assert!(set.holds_text(&one) && !set.holds_text(&other));
        let both = Set::new([text(&one), text(&other)]);
        assert!(both.holds_text(&one) && both.holds_text(&other));
    }
}
