//! Storage: what a node must not lose, and how it notices when it did.
//!
//! ```text
//!   raft log store --append--> Log -----+                      snapshots --changes--> Values
//!        |                              |                          |
//!        +--appended, vote, truncate--> LogLane -> Marks       ValueLane     (group commit, storage::lane)
//! ```
//!
//! Two ports ([`Log`], [`Values`]) and the mark file ([`Marks`]) stand between the node and the disk. Production opens a
//! [`folder::Folder`]; the room's tests open a [`memory::MemoryDisk`] that forgets what was not synced. The simulation brings
//! a disk of its own; what either holds is [`held`].
//!
//! Opening never repairs what was acknowledged: a missing, damaged or shortened log is [`OpenError::DiskLoss`].

pub mod chunks;
pub mod folder;
pub mod held;
pub mod lane;
pub mod log;
mod long;
pub mod marks;
pub mod memory;
mod settle;
pub mod sled;
pub mod values;

use std::any::Any;
use std::io;
use std::sync::Arc;

pub use chunks::Inspection;
pub use lane::{Done, Fault, LaneFuture, LogLane, ValueLane};
pub use log::{ENTRY_BYTES_MAX, Log, LogEntry, LogExtent, LogPosition, SyncFuture};
pub use marks::{Mark, Marks, Reading, Vote};
pub use values::{Change, Named, VALUE_BYTES_MAX, Values};

/// Why a data folder was not opened. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder.
    #[error(
        "data folder `{folder}` is in use by another process; stop that process or choose another folder"
    )]
    InUse {
        /// The folder.
        folder: String,
    },
    /// Acknowledged data is gone or damaged.
    #[error(
        "disk loss in `{place}` at {position}: {why}; this node does not vote on what is left: restore the whole \
         folder from a copy made while the node was stopped, or choose an empty folder, which begins a new cluster"
    )]
    DiskLoss {
        /// The file or folder.
        place: String,
        /// Where in it.
        position: String,
        /// What was found.
        why: String,
    },
    /// The folder was made by another node.
    #[error(
        "data folder belongs to node {found}, not to node {asked}; start with `--node {found}` or another folder"
    )]
    OtherNode {
        /// The node that made it.
        found: u64,
        /// The node that asked.
        asked: u64,
    },
    /// The operating system refused.
    #[error("cannot open `{place}`: {error}")]
    Io {
        /// The file or folder.
        place: String,
        /// Its answer.
        error: io::Error,
    },
}

impl OpenError {
    pub(crate) fn loss(place: impl ToString, position: impl ToString, why: impl ToString) -> Self {
        Self::DiskLoss { place: place.to_string(), position: position.to_string(), why: why.to_string() }
    }

    pub(crate) fn io(place: impl ToString, error: io::Error) -> Self {
        Self::Io { place: place.to_string(), error }
    }

    /// Whether it may pass without anybody touching the data: room that is made, a device that answers again.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Io { error, .. } if passes(error))
    }
}

/// Whether an error of the disk may pass: it says nothing against what the disk holds.
#[must_use]
pub fn passes(error: &io::Error) -> bool {
    // A file that may not grow further is a disk without room to the process: a limit (`ulimit -f`) that others set.
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    // EIO has no kind of its own.
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | FileTooLarge)
        || error.raw_os_error() == Some(EIO)
}

/// `EIO`, on every system this is built for.
const EIO: i32 = 5;

/// An opened disk.
pub struct Disk {
    /// The raft log.
    pub log: Arc<dyn Log>,
    /// The values.
    pub values: Arc<dyn Values>,
    /// The mark file.
    pub marks: Arc<dyn Marks>,
    /// Held for as long as the disk is used: the lock of the folder.
    pub hold: Box<dyn Any + Send + Sync>,
}

/// Gives what was acknowledged and lies behind an index, oldest first, to whoever wants to fold it.
pub type Replay = Box<dyn FnOnce(u64, &mut dyn FnMut(LogEntry) -> io::Result<()>) -> io::Result<()> + Send>;

/// What a disk holds, read without a write: for a node that cannot write now.
pub struct Glimpse {
    /// The values.
    pub values: Arc<dyn Values>,
    /// The last acknowledged entry.
    pub durable: Option<LogPosition>,
    /// The entries up to there.
    pub replay: Replay,
    /// Held for as long as it is read.
    pub hold: Box<dyn Any + Send + Sync>,
}

