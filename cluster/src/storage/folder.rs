//! The data folder of a production node.
//!
//! ```text
//!   <data>/lock     held by the one process that uses the folder
//!   <data>/marks    identity, vote, high-water mark (storage::marks), mode 0600
//!   <data>/log/     the raft log (storage::chunks)
//!   <data>/values/  state snapshots and metadata (storage::sled)
//!   <data>/restoring  a restore into it has not ended: it is not opened
//! ```
//!
//! Order of opening: lock, read the marks, inspect the log, judge, and only then open anything for writing; the values
//! first, because a log and marks that are gone are noticed by what lies beside them.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::chunks::{ChunkLog, inspect, replay};
use super::lane::LaneFuture;
use super::log::{Log, LogPosition};
use super::marks::{Mark, MarkFile, Marks, Reading, read};
use super::settle::{Copy, settle};
use super::sled::SledValues;
use super::{Disk, Glimpse, OpenError, Outlook, Storage, Verdict, each_entry, outlook, verify, verify_new};

/// Longest mark file that is read; a longer one is not ours.
const MARK_FILE_BYTES_MAX: u64 = 1 << 16;

/// Payload bytes that are read at once when the log is looked through.
const BLOCK_BYTES: usize = 1 << 20;

/// Bytes that a disk must take to be worth an open: more than an open writes before it has anything to show for it.
const PROBE_BYTES: usize = 1 << 20;

/// A data folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// It was opened before in this process: the disk failed since, and what its cache shows may not be on it.
    doubtful: Arc<AtomicBool>,
    /// A restore opens it, which others must not.
    restores: bool,
}

/// Name of the file that says that a restore has not ended.
const RESTORING: &str = "restoring";
/// What a node or a restore makes in a folder; a restore that begins again removes it.
const MADE: [&str; 11] = [
    "log",
    "values",
    "marks",
    "marks.draft",
    "probe",
    "unit.key",
    "unit.key.new",
    "peer.key",
    "peer.key.new",
    "admin.token",
    "lock",
];

/// A restore under way in a folder, which nobody opens meanwhile.
pub struct Restoring {
    folder: PathBuf,
    marker: File,
}

impl Restoring {
    /// Refuses a folder that holds anything but an unfinished restore.
    ///
    /// # Errors
    /// What lies there, or the operating system's.
    pub fn check(folder: &Path) -> Result<(), OpenError> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(OpenError::io(folder.display(), error)),
        };
        if folder.join(RESTORING).exists() {
            return Ok(());
        }
        for entry in entries {
            let name = entry.map_err(|error| OpenError::io(folder.display(), error))?.file_name();
            // A file system's own.
            if name != "lost+found" {
                return Err(OpenError::NotEmpty {
                    folder: folder.display().to_string(),
                    holds: name.to_string_lossy().into_owned(),
                });
            }
        }
        Ok(())
    }

    /// Marks a folder, which is empty or holds an unfinished restore, as being restored. What an earlier attempt left goes.
    ///
    /// # Errors
    /// The folder is not empty, another process restores into it, or the operating system's.
    pub fn begin(folder: &Path) -> Result<Self, OpenError> {
        Self::check(folder)?;
        make_folder(folder)?;
        let path = folder.join(RESTORING);
        let failed = |error| OpenError::io(path.display(), error);
        let marker = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match marker.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { folder: folder.display().to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        marker.sync_all().map_err(failed)?;
        sync_folder(folder)?;
        for name in MADE {
            let made = folder.join(name);
            let removed =
                if made.is_dir() { std::fs::remove_dir_all(&made) } else { std::fs::remove_file(&made) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(OpenError::io(made.display(), error));
                }
                _ => {}
            }
        }
        Ok(Self { folder: folder.to_owned(), marker })
    }

    /// The folder is whole: from here on a node may start on it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(self) -> Result<(), OpenError> {
        sync_folder(&self.folder)?;
        let path = self.folder.join(RESTORING);
        std::fs::remove_file(&path).map_err(|error| OpenError::io(path.display(), error))?;
        drop(self.marker);
        sync_folder(&self.folder)
    }
}

