//! How much the log has grown since the last snapshot, in bytes.
//!
//! Entries alone bound nothing that a disk knows: one may have 100 bytes, and one 8 MiB. So a snapshot is also due when the
//! bytes applied since the last one pass a bound, and what lies far enough behind a snapshot is purged.
//!
//! ```text
//!   log:  ....purged|<- keep ->| snapshot |<--------- grown --------->| last
//!                                          due at max(bound, the snapshot's own bytes)
//! ```
//!
//! The snapshot's own bytes count, so that a large state is not written again for a little log: of those that are
//! due by bytes at most one byte is written for a byte of log, and raft's own, by entries, come beside them. Counted where entries are applied, which after a restart is done again for
//! every entry behind the snapshot: so the count needs no place on the disk, and is the same in a simulated world each time.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What the log's engine adds to an entry, about, in bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 64;
/// Bytes between two marks: how closely a place to purge up to is known.
const MARK_BYTES: u64 = 64 << 10;
/// Marks held; the oldest leave.
const MARKS_MAX: usize = 4_096;

struct Counts {
    /// Bytes at which a snapshot is due, at least.
    bound: u64,
    /// Applied since the start.
    applied: u64,
    /// Of these, what the last snapshot holds.
    held: u64,
    snapshot_bytes: u64,
    /// Where a snapshot was last asked for, in bytes applied.
    asked: Option<u64>,
    /// Bytes of one that could not be stored.
    not_stored: u64,
    /// Index of the last snapshot stored since the start, to be purged behind.
    stored: Option<u64>,
    /// Indexes with the bytes applied up to them, rising.
    marks: VecDeque<(u64, u64)>,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// A snapshot.
    pub snapshot: bool,
    /// A purge: the index up to which, and that of the snapshot which must be known before.
    pub purge: Option<(u64, u64)>,
}

/// The counts of one opened log.
pub(crate) struct Growth {
    counts: Mutex<Counts>,
    changed: Notify,
}

impl Default for Growth {
    fn default() -> Self {
        let counts = Counts {
            bound: u64::MAX,
            applied: 0,
            held: 0,
            snapshot_bytes: 0,
            asked: None,
            not_stored: 0,
            stored: None,
            marks: VecDeque::new(),
        };
        Self { counts: Mutex::new(counts), changed: Notify::new() }
    }
}

impl Counts {
    fn due_at(&self) -> u64 {
        self.bound.max(self.snapshot_bytes)
    }

    fn is_due(&self) -> bool {
        let due_at = self.due_at();
        // Asked for and not stored: it is being taken, or the asking met one that was. Only growth asks again.
        let waited = self.asked.is_none_or(|asked| self.applied.saturating_sub(asked) >= due_at / 8);
        waited && self.applied.saturating_sub(self.held) >= due_at
    }
}

impl Growth {
    /// A snapshot is due after `bytes`, at least.
    pub(crate) fn bound(&self, bytes: u64) {
        self.counts.lock().bound = bytes.max(1);
    }

    /// Counts the entry at `index`.
    pub(crate) fn applied(&self, index: u64, bytes: usize) {
        let mut counts = self.counts.lock();
        counts.applied = counts.applied.saturating_add(bytes as u64).saturating_add(ENTRY_OVERHEAD_BYTES);
        let applied = counts.applied;
        if counts.marks.back().is_none_or(|(_, last)| applied.saturating_sub(*last) >= MARK_BYTES) {
            if counts.marks.len() >= MARKS_MAX {
                counts.marks.pop_front();
            }
            counts.marks.push_back((index, applied));
        }
        if counts.is_due() {
            self.changed.notify_one();
        }
    }

    /// Bytes applied so far: what a snapshot taken now holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.counts.lock().applied
    }

    /// A snapshot was stored: of `snapshot_bytes`, holding the first `bytes` applied, up to `index`.
    pub(crate) fn stored(&self, index: u64, bytes: u64, snapshot_bytes: u64) {
        let mut counts = self.counts.lock();
        counts.held = counts.held.max(bytes);
        counts.snapshot_bytes = snapshot_bytes;
        counts.asked = None;
        counts.stored = Some(index);
        self.changed.notify_one();
    }

    /// A snapshot of that size could not be stored.
    pub(crate) fn not_stored(&self, snapshot_bytes: u64) {
        self.counts.lock().not_stored = snapshot_bytes;
    }

    /// Room without which the next snapshot fails again, in bytes.
    pub(crate) fn wanted(&self) -> u64 {
        self.counts.lock().not_stored
    }

    /// The state was replaced by a snapshot: what was applied before says nothing about the log any more.
    pub(crate) fn installed(&self, snapshot_bytes: u64) {
        let mut counts = self.counts.lock();
        counts.held = counts.applied;
        counts.snapshot_bytes = snapshot_bytes;
        counts.asked = None;
        counts.stored = None;
        counts.marks.clear();
    }

    /// Waits until something may be due.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is due, each said once. `keep_bytes` of the log stay behind a snapshot.
    pub(crate) fn due(&self, keep_bytes: u64) -> Due {
        let mut counts = self.counts.lock();
        let snapshot = counts.is_due();
        if snapshot {
            counts.asked = Some(counts.applied);
        }
        let purge = counts.stored.take().and_then(|stored| {
            let held = counts.held;
            let mut upto = None;
            while let Some((index, applied)) = counts.marks.front().copied()
                && index <= stored
                && held.saturating_sub(applied) >= keep_bytes
            {
                upto = Some(index);
                counts.marks.pop_front();
            }
            upto.map(|upto| (upto, stored))
        });
        Due { snapshot, purge }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: usize = (1 << 20) - ENTRY_OVERHEAD_BYTES as usize;

    #[test]
    fn a_snapshot_is_due_after_the_bound_or_its_own_size_and_is_asked_for_again_only_by_growth() {
        let growth = Growth::default();
        growth.bound(8 << 20);
        (1..8).for_each(|index| growth.applied(index, ENTRY));
        assert_eq!(growth.due(0), Due::default());
        growth.applied(8, ENTRY);
        assert!(growth.due(0).snapshot && !growth.due(0).snapshot);
        growth.applied(9, ENTRY);
        assert!(growth.due(0).snapshot, "the asking may have met another snapshot");

        let bytes = growth.bytes();
        growth.applied(10, ENTRY);
        growth.stored(9, bytes, 20 << 20);
        assert_eq!(growth.due(1 << 20), Due { snapshot: false, purge: Some((8, 9)) });
        assert_eq!(growth.due(1 << 20), Due::default(), "said once");
        (11..29).for_each(|index| growth.applied(index, ENTRY));
        assert!(!growth.due(0).snapshot, "19 MiB behind a snapshot of 20");
        growth.applied(29, ENTRY);
        assert!(growth.due(0).snapshot);
    }

    #[test]
    fn a_log_of_small_entries_has_few_marks() {
        let growth = Growth::default();
        (0..100_000).for_each(|index| growth.applied(index, 100));
        let counts = growth.counts.lock();
        assert!(counts.marks.len() as u64 <= counts.applied.div_ceil(MARK_BYTES));
        assert!(counts.marks.len() > 200);
    }
}
