//! When one rule leaves nothing to another, and when a rule stands in its own way.
//!
//! A rule covers a later one when each of its conditions follows from one of the later rule's: whatever matches the later
//! one has matched the earlier one. `a = "x"` follows from `a = "x"`, but also `a in ["x","y"]`, `a exists` and
//! `a != "z"` do. The meaning of operators is that of the evaluation: types never convert, and `!=`, `not in` and
//! `not exists` hold for what is missing.

use featureops_proto::v1::Condition;
use featureops_proto::v1::condition::Operator as Op;
use prost_types::{Value, value::Kind};

/// Whether every context that matches `later` matches `earlier`.
pub fn covers(earlier: &[Condition], later: &[Condition]) -> bool {
    earlier.iter().all(|wanted| later.iter().any(|given| implies(given, wanted)))
}

/// Conditions of one rule that cannot hold together, by their places: two, or those that together leave none of the values
/// that an attribute can have.
pub fn contradiction(conditions: &[Condition]) -> Option<Vec<usize>> {
    let pair = conditions.iter().enumerate().find_map(|(at, one)| {
        let others = conditions.iter().enumerate().skip(at + 1);
        others.into_iter().find(|(_, other)| excludes(one, other)).map(|(nth, _)| vec![at, nth])
    });
    pair.or_else(|| {
        conditions.iter().enumerate().find_map(|(at, one)| {
            let others: Vec<(usize, &Condition)> = conditions
                .iter()
                .enumerate()
                .filter(|(nth, other)| *nth != at && other.attribute == one.attribute)
                .collect();
            let survives = |value: &Value| others.iter().all(|(_, c)| holds(c.operator(), &c.values, value));
            let none = !only(one)?.iter().any(survives);
            let mut places: Vec<usize> = others.iter().map(|(nth, _)| *nth).collect();
            places.push(at);
            places.sort_unstable();
            none.then_some(places)
        })
    })
}

/// Whether `wanted` holds wherever `given` does.
fn implies(given: &Condition, wanted: &Condition) -> bool {
    if given.attribute != wanted.attribute {
        return false;
    }
    if given.operator == wanted.operator && same_values(&given.values, &wanted.values) {
        return true;
    }
    let (from, to) = (given.operator(), wanted.operator());
    // The values that the attribute can only have.
    if let Some(values) = only(given) {
        return !values.is_empty() && values.iter().all(|value| holds(to, &wanted.values, value));
    }
    match (from, to) {
        (_, Op::Exists) => !matches!(from, Op::NotEquals | Op::NotIn | Op::NotExists | Op::Unspecified),
        (Op::NotExists, Op::NotEquals | Op::NotIn) => true,
        // In one of fewer is in one of more; in none of more is in none of fewer.
        (Op::InSegment, Op::InSegment) => given.values.iter().all(|value| wanted.values.contains(value)),
        (Op::NotInSegment, Op::NotInSegment) => {
            wanted.values.iter().all(|value| given.values.contains(value))
        }
        (Op::NotIn | Op::NotEquals, Op::NotIn | Op::NotEquals) => {
            wanted.values.iter().all(|value| given.values.contains(value))
        }
        (Op::StartsWith, Op::StartsWith) => {
            texts(given, wanted).is_some_and(|(own, other)| own.starts_with(other))
        }
        (Op::EndsWith, Op::EndsWith) => texts(given, wanted).is_some_and(|(own, other)| own.ends_with(other)),
        (Op::Greater | Op::GreaterOrEqual, Op::Greater | Op::GreaterOrEqual) => numbers(given, wanted)
            .is_some_and(|(own, other)| {
                own > other || own == other && (from == to || to == Op::GreaterOrEqual)
            }),
        (Op::Less | Op::LessOrEqual, Op::Less | Op::LessOrEqual) => numbers(given, wanted)
            .is_some_and(|(own, other)| own < other || own == other && (from == to || to == Op::LessOrEqual)),
        _ => false,
    }
}

/// Whether the two can never both hold.
fn excludes(one: &Condition, other: &Condition) -> bool {
    if one.attribute != other.attribute {
        return false;
    }
    for (given, wanted) in [(one, other), (other, one)] {
        if let Some(values) = only(given) {
            return !values.iter().any(|value| holds(wanted.operator(), &wanted.values, value));
        }
        if (given.operator(), wanted.operator()) == (Op::InSegment, Op::NotInSegment) {
            return given.values.iter().all(|value| wanted.values.contains(value));
        }
        if given.operator() == Op::NotExists
            && !matches!(wanted.operator(), Op::NotEquals | Op::NotIn | Op::NotExists | Op::Unspecified)
        {
            return true;
        }
        // Types never convert: no text is a number, and no list either.
        let (of_texts, of_numbers) = (is_of_texts(given.operator()), is_of_numbers(wanted.operator()));
        if of_texts && of_numbers {
            return true;
        }
        if matches!(given.operator(), Op::StartsWith | Op::EndsWith)
            && given.operator == wanted.operator
            && let Some((one, other)) = texts(given, wanted)
        {
            let (long, short) = if one.len() < other.len() { (other, one) } else { (one, other) };
            let agree = match given.operator() {
                Op::StartsWith => long.starts_with(short),
                _ => long.ends_with(short),
            };
            return !agree;
        }
        if matches!(given.operator(), Op::Greater | Op::GreaterOrEqual)
            && matches!(wanted.operator(), Op::Less | Op::LessOrEqual)
            && let Some((least, most)) = numbers(given, wanted)
        {
            let both = given.operator() == Op::GreaterOrEqual && wanted.operator() == Op::LessOrEqual;
            return least > most || least == most && !both;
        }
    }
    false
}