fn sync_folder(folder: &Path) -> Result<(), OpenError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| OpenError::io(folder.display(), error))
}

impl Folder {
    /// The folder at `path`; it is made when it is opened.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), doubtful: Arc::default(), restores: false }
    }

    /// The same for the restore that is under way in it.
    #[must_use]
    pub fn restoring(path: impl Into<PathBuf>) -> Self {
        Self { restores: true, ..Self::new(path) }
    }

    /// Refuses a folder whose restore has not ended.
    fn check_whole(&self) -> Result<(), OpenError> {
        if !self.restores && self.path.join(RESTORING).exists() {
            return Err(OpenError::HalfRestored { folder: self.path.display().to_string() });
        }
        Ok(())
    }

    fn lock(&self) -> Result<File, OpenError> {
        let path = self.path.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| OpenError::io(path.display(), error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(OpenError::InUse { folder: self.path.display().to_string() })
            }
            Err(TryLockError::Error(error)) => Err(OpenError::io(path.display(), error)),
        }
    }

    /// The marks, if there are any: this node's.
    fn marks_of(&self, node: u64) -> Result<Option<Reading>, OpenError> {
        let path = &self.path.join("marks");
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::io(path.display(), error)),
            Ok(data) if data.len() > MARK_FILE_BYTES_MAX => {
                return Err(OpenError::loss(path.display(), "end", format!("it holds {} bytes", data.len())));
            }
            Ok(_) => {}
        }
        let bytes = std::fs::read(path).map_err(|error| OpenError::io(path.display(), error))?;
        let reading = read(&bytes).map_err(|why| OpenError::loss(path.display(), "slots 0 and 1", why))?;
        let found = reading.mark.node;
        if found == node { Ok(Some(reading)) } else { Err(OpenError::OtherNode { found, asked: node }) }
    }
}

/// Makes a folder and its missing parents, durably: a folder that vanishes with the power looks like a new node's.
fn make_folder(path: &Path) -> Result<(), OpenError> {
    let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    let missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        for folder in &missing {
            let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(())
    };
    make().map_err(|error| OpenError::io(path.display(), error))
}

/// A disk that is full or closed to us has lost nothing: who is told to restore a backup then may throw a good log away.
fn fault(place: &Path, position: &str, error: io::Error) -> OpenError {
    if error.kind() == io::ErrorKind::PermissionDenied || outlook(&error) == Outlook::Passes {
        OpenError::io(place.display(), error)
    } else {
        OpenError::loss(place.display(), position, error)
    }
}

/// The log as opened must be the log as inspected, without a hole, and hold the marked entry itself.
fn check_opened(log: &ChunkLog, durable: Option<LogPosition>) -> io::Result<()> {
    let extent = log.extent();
    let Some(last) = extent.last else { return Ok(()) };
    let mut previous = extent.purged;
    let mut next = extent.purged.map_or(0, |purged| purged.index.saturating_add(1));
    if extent.purged.is_none()
        && let Some(first) = log.read(0..2, 0)?.first()
    {
        next = first.position.index;
    }
    each_entry(log, next, last, BLOCK_BYTES, &mut |entry| {
        let position = entry.position;
        if position.index != next || previous.is_some_and(|previous| position.term < previous.term) {
            return Err(io::Error::other(format!("entry {position} stands where {next} should")));
        }
        if let Some(durable) = durable
            && position.index == durable.index
            && position.term != durable.term
        {
            return Err(io::Error::other(format!("entry {position} stands at the mark {durable}")));
        }
        previous = Some(position);
        next = next.saturating_add(1);
        Ok(())
    })
}

