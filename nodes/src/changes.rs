//! What changed for clients, flag by flag, so that a front can say it to those who cache.
//!
//! ```text
//!   publication ── faces of the flags it read ──> differ from those before? ──> ring of (position, flag, change)
//!                                                                                   │
//!   front: "since 4711?" ───────────────────────────────────────────────────────────┘──> flags, or everything
//! ```
//!
//! A flag's *face* is a hash over all that can change what a client is answered: not its owner, its description or its
//! version. Places are positions of the log, so they mean the same on every node and after every start. A change stands
//! under the position that State had when it was read, which is never before the entry that made it: a client that comes
//! from another node is told too much rather than too little. The ring is bounded; who asks for more is told that
//! everything may have changed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use featureops_evaluation::{CompiledFlag, Snapshot};
use featureops_proto::v1::{Environment, Flag, Trip};
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

/// Changes that are kept.
pub const KEPT: usize = 16_384;

/// What happened to a flag, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new, or back from the archive.
    Write,
    /// It may answer otherwise.
    Update,
    /// It is gone.
    Delete,
}

impl Change {
    /// As event streams name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// This change and then another, told as one.
    const fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Write, Self::Update) => Self::Write,
            (Self::Delete, Self::Write) => Self::Update,
            (_, later) => later,
        }
    }
}

/// (environment, flag).
pub type FlagKey = (Arc<str>, Arc<str>);

/// What changed after a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The place to ask from next time.
    pub latest: u64,
    /// What changed up to there.
    pub changes: Changes,
}

/// Changed flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// More than is known one by one: a start, or more changes than are kept.
    Everything,
    /// Exactly these, each once.
    Flags(BTreeMap<FlagKey, Change>),
}

/// What the flags of an environment show of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shared {
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
        Self { all: xxh3_64(&shown.encode_to_vec()), evaluators: xxh3_64(&rules.encode_to_vec()) }
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

/// Makes what a flag rests on a part of its face, so that a change of that is a change of the flag: clients that evaluate by
/// themselves hold it compiled in, and others hold its answer. `looked` are the faces of `flags`, one by one; what was not
/// looked at has the face that it had before.
pub fn settle(flags: &[CompiledFlag], looked: &mut [Looked], before: &Snapshot) {
    if flags.iter().all(|flag| flag.prerequisites().next().is_none()) {
        return;
    }
    let places = flags.iter().enumerate().map(|(at, flag)| ((flag.environment(), flag.key()), at)).collect();
    let mut settling = Settling { flags, looked, before, places, done: vec![false; flags.len()] };
    for at in 0..flags.len() {
        settling.face(at);
    }
}

struct Settling<'a> {
    flags: &'a [CompiledFlag],
    looked: &'a mut [Looked],
    before: &'a Snapshot,
    places: BTreeMap<(&'a str, &'a str), usize>,
    done: Vec<bool>,
}

impl Settling<'_> {
    /// The face of a flag under those it rests on. The fold bounds the levels; a circle ends where it began.
    fn face(&mut self, at: usize) -> u64 {
        let (Some(flag), Some(looked)) = (self.flags.get(at), self.looked.get(at)) else { return 0 };
        let own = looked.face;
        if own == 0 || std::mem::replace(self.done.get_mut(at).unwrap_or(&mut true), true) {
            return own;
        }
        let mut bytes = own.to_le_bytes().to_vec();
        for other in flag.prerequisites() {
            let face = match self.places.get(&(flag.environment(), other)) {
                Some(place) => self.face(*place),
                None => self.before.get(flag.environment(), other).map_or(0, CompiledFlag::face),
            };
            bytes.extend_from_slice(&face.to_le_bytes());
        }
        let face = if bytes.len() > size_of::<u64>() { xxh3_64(&bytes).max(1) } else { own };
        if let Some(looked) = self.looked.get_mut(at) {
            looked.face = face;
        }
        face
    }
}

/// A flag as one publication read it.
#[derive(Debug)]
pub struct Looked {
    /// Its environment.
    pub environment: Arc<str>,
    /// Its key.
    pub flag: Arc<str>,
    /// See [`face`].
    pub face: u64,
}

#[derive(Debug)]
struct Kept {
    position: u64,
    key: FlagKey,
    change: Change,
}

/// The last changes of one node.
#[derive(Debug, Default)]
pub struct Feed {
    /// By the hash of (environment, flag): the keys themselves would take most of the room.
    faces: BTreeMap<u64, u64>,
    /// Positions rise.
    ring: VecDeque<Kept>,
    /// Nothing is known one by one before this place.
    floor: u64,
    latest: u64,
    begun: bool,
}

