//! What a disk in memory holds of a log and of values, and what each operation does to it.
//!
//! Plain values: no lock, no clock, no chance. Whoever keeps them says what is durable and when; [`super::memory`] and the
//! simulation's disk each keep one set for what reads see and another for what a crash leaves.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::log::{LogEntry, LogExtent, LogPosition};
use super::values::{Change, Named};

/// A log's entries and the two positions noted beside them.
#[derive(Clone, Default)]
pub struct Entries {
    entries: BTreeMap<u64, LogEntry>,
    purged: Option<LogPosition>,
    committed: Option<LogPosition>,
}

/// One write to a log.
#[derive(Clone)]
pub enum EntryOperation {
    /// Entries after the last one.
    Append(Vec<LogEntry>),
    /// Everything after a position goes; all of it, without one.
    TruncateAfter(Option<LogPosition>),
    /// Everything up to a position goes.
    Purge(LogPosition),
    /// What is known to be committed.
    Commit(LogPosition),
}

impl Entries {
    /// Does what the operation says.
    pub fn apply(&mut self, operation: EntryOperation) {
        match operation {
            EntryOperation::Append(entries) => {
                self.entries.extend(entries.into_iter().map(|entry| (entry.position.index, entry)));
            }
            EntryOperation::TruncateAfter(last) => {
                drop(self.entries.split_off(&last.map_or(0, |last| last.index.saturating_add(1))));
            }
            EntryOperation::Purge(upto) => {
                self.entries = self.entries.split_off(&upto.index.saturating_add(1));
                self.purged = self.purged.max(Some(upto));
            }
            EntryOperation::Commit(committed) => self.committed = Some(committed),
        }
    }

    /// From where to where it reaches.
    #[must_use]
    pub fn extent(&self) -> LogExtent {
        let last = self.entries.values().next_back().map(|entry| entry.position);
        LogExtent { purged: self.purged, last: last.max(self.purged), committed: self.committed }
    }

    /// Whether the entries stand one behind the other, and behind what is there.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check_follows(&self, entries: &[LogEntry]) -> io::Result<()> {
        let mut last = self.extent().last;
        for entry in entries {
            if let Some(last) = last
                && entry.position.index != last.index.saturating_add(1)
            {
                let text = format!("entry {} does not follow {last}", entry.position);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            last = Some(entry.position);
        }
        Ok(())
    }

    /// Entries of a range, the first in any case, the others as long as all payloads are within the bound.
    #[must_use]
    pub fn read(&self, indexes: Range<u64>, bytes_max: usize) -> Vec<LogEntry> {
        let mut found = Vec::new();
        // A range that ends before it starts is empty here, and a panic of the map's.
        if indexes.start >= indexes.end {
            return found;
        }
        let mut bytes = 0_usize;
        for entry in self.entries.range(indexes).map(|(_, entry)| entry) {
            bytes = bytes.saturating_add(entry.payload.len());
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        found
    }

    /// Forgets the last entry, as a disk does that lies.
    pub fn lose_last(&mut self) {
        drop(self.entries.pop_last());
    }
}

/// Values by name.
#[derive(Clone, Default)]
pub struct Pairs(BTreeMap<Vec<u8>, Vec<u8>>);

impl Pairs {
    /// Does what the changes say, in their order.
    pub fn apply_changes(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(name, value) => drop(self.0.insert(name, value)),
                Change::Delete(name) => drop(self.0.remove(&name)),
                Change::DeleteRange(names) => {
                    self.0.retain(|name, _| name < &names.start || name >= &names.end);
                }
            }
        }
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.0.get(name).cloned()
    }

    /// The first `limit` of a range of names, in their order.
    #[must_use]
    pub fn range(&self, names: Range<Vec<u8>>, limit: usize) -> Vec<Named> {
        self.within(names).take(limit).collect()
    }

    /// The last of a range of names.
    #[must_use]
    pub fn last(&self, names: Range<Vec<u8>>) -> Option<Named> {
        self.within(names).next_back()
    }

    fn within(&self, names: Range<Vec<u8>>) -> impl DoubleEndedIterator<Item = Named> {
        // A range that ends before it starts is empty here, and a panic of the map's.
        let found = (names.start < names.end).then(|| self.0.range(names));
        found.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_ends_before_it_starts_holds_nothing() {
        let mut entries = Entries::default();
        entries.apply(EntryOperation::Append(
            (1..=3)
                .map(|index| LogEntry {
                    position: LogPosition::new(1, index),
                    payload: bytes::Bytes::from_static(b"xx"),
                })
                .collect(),
        ));
        #[allow(clippy::reversed_empty_ranges, reason = "what is tested")]
        let backwards = 3..1;
        assert!(entries.read(backwards, usize::MAX).is_empty());
        assert_eq!(entries.read(1..4, 4).len(), 2);
        assert_eq!(entries.read(1..4, 1).len(), 1, "the first in any case");
        let mut pairs = Pairs::default();
        pairs.apply_changes(vec![Change::Put(b"b".to_vec(), b"1".to_vec())]);
        assert!(pairs.range(b"c".to_vec()..b"a".to_vec(), 9).is_empty());
        assert_eq!(pairs.last(b"c".to_vec()..b"a".to_vec()), None);
        assert_eq!(pairs.last(b"a".to_vec()..b"c".to_vec()), Some((b"b".to_vec(), b"1".to_vec())));
    }
}
