//! A disk that loses what was not synced, and behaves badly on demand.
//!
//! ```text
//!   write --> live (what reads see) + pending        sync: pending -> durable, after 1 to 25 ms of simulated time
//!   crash --> durable + a random prefix of pending, for each of the three files by itself; open handles are dead
//! ```
//!
//! The raft log, the values and the mark file are three files, and nothing but a sync orders one against another: a crash may
//! keep the newest write of one and lose an older one of another. That is the difference from a disk that loses "everything
//! since the last sync", and it is what the order of syncs in the storage room is for. A batch of entries may tear inside; a
//! batch of values never does, because its engine promises that.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use featureops_cluster::storage::{
    Change, Disk, Glimpse, Inspection, LaneFuture, Log, LogEntry, LogExtent, LogPosition, Mark, Marks, Named,
    OpenError, Reading, Storage, SyncFuture, Values, Verdict,
    held::{Entries, EntryOperation, Pairs},
    replay_from,
    values::check_sizes,
    values_alone, verify,
};
use parking_lot::Mutex;

use crate::chronicle::Chronicle;
use crate::defect::{Copied, Defect};
use crate::dice::Dice;
use crate::leak::Leak;
use crate::moments::{Lost, Noticed, Writing, is_of_snapshot, manifest_name, place_of};

/// Shortest sync, in microseconds.
const SYNC_MICROS_MIN: u64 = 1_000;
/// Longest sync of a healthy disk.
const SYNC_MICROS_MAX: u64 = 25_000;

/// How often a sync looks whether the machine moves again.
const STANDS_LOOK: Duration = Duration::from_millis(2);

/// What a failing device says.
const EIO: i32 = 5;

/// What is wrong with the disk at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ailment {
    /// Every write fails: no space is left.
    pub full: bool,
    /// Every sync takes this many times as long; 0 and 1 are healthy.
    pub slowness: u32,
    /// Every sync fails.
    pub sync_fails: bool,
    /// A planted bug: a sync says it is done and keeps nothing.
    pub sync_lies: bool,
}

trait Content: Clone + Default {
    type Operation: Clone;
    fn apply(&mut self, operation: Self::Operation);
    /// What of a write that was under way reaches the platter.
    fn tear(operation: Self::Operation, dice: &mut Dice) -> Option<Self::Operation>;
}

impl Content for Entries {
    type Operation = EntryOperation;

    fn apply(&mut self, operation: EntryOperation) {
        Entries::apply(self, operation);
    }

    fn tear(operation: EntryOperation, dice: &mut Dice) -> Option<EntryOperation> {
        let EntryOperation::Append(mut entries) = operation else { return None };
        let kept = dice.between(0, u64::try_from(entries.len()).unwrap_or(0));
        entries.truncate(usize::try_from(kept).unwrap_or(0));
        Some(EntryOperation::Append(entries))
    }
}

impl Content for Pairs {
    type Operation = Vec<Change>;

    fn apply(&mut self, changes: Vec<Change>) {
        self.apply_changes(changes);
    }

    fn tear(_: Vec<Change>, _: &mut Dice) -> Option<Vec<Change>> {
        None
    }
}

impl Content for Option<Mark> {
    type Operation = Mark;

    fn apply(&mut self, mark: Mark) {
        *self = Some(mark);
    }

    // Two slots, and the one in force is never overwritten: a torn mark is the mark before it.
    fn tear(_: Mark, _: &mut Dice) -> Option<Mark> {
        None
    }
}

struct File<C: Content> {
    live: C,
    durable: C,
    pending: VecDeque<(u64, C::Operation)>,
    written: u64,
}

impl<C: Content> Default for File<C> {
    fn default() -> Self {
        Self { live: C::default(), durable: C::default(), pending: VecDeque::new(), written: 0 }
    }
}

impl<C: Content> File<C> {
    fn write(&mut self, operation: C::Operation) {
        self.written = self.written.saturating_add(1);
        self.live.apply(operation.clone());
        self.pending.push_back((self.written, operation));
    }

