//! The sections of a state one at a time, for whoever cannot hold all of them: shards, which are most of it, are made when they
//! are asked for.

use std::iter::Peekable;

use super::{Section, section, shard_record};
use crate::State;

/// The digest of a state, from its sections in their order.
#[derive(Default)]
pub struct SectionDigest(xxhash_rust::xxh3::Xxh3);

impl SectionDigest {
    /// A section begins.
    pub fn section(&mut self, name: &str, length: u64) {
        self.0.update(name.as_bytes());
        self.0.update(&length.to_le_bytes());
    }

    /// Bytes of it, in their order.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// XXH3-64 over all of them.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// How far one state's sections were given.
pub struct SectionStream {
    others: Peekable<std::vec::IntoIter<Section>>,
    /// Experiment and number of the next shard that holds anything.
    shard: Option<(u32, usize)>,
}

impl SectionStream {
    /// From the first section of a state on.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let others = state.sections_beside_shards().into_iter().peekable();
        Self { others, shard: shard_from(state, 0, 0) }
    }

    /// The next section; `None` after the last. `state` is the one that the stream was made of, unchanged.
    pub fn next(&mut self, state: &State) -> Option<Section> {
        let Some((number, at)) = self.shard else { return self.others.next() };
        let name = format!("ledger/{number:010}/{at:03}");
        if let Some(before) = self.others.next_if(|section| section.name < name) {
            return Some(before);
        }
        self.shard = shard_from(state, number, at + 1);
        let shard = state.ledgers.get(&number)?.shards.get(at)?;
        Some(section(&name, [&shard_record(number, at, shard)]))
    }
}

/// The first shard that holds anything, from a place on.
fn shard_from(state: &State, number: u32, first: usize) -> Option<(u32, usize)> {
    state.ledgers.range(number..).find_map(|(ledger, held)| {
        let skip = if *ledger == number { first } else { 0 };
        let mut shards = held.shards.iter().enumerate().skip(skip);
        shards.find(|(_, shard)| shard.rows.len() > 0).map(|(at, _)| (*ledger, at))
    })
}
