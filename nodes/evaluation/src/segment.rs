//! Segments: groups of units that many flags ask about.
//!
//! ```text
//!   condition IN_SEGMENT beta ──> clauses, each a row of conditions (which may ask about other segments)
//!                             └─> list: is the unit's keyed hash on it?
//! ```
//!
//! A segment is asked at most once an evaluation of a flag, and at most [`limits::MAX_SEGMENTS_ASKED`] are: whatever a
//! snapshot holds, circles among it, an evaluation ends. The fold lets no circle in and no more levels than are followed here.
//! What was not come to counts as not being in, and so does a list when the caller's node has not the key of its hashes.
//!
//! A list is shared with whoever made it, never copied: its shape is [`UnitList`]'s contract.

use std::sync::Arc;

use featureops_proto::v1::{self, ExplainStep, condition::Operator};
use featureops_proto::{Collection, Name};
use prost_types::value::Kind;

use crate::compile::Conditions;
use crate::condition::{Condition, Test};
use crate::context::{Context, Path};
use crate::evaluate::{KEPT, all_hold};
use crate::explain::{Trace, step};
use crate::limits;
use crate::refusal::{CompileError, Outcome, refused, within};
use crate::size::weigh_conditions;
use crate::snapshot::Snapshot;

/// What a condition about segments has instead of an attribute.
const NO_ATTRIBUTE: u32 = u32::MAX;

/// The keyed hashes of a list's units. As many shards as a power of two, by the hashes' first bits; each rises.
#[derive(Debug, Clone)]
pub struct UnitList {
    shards: Arc<[Arc<[u64]>]>,
    unit_key_id: u64,
}

impl UnitList {
    /// Shares a list of hashes that were made with the key of this id. Of another shape it finds nobody, or not everybody.
    #[must_use]
    pub const fn new(shards: Arc<[Arc<[u64]>]>, unit_key_id: u64) -> Self {
        Self { shards, unit_key_id }
    }

    fn holds(&self, hash: u64) -> bool {
        let bits = self.shards.len().max(1).ilog2();
        let at = hash.checked_shr(64 - bits).map_or(0, |at| at as usize);
        self.shards.get(at).is_some_and(|shard| shard.binary_search(&hash).is_ok())
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }
}

/// A segment as evaluation reads it.
#[derive(Debug)]
pub struct CompiledSegment {
    id: Box<str>,
    face: u64,
    update_ms: i64,
    /// How many of the conditions are each clause's own.
    clauses: Box<[usize]>,
    conditions: Box<[Condition]>,
    attributes: Box<[Path]>,
    list: Option<UnitList>,
}

impl CompiledSegment {
    /// Its id in its environment.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A digest of who is in it, as its publisher gave it; what it rests on has its own.
    #[must_use]
    pub const fn face(&self) -> u64 {
        self.face
    }

    /// Gives it that digest.
    #[must_use]
    pub fn with_face(self, face: u64) -> Self {
        Self { face, ..self }
    }

    /// Log time of its last change, its list's among them, in unix milliseconds; 0: not known.
    #[must_use]
    pub const fn update_ms(&self) -> i64 {
        self.update_ms
    }

    /// Says when it last changed.
    #[must_use]
    pub fn with_update_ms(self, update_ms: i64) -> Self {
        Self { update_ms, ..self }
    }

    /// The segments that it asks about, by id.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().flat_map(Condition::segments)
    }

    /// One whose committed clauses do not compile: only its list counts. For what another release let in.
    #[must_use]
    pub fn unusable(id: &str, list: Option<UnitList>) -> Self {
        let (clauses, conditions, attributes) = (Box::default(), Box::default(), Box::default());
        Self { id: id.into(), face: 0, update_ms: 0, clauses, conditions, attributes, list }
    }
}

/// Whether the definition can be served.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_segment(segment: &v1::Segment) -> Result<(), CompileError> {
    compile_segment(segment, None).map(|_| ())
}

