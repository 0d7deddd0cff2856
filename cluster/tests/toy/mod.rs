//! A small fold for tests: a list of entries. `violate` breaks an invariant, `panic` panics.

#![allow(dead_code, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use featureops_cluster::fold::{Fold, Violation};
use featureops_proto::log::{BatchReply, Done, Entry, Ingested, Reply, entry::Command, reply};
use prost::Message;

#[derive(Clone, Default, Debug, PartialEq)]
pub struct Toy {
    pub entries: Arc<Vec<(u64, Vec<u8>)>>,
    pub ticks: Vec<(i64, bool)>,
    /// Ticks that had been applied when the first facts came.
    pub ticks_before_facts: Option<usize>,
}

impl Fold for Toy {
    type Effect = u64;

    fn apply(&mut self, position: u64, entry: &[u8], effects: &mut Vec<u64>) -> Result<Reply, Violation> {
        if entry == b"violate" {
            return Err(Violation { invariant: "T1".to_owned(), detail: "asked to".to_owned() });
        }
        assert!(entry != b"panic", "asked to");
        if let Ok(Entry { command: Some(Command::Tick(tick)), .. }) = Entry::decode(entry) {
            self.ticks.push((tick.now_ms, tick.after_restart));
            return Ok(Reply::default());
        }
        if let Ok(Entry { command: Some(Command::Ingest(ingest)), .. }) = Entry::decode(entry) {
            let reply = |batch: &featureops_proto::log::Batch| BatchReply {
                position,
                counted: batch.sequence as u32,
                ..BatchReply::default()
            };
            self.ticks_before_facts.get_or_insert(self.ticks.len());
            let batches = ingest.batches.iter().map(reply).collect();
            return Ok(Reply { result: Some(reply::Result::Ingested(Ingested { batches })) });
        }
        effects.push(position);
        Arc::make_mut(&mut self.entries).push((position, entry.to_vec()));
        let done =
            Done { name: String::from_utf8_lossy(entry).into_owned(), version: position, ..Done::default() };
        Ok(Reply { result: Some(reply::Result::Done(done)) })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (position, entry) in self.entries.iter() {
            bytes.extend_from_slice(&position.to_be_bytes());
            bytes.extend_from_slice(&(entry.len() as u32).to_be_bytes());
            bytes.extend_from_slice(entry);
        }
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Result<Self, String> {
        let mut entries = Vec::new();
        while let Some((head, rest)) = bytes.split_at_checked(12) {
            let position = u64::from_be_bytes(head[..8].try_into().map_err(|_| "position")?);
            let length = u32::from_be_bytes(head[8..].try_into().map_err(|_| "length")?) as usize;
            let (entry, rest) = rest.split_at_checked(length).ok_or("entry")?;
            entries.push((position, entry.to_vec()));
            bytes = rest;
        }
        Ok(Self { entries: Arc::new(entries), ..Self::default() })
    }
}
