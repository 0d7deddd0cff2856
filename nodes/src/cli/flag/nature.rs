//! What is known of conditions and segments before any context: that they never hold, or always do.
//!
//! A segment's nature is that of its clauses and its list, and a condition that asks about segments has theirs, so it is
//! followed as far down as segments go. What cannot be told is `Sometimes`: everything that is told is true.

use std::collections::BTreeMap;

use featureops_evaluation::flagd::asked;
use featureops_proto::v1::condition::Operator as Op;
use featureops_proto::v1::{Condition, Segment};

use super::shadow;
use crate::cli::render::key_of;

/// Levels of segments that are followed; the fold keeps fewer.
const LEVELS_MAX: usize = 32;

/// Of how many contexts something holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nature {
    /// Of none, and why.
    Never(String),
    Always,
    Sometimes,
}

/// The natures of an environment's segments, by id.
#[derive(Debug, Default)]
pub struct Natures<'s>(BTreeMap<&'s str, Nature>);

impl<'s> Natures<'s> {
    pub fn of(segments: &'s [Segment]) -> Self {
        let all = segments.iter().map(|segment| (key_of(&segment.name), segment)).collect();
        let mut natures = Self::default();
        for segment in segments {
            natures.settle(key_of(&segment.name), &all, LEVELS_MAX);
        }
        natures
    }

    /// Those it asks about first. A circle, which the fold refuses, ends where the levels do.
    fn settle(&mut self, id: &'s str, all: &BTreeMap<&'s str, &'s Segment>, levels: usize) {
        let Some(segment) = all.get(id).filter(|_| levels > 0 && !self.0.contains_key(id)) else { return };
        for condition in segment.clauses.iter().flat_map(|clause| &clause.conditions) {
            for other in asked(condition) {
                self.settle(other, all, levels - 1);
            }
        }
        let nature = self.segment(segment);
        self.0.insert(id, nature);
    }

    /// Of one whose id is known.
    pub fn get(&self, id: &str) -> &Nature {
        self.0.get(id).unwrap_or(&Nature::Sometimes)
    }

    fn segment(&self, segment: &Segment) -> Nature {
        let clauses: Vec<Nature> =
            segment.clauses.iter().map(|clause| self.clause(&clause.conditions)).collect();
        if clauses.contains(&Nature::Always) || self.one_or_the_other(segment) {
            return Nature::Always;
        }
        if segment.unit_count > 0 || clauses.contains(&Nature::Sometimes) {
            return Nature::Sometimes;
        }
        Nature::Never(match clauses.is_empty() {
            true => "has no clause and nobody on its list: nobody is in it".to_owned(),
            false => "none of its clauses can hold, and nobody is on its list: nobody is in it".to_owned(),
        })
    }

    /// Whether two clauses of one condition each are a condition and its negation.
    fn one_or_the_other(&self, segment: &Segment) -> bool {
        let alone: Vec<&Condition> = segment
            .clauses
            .iter()
            .filter_map(|clause| {
                let mut deciding = clause.conditions.iter().filter(|c| self.condition(c) != Nature::Always);
                deciding.next().filter(|_| deciding.next().is_none())
            })
            .collect();
        alone.iter().enumerate().any(|(at, one)| alone.iter().skip(at + 1).any(|other| negates(one, other)))
    }

    /// Of conditions that are to hold together.
    pub fn clause(&self, conditions: &[Condition]) -> Nature {
        for (at, condition) in conditions.iter().enumerate() {
            if let Nature::Never(why) = self.condition(condition) {
                return Nature::Never(format!("condition {at} never holds: {why}"));
            }
        }
        if let Some(places) = shadow::contradiction(conditions) {
            let places: Vec<String> = places.iter().map(ToString::to_string).collect();
            return Nature::Never(format!("conditions {} contradict each other", listed(&places)));
        }
        if self.deciding(conditions).is_empty() { Nature::Always } else { Nature::Sometimes }
    }

    /// The conditions that do not always hold.
    pub fn deciding(&self, conditions: &[Condition]) -> Vec<Condition> {
        conditions.iter().filter(|condition| self.condition(condition) != Nature::Always).cloned().collect()
    }

