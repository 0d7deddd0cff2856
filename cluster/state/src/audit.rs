//! The audit chain: every command but ticks and facts, refused ones among them (but for one whose request id is too long
//! to be written down), gap-free, each record linked to the one before by SHA-256.

use std::collections::VecDeque;
use std::sync::Arc;

use featureops_proto::v1::{AuditRecord, VerifyAuditResponse};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// Records kept; the chain's head goes on.
pub const MAX_RECORDS: usize = 100_000;

/// The kept records and the head.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    kept: VecDeque<Arc<AuditRecord>>,
    last: u64,
    head: Vec<u8>,
}

impl Audit {
    /// Number of the newest record; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Hash of the newest record.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Appends a record: number and hashes are filled here.
    pub fn append(&mut self, mut record: AuditRecord) -> u64 {
        self.last += 1;
        record.number = self.last;
        record.previous_hash = self.head.clone();
        record.hash = hash_of(&record);
        self.head.clone_from(&record.hash);
        if self.kept.len() >= MAX_RECORDS {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::new(record));
        self.last
    }

    /// Newest first, below `before` (0: from the newest).
    pub fn newest(&self, before: u64, limit: usize) -> Vec<AuditRecord> {
        let end =
            if before == 0 { self.kept.len() } else { self.kept.partition_point(|r| r.number < before) };
        self.kept.range(..end).rev().take(limit).map(|r| AuditRecord::clone(r)).collect()
    }

    /// Oldest first, from a number on.
    pub fn from(&self, from: u64, limit: usize) -> Vec<AuditRecord> {
        let first = self.kept.front().map_or(1, |r| r.number);
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        self.kept.iter().skip(skip).take(limit).map(|r| AuditRecord::clone(r)).collect()
    }

    /// Recomputes the chain over the kept records.
    pub fn verify(&self) -> VerifyAuditResponse {
        let first = self.kept.front().map_or(0, |r| r.number);
        let fault = self.fault().unwrap_or_default();
        let head = self.head.clone();
        VerifyAuditResponse { intact: fault.is_empty(), first, last: self.last, head, fault }
    }

    fn fault(&self) -> Option<String> {
        let mut previous: Option<&AuditRecord> = None;
        for record in &self.kept {
            if hash_of(record) != record.hash {
                return Some(format!("record {} does not match its hash", record.number));
            }
            if let Some(before) = previous
                && (record.number != before.number + 1 || record.previous_hash != before.hash)
            {
                return Some(format!("record {} is not linked to record {}", record.number, before.number));
            }
            previous = Some(record);
        }
        let (number, hash) = previous.map_or((0, &[][..]), |r| (r.number, r.hash.as_slice()));
        (number != self.last || hash != self.head)
            .then(|| format!("the newest record is {number}, the head says {}", self.last))
    }

    /// Oldest first.
    pub fn records(&self) -> impl Iterator<Item = &AuditRecord> {
        self.kept.iter().map(AsRef::as_ref)
    }

    /// Restores the chain; `verify` says whether it holds.
    pub fn restore(records: Vec<AuditRecord>, last: u64, head: Vec<u8>) -> Self {
        Self { kept: records.into_iter().map(Arc::new).collect(), last, head }
    }
}

/// SHA-256 of the previous record's hash and of the record without its own.
#[must_use]
pub fn hash_of(record: &AuditRecord) -> Vec<u8> {
    let unhashed = AuditRecord { hash: Vec::new(), ..record.clone() };
    Sha256::new()
        .chain_update(&record.previous_hash)
        .chain_update(unhashed.encode_to_vec())
        .finalize()
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_a_missing_and_a_cut_record_are_found() {
        let mut audit = Audit::default();
        for n in 0..10 {
            audit.append(AuditRecord { action: format!("act {n}"), ..AuditRecord::default() });
        }
        assert!(audit.verify().intact);
        let records: Vec<AuditRecord> = audit.records().cloned().collect();

        let mut changed = records.clone();
        changed[4].detail = "x".to_owned();
        assert!(!Audit::restore(changed, audit.last, audit.head.clone()).verify().intact);
        let mut missing = records.clone();
        missing.remove(4);
        assert!(!Audit::restore(missing, audit.last, audit.head.clone()).verify().intact);
        let mut cut = records;
        cut.pop();
        assert!(!Audit::restore(cut, audit.last, audit.head.clone()).verify().intact);
    }
}
