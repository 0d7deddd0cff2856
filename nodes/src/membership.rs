//! Segments on their way from State to evaluations: definitions compiled, lists shared as they are.
//!
//! A change of a list publishes that segment alone, without copying a unit; the flags that ask about it, directly, through
//! other segments or through prerequisites, change with it for those who cache.

use std::collections::BTreeSet;

use featureops_evaluation::{CompiledSegment, Snapshot, UnitList, compile_segment};
use featureops_proto::v1::Segment;
use featureops_proto::{Collection, Name, unix_ms};
use featureops_state::{MAX_SEGMENTS, Shards, State};

use crate::face;

/// A segment of an environment, by their ids.
pub type Id = (String, String);

/// A segment as State had it; absent: it is gone.
pub type Read = (Id, Option<(Segment, Option<(Shards, u64)>)>);

/// Reads one.
#[must_use]
pub fn read(state: &State, id: &Id) -> Read {
    let segment = state.segment(&id.0, &id.1);
    (id.clone(), segment.map(|segment| (segment, state.segment_units(&id.0, &id.1))))
}

/// Reads those of an environment, and those of it that `before` has and State has not.
#[must_use]
pub fn read_all(state: &State, environment: &str, before: &Snapshot) -> Vec<Read> {
    let there = state.segments(environment, "", MAX_SEGMENTS);
    let mut ids: BTreeSet<Id> = there
        .iter()
        .filter_map(|segment| Name::parse(&segment.name, Collection::Segments).ok())
        .map(|name| (environment.to_owned(), name.id.to_owned()))
        .collect();
    ids.extend(before.segments(environment).map(|segment| (environment.to_owned(), segment.id().to_owned())));
    ids.iter().map(|id| read(state, id)).collect()
}

/// As evaluations read it.
#[must_use]
pub fn compiled((id, read): Read, unit_key_id: u64) -> (String, String, Option<CompiledSegment>) {
    let (environment, id) = id;
    let segment = read.map(|(segment, units)| {
        let version = units.as_ref().map_or(0, |(_, version)| *version);
        let list = units.map(|(shards, _)| UnitList::new(shards, unit_key_id));
        let compiled = compile_segment(&segment, list.clone()).unwrap_or_else(|error| {
            tracing::warn!(segment = segment.name, error = %error, "committed segment does not compile; only its list counts");
            CompiledSegment::unusable(&id, list)
        });
        let update_ms = segment.update_time.as_ref().map_or(0, unix_ms);
        compiled.with_update_ms(update_ms).with_face(face::of_segment(segment, version))
    });
    (environment, id, segment)
}