    fn keep(&mut self, upto: u64) {
        while self.pending.front().is_some_and(|(number, _)| *number <= upto) {
            if let Some((_, operation)) = self.pending.pop_front() {
                self.durable.apply(operation);
            }
        }
    }

    /// Returns how many operations were lost.
    fn crash(&mut self, dice: &mut Dice) -> u64 {
        let waiting = u64::try_from(self.pending.len()).unwrap_or(0);
        let reached = dice.between(0, waiting);
        for _ in 0..reached {
            if let Some((_, operation)) = self.pending.pop_front() {
                self.durable.apply(operation);
            }
        }
        if let Some((_, operation)) = self.pending.pop_front()
            && let Some(torn) = C::tear(operation, dice)
        {
            self.durable.apply(torn);
        }
        self.pending.clear();
        self.live = self.durable.clone();
        waiting.saturating_sub(reached)
    }
}

struct Platter {
    entries: File<Entries>,
    values: File<Pairs>,
    marks: File<Option<Mark>>,
    ailment: Ailment,
    dice: Dice,
    // Counts crashes: a handle of an earlier life is dead.
    life: u64,
    syncs: u64,
    // Every entry that is or was in the log, purged ones too: what the second reading folds.
    archive: BTreeMap<u64, LogEntry>,
    // Counts how often entries of the archive were lost or cut off: whoever follows it begins anew.
    cuts: u64,
    // A node has it open.
    is_open: bool,
    snapshot: Writing,
    noticed: Noticed,
    // A planted defect.
    leak: Option<Leak>,
    defect: Defect,
    // The whole machine stands still: so do its syncs.
    stands: bool,
    // The highest term in which a vote was durable, since the disk was put in.
    voted: u64,
    machine: u64,
    chronicle: Chronicle,
}

impl Platter {
    /// This node's mark, if there is one, beside what it says is there.
    fn mark_of(&self, node: u64) -> Result<Option<Mark>, OpenError> {
        let found = Inspection { extent: self.entries.live.extent(), fault: None };
        let reading = self.marks.live.clone().map(|mark| Reading { mark, sequence: 0, damaged_slot: false });
        if verify(reading.as_ref(), &found)? == Verdict::Empty && !self.values.live.is_empty() {
            return Err(values_alone());
        }
        match reading {
            Some(Reading { mark, .. }) if mark.node != node => {
                Err(OpenError::OtherNode { found: mark.node, asked: node })
            }
            reading => Ok(reading.map(|reading| reading.mark)),
        }
    }

    /// The archive forgets what the log lost or cut off at its end.
    fn trim_archive(&mut self) {
        let last = self.entries.live.extent().last.map_or(0, |last| last.index);
        let cut = self.archive.split_off(&last.saturating_add(1));
        self.cuts = self.cuts.saturating_add(u64::from(!cut.is_empty()));
    }
}

/// The disk of one machine. Clones share it, and it outlives the node that opened it.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<Platter>>);

