//! openraft's log store over the log port and its group commit.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};

use super::record::{decode, encode};
use super::types::{Entry, LogId, RaftVote, Types, log_id, position, raft_vote, stored_vote};
use crate::storage::{Log, LogLane, Marks};

/// Payload bytes of one read for replication.
const READ_BYTES_MAX: usize = 4 << 20;

/// The log store of one node; clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<dyn Log>,
    marks: Arc<dyn Marks>,
    lane: LogLane,
}

impl LogStore {
    /// A store over an opened disk, whose writes go through `lane`.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, marks: Arc<dyn Marks>, lane: LogLane) -> Self {
        Self { log, marks, lane }
    }

    pub(crate) fn lane(&self) -> LogLane {
        self.lane.clone()
    }

    /// A write that fails here ends raft: health then names the disk, whichever thread met it first.
    fn noted(&self, written: io::Result<()>) -> io::Result<()> {
        written.inspect_err(|error| self.lane.fault().set(error))
    }

    fn indexes(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.log.extent().last.map_or(0, |last| last.index.saturating_add(1)),
        };
        start..end
    }

    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.log.read(indexes, bytes_max)?.into_iter().map(decode).collect()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(self.indexes(&range), usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.marks.current().vote.map(raft_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, READ_BYTES_MAX)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let extent = self.log.extent();
        Ok(LogState { last_purged_log_id: extent.purged.map(log_id), last_log_id: extent.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        self.lane.vote(stored_vote(vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        self.noted(self.log.note_committed(position(&committed)))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.extent().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = <Types as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(encode).collect();
        let Some(last) = entries.last().map(|entry| entry.position) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        self.noted(self.log.append(entries))?;
        self.lane.appended(last, Box::new(move |result| callback.io_completed(result))).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.lane.truncate_after(last.as_ref().map(position)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let upto = position(&upto);
        if self.log.extent().last.is_none_or(|last| last.index < upto.index) {
            // Behind an installed snapshot, which from here on is what was acknowledged.
            return self.lane.installed(upto).await;
        }
        // Needs no sync of its own: a purge that a crash forgets is only repeated.
        self.noted(self.log.purge(upto))
    }
}