const fn is_of_texts(operator: Op) -> bool {
    matches!(operator, Op::StartsWith | Op::EndsWith)
}

const fn is_of_numbers(operator: Op) -> bool {
    matches!(operator, Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual)
}

/// The values an attribute has if the condition holds, if they can be listed.
fn only(condition: &Condition) -> Option<&[Value]> {
    matches!(condition.operator(), Op::Equals | Op::In).then_some(condition.values.as_slice())
}

/// Whether a condition holds for a scalar. What is not known to hold does not.
fn holds(operator: Op, values: &[Value], seen: &Value) -> bool {
    let first = values.first();
    match operator {
        Op::Equals | Op::In => values.contains(seen),
        Op::NotEquals | Op::NotIn => !values.contains(seen),
        Op::Exists => true,
        Op::NotExists | Op::Unspecified | Op::InSegment | Op::NotInSegment => false,
        Op::StartsWith | Op::EndsWith | Op::Contains => match (text(Some(seen)), text(first)) {
            (Some(seen), Some(part)) => match operator {
                Op::StartsWith => seen.starts_with(part),
                Op::EndsWith => seen.ends_with(part),
                _ => seen.contains(part),
            },
            _ => false,
        },
        Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual => {
            match (number(Some(seen)), number(first)) {
                (Some(seen), Some(bound)) => match operator {
                    Op::Less => seen < bound,
                    Op::LessOrEqual => seen <= bound,
                    Op::Greater => seen > bound,
                    _ => seen >= bound,
                },
                _ => false,
            }
        }
    }
}

pub fn same_values(one: &[Value], other: &[Value]) -> bool {
    one.len() == other.len() && one.iter().all(|value| other.contains(value))
}

fn text(value: Option<&Value>) -> Option<&str> {
    match &value?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn number(value: Option<&Value>) -> Option<f64> {
    match value?.kind {
        Some(Kind::NumberValue(number)) => Some(number),
        _ => None,
    }
}

fn texts<'c>(one: &'c Condition, other: &'c Condition) -> Option<(&'c str, &'c str)> {
    Some((text(one.values.first())?, text(other.values.first())?))
}

fn numbers(one: &Condition, other: &Condition) -> Option<(f64, f64)> {
    Some((number(one.values.first())?, number(other.values.first())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rule::parse_rule;

    fn conditions(text: &str) -> Vec<Condition> {
        parse_rule(&format!("{text} -> on"), "r").unwrap().conditions
    }

    #[test]
    fn what_follows_from_what() {
        for (earlier, later) in [
            ("always", "a = 1"),
            ("a = 1", "b = 2 and a = 1"),
            ("a in [1, 2]", "a = 1"),
            ("a in [1, 2, 3]", "a in [3, 1]"),
            ("a exists", "a = 1"),
            ("a exists", "a > 1"),
            ("a != 2", "a = 1"),
            ("a != 2", "a not in [1, 2]"),
            ("a not in [1, 2]", "a not exists"),
            ("a >= 1", "a = 3"),
            ("a >= 1", "a > 1"),
            ("a > 1", "a > 2"),
            ("a <= 5", "a < 5"),
            ("a starts_with \"x\"", "a starts_with \"xy\""),
            ("a contains \"x\"", "a = \"axb\""),
            ("in-segment(beta, staff)", "in-segment(staff)"),
            ("not in-segment(beta)", "not in-segment(staff, beta)"),
        ] {
            assert!(covers(&conditions(earlier), &conditions(later)), "{earlier} covers {later}");
        }
        for (earlier, later) in [
            ("a = 1", "always"),
            ("a = 1", "a in [1, 2]"),
            ("a = 1", "a = \"1\""),
            ("a exists", "a != 1"),
            ("a > 1", "a >= 1"),
            ("a = 1", "b = 1"),
            ("a != 1", "a != 2"),
            ("a = 1 and b = 1", "a = 1"),
            ("in-segment(staff)", "in-segment(beta, staff)"),
            ("not in-segment(staff, beta)", "not in-segment(beta)"),
            ("in-segment(staff)", "not in-segment(staff)"),
        ] {
            assert!(!covers(&conditions(earlier), &conditions(later)), "{earlier} does not cover {later}");
        }
    }

    #[test]
    fn what_excludes_what() {
        for text in [
            "a = 1 and a = 2",
            "a exists and a not exists",
            "a > 5 and a < 5",
            "a >= 5 and a < 5",
            "a in [1, 2] and a not in [1, 2]",
            "a = 1 and b = 1 and a > 3",
            "a = true and a not exists",
            "in-segment(beta) and not in-segment(staff, beta)",
            "a in [1, 2, 3] and a != 2 and a not in [1, 3]",
            "a starts_with \"x\" and a starts_with \"y\"",
            "a ends_with \"xy\" and a ends_with \"xz\"",
            "a starts_with \"1\" and a > 1",
        ] {
            assert!(contradiction(&conditions(text)).is_some(), "{text}");
        }
        for text in [
            "a >= 5 and a <= 5",
            "a != 1 and a not exists",
            "a > 1 and a < 5",
            "a in [1, 2] and a > 1",
            "in-segment(a, b) and not in-segment(a)",
            "a in [1, 2, 3] and a != 2 and a not in [1, 4]",
            "a starts_with \"x\" and a starts_with \"xy\"",
            "a starts_with \"x\" and a ends_with \"y\"",
            "a contains \"x\" and a contains \"y\"",
            "a > 5 and a < 6",
        ] {
            assert_eq!(contradiction(&conditions(text)), None, "{text}");
        }
    }
}
