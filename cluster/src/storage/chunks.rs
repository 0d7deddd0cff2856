//! The raft log on disk: `raft-log`, a write-ahead log in chunk files, behind the log port.
//!
//! The engine cuts a torn tail off when it opens, and takes a flipped length in the middle of the last file for a torn
//! tail too, throwing away what lies behind it. So this adapter reads all files first, changing nothing
//! ([`inspect`]); only a log that is whole up to the durable mark is then opened.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::{Decode, Encode, Span};
use raft_log::{Dump, DumpApi, RaftLog, RaftLogAction, WALRecord};

use super::log::{ENTRY_BYTES_MAX, Log, LogEntry, LogExtent, LogPosition, SyncFuture};

/// Length at which a chunk file is closed, in bytes. Payloads of the open chunk stay in memory, so this bounds that too. A purge
/// frees whole closed files only: what stays of a purged log is at most this and the entry that closed the file.
const CHUNK_BYTES_MAX: usize = 2 << 20;
const CHUNK_RECORDS_MAX: usize = 1 << 16;
/// Payloads kept in memory beside the open chunk's, in bytes.
const CACHE_BYTES_MAX: usize = 32 << 20;
const CACHE_ENTRIES_MAX: usize = 1 << 15;
/// A payload as stored is a little longer than what was proposed.
const PAYLOAD_BYTES_MAX: usize = ENTRY_BYTES_MAX + 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Position(LogPosition);

impl Encode for Position {
    fn encode<W: Write>(&self, mut writer: W) -> io::Result<usize> {
        writer.write_all(&self.0.term.to_be_bytes())?;
        writer.write_all(&self.0.index.to_be_bytes())?;
        Ok(16)
    }
}

impl Decode for Position {
    fn decode<R: Read>(mut reader: R) -> io::Result<Self> {
        let mut word = [0; 8];
        reader.read_exact(&mut word)?;
        let term = u64::from_be_bytes(word);
        reader.read_exact(&mut word)?;
        Ok(Self(LogPosition::new(term, u64::from_be_bytes(word))))
    }
}

#[derive(Clone, Debug)]
struct Payload(Bytes);

impl Encode for Payload {
    fn encode<W: Write>(&self, mut writer: W) -> io::Result<usize> {
        let length = u32::try_from(self.0.len()).map_err(io::Error::other)?;
        writer.write_all(&length.to_be_bytes())?;
        writer.write_all(&self.0)?;
        Ok(self.0.len().saturating_add(4))
    }
}

impl Decode for Payload {
    fn decode<R: Read>(mut reader: R) -> io::Result<Self> {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        // A flipped bit in the length must not become an allocation of gigabytes.
        if length > PAYLOAD_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("payload length {length} is over the bound of {PAYLOAD_BYTES_MAX} bytes"),
            ));
        }
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload)?;
        Ok(Self(payload.into()))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Types;

impl raft_log::Types for Types {
    type LogId = Position;
    type LogPayload = Payload;
    /// Votes live in the mark file.
    type Vote = u64;
    type Callback = SyncSender<io::Result<()>>;
    type UserData = u64;

    fn log_index(position: &Position) -> u64 {
        position.0.index
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.0.len() as u64
    }
}

fn config(folder: &Path) -> Arc<raft_log::Config> {
    let mut config = raft_log::Config::new(folder.display());
    config.wal.read_buffer_size = Some(1 << 20);
    config.wal.chunk_max_size = Some(CHUNK_BYTES_MAX);
    config.wal.chunk_max_records = Some(CHUNK_RECORDS_MAX);
    // The lane groups; waiting again inside the engine would only add latency.
    config.wal.flush_batch_wait = Some(Duration::ZERO);
    config.log_cache_capacity = Some(CACHE_BYTES_MAX);
    config.log_cache_max_items = Some(CACHE_ENTRIES_MAX);
    Arc::new(config)
}

/// What a look at the files found, before anything was opened for writing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// What the readable part holds.
    pub extent: LogExtent,
    /// The first record that cannot be read: file, record number in it, why.
    pub fault: Option<(String, u64, String)>,
}

/// Turns a panic of the engine into an error: opening a damaged file must never end the process.
pub(super) fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("the engine panicked: {text}")))
    })
}

/// Reads every record of every file, changing nothing. Records behind a fault do not count.
///
/// # Errors
/// The files cannot be read at all.
pub fn inspect(folder: &Path) -> io::Result<Inspection> {
    guarded(|| {
        let mut found = Inspection::default();
        let mut previous_end: Option<u64> = None;
        let mut chunk_at = None;
        Dump::<Types>::new(config(folder))?.write_with(|chunk, record, read| {
            if found.fault.is_some() {
                return Ok(());
            }
            let fault =
                |why: String| Some((raft_log::chunked_wal::Config::chunk_file_name(chunk), record, why));
            if chunk_at != Some(chunk) {
                chunk_at = Some(chunk);
                if let Some(end) = previous_end
                    && end != *chunk
                {
                    found.fault = fault(format!("a file is missing or cut: the one before ends at {end}"));
                    return Ok(());
                }
            }
            match read {
                Ok((segment, record)) => {
                    // A file is named by where it begins in the whole log; its records count from its own beginning.
                    previous_end = Some(chunk.saturating_add(segment.end().0));
                    if let Err(why) = follow(&mut found.extent, &record) {
                        found.fault = fault(why);
                    }
                }
                Err(error) => found.fault = fault(error.to_string()),
            }
            Ok(())
        })?;
        Ok(found)
    })
}