impl SimulatedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64, machine: u64) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            entries: File::default(),
            values: File::default(),
            marks: File::default(),
            ailment: Ailment::default(),
            dice: Dice::new(seed, &format!("disk {machine}")),
            life: 0,
            syncs: 0,
            archive: BTreeMap::new(),
            cuts: 0,
            is_open: false,
            snapshot: Writing::No,
            noticed: Noticed::default(),
            leak: None,
            defect: Defect::None,
            stands: false,
            voted: 0,
            machine,
            chronicle: Chronicle::default(),
        })))
    }

    /// From now on what is written to its log is noted there, too.
    pub fn tell(&self, chronicle: &Chronicle) {
        self.0.lock().chronicle = chronicle.clone();
    }

    /// Another disk, an empty one, is put in its place while the machine is down.
    pub fn empty(&self) {
        let mut platter = self.0.lock();
        let platter = &mut *platter;
        (platter.entries, platter.values, platter.marks) =
            (File::default(), File::default(), File::default());
        (platter.snapshot, platter.is_open, platter.voted) = (Writing::No, false, 0);
        platter.life = platter.life.saturating_add(1);
        platter.trim_archive();
    }

    /// The log's last entry, synced or not.
    #[must_use]
    pub fn last(&self) -> Option<LogPosition> {
        self.0.lock().entries.live.extent().last
    }

    /// From now on it has this defect.
    pub fn plant(&self, defect: Defect) {
        self.0.lock().defect = defect;
    }

    /// The next loss of power takes everything back to what is on it now.
    pub fn roll_back(&self) {
        let mut platter = self.0.lock();
        let (entries, values) = (platter.entries.durable.clone(), platter.values.durable.clone());
        let copied = Copied { entries, values, mark: platter.marks.durable.clone() };
        platter.defect = Defect::RollsBack(Some(Box::new(copied)));
    }

    /// From now on syncs wait, or no more: the machine stands still.
    pub fn set_stands(&self, stands: bool) {
        self.0.lock().stands = stands;
    }

    /// Power fails. Returns how many unsynced operations were lost.
    pub fn crash(&self) -> u64 {
        let mut platter = self.0.lock();
        let platter = &mut *platter;
        if std::mem::take(&mut platter.is_open) {
            let last = platter.entries.live.extent().last.map_or(0, |last| last.index);
            let in_snapshot = platter.snapshot != Writing::No;
            platter.noticed.losses.push(Lost { last, in_snapshot });
        }
        platter.snapshot = Writing::No;
        let mut lost = platter.entries.crash(&mut platter.dice);
        lost = lost.saturating_add(platter.values.crash(&mut platter.dice));
        lost = lost.saturating_add(platter.marks.crash(&mut platter.dice));
        match &mut platter.defect {
            Defect::ForgetsVotes => {
                if let Some(mark) = &mut platter.marks.durable {
                    mark.vote = None;
                }
            }
            Defect::RollsBack(copied) => {
                if let Some(Copied { entries, values, mark }) = copied.take().map(|copied| *copied) {
                    platter.voted = mark.as_ref().and_then(|mark| mark.vote).map_or(0, |vote| vote.term);
                    (platter.entries.live, platter.entries.durable) = (entries.clone(), entries);
                    (platter.values.live, platter.values.durable) = (values.clone(), values);
                    platter.marks.durable = mark;
                }
            }
            Defect::None | Defect::ForgetsRepeats(_) => {}
        }
        platter.marks.live.clone_from(&platter.marks.durable);
        platter.stands = false;
        platter.life = platter.life.saturating_add(1);
        platter.trim_archive();
        lost
    }

    /// From now on the disk ails so.
    pub fn ail(&self, ailment: Ailment) {
        let mut platter = self.0.lock();
        platter.ailment = ailment;
        if ailment.full && platter.snapshot != Writing::No {
            platter.noticed.snapshots_without_room = platter.noticed.snapshots_without_room.saturating_add(1);
        }
    }

    /// What is wrong with it at present.
    #[must_use]
    pub fn ailment(&self) -> Ailment {
        self.0.lock().ailment
    }

    /// Every entry of the log from its first on, also those that were purged since.
    #[must_use]
    pub fn archive(&self) -> Vec<LogEntry> {
        self.0.lock().archive.values().cloned().collect()
    }

    /// The same from an entry on, and how often it was cut: whoever saw another number of cuts begins at the first entry.
    #[must_use]
    pub fn archive_from(&self, index: u64) -> (u64, Vec<LogEntry>) {
        let platter = self.0.lock();
        (platter.cuts, platter.archive.range(index..).map(|(_, entry)| entry.clone()).collect())
    }

    /// A snapshot is being written.
    #[must_use]
    pub fn writes_snapshot(&self) -> bool {
        self.0.lock().snapshot != Writing::No
    }

    /// What it noticed of hard moments.
    #[must_use]
    pub fn noticed(&self) -> Noticed {
        self.0.lock().noticed.clone()
    }

    /// From its next loss of power on, whoever reads this entry gets it with a part of a sum missing.
    pub fn leak_at(&self, index: u64) {
        let mut platter = self.0.lock();
        let life = platter.life;
        platter.leak.get_or_insert(Leak { index, life });
    }

    /// Syncs completed so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }
}