    fn condition(&self, condition: &Condition) -> Nature {
        let nobody = |nature: &&Nature| matches!(nature, Nature::Never(_));
        let found: Vec<&Nature> = asked(condition).map(|id| self.get(id)).collect();
        match condition.operator() {
            Op::Equals | Op::In if condition.values.is_empty() => {
                Nature::Never("it names no value".to_owned())
            }
            Op::NotEquals | Op::NotIn if condition.values.is_empty() => Nature::Always,
            Op::InSegment if found.contains(&&Nature::Always) => Nature::Always,
            Op::InSegment if found.iter().all(nobody) => {
                let ids: Vec<String> = asked(condition).map(str::to_owned).collect();
                Nature::Never(format!("nobody is in {}", listed(&ids)))
            }
            Op::NotInSegment if found.contains(&&Nature::Always) => {
                Nature::Never("everybody is in one of these segments".to_owned())
            }
            Op::NotInSegment if found.iter().all(nobody) => Nature::Always,
            _ => Nature::Sometimes,
        }
    }
}

/// Whether one holds exactly where the other does not.
fn negates(one: &Condition, other: &Condition) -> bool {
    let pair = |one: Op, other: Op| {
        matches!(
            (one, other),
            (Op::Equals, Op::NotEquals)
                | (Op::In, Op::NotIn)
                | (Op::Exists, Op::NotExists)
                | (Op::InSegment, Op::NotInSegment)
        )
    };
    let (from, to) = (one.operator(), other.operator());
    one.attribute == other.attribute
        && (pair(from, to) || pair(to, from))
        && shadow::same_values(&one.values, &other.values)
}

/// `a`, `a and b`, `a, b and c`.
fn listed(words: &[String]) -> String {
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rule::parse_clause;
    use featureops_proto::v1::SegmentClause;

    fn segment(id: &str, clauses: &[&str], unit_count: u64) -> Segment {
        let clauses = clauses.iter().map(|text| SegmentClause { conditions: parse_clause(text).unwrap() });
        let name = format!("environments/p/segments/{id}");
        Segment { name, clauses: clauses.collect(), unit_count, ..Segment::default() }
    }

    #[test]
    fn what_nobody_and_what_everybody_is_in() {
        let segments = [
            segment("against", &["x = \"a\" and x = \"b\"", "n > 5 and n < 3"], 0),
            segment("against-listed", &["x = \"a\" and x = \"b\""], 1),
            segment("bare", &[], 0),
            segment("below", &["in-segment(against, bare)"], 0),
            segment("either", &["x = \"a\"", "x != \"a\""], 0),
            segment("far-below", &["in-segment(below)", "in-segment(against) and y = 1"], 0),
            segment("nearly", &["x = \"a\" and y = 1", "x != \"a\""], 0),
            segment("not-everybody", &["not in-segment(either)"], 0),
            segment("not-nobody", &["not in-segment(far-below)"], 0),
            segment("some", &["x = \"a\" and x = \"b\"", "x = \"a\""], 0),
        ];
        let natures = Natures::of(&segments);
        let of = |id: &str| match natures.get(id) {
            Nature::Never(_) => "never",
            Nature::Always => "always",
            Nature::Sometimes => "sometimes",
        };
        for id in ["against", "bare", "below", "far-below", "not-everybody"] {
            assert_eq!(of(id), "never", "{id}");
        }
        for id in ["either", "not-nobody"] {
            assert_eq!(of(id), "always", "{id}");
        }
        for id in ["against-listed", "nearly", "some", "nothing-of-this-name"] {
            assert_eq!(of(id), "sometimes", "{id}");
        }
        // A circle is told nothing of.
        let circle = [segment("a", &["in-segment(b)"], 0), segment("b", &["in-segment(a)"], 0)];
        assert_eq!(*Natures::of(&circle).get("a"), Nature::Sometimes);
    }

    #[test]
    fn a_reason_names_the_place() {
        let segments = [segment("bare", &[], 0)];
        let natures = Natures::of(&segments);
        let why = |text: &str| match natures.clause(&parse_clause(text).unwrap()) {
            Nature::Never(why) => why,
            other => format!("{other:?}"),
        };
        assert_eq!(why("a = 1 and in-segment(bare)"), "condition 1 never holds: nobody is in bare");
        assert_eq!(why("a = 1 and b = 1 and a = 2"), "conditions 0 and 2 contradict each other");
        assert_eq!(why("a in [1, 2] and a != 1 and a != 2"), "conditions 0, 1 and 2 contradict each other");
        assert_eq!(why("a in [1, 2] and a != 1"), "Sometimes");
        let empty = Condition { operator: Op::In.into(), attribute: "a".to_owned(), values: vec![] };
        assert!(matches!(natures.clause(std::slice::from_ref(&empty)), Nature::Never(_)));
        let unless = Condition { operator: Op::NotIn.into(), ..empty };
        assert_eq!(natures.clause(&[unless]), Nature::Always);
    }
}
