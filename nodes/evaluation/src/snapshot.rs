//! The snapshot: all flags of all environments as of one position, never changed once made.
//!
//! ```text
//!   Snapshot -> environments (few) -> 256 shards by the key's hash -> a short sorted slice -> Arc<CompiledFlag>
//! ```
//!
//! Publishing a change copies one shard's pointers and the 256 pointers to the shards; everything else is shared with
//! the snapshot before it, which readers may hold as long as they like. A flag's version never goes back: a change
//! older than what the snapshot holds is ignored, and archived flags stay as tombstones that carry their version.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::flag::CompiledFlag;
use crate::murmur::Murmur3;

const SHARDS: u32 = 256;

/// All flags as of a position. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    environments: Arc<BTreeMap<Box<str>, Arc<Environment>>>,
    position: u64,
    log_time_ms: i64,
}

#[derive(Debug, Clone)]
struct Environment {
    shards: Box<[Arc<Vec<Entry>>]>,
    flags: usize,
}

/// A flag under its key's hash; a shard is sorted by (hash, key).
#[derive(Debug, Clone)]
struct Entry {
    hash: u32,
    flag: Arc<CompiledFlag>,
}

impl Default for Environment {
    fn default() -> Self {
        let empty = Arc::new(Vec::new());
        Self { shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(), flags: 0 }
    }
}

impl Environment {
    fn get(&self, key: &str) -> Option<&CompiledFlag> {
        let hash = hash_of(key);
        let shard = self.shards.get(shard_of(hash))?;
        let at = find(shard, hash, key).ok()?;
        shard.get(at).map(|entry| entry.flag.as_ref())
    }

    /// Puts a flag in, unless a newer version of it is there.
    fn put(&mut self, flag: CompiledFlag) {
        let hash = flag.key_hash.finish();
        let Some(shard) = self.shards.get_mut(shard_of(hash)) else { return };
        match find(shard, hash, flag.key()) {
            Ok(at) => {
                let newer = shard.get(at).is_some_and(|held| held.flag.flag_version() > flag.flag_version());
                if !newer && let Some(entry) = Arc::make_mut(shard).get_mut(at) {
                    entry.flag = Arc::new(flag);
                }
            }
            Err(at) => {
                Arc::make_mut(shard).insert(at, Entry { hash, flag: Arc::new(flag) });
                self.flags += 1;
            }
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

    /// The flag, archived or not.
    #[must_use]
    pub fn get(&self, environment: &str, flag: &str) -> Option<&CompiledFlag> {
        self.environments.get(environment)?.get(flag)
    }

    /// The flags of an environment that are not archived, sorted by key. Allocates the list.
    #[must_use]
    pub fn flags(&self, environment: &str) -> Vec<&CompiledFlag> {
        let Some(environment) = self.environments.get(environment) else { return Vec::new() };
        let mut flags = Vec::with_capacity(environment.flags);
        let entries = environment.shards.iter().flat_map(|shard| shard.iter());
        flags.extend(entries.map(|entry| entry.flag.as_ref()).filter(|flag| !flag.is_archived()));
        flags.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        flags
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

fn find(shard: &[Entry], hash: u32, key: &str) -> Result<usize, usize> {
    shard.binary_search_by(|entry| entry.hash.cmp(&hash).then_with(|| entry.flag.key().cmp(key)))
}
