//! Segments: who names which, what a write may not break, and the message a reader gets.
//!
//! ```text
//!   checkout ── asks about ──> beta ── asks about ──> staff
//!   Links: (environment, beta, flag checkout), (environment, staff, segment beta)
//! ```
//!
//! Wanted, after every write: what a live flag or a segment asks about is there; no segment asks about itself, however far
//! round; no chain has more than [`MAX_LEVELS`](crate::levels::MAX_LEVELS) links. So a segment that is asked about is not deleted, not even by an import.
//! The index is derived from the definitions: it stands in no snapshot.

mod units;

use std::collections::BTreeSet;

use featureops_proto::log::{FlagRecord, Refusal, SegmentRecord};
use featureops_proto::v1::condition::Operator;
use featureops_proto::v1::{Condition, Flag, Segment};
use featureops_proto::{Collection, ErrorCode, Name, timestamp_if_set};
use prost_types::value::Kind;

use crate::State;
use crate::apply::refuse;
use crate::flags::above;
use crate::levels::check_levels;
use crate::state::{Key, key};

pub use units::{Shards, Units, hashes_of};

/// Segments of an environment.
pub const MAX_SEGMENTS: usize = 1_000;
/// Segments over all environments.
pub const MAX_SEGMENTS_OVER_ALL: usize = 100_000;
/// Clauses of a segment.
pub const MAX_CLAUSES: usize = 64;
/// Other segments that one asks about.
pub const MAX_NAMED: usize = 64;
/// Bytes of one encoded definition.
pub const MAX_SEGMENT_BYTES: usize = 64 << 10;
/// Units on the list of one segment.
pub const MAX_UNITS: u64 = 4 << 20;
/// Units on all lists.
pub const MAX_UNITS_OVER_ALL: u64 = 16 << 20;
/// Units of one change of a list.
pub const MAX_CHANGED: usize = 10_000;
/// Users of a segment that a reader is told.
const MAX_USERS_TOLD: usize = 100;

/// Who asks about a segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A live flag, by id.
    Flag(String),
    /// Another segment, by id.
    Segment(String),
}

impl Default for User {
    /// Before every other.
    fn default() -> Self {
        Self::Flag(String::new())
    }
}

/// What a live flag asks about.
pub fn links_of_flag(record: &FlagRecord) -> impl Iterator<Item = (String, String, User)> + '_ {
    let live = record.definition.iter().filter(|_| !record.archived);
    live.flat_map(named_by_flag)
        .map(|named| (record.environment.clone(), named.to_owned(), User::Flag(record.flag.clone())))
}

/// What a segment asks about.
pub fn links_of_segment(record: &SegmentRecord) -> impl Iterator<Item = (String, String, User)> + '_ {
    record
        .definition
        .iter()
        .flat_map(named_by_segment)
        .map(|named| (record.environment.clone(), named.to_owned(), User::Segment(record.segment.clone())))
}

/// Whether a condition asks about segments.
fn asks(condition: &Condition) -> bool {
    matches!(condition.operator(), Operator::InSegment | Operator::NotInSegment)
}

fn named_by(condition: &Condition) -> impl Iterator<Item = &str> {
    let values = condition.values.iter().filter(move |_| asks(condition));
    values.filter_map(|value| match &value.kind {
        Some(Kind::StringValue(id)) => Some(id.as_str()),
        _ => None,
    })
}

fn named_by_flag(flag: &Flag) -> impl Iterator<Item = &str> {
    flag.rules.iter().flat_map(|rule| &rule.conditions).flat_map(named_by)
}

/// The segments that a segment asks about.
pub fn named_by_segment(segment: &Segment) -> impl Iterator<Item = &str> {
    segment.clauses.iter().flat_map(|clause| &clause.conditions).flat_map(named_by)
}

/// Refuses what names no segment that is there.
fn check_condition(
    state: &State,
    environment: &str,
    condition: &Condition,
    itself: Option<&str>,
    path: impl Fn(usize) -> String,
) -> Result<(), Refusal> {
    if !asks(condition) {
        return Ok(());
    }
    for (nth, value) in condition.values.iter().enumerate() {
        let Some(Kind::StringValue(id)) = &value.kind else {
            let message = "name segments by their ids, as texts";
            return refuse(ErrorCode::InvalidArgument, &path(nth), "", message);
        };
        if itself != Some(id.as_str()) && !state.segments.contains_key(&key(environment, id)) {
            let message = "no such segment in this environment; create it first, or name another";
            return refuse(ErrorCode::InvalidArgument, &path(nth), id, message);
        }
    }
    Ok(())
}

impl State {
    /// Refuses a flag that asks about a segment that is not there.
    pub(crate) fn check_segments_of_flag(&self, environment: &str, definition: &Flag) -> Result<(), Refusal> {
        for (at, rule) in definition.rules.iter().enumerate() {
            for (nth, condition) in rule.conditions.iter().enumerate() {
                let path = |value| format!("flag.rules[{at}].conditions[{nth}].values[{value}]");
                check_condition(self, environment, condition, None, path)?;
            }
        }
        Ok(())
    }