fn follow(extent: &mut LogExtent, record: &raft_log::RaftLogRecord<Types>) -> Result<(), String> {
    match record {
        WALRecord::Action(RaftLogAction::Append(position, _)) => {
            if let Some(last) = extent.last
                && (position.0.index != last.index.saturating_add(1) || position.0.term < last.term)
            {
                return Err(format!("entry {} does not follow {last}: a hole", position.0));
            }
            extent.last = Some(position.0);
        }
        WALRecord::Action(RaftLogAction::TruncateAfter(last)) => extent.last = last.map(|last| last.0),
        WALRecord::Action(RaftLogAction::PurgeUpto(upto)) => {
            extent.purged = Some(upto.0);
            extent.last = extent.last.max(Some(upto.0));
        }
        WALRecord::Action(RaftLogAction::Commit(committed)) => extent.committed = Some(committed.0),
        WALRecord::Action(RaftLogAction::SaveVote(_)) => {}
        WALRecord::Checkpoint(state) => {
            extent.purged = state.purged().map(|position| position.0);
            extent.last = state.last().map(|position| position.0);
            extent.committed = state.committed().map(|position| position.0);
        }
    }
    Ok(())
}

/// Gives every entry behind index `after`, up to `upto`, to `each`, in order; changes nothing.
///
/// # Errors
/// The files', or that of `each`.
pub fn replay(
    folder: &Path,
    after: u64,
    upto: LogPosition,
    each: &mut dyn FnMut(LogEntry) -> io::Result<()>,
) -> io::Result<()> {
    guarded(|| {
        // An index that was cut off and written again counts as it was written last. One pass finds where that is, for
        // the payloads of a whole log need not fit into memory.
        let mut last_written: BTreeMap<u64, u64> = BTreeMap::new();
        let mut number = 0_u64;
        read_records(folder, &mut |record| {
            number = number.saturating_add(1);
            match record {
                WALRecord::Action(RaftLogAction::Append(position, _)) => {
                    last_written.insert(position.0.index, number);
                }
                WALRecord::Action(RaftLogAction::TruncateAfter(last)) => {
                    let first_removed = last.map_or(0, |last| last.0.index.saturating_add(1));
                    drop(last_written.split_off(&first_removed));
                }
                _ => {}
            }
            Ok(())
        })?;
        let mut next = after.saturating_add(1);
        number = 0;
        read_records(folder, &mut |record| {
            number = number.saturating_add(1);
            let WALRecord::Action(RaftLogAction::Append(position, payload)) = record else { return Ok(()) };
            let index = position.0.index;
            if index < next || index > upto.index || last_written.get(&index) != Some(&number) {
                return Ok(());
            }
            if index != next {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a hole at {next}")));
            }
            next = next.saturating_add(1);
            each(LogEntry { position: position.0, payload: payload.0 })
        })?;
        if next <= upto.index {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it ends before {next}")));
        }
        Ok(())
    })
}

/// Every record up to the first that cannot be read.
fn read_records(
    folder: &Path,
    each: &mut dyn FnMut(raft_log::RaftLogRecord<Types>) -> io::Result<()>,
) -> io::Result<()> {
    let mut whole = true;
    Dump::<Types>::new(config(folder))?.write_with(|_, _, read| match read {
        Ok((_, record)) if whole => each(record),
        Ok(_) => Ok(()),
        Err(_) => {
            whole = false;
            Ok(())
        }
    })
}

/// The raft log in chunk files.
pub struct ChunkLog {
    log: Mutex<RaftLog<Types>>,
}

impl ChunkLog {
    /// Opens the log in `folder`, which must exist. A torn tail is cut off: look first ([`inspect`]).
    ///
    /// # Errors
    /// The engine's, its panics among them.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let log = guarded(|| RaftLog::open(config(folder)))?;
        Ok(Self { log: Mutex::new(log) })
    }
}

impl Log for ChunkLog {
    fn append(&self, entries: Vec<LogEntry>) -> io::Result<()> {
        let entries = entries.into_iter().map(|entry| (Position(entry.position), Payload(entry.payload)));
        self.log.lock().append(entries).map(drop)
    }

    fn truncate_after(&self, last: Option<LogPosition>) -> io::Result<()> {
        let first_removed = last.map_or(0, |last| last.index.saturating_add(1));
        let mut log = self.log.lock();
        // The engine wants to see the entry it truncates to, also when there is nothing after it.
        if log.log_state().last().is_none_or(|end| end.0.index < first_removed) {
            return Ok(());
        }
        log.truncate(first_removed).map(drop)
    }

    fn purge(&self, upto: LogPosition) -> io::Result<()> {
        self.log.lock().purge(Position(upto)).map(drop)
    }

    fn note_committed(&self, committed: LogPosition) -> io::Result<()> {
        self.log.lock().commit(Position(committed)).map(drop)
    }

    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        if indexes.start >= indexes.end {
            return Ok(Vec::new());
        }
        let log = self.log.lock();
        let mut entries = Vec::new();
        let mut bytes = 0usize;
        for entry in log.read(indexes.start, indexes.end) {
            let (position, payload) = entry?;
            bytes = bytes.saturating_add(payload.0.len());
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(LogEntry { position: position.0, payload: payload.0 });
        }
        Ok(entries)
    }

    fn extent(&self) -> LogExtent {
        let log = self.log.lock();
        let state = log.log_state();
        LogExtent {
            purged: state.purged().map(|position| position.0),
            last: state.last().map(|position| position.0),
            committed: state.committed().map(|position| position.0),
        }
    }

    fn sync(&self) -> SyncFuture<'_> {
        Box::pin(async move {
            let (sender, receiver) = std::sync::mpsc::sync_channel(1);
            self.log.lock().flush(true, Some(sender))?;
            receiver.recv().map_err(|_| io::Error::other("the log's writer has stopped"))?
        })
    }
}