#[derive(Clone, Copy)]
enum Which {
    Entries,
    Values,
    Marks,
}

#[derive(Clone)]
struct Handle {
    disk: SimulatedDisk,
    life: u64,
}

fn dead() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the machine lost power under this handle")
}

impl Handle {
    fn write(&self, act: impl FnOnce(&mut Platter) -> io::Result<()>) -> io::Result<()> {
        let mut platter = self.disk.0.lock();
        if platter.life != self.life {
            return Err(dead());
        }
        if platter.ailment.full {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"));
        }
        act(&mut platter)
    }

    fn look<T>(&self, look: impl FnOnce(&Platter) -> T) -> io::Result<T> {
        let platter = self.disk.0.lock();
        if platter.life != self.life {
            return Err(dead());
        }
        Ok(look(&platter))
    }

    async fn sync_file(&self, which: Which) -> io::Result<()> {
        let (upto, delay) = {
            let mut platter = self.disk.0.lock();
            let slowness = u64::from(platter.ailment.slowness.max(1));
            let delay = platter.dice.between(SYNC_MICROS_MIN, SYNC_MICROS_MAX).saturating_mul(slowness);
            let upto = match which {
                Which::Entries => platter.entries.written,
                Which::Values => platter.values.written,
                Which::Marks => platter.marks.written,
            };
            (upto, Duration::from_micros(delay))
        };
        tokio::time::sleep(delay).await;
        while self.look(|platter| platter.stands)? {
            tokio::time::sleep(STANDS_LOOK).await;
        }
        let mut platter = self.disk.0.lock();
        if platter.life != self.life {
            return Err(dead());
        }
        if platter.ailment.sync_fails || platter.ailment.full {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        platter.syncs = platter.syncs.saturating_add(1);
        if platter.ailment.sync_lies {
            return Ok(());
        }
        match which {
            Which::Entries => platter.entries.keep(upto),
            Which::Values => {
                platter.values.keep(upto);
                platter.snapshot = platter.snapshot.synced(upto);
            }
            Which::Marks => {
                platter.marks.keep(upto);
                let vote = platter.marks.durable.as_ref().and_then(|mark| mark.vote);
                platter.voted = platter.voted.max(vote.map_or(0, |vote| vote.term));
            }
        }
        Ok(())
    }
}

impl Log for Handle {
    fn append(&self, entries: Vec<LogEntry>) -> io::Result<()> {
        self.write(|platter| {
            platter.entries.live.check_follows(&entries)?;
            let before = platter.entries.live.extent().last;
            platter.chronicle.note(platter.machine, before, &entries);
            platter.archive.extend(entries.iter().map(|entry| (entry.position.index, entry.clone())));
            platter.entries.write(EntryOperation::Append(entries));
            Ok(())
        })
    }

    fn truncate_after(&self, last: Option<LogPosition>) -> io::Result<()> {
        self.write(|platter| {
            platter.entries.write(EntryOperation::TruncateAfter(last));
            platter.trim_archive();
            Ok(())
        })
    }

    fn purge(&self, upto: LogPosition) -> io::Result<()> {
        self.write(|platter| {
            if platter.entries.live.extent().last.is_none_or(|last| last.index < upto.index) {
                // Behind a snapshot that another node sent.
                platter.noticed.installs = platter.noticed.installs.saturating_add(1);
            }
            platter.entries.write(EntryOperation::Purge(upto));
            Ok(())
        })
    }