    /// Refuses a segment that rests on itself, on too much, or on what is not there.
    pub(crate) fn check_segments_of_segment(&self, id: &Key, definition: &Segment) -> Result<(), Refusal> {
        let (environment, segment) = (id.0.as_str(), id.1.as_str());
        for (at, clause) in definition.clauses.iter().enumerate() {
            for (nth, condition) in clause.conditions.iter().enumerate() {
                let path = |value| format!("segment.clauses[{at}].conditions[{nth}].values[{value}]");
                // That it may not name itself is said by the circle.
                check_condition(self, environment, condition, Some(segment), path)?;
            }
        }
        let named = named_by_segment(definition).collect::<BTreeSet<_>>().len();
        if named == 0 {
            return Ok(());
        }
        if named > MAX_NAMED {
            let message = format!("a segment asks about at most {MAX_NAMED} others; put some of them in one");
            return refuse(ErrorCode::InvalidArgument, "segment.clauses", named, message);
        }
        let below = |id: &str| {
            let held = || self.segments.get(&key(environment, id))?.definition.as_ref();
            if id == segment { Some(definition) } else { held() }.map(named_by_segment)
        };
        let above = |id| {
            self.segment_users.of(environment, id).filter_map(|user| match user {
                User::Flag(_) => None,
                User::Segment(id) => Some(id.as_str()),
            })
        };
        check_levels(segment, below, above, "segments", "segment.clauses")
    }

    /// Refuses to let go of a segment that is asked about.
    pub(crate) fn check_segment_unnamed(&self, id: &Key, name: &str) -> Result<(), Refusal> {
        let message = match self.segment_users.of(&id.0, &id.1).next() {
            None => return Ok(()),
            Some(User::Flag(flag)) => {
                format!("flag {flag} asks about it; change or archive that flag first")
            }
            Some(User::Segment(segment)) => {
                format!("segment {segment} asks about it; change or delete that segment first")
            }
        };
        refuse(ErrorCode::WrongState, "name", name, message)
    }

    /// The live flags that ask about a segment, or about one that rests on it, by id.
    #[must_use]
    pub fn flags_asking(&self, environment: &str, segment: &str) -> BTreeSet<String> {
        let (mut flags, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut waiting = vec![segment.to_owned()];
        while let Some(next) = waiting.pop() {
            for user in self.segment_users.of(environment, &next) {
                match user {
                    User::Flag(flag) => {
                        flags.insert(flag.clone());
                    }
                    User::Segment(other) if seen.insert(other.clone()) => waiting.push(other.clone()),
                    User::Segment(_) => {}
                }
            }
        }
        flags
    }

    /// The segments that flags ask about, and those that these rest on, by id.
    #[must_use]
    pub fn segments_asked<'f>(
        &self,
        environment: &str,
        flags: impl IntoIterator<Item = &'f Flag>,
    ) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut waiting: Vec<String> =
            flags.into_iter().flat_map(named_by_flag).map(ToOwned::to_owned).collect();
        while let Some(next) = waiting.pop() {
            if found.contains(&next) {
                continue;
            }
            let Some(record) = self.segments.get(&key(environment, &next)) else { continue };
            waiting.extend(record.definition.iter().flat_map(named_by_segment).map(ToOwned::to_owned));
            found.insert(next);
        }
        found
    }

    /// A segment with its output fields.
    #[must_use]
    pub fn segment(&self, environment: &str, segment: &str) -> Option<Segment> {
        self.segments.get(&key(environment, segment)).map(|record| self.segment_message(record))
    }

    /// Segments of an environment whose id is above `after`, by id.
    #[must_use]
    pub fn segments(&self, environment: &str, after: &str, limit: usize) -> Vec<Segment> {
        let records = above(&self.segments, environment, after);
        records.take(limit).map(|record| self.segment_message(record)).collect()
    }

    /// The list of a segment, shared, and the version at which it last changed; `None` when nobody is on it.
    #[must_use]
    pub fn segment_units(&self, environment: &str, segment: &str) -> Option<(Shards, u64)> {
        let key = key(environment, segment);
        let units = self.segment_units.get(&key)?;
        let version = self.segments.get(&key).map_or(0, |record| record.units_version);
        Some((units.shards(), version))
    }

    fn segment_message(&self, record: &SegmentRecord) -> Segment {
        let mut segment = record.definition.clone().unwrap_or_default();
        segment.name = Name::format(&record.environment, Collection::Segments, &record.segment);
        segment.segment_version = record.version;
        segment.etag = etag(record);
        segment.create_time = timestamp_if_set(record.create_ms);
        segment.update_time = timestamp_if_set(record.update_ms);
        segment.unit_count =
            self.segment_units.get(&key(&record.environment, &record.segment)).map_or(0, Units::len);
        for user in self.segment_users.of(&record.environment, &record.segment) {
            let (told, id) = match user {
                User::Flag(id) => (&mut segment.used_by_flags, id),
                User::Segment(id) => (&mut segment.used_by_segments, id),
            };
            if told.len() < MAX_USERS_TOLD {
                told.push(id.clone());
            }
        }
        segment
    }
}

/// Changes with the definition, not with the list.
pub fn etag(record: &SegmentRecord) -> String {
    format!("s{}", record.definition_version)
}
