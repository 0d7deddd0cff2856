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
pub use lane::{Done, Fault, LaneFuture, LogLane, SyncTimes, ValueLane};
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
        "disk loss in `{place}` at {position}: {why}; this node does not vote on what is left: a member of a \
         cluster is removed there, and joins again with an empty folder (featureops cluster remove); one that was alone begins \
         anew from its last backup (featureops restore); never put back an old copy of the folder, which forgot what it \
         acknowledged"
    )]
    DiskLoss {
        /// The file or folder.
        place: String,
        /// Where in it.
        position: String,
        /// What was found.
        why: String,
    },
    /// A restore was cut off.
    #[error(
        "data folder `{folder}` is half restored: a restore into it was cut off; run the same `featureops restore` again, \
         which begins anew, or choose another folder"
    )]
    HalfRestored {
        /// The folder.
        folder: String,
    },
    /// A restore asks for an empty folder.
    #[error(
        "folder `{folder}` is not empty, it holds `{holds}`: a backup is restored into an empty folder, as a new cluster; \
         choose another one"
    )]
    NotEmpty {
        /// The folder.
        folder: String,
        /// One entry of it.
        holds: String,
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
    /// It failed again while it was opened.
    #[error("cannot open the data folder for writing: {why}")]
    Failed {
        /// The error of the lane that stopped.
        why: String,
        /// Whether every lane that stopped may run again when it is opened anew.
        passes: bool,
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

    /// Nothing was ever stored in `place`: there is nothing to read.
    #[must_use]
    pub fn nothing_stored(place: impl ToString) -> Self {
        Self::io(place, io::Error::new(io::ErrorKind::NotFound, "nothing was stored here yet"))
    }

    /// The error of lanes that stopped, if one did: that of one that stays so before that of one that may pass.
    pub(crate) fn of_faults(faults: &[Fault]) -> Option<Self> {
        let mut failed = faults.iter().filter_map(|fault| Some((fault.get()?, fault.passes())));
        let first = failed.next()?;
        let (why, passes) = if first.1 { failed.find(|(_, passes)| !passes).unwrap_or(first) } else { first };
        Some(Self::Failed { why, passes })
    }

    /// Whether it may pass without anybody touching the data: room that is made, a device that answers again.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Io { error, .. } => outlook(error) == Outlook::Passes,
            Self::Failed { passes, .. } => *passes,
            _ => false,
        }
    }
}

/// What an error of the disk says about what the disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Nothing against it: room is made, a device answers again.
    Passes,
    /// Nothing at all. An open is refused for it; who was writing may open anew, for that judges the data.
    Unclear,
    /// It was written wrongly, or cannot be read: that stays so.
    Stays,
}

/// What an error of the disk says: the one place that tells.
#[must_use]
pub fn outlook(error: &io::Error) -> Outlook {
    use io::ErrorKind::{
        FileTooLarge, InvalidData, InvalidInput, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    match error.kind() {
        // A file that may not grow further is a disk without room to the process: a limit (`ulimit -f`) that others set.
        StorageFull | QuotaExceeded | ReadOnlyFilesystem | FileTooLarge => Outlook::Passes,
        InvalidData | InvalidInput => Outlook::Stays,
        // EIO has no kind of its own.
        _ if error.raw_os_error() == Some(EIO) => Outlook::Passes,
        _ => Outlook::Unclear,
    }
}

/// Whether an error of the disk says that a file may not grow further, though there may be room.
#[must_use]
pub fn is_file_bound(why: &str) -> bool {
    why.contains("File too large")
}

/// The way out of a disk that takes no writes, by what its error says.
#[must_use]
pub fn way_out(why: &str) -> &'static str {
    if is_file_bound(why) {
        "lift the bound on the length of files (`ulimit -f`, of a service LimitFSIZE; `prlimit --fsize` for a process that runs)"
    } else {
        "make room on the disk"
    }
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

    /// Whether the disk takes a write now, and has room for so many bytes more; leaves nothing behind. Asked before an open,
    /// which on a full disk would leave half-made files.
    ///
    /// # Errors
    /// The disk's, or the operating system's.
    fn probe(&self, room: u64) -> io::Result<()>;

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
        each_entry(log.as_ref(), after.saturating_add(1), last, BYTES_MAX, each)
    })
}