    fn note_committed(&self, committed: LogPosition) -> io::Result<()> {
        self.write(|platter| {
            platter.entries.write(EntryOperation::Commit(committed));
            Ok(())
        })
    }

    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let leaking = |platter: &Platter| platter.leak.filter(|leak| leak.life < self.life);
        let (entries, leak) =
            self.look(|platter| (platter.entries.live.read(indexes, bytes_max), leaking(platter)))?;
        let entries = match leak {
            Some(leak) => entries.into_iter().map(|entry| leak.pass(entry)).collect(),
            None => entries,
        };
        match &mut self.disk.0.lock().defect {
            Defect::ForgetsRepeats(repeats) => {
                Ok(entries.into_iter().map(|entry| repeats.pass(entry)).collect())
            }
            _ => Ok(entries),
        }
    }

    fn extent(&self) -> LogExtent {
        self.disk.0.lock().entries.live.extent()
    }

    fn sync(&self) -> SyncFuture<'_> {
        Box::pin(self.sync_file(Which::Entries))
    }
}

impl Values for Handle {
    fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        check_sizes(&changes)?;
        let of_snapshot = is_of_snapshot(&changes);
        let written = Handle::write(self, |platter| {
            platter.snapshot = platter.snapshot.after(&changes, platter.values.written.saturating_add(1));
            platter.values.write(changes);
            Ok(())
        });
        if of_snapshot && written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            let noticed = &mut self.disk.0.lock().noticed;
            noticed.snapshots_without_room = noticed.snapshots_without_room.saturating_add(1);
        }
        written
    }

    fn get(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.look(|platter| platter.values.live.get(name))
    }

    fn range(&self, names: Range<Vec<u8>>, limit: usize) -> io::Result<Vec<Named>> {
        self.look(|platter| platter.values.live.range(names, limit))
    }

    fn last(&self, names: Range<Vec<u8>>) -> io::Result<Option<Named>> {
        self.look(|platter| platter.values.live.last(names))
    }

    fn sync(&self) -> SyncFuture<'_> {
        Box::pin(self.sync_file(Which::Values))
    }
}

impl Marks for Handle {
    fn current(&self) -> Mark {
        let mark = self.disk.0.lock().marks.live.clone();
        mark.unwrap_or_default()
    }

    fn write(&self, mark: Mark, _both: bool) -> SyncFuture<'_> {
        Box::pin(async move {
            Handle::write(self, |platter| {
                platter.marks.write(mark);
                Ok(())
            })?;
            self.sync_file(Which::Marks).await
        })
    }
}

impl Storage for SimulatedDisk {
    fn open(&self, node: u64, incarnation: u64) -> Result<Disk, OpenError> {
        let life = {
            let mut platter = self.0.lock();
            if platter.mark_of(node)?.is_none() {
                // Made whole or not at all, as the mark file is: drafted, synced, renamed.
                let mark = Mark { node, incarnation, ..Mark::default() };
                platter.marks.write(mark);
                let upto = platter.marks.written;
                platter.marks.keep(upto);
            }
            let manifest = platter.values.live.get(manifest_name());
            let (snapshot, last) =
                (manifest.as_deref().and_then(place_of), platter.entries.live.extent().last);
            platter.noticed.open(snapshot, last);
            let vote = platter.marks.live.as_ref().and_then(|mark| mark.vote).map_or(0, |vote| vote.term);
            if vote < platter.voted {
                let back = (platter.voted, vote);
                platter.noticed.votes_back.push(back);
            }
            (platter.is_open, platter.snapshot) = (true, Writing::No);
            platter.life
        };
        let handle = Arc::new(Handle { disk: self.clone(), life });
        Ok(Disk { log: handle.clone(), values: handle.clone(), marks: handle, hold: Box::new(()) })
    }

    fn glimpse(&self, node: u64) -> Result<Glimpse, OpenError> {
        let platter = self.0.lock();
        let Some(mark) = platter.mark_of(node)? else {
            return Err(OpenError::nothing_stored("the simulated disk"));
        };
        let handle = Arc::new(Handle { disk: self.clone(), life: platter.life });
        let replay = replay_from(handle.clone(), mark.durable);
        Ok(Glimpse { values: handle, durable: mark.durable, replay, hold: Box::new(()) })
    }

