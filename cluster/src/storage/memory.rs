//! A disk in memory that behaves like one: reads see every write, a crash forgets what was not synced.
//!
//! The room's tests open it instead of a folder; the simulation brings a disk of its own. A sync takes as long as the disk
//! was told; a crash drops the operations since the last completed sync and cuts off every handle opened before it. No
//! threads: lanes are tasks.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::held::{Entries, EntryOperation, Pairs};
use super::lane::LaneFuture;
use super::log::{Log, LogEntry, LogExtent, LogPosition, SyncFuture};
use super::marks::{Mark, Marks, Reading};
use super::values::{Change, Named, Values, check_sizes};
use super::{Disk, Glimpse, Inspection, OpenError, Storage, Verdict, replay_from, values_alone, verify};

#[derive(Clone, Default)]
struct Contents {
    entries: Entries,
    values: Pairs,
    mark: Option<Mark>,
}

#[derive(Clone)]
enum Operation {
    Entries(EntryOperation),
    Values(Vec<Change>),
    Mark(Mark),
}

/// A sync covers one file, as on a real disk: only so can a test see a mark that became durable before its entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Log,
    Values,
    Mark,
}

impl Operation {
    fn part(&self) -> Part {
        match self {
            Self::Entries(_) => Part::Log,
            Self::Values(_) => Part::Values,
            Self::Mark(_) => Part::Mark,
        }
    }
}

impl Contents {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Entries(operation) => self.entries.apply(operation),
            Operation::Values(changes) => self.values.apply_changes(changes),
            Operation::Mark(mark) => self.mark = Some(mark),
        }
    }

    /// This node's mark, if there is one, beside what it says is there.
    fn mark_of(&self, node: u64) -> Result<Option<Mark>, OpenError> {
        let found = Inspection { extent: self.entries.extent(), fault: None };
        let reading = self.mark.clone().map(|mark| Reading { mark, sequence: 0, damaged_slot: false });
        if verify(reading.as_ref(), &found)? == Verdict::Empty && !self.values.is_empty() {
            return Err(values_alone());
        }
        match reading {
            Some(Reading { mark, .. }) if mark.node != node => {
                Err(OpenError::OtherNode { found: mark.node, asked: node })
            }
            reading => Ok(reading.map(|reading| reading.mark)),
        }
    }
}

#[derive(Default)]
struct Platter {
    /// What reads see.
    live: Contents,
    /// What a crash leaves.
    durable: Contents,
    /// Operations in `live` and not in `durable`, oldest first, each with its number.
    pending: VecDeque<(u64, Operation)>,
    operations: u64,
    /// Counts crashes: a handle of an earlier life is dead.
    life: u64,
    full: bool,
    syncs: u64,
}

/// How long the next sync takes.
pub type SyncDelay = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The disk; clones share it, and it outlives the node that opened it.
#[derive(Clone)]
pub struct MemoryDisk {
    platter: Arc<Mutex<Platter>>,
    delay: SyncDelay,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new(Arc::new(|| Duration::ZERO))
    }
}

impl MemoryDisk {
    /// An empty disk whose syncs take `delay`, in the runtime's time.
    #[must_use]
    pub fn new(delay: SyncDelay) -> Self {
        Self { platter: Arc::default(), delay }
    }

    /// Power fails: unsynced operations are gone, open handles are dead. Returns how many operations were lost.
    pub fn crash(&self) -> usize {
        let mut platter = self.platter.lock();
        let lost = platter.pending.len();
        platter.pending.clear();
        platter.live = platter.durable.clone();
        platter.life = platter.life.wrapping_add(1);
        lost
    }

    /// From now on every write and sync fails (or succeeds again), as on a full disk.
    pub fn set_full(&self, full: bool) {
        self.platter.lock().full = full;
    }

    /// Loses the last `entries` of the log, synced or not: a disk that lies.
    pub fn lose_tail(&self, entries: usize) {
        let mut platter = self.platter.lock();
        for _ in 0..entries {
            platter.durable.entries.lose_last();
        }
        platter.pending.clear();
        platter.live = platter.durable.clone();
    }

    /// Syncs completed so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.platter.lock().syncs
    }

    fn handle(&self) -> Handle {
        Handle { disk: self.clone(), life: self.platter.lock().life }
    }
}

#[derive(Clone)]
struct Handle {
    disk: MemoryDisk,
    life: u64,
}

