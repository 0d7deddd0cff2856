//! The log as the whole cluster wrote it: every entry that any disk was given, and which of them became the history.
//!
//! ```text
//!   disks ── append (entry, the term before it) ──> entries by (index, term)
//!   end   ── the last entry of a disk ── its term before ── its term before ── ... ──> one chain, from the first entry
//! ```
//!
//! A disk alone has no whole log: what a snapshot replaced it never saw. Raft promises that an entry of an index and a term is
//! one and the same everywhere, with all that comes before it (log matching; Ongaro 2014, section 3.5). So the chronicle is also a
//! checker: two entries that differ under one place mean two leaders in one term, or a disk that forgot.

use std::collections::BTreeMap;
use std::sync::Arc;

use featureops_cluster::storage::{LogEntry, LogPosition};
use parking_lot::Mutex;

/// Contradictions that are kept.
const FAULTS_MAX: usize = 20;

struct Written {
    entry: LogEntry,
    /// The term of the entry before it; unknown behind a snapshot.
    before: Option<u64>,
}

#[derive(Default)]
struct Book {
    entries: BTreeMap<(u64, u64), Written>,
    faults: Vec<String>,
}

/// The shared book. Clones share it.
#[derive(Clone, Default)]
pub struct Chronicle(Arc<Mutex<Book>>);

impl Chronicle {
    /// A disk is given entries, in a row.
    pub fn note(&self, machine: u64, before: Option<LogPosition>, entries: &[LogEntry]) {
        let mut book = self.0.lock();
        let mut before = before.map(|before| before.term);
        for entry in entries {
            let LogPosition { term, index } = entry.position;
            let known = book.entries.get_mut(&(index, term));
            let differs = known.as_ref().is_some_and(|known| {
                let follows = known.before.zip(before).is_none_or(|(one, other)| one == other);
                known.entry.payload != entry.payload || !follows
            });
            match known {
                Some(known) => known.before = known.before.or(before),
                None => {
                    drop(book.entries.insert((index, term), Written { entry: entry.clone(), before }));
                }
            }
            if differs && book.faults.len() < FAULTS_MAX {
                let fault = format!("machine {machine} wrote another entry {index} of term {term}");
                book.faults.push(fault);
            }
            before = Some(term);
        }
    }

    /// What contradicts log matching.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.0.lock().faults.clone()
    }

    /// The entries up to `last`, oldest first, and whether they reach to the first one.
    #[must_use]
    pub fn chain(&self, last: LogPosition) -> (Vec<LogEntry>, bool) {
        let book = self.0.lock();
        let mut chain = Vec::new();
        let mut place = Some((last.index, last.term));
        let mut is_whole = false;
        while let Some(written) = place.and_then(|place| book.entries.get(&place)) {
            let index = written.entry.position.index;
            chain.push(written.entry.clone());
            is_whole = index <= 1 && written.before.is_none_or(|term| term == 0);
            place = index.checked_sub(1).and_then(|index| {
                // Where nobody knows, the newest that may stand before it.
                let most = written.entry.position.term;
                let guess = || {
                    let held = book.entries.range((index, 0)..=(index, most));
                    held.last().map(|((_, term), _)| *term)
                };
                Some((index, written.before.or_else(guess)?))
            });
        }
        chain.reverse();
        (chain, is_whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64, text: &'static [u8]) -> LogEntry {
        LogEntry { position: LogPosition::new(term, index), payload: bytes::Bytes::from_static(text) }
    }

    #[test]
    fn the_chain_leaves_out_what_was_overwritten() {
        let book = Chronicle::default();
        book.note(1, None, &[entry(1, 1, b"a"), entry(1, 2, b"b"), entry(1, 3, b"lost")]);
        book.note(2, None, &[entry(1, 1, b"a"), entry(1, 2, b"b")]);
        book.note(2, Some(LogPosition::new(1, 2)), &[entry(3, 3, b"c"), entry(3, 4, b"d")]);
        let (chain, is_whole) = book.chain(LogPosition::new(3, 4));
        let text: Vec<&[u8]> = chain.iter().map(|entry| entry.payload.as_ref()).collect();
        assert_eq!(text, [b"a", b"b", b"c", b"d"].map(|one: &[u8; 1]| one.as_slice()));
        assert!(is_whole && book.faults().is_empty());
    }

    #[test]
    fn two_entries_under_one_place_are_a_fault() {
        let book = Chronicle::default();
        book.note(1, None, &[entry(1, 1, b"a"), entry(2, 2, b"b")]);
        book.note(2, None, &[entry(1, 1, b"a"), entry(2, 2, b"other")]);
        assert_eq!(book.faults().len(), 1);
    }
}