    fn probe(&self, _: u64) -> io::Result<()> {
        let ailment = self.0.lock().ailment;
        if ailment.full {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"));
        }
        if ailment.sync_fails {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }

    fn spawn(&self, _name: &'static str, lane: LaneFuture) -> io::Result<()> {
        tokio::spawn(lane);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> LogEntry {
        LogEntry { position: LogPosition::new(1, index), payload: bytes::Bytes::from_static(b"x") }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_keeps_what_was_synced_and_at_most_a_prefix_of_the_rest() {
        for seed in 0..64 {
            let disk = SimulatedDisk::new(seed, 1);
            let opened = disk.open(1, 9).unwrap();
            opened.log.append((1..=10).map(entry).collect()).unwrap();
            opened.log.sync().await.unwrap();
            opened.log.append((11..=20).map(entry).collect()).unwrap();
            opened.log.append((21..=30).map(entry).collect()).unwrap();
            disk.crash();
            assert!(opened.log.append(vec![entry(31)]).is_err(), "a handle outlived its machine");
            let after = disk.open(1, 9).unwrap();
            let last = after.log.extent().last.unwrap().index;
            assert!((10..=30).contains(&last), "seed {seed}: {last}");
            assert_eq!(after.log.read(1..last + 1, usize::MAX).unwrap().len() as u64, last);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn some_crash_tears_a_batch_and_some_crash_orders_files_apart() {
        let mut torn = false;
        let mut apart = false;
        for seed in 0..64 {
            let disk = SimulatedDisk::new(seed, 1);
            let opened = disk.open(1, 9).unwrap();
            opened.log.append((1..=10).map(entry).collect()).unwrap();
            opened.values.write(vec![Change::Put(b"a".to_vec(), b"1".to_vec())]).unwrap();
            disk.crash();
            let after = disk.open(1, 9).unwrap();
            let last = after.log.extent().last.map_or(0, |last| last.index);
            torn |= (1..10).contains(&last);
            apart |= last == 0 && after.values.get(b"a").unwrap().is_some();
        }
        assert!(torn && apart);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_lies_is_found_out_by_the_mark() {
        let mut found = false;
        for seed in 0..16 {
            let disk = SimulatedDisk::new(seed, 1);
            let opened = disk.open(1, 9).unwrap();
            disk.ail(Ailment { sync_lies: true, ..Ailment::default() });
            opened.log.append((1..=10).map(entry).collect()).unwrap();
            opened.log.sync().await.unwrap();
            disk.ail(Ailment::default());
            let mark =
                Mark { node: 1, incarnation: 9, durable: Some(LogPosition::new(1, 10)), ..Mark::default() };
            opened.marks.write(mark, false).await.unwrap();
            disk.crash();
            found |= matches!(disk.open(1, 9), Err(OpenError::DiskLoss { .. }));
        }
        assert!(found);
    }

    #[test]
    fn a_look_at_an_empty_disk_leaves_it_to_whoever_opens_it_first() {
        let disk = SimulatedDisk::new(1, 1);
        let Err(OpenError::Io { error, .. }) = disk.glimpse(1) else { panic!("there is nothing to read") };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.open(2, 9).unwrap().marks.current().incarnation, 9);
        assert!(matches!(disk.glimpse(1), Err(OpenError::OtherNode { found: 2, asked: 1 })));
        assert_eq!(disk.glimpse(2).unwrap().durable, None);
    }

    #[test]
    fn values_without_a_log_and_marks_are_a_loss() {
        let disk = SimulatedDisk::new(1, 1);
        let opened = disk.open(1, 9).unwrap();
        opened.values.write(vec![Change::Put(b"a".to_vec(), b"1".to_vec())]).unwrap();
        {
            let mut platter = disk.0.lock();
            platter.entries = File::default();
            platter.marks = File::default();
        }
        assert!(matches!(disk.open(1, 9), Err(OpenError::DiskLoss { .. })));
    }
}
