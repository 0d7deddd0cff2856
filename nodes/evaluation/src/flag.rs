//! A flag, resolved: every name is an index, every path is split, every weight is a stretch of buckets.
//!
//! Made only by [`crate::compile`], so what evaluation reads has been checked; where an index is read, a miss still
//! answers with the code default instead of a panic.

use featureops_proto::v1;
use prost_types::{Struct, Value};

use crate::bucket::Stretch;
use crate::condition::Condition;
use crate::context::Path;
use crate::logic::{Generation, Program};
use crate::murmur::Murmur3;
use crate::placement::Placement;
use crate::ramp::Ramp;

/// A flag as evaluation reads it.
#[derive(Debug)]
pub struct CompiledFlag {
    pub(crate) environment: Box<str>,
    pub(crate) key: Box<str>,
    /// The hash of the flag's key: its place in a snapshot.
    pub(crate) key_hash: Murmur3,
    /// Which bytes buckets are hashes of, and the hash state after the flag's key among them.
    pub(crate) generation: Generation,
    pub(crate) seed: Murmur3,
    pub(crate) flag_version: u64,
    pub(crate) update_ms: i64,
    pub(crate) face: u64,
    /// Position of the publication that gave it this face.
    pub(crate) face_position: u64,
    pub(crate) value_type: v1::ValueType,
    /// Sorted by name.
    pub(crate) variants: Box<[Variant]>,
    pub(crate) default: Option<u16>,
    pub(crate) safe: Option<u16>,
    /// The unit's variant, over all that follows; sorted by unit.
    pub(crate) forced: Box<[Forced]>,
    /// All must hold, or the default is served.
    pub(crate) prerequisites: Box<[Prerequisite]>,
    pub(crate) rules: Box<[Rule]>,
    /// Of all rules, in their order: side by side in memory, for they are read one after the other.
    pub(crate) conditions: Box<[Condition]>,
    /// Some of them are about segments.
    pub(crate) asks_segments: bool,
    /// The attributes that conditions ask about, each once.
    pub(crate) attributes: Box<[Path]>,
    /// Instead of rules.
    pub(crate) targeting: Option<Box<Program>>,
    pub(crate) allocation: Option<Allocation>,
    pub(crate) stale_after_ms: Option<i64>,
    pub(crate) state: State,
    /// Boxed: most flags have none.
    pub(crate) metadata: Option<Box<Struct>>,
}

/// What stands before rules and allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Serving,
    Disabled,
    Tripped,
    Archived,
    /// The definition did not compile.
    Unusable,
}

#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) name: Box<str>,
    pub(crate) value: Value,
}

/// The index of a variant among all, sorted by name.
pub(crate) fn find(variants: &[Variant], name: &str) -> Option<u16> {
    // At most 64 variants.
    variants.binary_search_by(|variant| variant.name.as_ref().cmp(name)).ok().map(|index| index as u16)
}

/// A unit that gets a variant because somebody said so.
#[derive(Debug)]
pub(crate) struct Forced {
    pub(crate) unit: Box<str>,
    pub(crate) variant: u16,
}

/// What another flag of the environment must serve.
#[derive(Debug)]
pub(crate) struct Prerequisite {
    pub(crate) flag: Box<str>,
    /// One of these.
    pub(crate) variants: Box<[Box<str>]>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: Box<str>,
    /// How many of the flag's conditions are its own.
    pub(crate) conditions: usize,
    pub(crate) serve: Serve,
}

#[derive(Debug)]
pub(crate) enum Serve {
    Variant(u16),
    /// Stretches of buckets to variants.
    Split {
        stretches: Box<[Stretch]>,
        /// The map is kept over the rule's writes.
        sticky: bool,
    },
    /// Boxed: most flags have none.
    Ramp(Box<Ramp>),
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) experiment: u32,
    pub(crate) generation: u32,
    pub(crate) allocation_version: u32,
    /// Who may be in it; boxed, because most have all.
    pub(crate) placement: Option<Box<Placement>>,
    /// Stretches of buckets to arms.
    pub(crate) stretches: Box<[Stretch]>,
    pub(crate) arms: Box<[Arm]>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Arm {
    pub(crate) variant: u16,
    pub(crate) weight_basis_points: u32,
}

