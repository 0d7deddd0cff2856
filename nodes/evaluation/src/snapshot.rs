//! The snapshot: all flags of all environments as of one position, never changed once made.
//!
//! ```text
//!   Snapshot -> environments (few) -> places: by the key's hash -> place     grows with a new flag only
//!                                  -> order:  places sorted by key           grows with a new flag only
//!                                  -> slots:  place -> Arc<CompiledFlag>     what a change replaces
//! ```
//!
//! A flag keeps its place for ever: archived flags stay as tombstones that carry their version. So a change copies
//! one block of slots and the pointers to the others, and shares everything else with the snapshot before it, which
//! readers may hold as long as they like. A flag's version never goes back: a change older than what the snapshot
//! holds is ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::flag::CompiledFlag;
use crate::murmur::Murmur3;
use crate::segment::CompiledSegment;

/// Slices of the hash, each sorted: a lookup searches one of them.
const SHARDS: u32 = 256;
/// Flags of a block; a change copies one block.
const BLOCK: usize = 64;

/// All flags as of a position. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    environments: Arc<BTreeMap<Box<str>, Arc<Environment>>>,
    segments: Arc<BTreeMap<Box<str>, Arc<Segments>>>,
    position: u64,
    log_time_ms: i64,
}

/// An environment's segments by id.
type Segments = BTreeMap<Box<str>, Arc<CompiledSegment>>;

#[derive(Debug, Clone)]
struct Environment {
    /// Each sorted by (hash, key).
    places: Box<[Arc<Vec<Place>>]>,
    order: Arc<Vec<u32>>,
    blocks: Vec<Arc<Vec<Arc<CompiledFlag>>>>,
}

/// Where the flag with this key hash is.
#[derive(Debug, Clone, Copy)]
struct Place {
    hash: u32,
    slot: u32,
}

impl Default for Environment {
    fn default() -> Self {
        let empty = Arc::new(Vec::new());
        let places = (0..SHARDS).map(|_| Arc::clone(&empty)).collect();
        Self { places, order: Arc::default(), blocks: Vec::new() }
    }
}

impl Environment {
    fn at(&self, slot: u32) -> Option<&CompiledFlag> {
        let slot = slot as usize;
        self.blocks.get(slot / BLOCK)?.get(slot % BLOCK).map(AsRef::as_ref)
    }

    fn key_at(&self, slot: u32) -> &str {
        self.at(slot).map_or("", CompiledFlag::key)
    }

    /// The slot of a key, or where in its shard it belongs.
    fn find(&self, hash: u32, key: &str) -> Result<u32, usize> {
        let Some(shard) = self.places.get(shard_of(hash)) else { return Err(0) };
        let found = shard
            .binary_search_by(|place| place.hash.cmp(&hash).then_with(|| self.key_at(place.slot).cmp(key)))?;
        shard.get(found).map(|place| place.slot).ok_or(found)
    }

    fn get(&self, key: &str) -> Option<&CompiledFlag> {
        self.at(self.find(hash_of(key), key).ok()?)
    }

    /// Puts a flag in, unless a newer version of it is there.
    fn put(&mut self, flag: CompiledFlag) {
        let hash = flag.key_hash.finish();
        match self.find(hash, flag.key()) {
            Ok(slot) => self.replace(slot as usize, flag),
            Err(at) => self.add(hash, at, flag),
        }
    }

    fn replace(&mut self, slot: usize, flag: CompiledFlag) {
        let Some(block) = self.blocks.get_mut(slot / BLOCK) else { return };
        let newer = block.get(slot % BLOCK).is_some_and(|held| held.flag_version() > flag.flag_version());
        if !newer && let Some(held) = Arc::make_mut(block).get_mut(slot % BLOCK) {
            *held = Arc::new(flag);
        }
    }

    /// Appends a flag that is new, at `at` in its shard.
    fn add(&mut self, hash: u32, at: usize, flag: CompiledFlag) {
        // State bounds the flags of an environment far below 2^32.
        let slot = self.order.len() as u32;
        let rank = self.order.partition_point(|other| self.key_at(*other) < flag.key());
        Arc::make_mut(&mut self.order).insert(rank, slot);
        if let Some(shard) = self.places.get_mut(shard_of(hash)) {
            Arc::make_mut(shard).insert(at, Place { hash, slot });
        }
        match self.blocks.last_mut() {
            Some(block) if block.len() < BLOCK => Arc::make_mut(block).push(Arc::new(flag)),
            _ => self.blocks.push(Arc::new(vec![Arc::new(flag)])),
        }
    }
}