/// Resolves a segment.
///
/// # Errors
/// The first thing that is wrong.
pub fn compile_segment(
    segment: &v1::Segment,
    list: Option<UnitList>,
) -> Result<CompiledSegment, CompileError> {
    let name = match Name::parse(&segment.name, Collection::Segments) {
        Ok(name) => name,
        Err(error) => return refused("name", &segment.name, error),
    };
    check_size(segment)?;
    within("clauses", segment.clauses.len(), limits::MAX_CLAUSES, "clauses")?;
    let mut conditions = Conditions::default();
    let mut clauses = Vec::with_capacity(segment.clauses.len());
    for (at, clause) in segment.clauses.iter().enumerate() {
        let path = format!("clauses[{at}].conditions");
        if clause.conditions.is_empty() {
            return refused(path, 0, "a clause needs a condition; who means everybody needs no segment");
        }
        clauses.push(conditions.add(&clause.conditions, &path)?);
    }
    Ok(CompiledSegment {
        id: name.id.into(),
        face: 0,
        update_ms: 0,
        clauses: clauses.into(),
        conditions: conditions.all.into(),
        attributes: conditions.attributes.into(),
        list,
    })
}

fn check_size(segment: &v1::Segment) -> Outcome<()> {
    let mut bytes = segment.description.len() + segment.owner.len();
    bytes += segment.tags.iter().map(|tag| tag.len() + 16).sum::<usize>();
    for (at, clause) in segment.clauses.iter().enumerate() {
        bytes += weigh_conditions(&clause.conditions, || format!("clauses[{at}].conditions"))?;
    }
    if bytes > limits::MAX_SEGMENT_BYTES {
        let max = limits::MAX_SEGMENT_BYTES;
        let way_out =
            format_args!("a definition has at most {max} bytes; put units on the list, or split the segment")
                .to_string();
        return refused("segment", bytes, way_out);
    }
    Ok(())
}

/// A condition about segments.
pub(crate) fn condition(given: &v1::Condition, path: &str) -> Outcome<Condition> {
    if !given.attribute.is_empty() {
        let message = "a condition about segments asks about the whole context: leave the attribute empty";
        return refused(format_args!("{path}.attribute"), &given.attribute, message);
    }
    let values = format!("{path}.values");
    within(&values, given.values.len(), limits::MAX_VALUES, "segments")?;
    if given.values.is_empty() {
        return refused(values, 0, "name the segments that are asked about");
    }
    let one = |(nth, value): (usize, &prost_types::Value)| {
        let path = format!("{values}[{nth}]");
        let Some(Kind::StringValue(id)) = &value.kind else {
            return refused(path, crate::refusal::kind_name(value), "name a segment by its id, as a text");
        };
        match Name::parse(&Name::format("e", Collection::Segments, id), Collection::Segments) {
            Ok(_) => Ok(Box::from(id.as_str())),
            Err(error) => refused(path, id, error),
        }
    };
    let ids = given.values.iter().enumerate().map(one).collect::<Outcome<Box<[Box<str>]>>>()?;
    let test = match given.operator() {
        Operator::NotInSegment => Test::NotInSegment(ids),
        _ => Test::InSegment(ids),
    };
    Ok(Condition { attribute: NO_ATTRIBUTE, test })
}

impl Condition {
    /// The segments that it asks about.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &str> {
        let ids = match &self.test {
            Test::InSegment(ids) | Test::NotInSegment(ids) => ids.as_ref(),
            _ => &[],
        };
        ids.iter().map(AsRef::as_ref)
    }
}

/// Who answers conditions about segments.
pub(crate) trait Members {
    /// Whether the condition holds; `None` when it is about an attribute.
    fn ask(&mut self, test: &Test, trace: &mut impl Trace) -> Option<bool>;
}

/// For flags that ask about none: compiles to nothing.
pub(crate) struct NobodyAsks;

impl Members for NobodyAsks {
    #[inline(always)]
    fn ask(&mut self, _: &Test, _: &mut impl Trace) -> Option<bool> {
        None
    }
}

