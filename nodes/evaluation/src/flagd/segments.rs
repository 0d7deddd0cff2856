//! Segments as JsonLogic: a client on its own has no word for them, so their clauses are put where they are asked about.
//!
//! ```text
//!   IN_SEGMENT beta, staff  ──> {"or": [beta's clause, ..., staff's clause, ...]}     a clause is the "and" of its conditions
//!   NOT_IN_SEGMENT beta     ──> {"!": [...]}
//! ```
//!
//! A list of units is kept as keyed hashes, which no client could make: nobody counts as being on it, so that IN_SEGMENT does
//! not hold for those whom only the list names, and NOT_IN_SEGMENT does. The same counts for a segment that would not fit into
//! a rule's bounds. [`super::left_out`] says of which flags this is so.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use featureops_proto::v1::{self, condition::Operator};
use featureops_proto::{Collection, Name};
use prost_types::value::Kind;
use serde_json::{Value as Json, json};

use super::prerequisites::deep;
use super::rules;
use crate::limits;

/// Levels of JSON of what is put in: what stands around it needs some too.
const MAX_DEPTH: usize = 80;
/// Bytes that are put in for one flag.
const MAX_BYTES: usize = limits::MAX_TARGETING_BYTES / 4;

/// An environment's segments.
#[derive(Debug, Default)]
pub struct Segments<'s>(BTreeMap<&'s str, &'s v1::Segment>);

impl<'s> Segments<'s> {
    /// By their names.
    #[must_use]
    pub fn of(segments: impl IntoIterator<Item = &'s v1::Segment>) -> Self {
        let named = segments.into_iter().filter_map(|segment| Some((id(segment)?, segment)));
        Self(named.collect())
    }

    /// For one flag.
    pub(super) const fn inlining(&self) -> Inlining<'_, 's> {
        Inlining { segments: self, room: Cell::new(MAX_BYTES) }
    }
}

fn id(segment: &v1::Segment) -> Option<&str> {
    Some(Name::parse(&segment.name, Collection::Segments).ok()?.id)
}

/// Segments put into the rule of one flag.
pub(super) struct Inlining<'i, 's> {
    segments: &'i Segments<'s>,
    room: Cell<usize>,
}

impl Inlining<'_, '_> {
    /// Whether a condition about segments holds: a condition, or a boolean when that is always the same. `None` when it is
    /// not well formed.
    pub(super) fn condition(&self, given: &v1::Condition) -> Option<Json> {
        let contained = self.asked(given, 0)?;
        let fits = deep(&contained, 0) <= MAX_DEPTH;
        Some(signed(given, if fits { contained } else { Json::Bool(false) }))
    }

    /// Whether the unit is in one of the segments, whichever is asked for.
    fn asked(&self, given: &v1::Condition, level: usize) -> Option<Json> {
        let mut found = Vec::with_capacity(given.values.len());
        for value in &given.values {
            let Some(Kind::StringValue(id)) = &value.kind else { return None };
            found.push(self.contained(id, level)?);
        }
        Some(any(found))
    }

    fn contained(&self, id: &str, level: usize) -> Option<Json> {
        let Some(segment) = self.segments.0.get(id).filter(|_| level <= limits::MAX_SEGMENT_LEVELS) else {
            return Some(Json::Bool(false));
        };
        let mut clauses = Vec::with_capacity(segment.clauses.len());
        for clause in &segment.clauses {
            let mut conditions = Vec::with_capacity(clause.conditions.len());
            for given in &clause.conditions {
                conditions.push(match given.operator() {
                    Operator::InSegment | Operator::NotInSegment => {
                        signed(given, self.asked(given, level + 1)?)
                    }
                    _ => {
                        let condition = rules::condition(given, self)?;
                        match self.room.get().checked_sub(condition.to_string().len()) {
                            Some(room) => self.room.set(room),
                            None => return Some(Json::Bool(false)),
                        }
                        condition
                    }
                });
            }
            clauses.push(every(conditions));
        }
        Some(any(clauses))
    }
}

fn signed(given: &v1::Condition, contained: Json) -> Json {
    match (given.operator(), contained) {
        (Operator::NotInSegment, Json::Bool(contained)) => Json::Bool(!contained),
        (Operator::NotInSegment, contained) => rules::not(contained),
        (_, contained) => contained,
    }
}

/// Whether all hold; a boolean when that is always the same.
pub(super) fn every(mut conditions: Vec<Json>) -> Json {
    if conditions.contains(&Json::Bool(false)) {
        return Json::Bool(false);
    }
    conditions.retain(|condition| !condition.is_boolean());
    rules::all(conditions).unwrap_or(Json::Bool(true))
}

fn any(mut conditions: Vec<Json>) -> Json {
    if conditions.contains(&Json::Bool(true)) {
        return Json::Bool(true);
    }
    conditions.retain(|condition| !condition.is_boolean());
    match conditions.len() {
        0 => Json::Bool(false),
        1 => conditions.pop().unwrap_or(Json::Bool(false)),
        _ => json!({ "or": conditions }),
    }
}

/// Segments that are asked about, however far down, and have a list.
pub(super) fn with_lists<'s>(
    conditions: impl Iterator<Item = &'s v1::Condition>,
    segments: &Segments<'s>,
) -> BTreeSet<&'s str> {
    let (mut seen, mut waiting) = (BTreeSet::new(), Vec::new());
    waiting.extend(conditions.flat_map(asked));
    while let Some(id) = waiting.pop() {
        if let Some(segment) = segments.0.get(id).filter(|_| seen.insert(id)) {
            waiting.extend(segment.clauses.iter().flat_map(|clause| &clause.conditions).flat_map(asked));
        }
    }
    seen.retain(|id| segments.0.get(id).is_some_and(|segment| segment.unit_count > 0));
    seen
}

/// The segments a condition asks about.
pub fn asked(condition: &v1::Condition) -> impl Iterator<Item = &str> {
    let asks = matches!(condition.operator(), Operator::InSegment | Operator::NotInSegment);
    condition.values.iter().filter(move |_| asks).filter_map(|value| match &value.kind {
        Some(Kind::StringValue(id)) => Some(id.as_str()),
        _ => None,
    })
}