/// Where a node keeps its data, and on what its lanes run.
pub trait Storage: Send + Sync + 'static {
    /// Opens the disk of `node`. An empty one is made, under `incarnation`, a number drawn by chance.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn open(&self, node: u64, incarnation: u64) -> Result<Disk, OpenError>;

    /// Reads what the disk of `node` holds, and writes nothing to it.
    ///
    /// # Errors
    /// As [`Storage::open`].
    fn glimpse(&self, node: u64) -> Result<Glimpse, OpenError>;

    /// Whether the disk takes a write now; leaves nothing behind. Asked before an open, which on a full disk would leave
    /// half-made files.
    ///
    /// # Errors
    /// The disk's, or the operating system's.
    fn probe(&self) -> io::Result<()>;

    /// Runs a lane to its end: production on a thread of its own, simulation as a task.
    ///
    /// # Errors
    /// No thread could be started.
    fn spawn(&self, name: &'static str, lane: LaneFuture) -> io::Result<()>;
}

/// The replay of a log that can be read as it is.
#[must_use]
pub fn replay_from(log: Arc<dyn Log>, durable: Option<LogPosition>) -> Replay {
    /// Payload bytes of one read.
    const BYTES_MAX: usize = 4 << 20;
    Box::new(move |after, each| {
        let Some(last) = durable else { return Ok(()) };
        let mut next = after.saturating_add(1);
        while next <= last.index {
            let entries = log.read(next..last.index.saturating_add(1), BYTES_MAX)?;
            let Some(end) = entries.last().map(|entry| entry.position.index) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a hole at {next}")));
            };
            entries.into_iter().try_for_each(&mut *each)?;
            next = end.saturating_add(1);
        }
        Ok(())
    })
}

/// What opening may do with the files as they were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was ever stored here.
    Empty,
    /// Everything acknowledged is there; an unacknowledged tail may be cut.
    Whole,
}

/// Judges the files of a folder before anything is opened for writing. Pure.
///
/// # Errors
/// [`OpenError::DiskLoss`] when acknowledged data is missing, or when nobody can say.
pub fn verify(mark: Option<&Reading>, found: &Inspection) -> Result<Verdict, OpenError> {
    let at_fault = |otherwise: &str| match &found.fault {
        Some((file, record, why)) => (format!("log/{file}"), format!("record {record}"), format!("; {why}")),
        None => ("log".to_owned(), otherwise.to_owned(), String::new()),
    };
    let Some(reading) = mark else {
        if found.fault.is_none() && found.extent == LogExtent::default() {
            return Ok(Verdict::Empty);
        }
        return Err(OpenError::loss(
            "marks",
            "start",
            "the vote file is missing beside a log that is not empty",
        ));
    };
    if reading.damaged_slot && found.fault.is_some() {
        let (place, position, why) = at_fault("end");
        return Err(OpenError::loss(
            place,
            position,
            format!("the log and a slot of `marks` are both damaged{why}"),
        ));
    }
    let durable = reading.mark.durable;
    let reaches = match (durable, found.extent.last) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(durable), Some(last)) => last >= durable && last.index >= durable.index,
    };
    if !reaches {
        let end = found.extent.last.map_or_else(|| "its start".to_owned(), |last| last.to_string());
        let mark = durable.map_or_else(String::new, |durable| durable.to_string());
        let (place, position, why) = at_fault(&end);
        return Err(OpenError::loss(
            place,
            position,
            format!("the log ends at {end}, below the acknowledged position {mark}{why}"),
        ));
    }
    Ok(Verdict::Whole)
}

/// Judges a folder that looks new by its log and its marks: these two are made before the first value, and outlive it.
///
/// # Errors
/// [`OpenError::DiskLoss`]: values lie beside a log and marks that are gone.
pub(crate) fn verify_new(verdict: Verdict, values: &dyn Values) -> Result<(), OpenError> {
    if verdict == Verdict::Whole {
        return Ok(());
    }
    let held = values.range(Vec::new()..vec![u8::MAX], 1);
    if held.map_err(|error| OpenError::loss("values", "start", error))?.is_empty() {
        return Ok(());
    }
    Err(values_alone())
}

/// The refusal of a disk that has values, and neither a log nor marks.
#[must_use]
pub fn values_alone() -> OpenError {
    OpenError::loss("log", "start", "`log` and `marks` are missing beside values that are not")
}
