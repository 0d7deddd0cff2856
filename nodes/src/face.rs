//! A flag's *face*: a hash over all that can change what a client is answered, and over nothing else: not its owner, its
//! description or its version. By it the fronts tell those who cache what really changed (see `fronts::changes`); it is the
//! same on every node, so versions made of faces are too.

use std::collections::{BTreeMap, BTreeSet};

use featureops_evaluation::{CompiledFlag, CompiledSegment, Snapshot};
use featureops_proto::unix_ms;
use featureops_proto::v1::{Environment, Flag, Segment, Trip};
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

/// What the flags of an environment show of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shared {
    /// Log time of the environment's last change.
    update_ms: i64,
    /// Source, metadata and generation: of all of them.
    all: u64,
    /// Shared rules: of those that refer to one.
    evaluators: u64,
}

impl Shared {
    /// The part of a flag's face that its environment gives.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let shown = Environment {
            source: environment.source.clone(),
            metadata: environment.metadata.clone(),
            fractional: environment.fractional,
            ..Environment::default()
        };
        let rules = Environment { evaluators: environment.evaluators.clone(), ..Environment::default() };
        Self {
            update_ms: environment.update_time.as_ref().map_or(0, unix_ms),
            all: xxh3_64(&shown.encode_to_vec()),
            evaluators: xxh3_64(&rules.encode_to_vec()),
        }
    }
}

impl Shared {
    /// Log time of the environment's last change.
    #[must_use]
    pub const fn update_ms(&self) -> i64 {
        self.update_ms
    }
}

/// A flag's hash over what clients see of it; 0 when they see none.
#[must_use]
pub fn face(flag: Flag, shared: Shared) -> u64 {
    if flag.archived {
        return 0;
    }
    let serves_safe = flag.trip.is_some() || flag.stale_after_seconds > 0;
    let refers = flag.targeting.contains("$ref");
    let shown = Flag {
        flag_version: 0,
        etag: String::new(),
        create_time: None,
        update_time: None,
        autonomy: None,
        description: String::new(),
        owner: String::new(),
        tags: Vec::new(),
        purpose: 0,
        warnings: Vec::new(),
        safe_variant: flag.safe_variant.filter(|_| serves_safe),
        trip: flag.trip.map(|_| Trip::default()),
        ..flag
    };
    let mut bytes = shown.encode_to_vec();
    bytes.extend_from_slice(&shared.all.to_le_bytes());
    if refers {
        bytes.extend_from_slice(&shared.evaluators.to_le_bytes());
    }
    xxh3_64(&bytes).max(1)
}

/// A segment's hash over who is in it: its clauses, and the version of its list, which is the same on every node. What it asks
/// about has its own.
#[must_use]
pub fn of_segment(segment: Segment, units_version: u64) -> u64 {
    let mut bytes = Segment { clauses: segment.clauses, ..Segment::default() }.encode_to_vec();
    bytes.extend_from_slice(&units_version.to_le_bytes());
    xxh3_64(&bytes).max(1)
}

/// What of a flag settles with what it rests on: its face, and the log time of the last change of either.
#[derive(Debug, Clone, Copy)]
struct Settled {
    face: u64,
    update_ms: i64,
}

/// A flag's own with those of the segments that it asks about, however far down.
fn with_segments(flag: &CompiledFlag, snapshot: &Snapshot) -> Settled {
    let mut bytes = flag.face().to_le_bytes().to_vec();
    let (face, mut update_ms) = (flag.face(), flag.update_ms());
    if face == 0 || flag.segments().next().is_none() {
        return Settled { face, update_ms };
    }
    let (mut seen, mut waiting) = (BTreeSet::new(), flag.segments().collect::<Vec<_>>());
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let segment = snapshot.segment(flag.environment(), id);
        bytes.extend_from_slice(&segment.map_or(0, CompiledSegment::face).to_le_bytes());
        update_ms = update_ms.max(segment.map_or(0, CompiledSegment::update_ms));
        waiting.extend(segment.into_iter().flat_map(CompiledSegment::segments));
    }
    Settled { face: xxh3_64(&bytes).max(1), update_ms }
}