impl CompiledFlag {
    /// A flag whose committed definition does not compile: it answers GENERAL, and its version still counts.
    ///
    /// The write door refuses such a definition, so this is for one that another release let in.
    #[must_use]
    pub fn unusable(environment: &str, key: &str, flag_version: u64) -> Self {
        Self {
            environment: environment.into(),
            key: key.into(),
            key_hash: Murmur3::new().with(key.as_bytes()),
            generation: Generation::V2,
            seed: Murmur3::new(),
            flag_version,
            update_ms: 0,
            face: 0,
            face_position: 0,
            value_type: v1::ValueType::Unspecified,
            variants: Box::default(),
            default: None,
            safe: None,
            forced: Box::default(),
            prerequisites: Box::default(),
            rules: Box::default(),
            conditions: Box::default(),
            asks_segments: false,
            attributes: Box::default(),
            targeting: None,
            allocation: None,
            stale_after_ms: None,
            state: State::Unusable,
            metadata: None,
        }
    }

    /// The environment's id.
    #[must_use]
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// The flag's id in its environment.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How often the flag changed.
    #[must_use]
    pub const fn flag_version(&self) -> u64 {
        self.flag_version
    }

    /// Log time of its last change, and once its publisher has settled it, of what its answers rest on; in unix milliseconds. 0:
    /// not known.
    #[must_use]
    pub const fn update_ms(&self) -> i64 {
        self.update_ms
    }

    /// A digest of what clients see of it, as its publisher gave it; 0: none was given.
    #[must_use]
    pub const fn face(&self) -> u64 {
        self.face
    }

    /// Position of the publication that gave it its face: a face that came back after another has a later one.
    #[must_use]
    pub const fn face_position(&self) -> u64 {
        self.face_position
    }

    /// Gives it a digest of what clients see of it: two flags of equal faces answer the same.
    pub fn set_face(&mut self, face: u64) {
        self.face = face;
    }

    /// Says when it, or what its answers rest on, last changed.
    pub fn set_update_ms(&mut self, update_ms: i64) {
        self.update_ms = update_ms;
    }

    /// Says since which publication it has its face.
    pub fn set_face_position(&mut self, position: u64) {
        self.face_position = position;
    }

    /// What clients are told with every answer: the environment's metadata under the flag's own. `None`: nothing.
    #[must_use]
    pub fn metadata(&self) -> Option<&Struct> {
        self.metadata.as_deref()
    }

    /// The type of all its variants; unspecified when an imported flag has several.
    #[must_use]
    pub const fn value_type(&self) -> v1::ValueType {
        self.value_type
    }

    /// How many conditions an evaluation may have to read; a targeting rule counts as many.
    #[must_use]
    pub fn conditions_count(&self) -> usize {
        /// Nodes are not counted when a rule is compiled; most rules have fewer.
        const TARGETING: usize = 64;
        /// Clauses and lists of the segments that its conditions name are looked through: most are few.
        const SEGMENTS: usize = 64;
        self.conditions.len()
            + if self.targeting.is_some() { TARGETING } else { 0 }
            + if self.asks_segments { SEGMENTS } else { 0 }
    }

    /// The flags that it rests on, by id.
    pub fn prerequisites(&self) -> impl Iterator<Item = &str> {
        self.prerequisites.iter().map(|prerequisite| prerequisite.flag.as_ref())
    }

    /// The segments that its rules ask about, by id.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().flat_map(Condition::segments)
    }

    /// The number of the running experiment, if there is one.
    #[must_use]
    pub fn experiment(&self) -> Option<u32> {
        self.allocation.as_ref().map(|allocation| allocation.experiment)
    }

    /// Archived flags evaluate as unknown ones.
    #[must_use]
    pub fn is_archived(&self) -> bool {
        self.state == State::Archived
    }

    /// Tripped flags serve their safe variant to everybody.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.state == State::Tripped
    }

    /// Whether every unit gets the default at any time, so that clients may cache it until they hear of a change.
    pub(crate) fn is_static(&self) -> bool {
        self.forced.is_empty()
            // Another flag's change is not told as soon as a client may ask again.
            && self.prerequisites.is_empty()
            && self.rules.is_empty()
            && self.targeting.is_none()
            && self.allocation.is_none()
            && self.stale_after_ms.is_none()
    }
}