impl Storage for Folder {
    fn open(&self, node: u64, incarnation: u64) -> Result<Disk, OpenError> {
        let log_path = self.path.join("log");
        let values_path = self.path.join("values");
        let marks_path = self.path.join("marks");
        make_folder(&self.path)?;
        self.check_whole()?;
        let lock = self.lock()?;
        let reading = self.marks_of(node)?;
        make_folder(&log_path)?;
        let doubtful = self.doubtful.swap(true, Ordering::Relaxed);
        if doubtful {
            for folder in [&log_path, &values_path] {
                settle(folder).map_err(|error| fault(folder, "settle", error))?;
            }
        }
        let found = inspect(&log_path).map_err(|error| fault(&log_path, "open", error))?;
        let verdict = verify(reading.as_ref(), &found)?;
        if let (Verdict::Whole, Some((file, record, why))) = (verdict, &found.fault) {
            tracing::info!(file, record, why, "cutting an unacknowledged tail off the log");
        }

        let values = SledValues::open(&values_path).map_err(|error| fault(&values_path, "open", error))?;
        verify_new(verdict, &values)?;
        let log = ChunkLog::open(&log_path).map_err(|error| fault(&log_path, "open", error))?;
        if log.extent() != found.extent {
            let why = format!("it was inspected as {:?} and opened as {:?}", found.extent, log.extent());
            return Err(OpenError::loss(log_path.display(), "open", why));
        }
        let durable = reading.as_ref().and_then(|reading| reading.mark.durable);
        check_opened(&log, durable).map_err(|error| fault(&log_path, "entries", error))?;
        let marks = match reading {
            None => {
                let mark = Mark { node, incarnation, ..Mark::default() };
                MarkFile::create(&marks_path, mark)
            }
            Some(reading) => {
                let damaged = reading.damaged_slot;
                MarkFile::open(&marks_path, reading).and_then(|marks| {
                    // Heals the lost slot, so that the next fault again is the only one.
                    if damaged || doubtful { marks.rewrite().map(|()| marks) } else { Ok(marks) }
                })
            }
        }
        .map_err(|error| OpenError::io(marks_path.display(), error))?;
        let marks: Arc<dyn Marks> = Arc::new(marks);
        Ok(Disk { log: Arc::new(log), values: Arc::new(values), marks, hold: Box::new(lock) })
    }

    fn glimpse(&self, node: u64) -> Result<Glimpse, OpenError> {
        let log_path = self.path.join("log");
        self.check_whole()?;
        let lock = self.lock()?;
        let reading = self.marks_of(node)?;
        if reading.is_none() && !log_path.is_dir() {
            return Err(OpenError::nothing_stored(self.path.display()));
        }
        let found = inspect(&log_path).map_err(|error| fault(&log_path, "open", error))?;
        verify(reading.as_ref(), &found)?;
        // sled writes when it opens: so a copy is opened, on another disk.
        let values_path = self.path.join("values");
        let copy =
            Copy::of(&values_path).map_err(|error| OpenError::io("a copy of `values` in memory", error))?;
        let values = SledValues::open(copy.path()).map_err(|error| fault(&values_path, "open", error))?;
        let durable = reading.and_then(|reading| reading.mark.durable);
        Ok(Glimpse {
            values: Arc::new(values),
            durable,
            replay: Box::new(move |after, each| {
                durable.map_or(Ok(()), |durable| replay(&log_path, after, durable, each))
            }),
            hold: Box::new((copy, lock)),
        })
    }

    fn probe(&self, room: u64) -> io::Result<()> {
        let path = self.path.join("probe");
        let write = || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            let block = vec![0x5a; PROBE_BYTES];
            for at in (0..=room).step_by(PROBE_BYTES) {
                file.write_all_at(&block, at)?;
            }
            file.sync_all()
        };
        let written = match write() {
            // A new node's folder is made when it is opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            written => written,
        };
        let removed = std::fs::remove_file(&path);
        written.and(removed)
    }

    fn spawn(&self, name: &'static str, lane: LaneFuture) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(lane)).map(drop)
    }
}
