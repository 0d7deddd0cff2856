//! Segments: set, deleted, and their lists changed. The door has compiled the clauses and hashed the units; what is checked
//! here is what other commands rely on.

use std::sync::Arc;

use featureops_proto::log::{
    DeleteSegment, Done, Refusal, SegmentRecord, SegmentUnitsChanged, SetSegment, UpdateSegmentUnits,
};
use featureops_proto::v1::{Segment, SegmentClause};
use featureops_proto::{Collection, ErrorCode};
use prost::Message as _;

use super::{Context, Outcome, done, refuse};
use crate::State;
use crate::effect::Effect;
use crate::flags::{above, check_etag, parse};
use crate::segments::{
    MAX_CHANGED, MAX_CLAUSES, MAX_SEGMENT_BYTES, MAX_SEGMENTS, MAX_SEGMENTS_OVER_ALL, MAX_UNITS,
    MAX_UNITS_OVER_ALL, Units, etag,
};
use crate::state::{Before, Key};

impl State {
    pub(super) fn set_segment(
        &mut self,
        ctx: &Context,
        c: &SetSegment,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let Some(segment) = &c.segment else {
            return refuse(ErrorCode::InvalidArgument, "segment", "", "missing");
        };
        let key = parse(&segment.name, Collection::Segments)?;
        let definition = checked(segment)?;
        let held = self.segments.get(&key).cloned();
        match &held {
            Some(record) => {
                check_etag(&c.etag, &etag(record))?;
                if record.definition.as_ref().is_none_or(|held| held.clauses != definition.clauses) {
                    self.check_asked_by_held(ctx, &key)?;
                }
            }
            None if !c.etag.is_empty() => {
                let message = "no such segment; leave etag empty to create it";
                return refuse(ErrorCode::NotFound, "name", &segment.name, message);
            }
            None => {
                self.check_asked_by_held(ctx, &key)?;
                self.check_room_for_segment(&key, &segment.name)?;
            }
        }
        self.check_segments_of_segment(&key, &definition)?;
        let version = held.as_ref().map_or(0, |record| record.version) + 1;
        let (environment, id) = key.clone();
        let record = SegmentRecord {
            environment,
            segment: id,
            definition: Some(definition),
            version,
            definition_version: version,
            units_version: held.as_ref().map_or(0, |record| record.units_version),
            create_ms: held.as_ref().map_or(ctx.now_ms, |record| record.create_ms),
            update_ms: ctx.now_ms,
        };
        let (units, etag) = (self.segment_units.get(&key).cloned(), etag(&record));
        self.write_segment(&key, Some(Arc::new(record)), units);
        effects.push(changed(&key));
        let done = done(&segment.name, version, etag);
        Ok(Outcome { done, detail: format!("version {version}"), ..Outcome::default() })
    }

    pub(super) fn delete_segment(
        &mut self,
        c: &DeleteSegment,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let key = parse(&c.name, Collection::Segments)?;
        let Some(record) = self.segments.get(&key) else { return refuse_unknown(&c.name) };
        check_etag(&c.etag, &etag(record))?;
        self.check_segment_unnamed(&key, &c.name)?;
        let (version, units) = (record.version, self.segment_units.get(&key).map_or(0, Units::len));
        self.write_segment(&key, None, None);
        effects.push(changed(&key));
        let done = done(&c.name, version, String::new());
        Ok(Outcome { done, detail: format!("{units} units on its list"), ..Outcome::default() })
    }