/// The segments that were asked about, as far as they were.
pub(crate) struct Asking<'s, 'c> {
    snapshot: &'s Snapshot,
    environment: &'s str,
    context: &'c Context<'c>,
    found: [Option<(&'s CompiledSegment, bool)>; limits::MAX_SEGMENTS_ASKED],
    count: usize,
    level: usize,
}

impl<'s, 'c> Asking<'s, 'c> {
    pub(crate) fn new(snapshot: &'s Snapshot, environment: &'s str, context: &'c Context<'c>) -> Self {
        let found = [None; limits::MAX_SEGMENTS_ASKED];
        Self { snapshot, environment, context, found, count: 0, level: 0 }
    }

    fn contains(&mut self, id: &str, trace: &mut impl Trace) -> bool {
        let say = |trace: &mut _, finding: &str| {
            Trace::step(trace, || step(format!("segment {id}"), finding, false));
            false
        };
        let Some(segment) = self.snapshot.segment(self.environment, id) else {
            return say(trace, "there is no such segment in this environment");
        };
        let known =
            self.found.iter().take(self.count).flatten().find(|(other, _)| std::ptr::eq(*other, segment));
        if let Some((_, contained)) = known {
            return *contained;
        }
        // The first is no link yet.
        if self.level > limits::MAX_SEGMENT_LEVELS {
            return say(trace, "too many levels below; nobody counts as being in it");
        }
        let at = self.count;
        if at >= limits::MAX_SEGMENTS_ASKED {
            return say(trace, "too many segments below; nobody counts as being in it");
        }
        // Its place is taken before it is asked, so that a circle finds it there, holding nobody.
        self.count += 1;
        if let Some(place) = self.found.get_mut(at) {
            *place = Some((segment, false));
        }
        self.level += 1;
        let contained = self.asked(segment, trace);
        self.level -= 1;
        if let Some(place) = self.found.get_mut(at) {
            *place = Some((segment, contained));
        }
        contained
    }

    fn asked(&mut self, segment: &'s CompiledSegment, trace: &mut impl Trace) -> bool {
        let subject = || format!("segment {}", segment.id);
        let mut conditions = segment.conditions.as_ref();
        let mut kept = [None; KEPT];
        for (at, count) in segment.clauses.iter().enumerate() {
            let Some((own, rest)) = conditions.split_at_checked(*count) else { break };
            conditions = rest;
            let context = self.context;
            if all_hold(&segment.attributes, own, context, &mut kept, self, trace) {
                trace.step(|| step(subject(), format!("in it: clause {at} holds"), true));
                return true;
            }
        }
        let Some(list) = &segment.list else {
            trace.step(|| step(subject(), "not in it: no clause holds, and nobody is on its list", false));
            return false;
        };
        let hashed = self.context.unit_hash();
        let contained = hashed.is_some_and(|(key, hash)| key == list.unit_key_id && list.holds(hash));
        trace.step(|| {
            let finding = match hashed {
                _ if contained => "in it: the unit is on its list".to_owned(),
                Some((key, _)) if key != list.unit_key_id => {
                    "not in it: its list was made with another unit key than this node's".to_owned()
                }
                Some(_) => {
                    format!("not in it: no clause holds, and its list of {} is without the unit", list.len())
                }
                None => "not in it: no clause holds, and the context has no unit that could be on its list"
                    .to_owned(),
            };
            step(subject(), finding, contained)
        });
        contained
    }
}

impl Members for Asking<'_, '_> {
    fn ask(&mut self, test: &Test, trace: &mut impl Trace) -> Option<bool> {
        let (ids, wanted) = match test {
            Test::InSegment(ids) => (ids, true),
            Test::NotInSegment(ids) => (ids, false),
            _ => return None,
        };
        let contained = ids.iter().any(|id| self.contains(id, trace));
        trace.step(|| {
            let some: Vec<&str> = ids.iter().take(8).map(AsRef::as_ref).collect();
            let more = if ids.len() > some.len() { ", …" } else { "" };
            let verdict = if contained == wanted { "holds" } else { "does not hold" };
            let finding = format!("{} {}{more} {verdict}", test.operator(), some.join(", "));
            step("condition", finding, contained == wanted)
        });
        Some(contained == wanted)
    }
}

/// Whether a context's unit is in a segment, and how that came about. `None`: there is no such segment.
#[must_use]
pub fn explain_segment(
    snapshot: &Snapshot,
    environment: &str,
    segment: &str,
    context: &Context<'_>,
) -> Option<(bool, Vec<ExplainStep>)> {
    snapshot.segment(environment, segment)?;
    let mut steps = Vec::new();
    let contained = Asking::new(snapshot, environment, context).contains(segment, &mut steps);
    Some((contained, steps))
}