impl Handle {
    fn alive(&self, platter: &Platter) -> io::Result<()> {
        if platter.life == self.life {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "the disk crashed under this handle"))
    }

    fn write(&self, operation: Operation) -> io::Result<()> {
        let mut platter = self.disk.platter.lock();
        self.alive(&platter)?;
        if platter.full {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk"));
        }
        platter.operations = platter.operations.wrapping_add(1);
        let number = platter.operations;
        platter.live.apply(operation.clone());
        platter.pending.push_back((number, operation));
        Ok(())
    }

    fn read<T>(&self, look: impl FnOnce(&Contents) -> T) -> io::Result<T> {
        let platter = self.disk.platter.lock();
        self.alive(&platter)?;
        Ok(look(&platter.live))
    }

    async fn sync(&self, part: Part) -> io::Result<()> {
        let upto = self.disk.platter.lock().operations;
        let delay = (self.disk.delay)();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut platter = self.disk.platter.lock();
        self.alive(&platter)?;
        if platter.full {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk"));
        }
        for (number, operation) in std::mem::take(&mut platter.pending) {
            if number <= upto && operation.part() == part {
                platter.durable.apply(operation);
            } else {
                platter.pending.push_back((number, operation));
            }
        }
        platter.syncs = platter.syncs.wrapping_add(1);
        Ok(())
    }
}

impl Log for Handle {
    fn append(&self, entries: Vec<LogEntry>) -> io::Result<()> {
        Handle::read(self, |contents| contents.entries.check_follows(&entries))??;
        self.write(Operation::Entries(EntryOperation::Append(entries)))
    }

    fn truncate_after(&self, last: Option<LogPosition>) -> io::Result<()> {
        self.write(Operation::Entries(EntryOperation::TruncateAfter(last)))
    }

    fn purge(&self, upto: LogPosition) -> io::Result<()> {
        self.write(Operation::Entries(EntryOperation::Purge(upto)))
    }

    fn note_committed(&self, committed: LogPosition) -> io::Result<()> {
        self.write(Operation::Entries(EntryOperation::Commit(committed)))
    }

    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        Handle::read(self, |contents| contents.entries.read(indexes, bytes_max))
    }

    fn extent(&self) -> LogExtent {
        self.disk.platter.lock().live.entries.extent()
    }

    fn sync(&self) -> SyncFuture<'_> {
        Box::pin(Handle::sync(self, Part::Log))
    }
}

impl Values for Handle {
    fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        check_sizes(&changes)?;
        Handle::write(self, Operation::Values(changes))
    }

    fn get(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Handle::read(self, |contents| contents.values.get(name))
    }

    fn range(&self, names: Range<Vec<u8>>, limit: usize) -> io::Result<Vec<Named>> {
        Handle::read(self, |contents| contents.values.range(names, limit))
    }

    fn last(&self, names: Range<Vec<u8>>) -> io::Result<Option<Named>> {
        Handle::read(self, |contents| contents.values.last(names))
    }

    fn sync(&self) -> SyncFuture<'_> {
        Box::pin(Handle::sync(self, Part::Values))
    }
}

impl Marks for Handle {
    fn current(&self) -> Mark {
        let mark = self.disk.platter.lock().live.mark.clone();
        mark.unwrap_or_default()
    }

    fn write(&self, mark: Mark, _both: bool) -> SyncFuture<'_> {
        Box::pin(async move {
            Handle::write(self, Operation::Mark(mark))?;
            Handle::sync(self, Part::Mark).await
        })
    }
}

impl Storage for MemoryDisk {
    fn open(&self, node: u64, incarnation: u64) -> Result<Disk, OpenError> {
        {
            let mut platter = self.platter.lock();
            if platter.live.mark_of(node)?.is_none() {
                let mark = Mark { node, incarnation, ..Mark::default() };
                platter.durable.mark = Some(mark.clone());
                platter.live.mark = Some(mark);
            }
        }
        let handle = Arc::new(self.handle());
        Ok(Disk { log: handle.clone(), values: handle.clone(), marks: handle, hold: Box::new(()) })
    }

    fn glimpse(&self, node: u64) -> Result<Glimpse, OpenError> {
        let Some(mark) = self.platter.lock().live.mark_of(node)? else {
            return Err(OpenError::nothing_stored("the disk in memory"));
        };
        let handle = Arc::new(self.handle());
        let replay = replay_from(handle.clone(), mark.durable);
        Ok(Glimpse { values: handle, durable: mark.durable, replay, hold: Box::new(()) })
    }

    fn probe(&self, _: u64) -> io::Result<()> {
        if self.platter.lock().full {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk"));
        }
        Ok(())
    }

    fn spawn(&self, _name: &'static str, lane: LaneFuture) -> io::Result<()> {
        tokio::spawn(lane);
        Ok(())
    }
}