impl Snapshot {
    /// A snapshot without flags, at position 0.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The snapshot after these changes, which are known up to `position` and its log time. Neither goes back.
    ///
    /// Without changes it only moves the position and the time, at the cost of one pointer.
    #[must_use]
    pub fn apply(
        &self,
        changes: impl IntoIterator<Item = CompiledFlag>,
        position: u64,
        log_time_ms: i64,
    ) -> Self {
        let mut next = self.clone();
        for flag in changes {
            let environments = Arc::make_mut(&mut next.environments);
            match environments.get_mut(flag.environment()) {
                Some(environment) => Arc::make_mut(environment).put(flag),
                None => {
                    let mut environment = Environment::default();
                    let id = flag.environment().into();
                    environment.put(flag);
                    environments.insert(id, Arc::new(environment));
                }
            }
        }
        next.position = self.position.max(position);
        next.log_time_ms = self.log_time_ms.max(log_time_ms);
        next
    }

    /// The snapshot with other segments: environment, id, and what is there now, if anything. All else is shared.
    #[must_use]
    pub fn with_segments(
        &self,
        changes: impl IntoIterator<Item = (String, String, Option<CompiledSegment>)>,
    ) -> Self {
        let mut next = self.clone();
        for (environment, id, segment) in changes {
            let all = Arc::make_mut(&mut next.segments).entry(environment.into()).or_default();
            let all = Arc::make_mut(all);
            match segment {
                Some(segment) => all.insert(id.into(), Arc::new(segment)),
                None => all.remove(id.as_str()),
            };
        }
        next
    }

    /// A segment of an environment.
    #[must_use]
    pub fn segment(&self, environment: &str, segment: &str) -> Option<&CompiledSegment> {
        self.segments.get(environment)?.get(segment).map(AsRef::as_ref)
    }

    /// The segments of an environment, by id.
    pub fn segments(&self, environment: &str) -> impl Iterator<Item = &CompiledSegment> {
        self.segments.get(environment).into_iter().flat_map(|all| all.values()).map(AsRef::as_ref)
    }

    /// The flag, archived or not.
    #[must_use]
    pub fn get(&self, environment: &str, flag: &str) -> Option<&CompiledFlag> {
        self.environments.get(environment)?.get(flag)
    }

    /// The flags of an environment that are not archived, sorted by key.
    pub fn flags(&self, environment: &str) -> impl Iterator<Item = &CompiledFlag> {
        let environment = self.environments.get(environment).map(AsRef::as_ref);
        environment
            .into_iter()
            .flat_map(|environment| environment.order.iter().filter_map(|slot| environment.at(*slot)))
            .filter(|flag| !flag.is_archived())
    }

    /// The flags of an environment that were put in since `before`, an earlier snapshot: archived ones too, in no order, and
    /// also those that were compiled again and came out the same. Costs a look at each block, not at each flag.
    pub fn changed_since<'s>(
        &'s self,
        before: &'s Self,
        environment: &str,
    ) -> impl Iterator<Item = &'s CompiledFlag> {
        let (new, old) = (self.environments.get(environment), before.environments.get(environment));
        let same = matches!((new, old), (Some(new), Some(old)) if Arc::ptr_eq(new, old));
        let blocks = new.filter(|_| !same).into_iter().flat_map(|new| new.blocks.iter().enumerate());
        let held = move |at: usize| old.and_then(|old| old.blocks.get(at));
        blocks
            .map(move |(at, block)| (block, held(at)))
            .filter(|(block, held)| !held.is_some_and(|held| Arc::ptr_eq(block, held)))
            .flat_map(|(block, held)| {
                block.iter().enumerate().filter(move |(at, flag)| {
                    !held.and_then(|held| held.get(*at)).is_some_and(|held| Arc::ptr_eq(flag, held))
                })
            })
            .map(|(_, flag)| flag.as_ref())
    }

    /// The environments that hold flags, sorted.
    pub fn environments(&self) -> impl Iterator<Item = &str> {
        self.environments.keys().map(AsRef::as_ref)
    }

    /// The last applied position that this snapshot rests on.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The log time at that position, in unix milliseconds.
    #[must_use]
    pub const fn log_time_ms(&self) -> i64 {
        self.log_time_ms
    }

    /// How old the state is, by the caller's clock. Never negative: clocks differ.
    #[must_use]
    pub fn age_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.log_time_ms).max(0)
    }
}

fn hash_of(key: &str) -> u32 {
    Murmur3::new().with(key.as_bytes()).finish()
}

fn shard_of(hash: u32) -> usize {
    (hash % SHARDS) as usize
}