    pub(super) fn update_segment_units(
        &mut self,
        ctx: &Context,
        c: &UpdateSegmentUnits,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let key = parse(&c.name, Collection::Segments)?;
        if c.unit_key_id != self.unit_key_id {
            let (given, wanted) = (format!("{:016x}", c.unit_key_id), self.unit_key_id);
            let message = format!("the cluster hashes units with the key {wanted:016x}");
            return refuse(ErrorCode::WrongUnitKey, "unit_key_id", given, message);
        }
        let count = c.add.len() + c.remove.len();
        if count > MAX_CHANGED {
            let message = format!("at most {MAX_CHANGED} units at once; send the others after them");
            return refuse(ErrorCode::InvalidArgument, "add", count, message);
        }
        let Some(record) = self.segments.get(&key) else { return refuse_unknown(&c.name) };
        let (mut record, held) = (Arc::clone(record), self.segment_units.get(&key).cloned());
        let (add, remove) = (rising(&c.add), rising(&c.remove));
        if let Some(both) = add.iter().find(|hash| remove.binary_search(hash).is_ok()) {
            let message = "a unit is to be added and removed: name it once";
            return refuse(ErrorCode::InvalidArgument, "remove", format!("{both:016x}"), message);
        }
        let held = held.unwrap_or_default();
        let change = held.changed(&add, &remove);
        let units = change.units;
        // What shrinks a list is never refused for its length.
        if units.len() > held.len() {
            let full = |what: &str, length: u64, bound: u64| {
                let message = format!("{what} has at most {bound} units; remove some first, or use clauses");
                refuse(ErrorCode::LimitReached, "add", length, message)
            };
            if units.len() > MAX_UNITS {
                return full("a segment's list", units.len(), MAX_UNITS);
            }
            let over_all = self.listed_units - held.len() + units.len();
            if over_all > MAX_UNITS_OVER_ALL {
                return full("all lists together", over_all, MAX_UNITS_OVER_ALL);
            }
        }
        let took_effect = change.added > 0 || change.removed > 0;
        let unit_count = units.len();
        if took_effect {
            self.check_asked_by_held(ctx, &key)?;
            let written = Arc::make_mut(&mut record);
            written.version += 1;
            written.units_version = written.version;
            written.update_ms = ctx.now_ms;
            self.write_segment(&key, Some(Arc::clone(&record)), Some(units));
            effects.push(changed(&key));
        }
        let segment_units = SegmentUnitsChanged { added: change.added, removed: change.removed, unit_count };
        let detail = format!("{} added, {} removed, {unit_count} now", change.added, change.removed);
        let done = done(&c.name, record.version, etag(&record));
        let done = Done { took_effect, segment_units: Some(segment_units), ..done };
        Ok(Outcome { done, detail, ..Outcome::default() })
    }

    fn check_room_for_segment(&self, key: &Key, name: &str) -> Result<(), Refusal> {
        let here = above(&self.segments, &key.0, "").count();
        let full = |what: &str, bound: usize| {
            let message = format!("{what} has at most {bound} segments; delete one that nobody asks about");
            refuse(ErrorCode::LimitReached, "segment", name, message)
        };
        if here >= MAX_SEGMENTS {
            return full("an environment", MAX_SEGMENTS);
        }
        if self.segments.len() >= MAX_SEGMENTS_OVER_ALL {
            return full("a cluster", MAX_SEGMENTS_OVER_ALL);
        }
        Ok(())
    }

    /// Puts a segment and its list in place of what was there; how that was is kept until the command is through.
    pub(super) fn write_segment(
        &mut self,
        key: &Key,
        record: Option<Arc<SegmentRecord>>,
        units: Option<Units>,
    ) {
        let before = Before::Segment(
            key.clone(),
            self.segments.get(key).cloned(),
            self.segment_units.get(key).cloned(),
        );
        self.before.push(before);
        self.put_segment(key, record, units);
    }
}

/// The definition without output fields, within its bounds.
fn checked(segment: &Segment) -> Result<Segment, Refusal> {
    let bytes = segment.encoded_len();
    if bytes > MAX_SEGMENT_BYTES {
        let message =
            format!("at most {MAX_SEGMENT_BYTES} bytes; put units on the list, or split the segment");
        return refuse(ErrorCode::InvalidArgument, "segment", format!("{bytes} bytes"), message);
    }
    let count = segment.clauses.len();
    if count > MAX_CLAUSES {
        let message = format!("at most {MAX_CLAUSES} clauses; put some of them in a segment of their own");
        return refuse(ErrorCode::InvalidArgument, "segment.clauses", count, message);
    }
    let is_empty = |clause: &SegmentClause| clause.conditions.is_empty();
    if let Some(at) = segment.clauses.iter().position(is_empty) {
        let message = "a clause needs a condition; who means everybody needs no segment";
        return refuse(ErrorCode::InvalidArgument, &format!("segment.clauses[{at}].conditions"), 0, message);
    }
    Ok(Segment {
        name: segment.name.clone(),
        description: segment.description.clone(),
        owner: segment.owner.clone(),
        tags: segment.tags.clone(),
        clauses: segment.clauses.clone(),
        ..Segment::default()
    })
}

fn rising(hashes: &[u64]) -> Vec<u64> {
    let mut hashes = hashes.to_vec();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

fn refuse_unknown<T>(name: &str) -> Result<T, Refusal> {
    refuse(ErrorCode::NotFound, "name", name, "no such segment; set it first")
}

fn changed(key: &Key) -> Effect {
    Effect::SegmentChanged { environment: key.0.clone(), segment: key.1.clone() }
}
