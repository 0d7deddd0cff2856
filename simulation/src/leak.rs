//! A planted defect: a fold that forgets a part of one sum, on the lives that make it again from the log.
//!
//! It decorates what a node reads of its own log: the entry at which the ledger folded comes with one outcome a little
//! smaller than it was proposed. The live node folded the whole; a node that starts before the fold holds less afterwards.

use std::collections::BTreeMap;

use bytes::Bytes;
use featureops_cluster::storage::LogEntry;
use featureops_proto::log::{Entry, entry::Command};
use prost::Message;

use crate::refold::{proposal, with_proposal};

/// Where it leaks, and from which life of the machine on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leak {
    /// The entry.
    pub index: u64,
    /// Lives after this one read it so.
    pub life: u64,
}

impl Leak {
    /// The entry as it is read.
    #[must_use]
    pub fn pass(self, entry: LogEntry) -> LogEntry {
        let leaky = if entry.position.index == self.index { lessened(&entry.payload) } else { None };
        LogEntry { payload: leaky.unwrap_or(entry.payload), ..entry }
    }
}

/// The second planted defect: batches of facts that were in the log before are read under another producer's name, as a replica
/// without deduplication counts them.
#[derive(Debug, Default)]
pub struct Repeats(BTreeMap<(String, u64), u64>);

impl Repeats {
    /// The entry as it is read; the first that brings a batch is the one that is read as it is.
    #[must_use]
    pub fn pass(&mut self, entry: LogEntry) -> LogEntry {
        let decoded = proposal(&entry.payload).and_then(|proposal| Entry::decode(proposal).ok());
        let Some(mut decoded) = decoded else { return entry };
        let Some(Command::Ingest(ingest)) = &mut decoded.command else { return entry };
        let mut differs = false;
        for batch in &mut ingest.batches {
            let name = (batch.producer.clone(), batch.sequence);
            let first = self.0.entry(name).or_insert(entry.position.index);
            if *first < entry.position.index {
                batch.producer.push_str("-again");
                differs = true;
            }
        }
        if !differs {
            return entry;
        }
        LogEntry { payload: with_proposal(decoded.encode_to_vec().into()), ..entry }
    }
}

/// Whether a record has what can leak.
#[must_use]
pub fn can_leak(record: &Bytes) -> bool {
    lessened(record).is_some()
}

/// The record with its last broken value less by the smallest part of its scale: whole ones may be of a metric that counts events,
/// whatever their value.
fn lessened(record: &Bytes) -> Option<Bytes> {
    let mut entry = Entry::decode(proposal(record)?).ok()?;
    let Some(Command::Ingest(ingest)) = &mut entry.command else { return None };
    let outcomes = ingest.batches.iter_mut().flat_map(|batch| &mut batch.outcomes);
    let last = outcomes.filter(|outcome| outcome.value % 1_000_000 != 0).last()?;
    last.value = last.value.saturating_sub(1);
    Some(with_proposal(entry.encode_to_vec().into()))
}