/// Makes what a flag rests on a part of its face, so that a change of that is a change of the flag: clients that evaluate by
/// themselves hold it compiled in, and others hold its answer. What is not among `flags` has the face that it had before, and
/// segments are as `before` has them. Its time of change goes the same way, and never back: whoever lets go of what it rested
/// on has changed the flag itself, later.
///
/// `position` is the publication's, for those whose face is another than before.
pub fn settle(flags: &mut [CompiledFlag], before: &Snapshot, position: u64) {
    settle_faces(flags, before);
    for flag in flags {
        let held = before.get(flag.environment(), flag.key());
        flag.set_update_ms(flag.update_ms().max(held.map_or(0, CompiledFlag::update_ms)));
        let held = held.filter(|held| held.face() == flag.face());
        flag.set_face_position(held.map_or(position, CompiledFlag::face_position));
    }
}

fn settle_faces(flags: &mut [CompiledFlag], before: &Snapshot) {
    for flag in flags.iter_mut() {
        let settled = with_segments(flag, before);
        flag.set_face(settled.face);
        flag.set_update_ms(settled.update_ms);
    }
    if flags.iter().all(|flag| flag.prerequisites().next().is_none()) {
        return;
    }
    let places = flags.iter().enumerate().map(|(at, flag)| ((flag.environment(), flag.key()), at)).collect();
    let all = flags.iter().map(Settled::of).collect();
    let mut settling = Settling { flags, all, before, places, done: vec![false; flags.len()] };
    for at in 0..flags.len() {
        settling.settle(at);
    }
    let all = settling.all;
    for (flag, settled) in flags.iter_mut().zip(all) {
        flag.set_face(settled.face);
        flag.set_update_ms(settled.update_ms);
    }
}

impl Settled {
    fn of(flag: &CompiledFlag) -> Self {
        Self { face: flag.face(), update_ms: flag.update_ms() }
    }
}

struct Settling<'a> {
    flags: &'a [CompiledFlag],
    all: Vec<Settled>,
    before: &'a Snapshot,
    places: BTreeMap<(&'a str, &'a str), usize>,
    done: Vec<bool>,
}

impl Settling<'_> {
    /// A flag under those it rests on. The fold bounds the levels; a circle ends where it began.
    fn settle(&mut self, at: usize) -> Settled {
        let (Some(flag), Some(own)) = (self.flags.get(at), self.all.get(at).copied()) else {
            return Settled { face: 0, update_ms: 0 };
        };
        if own.face == 0 || std::mem::replace(self.done.get_mut(at).unwrap_or(&mut true), true) {
            return own;
        }
        let mut bytes = own.face.to_le_bytes().to_vec();
        let mut update_ms = own.update_ms;
        for other in flag.prerequisites() {
            let below = match self.places.get(&(flag.environment(), other)) {
                Some(place) => self.settle(*place),
                None => self
                    .before
                    .get(flag.environment(), other)
                    .map_or(Settled { face: 0, update_ms: 0 }, Settled::of),
            };
            bytes.extend_from_slice(&below.face.to_le_bytes());
            update_ms = update_ms.max(below.update_ms);
        }
        let face = if bytes.len() > size_of::<u64>() { xxh3_64(&bytes).max(1) } else { own.face };
        let settled = Settled { face, update_ms };
        if let Some(place) = self.all.get_mut(at) {
            *place = settled;
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_face_changes_with_answers_and_with_nothing_else() {
        let flag = Flag { name: "environments/p/flags/f".into(), ..Flag::default() };
        let shared = Shared::of(&Environment::default());
        let first = face(flag.clone(), shared);
        let same = [
            Flag { flag_version: 9, owner: "o".into(), description: "d".into(), ..flag.clone() },
            Flag { safe_variant: Some("off".into()), tags: vec!["t".into()], ..flag.clone() },
        ];
        for flag in same {
            assert_eq!(face(flag, shared), first);
        }
        let others = [
            Flag { disabled: true, ..flag.clone() },
            Flag { trip: Some(Trip::default()), ..flag.clone() },
            Flag { targeting: "{}".into(), ..flag.clone() },
            Flag { archived: true, ..flag.clone() },
        ];
        for flag in others {
            assert_ne!(face(flag, shared), first);
        }
        let renamed = Shared::of(&Environment { source: "s".into(), ..Environment::default() });
        assert_ne!(face(flag.clone(), renamed), first);
        let rules = [("e".to_owned(), "true".to_owned())].into();
        let ruled = Shared::of(&Environment { evaluators: rules, ..Environment::default() });
        assert_eq!(face(flag.clone(), ruled), first, "a flag that refers to no shared rule");
        let refers = Flag { targeting: r#"{"$ref":"e"}"#.into(), ..flag };
        assert_ne!(face(refers.clone(), ruled), face(refers, shared));
    }
}