/// Gives the entries from index `next` to `last` to `each`, in order, read in blocks of about `bytes_max` payload bytes.
pub(crate) fn each_entry(
    log: &dyn Log,
    mut next: u64,
    last: LogPosition,
    bytes_max: usize,
    each: &mut dyn FnMut(LogEntry) -> io::Result<()>,
) -> io::Result<()> {
    while next <= last.index {
        let entries = log.read(next..last.index.saturating_add(1), bytes_max)?;
        let Some(end) = entries.last().map(|entry| entry.position.index) else {
            let why = format!("a hole at {next}, before the end at {last}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        };
        entries.into_iter().try_for_each(&mut *each)?;
        next = end.saturating_add(1);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(errors: [Option<io::Error>; 2]) -> [Fault; 2] {
        errors.map(|error| {
            let fault = Fault::default();
            error.iter().for_each(|error| fault.set(error));
            fault
        })
    }

    #[test]
    fn a_file_at_its_bound_is_told_from_a_disk_without_room() {
        // `EFBIG` and `ENOSPC`, as the system words them.
        let said = |code| io::Error::from_raw_os_error(code).to_string();
        assert!(way_out(&format!("raft log: {}", said(27))).contains("ulimit -f"), "{}", said(27));
        assert_eq!(way_out(&said(28)), "make room on the disk");
    }

    #[test]
    fn an_error_says_the_same_of_a_lane_and_of_an_open_but_where_it_says_nothing() {
        use io::ErrorKind as Kind;
        let eio = || io::Error::from_raw_os_error(EIO);
        let cases = [
            (Kind::StorageFull.into(), Outlook::Passes, true),
            (Kind::QuotaExceeded.into(), Outlook::Passes, true),
            (Kind::ReadOnlyFilesystem.into(), Outlook::Passes, true),
            (Kind::FileTooLarge.into(), Outlook::Passes, true),
            (eio(), Outlook::Passes, true),
            (io::Error::other("the log's writer has stopped"), Outlook::Unclear, true),
            (Kind::PermissionDenied.into(), Outlook::Unclear, true),
            (Kind::InvalidData.into(), Outlook::Stays, false),
            (Kind::InvalidInput.into(), Outlook::Stays, false),
        ];
        for (error, expected, again) in cases {
            let error: io::Error = error;
            assert_eq!(outlook(&error), expected, "{error}");
            let text = error.to_string();
            let [fault, none] = faults([Some(error), None]);
            assert_eq!(fault.passes(), again, "{text}");
            assert!(!none.passes());
            let opening = OpenError::of_faults(&[none, fault]).unwrap();
            assert_eq!(opening.passes(), again, "{text}");
            assert!(opening.to_string().ends_with(&text), "{opening}");
        }
        assert!(OpenError::io("log", eio()).passes());
        assert!(!OpenError::io("log", io::Error::other("x")).passes(), "an open says no without a reason");
        assert!(OpenError::of_faults(&faults([None, None])).is_none());
    }

    #[test]
    fn of_two_lanes_the_one_that_stays_stopped_is_told() {
        let full = || Some(io::Error::new(io::ErrorKind::StorageFull, "full"));
        let wrong = || Some(io::Error::new(io::ErrorKind::InvalidData, "wrong"));
        for errors in [[full(), wrong()], [wrong(), full()], [None, wrong()]] {
            let error = OpenError::of_faults(&faults(errors)).unwrap();
            assert!(!error.passes() && error.to_string().ends_with("wrong"), "{error}");
        }
        assert!(OpenError::of_faults(&faults([full(), full()])).unwrap().passes());
    }
}
