//! The raft log's port: an ordered run of entries that grows at its end and shrinks at both.
//!
//! Every write is readable at once and durable only after [`Log::sync`]. Nobody outside the group commit
//! ([`super::lane`]) calls `sync`, so that one sync serves every write that waits. The production engine lives in
//! [`super::chunks`], the in-memory one in [`super::memory`].

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;

/// Longest payload of one entry, in bytes; a longer one is refused before it is proposed.
pub const ENTRY_BYTES_MAX: usize = 8 << 20;

/// A sync in progress. In production the future blocks its thread inside one poll; in simulation it takes simulated time.
pub type SyncFuture<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// A place in the log: which leader wrote it, and which entry it is. Ordered as raft orders logs, term first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Number of the entry.
    pub index: u64,
}

impl LogPosition {
    /// The position (`term`, `index`).
    #[must_use]
    pub fn new(term: u64, index: u64) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// One entry; the payload is opaque to storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it stands.
    pub position: LogPosition,
    /// What it says.
    pub payload: Bytes,
}

/// What the log holds: the entries after `purged`, up to and with `last`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogExtent {
    /// Last entry that was removed from the front.
    pub purged: Option<LogPosition>,
    /// Last entry, or `purged` when none is left.
    pub last: Option<LogPosition>,
    /// Last position noted as committed; may lag behind the truth.
    pub committed: Option<LogPosition>,
}

/// The log of one node. Calls are serialized by the caller for writes; reads may come from anywhere.
pub trait Log: Send + Sync + 'static {
    /// Adds entries at the end. They are readable when this returns, and durable after the next sync.
    ///
    /// # Errors
    /// The engine's own, or an entry that does not follow the last one.
    fn append(&self, entries: Vec<LogEntry>) -> io::Result<()>;

    /// Removes every entry after `last`; `None` removes all.
    ///
    /// # Errors
    /// The engine's own, or a `last` that is not in the log.
    fn truncate_after(&self, last: Option<LogPosition>) -> io::Result<()>;

    /// Removes every entry up to and with `upto`, which may lie beyond the end (after a snapshot was installed).
    ///
    /// # Errors
    /// The engine's own.
    fn purge(&self, upto: LogPosition) -> io::Result<()>;

    /// Notes a committed position, without any promise of durability: after a restart it only shortens the wait.
    ///
    /// # Errors
    /// The engine's own.
    fn note_committed(&self, committed: LogPosition) -> io::Result<()>;

    /// The entries of `indexes` that are held, in order, until `bytes_max` payload bytes are reached (one entry at least).
    ///
    /// # Errors
    /// The engine's own, among them a checksum that does not match.
    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>>;

    /// What is held.
    fn extent(&self) -> LogExtent;

    /// Makes every write before this call durable.
    fn sync(&self) -> SyncFuture<'_>;
}