impl Feed {
    /// Takes in what a publication looked at. It covers `position`; State was at `read` when it was done looking. Says
    /// whether a client would notice.
    pub fn note(&mut self, looked: Vec<Looked>, position: u64, read: u64) -> bool {
        // The first look is where one begins, no change.
        let begins = !std::mem::replace(&mut self.begun, true);
        let mut noticed = begins;
        for Looked { environment, flag, face } in looked {
            let id = xxh3_64([environment.as_bytes(), flag.as_bytes()].join(&0).as_slice());
            let before = self.faces.insert(id, face).unwrap_or(0);
            let change = match (before, face) {
                (before, now) if before == now => continue,
                (0, _) => Change::Write,
                (_, 0) => Change::Delete,
                _ => Change::Update,
            };
            if !begins {
                noticed = true;
                self.keep(Kept { position: read, key: (environment, flag), change });
            }
        }
        self.latest = self.latest.max(position);
        if begins {
            self.floor = self.latest;
        }
        noticed
    }

    fn keep(&mut self, kept: Kept) {
        if self.ring.len() >= KEPT
            && let Some(oldest) = self.ring.pop_front()
        {
            self.floor = self.floor.max(oldest.position);
        }
        self.ring.push_back(kept);
    }

    /// What changed after `place`.
    #[must_use]
    pub fn since(&self, place: u64) -> Since {
        let latest = self.latest;
        if place < self.floor || place > latest {
            return Since { latest, changes: Changes::Everything };
        }
        let first = self.ring.partition_point(|kept| kept.position <= place);
        let mut flags: BTreeMap<FlagKey, Change> = BTreeMap::new();
        for kept in self.ring.range(first..) {
            let change = flags.get(&kept.key).map_or(kept.change, |earlier| earlier.then(kept.change));
            flags.insert(kept.key.clone(), change);
        }
        Since { latest, changes: Changes::Flags(flags) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(flag: &str, face: u64) -> Looked {
        Looked { environment: "p".into(), flag: flag.into(), face }
    }

    fn told(feed: &Feed, place: u64) -> Vec<(String, Change)> {
        match feed.since(place).changes {
            Changes::Flags(flags) => {
                flags.into_iter().map(|((_, flag), change)| (flag.to_string(), change)).collect()
            }
            Changes::Everything => panic!("everything"),
        }
    }

    #[test]
    fn only_what_differs_is_told_and_each_flag_once() {
        let mut feed = Feed::default();
        assert!(feed.note(vec![looked("a", 1), looked("gone", 0)], 10, 10));
        assert_eq!(told(&feed, 10), []);
        assert!(!feed.note(vec![looked("a", 1)], 11, 11), "the same face is no change");
        assert!(feed.note(vec![looked("a", 2), looked("b", 3), looked("gone", 4)], 12, 12));
        let a = |change| ("a".to_owned(), change);
        let b = |change| ("b".to_owned(), change);
        let gone = |change| ("gone".to_owned(), change);
        let told_first = [a(Change::Update), b(Change::Write), gone(Change::Write)];
        assert_eq!(told(&feed, 10), told_first);
        feed.note(vec![looked("a", 0), looked("b", 5), looked("gone", 0)], 13, 13);
        assert_eq!(told(&feed, 10), [a(Change::Delete), b(Change::Write), gone(Change::Delete)]);
        feed.note(vec![looked("a", 2)], 14, 14);
        assert_eq!(told(&feed, 12), [a(Change::Update), b(Change::Update), gone(Change::Delete)]);
        assert_eq!(feed.since(12).latest, 14);
        assert_eq!(told(&feed, 14), []);
    }

    #[test]
    fn a_place_that_is_not_known_here_is_told_everything() {
        let mut feed = Feed::default();
        feed.note(vec![looked("a", 1)], 100, 100);
        for place in [0, 99, 101] {
            assert_eq!(feed.since(place), Since { latest: 100, changes: Changes::Everything });
        }
        for n in 0..KEPT as u64 + 10 {
            feed.note(vec![looked("a", n + 2)], 101 + n, 101 + n);
        }
        assert!(feed.ring.len() <= KEPT);
        assert_eq!(feed.since(105).changes, Changes::Everything);
        assert_eq!(told(&feed, 110), [("a".to_owned(), Change::Update)]);
    }

    /// State may be ahead of the position that a publication claims. Another node may have told its clients only up to
    /// that position: coming here, they must still hear of the change.
    #[test]
    fn a_change_that_was_read_early_is_told_again_rather_than_not_at_all() {
        let mut feed = Feed::default();
        feed.note(vec![], 10, 10);
        feed.note(vec![looked("a", 1)], 11, 12);
        assert_eq!(feed.since(11).latest, 11);
        assert_eq!(told(&feed, 11), [("a".to_owned(), Change::Write)]);
    }

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
