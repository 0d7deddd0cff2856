//! The vote and the durable high-water mark, in a small two-slot file of their own.
//!
//! The log engine alone cannot say what it lost: damage at its end looks like a short log. This file can: it holds the
//! node's identity, its vote, and the last log position that was acknowledged. A log that ends below the mark has lost
//! acknowledged entries, which is disk loss, and a disk that lost entries may not vote under its old name.
//!
//! ```text
//!   offset 0     slot 0  (even sequences)   512 bytes: magic, sequence, node, incarnation, vote, mark, cluster, crc32
//!   offset 4096  slot 1  (odd sequences)    the same
//! ```
//!
//! **When is one valid slot enough?** Sequences of the two slots differ by exactly one, and a slot is overwritten only
//! after the other one was synced. So a crash tears at most the slot being written, which nobody was told about yet.
//! But a damaged slot may also be the newest *acknowledged* one, rotten later. Two rules make the older one safe then:
//!
//! 1. A vote, and every lowering of the mark, is written to *both* slots before it is acknowledged. So whichever slot
//!    survives, the vote in it is never older than an acknowledged one.
//! 2. A raised mark is written to one slot. If that slot rots, the survivor's mark is one commit old, and entries of that
//!    commit are guarded by the log's own checksums only. Therefore the survivor is accepted only while the log is whole:
//!    a torn log *and* a damaged slot together are refused ([`super::verify`]). One fault at a time is always survived.
//!
//! Both slots damaged, or sequences that are not neighbours (the disk dropped a write): refused.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::log::{LogPosition, SyncFuture};

/// Length of one slot, in bytes.
pub const SLOT_BYTES: usize = 512;
/// Distance of the slots, in bytes: a page, so that no single page write touches both.
pub const SLOT_STRIDE_BYTES: usize = 4096;
/// Length of the file, in bytes.
pub const FILE_BYTES: usize = SLOT_STRIDE_BYTES + SLOT_BYTES;

const MAGIC: u64 = u64::from_be_bytes(*b"fo-mark1");
const HAS_VOTE: u64 = 1;
const VOTE_COMMITTED: u64 = 2;
const HAS_MARK: u64 = 4;
const INSTALLS: u64 = 8;

/// A vote: whom this node supports in a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The node voted for.
    pub node: u64,
    /// Whether that node is known to lead the term.
    pub committed: bool,
}

/// What a node must never forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The node.
    pub node: u64,
    /// Drawn when the folder was made: the same node on an emptied disk is another incarnation.
    pub incarnation: u64,
    /// The cluster in which it votes: the incarnation of the node that founded it. 0: it is in none yet.
    pub cluster: u64,
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last log position acknowledged as durable.
    pub durable: Option<LogPosition>,
    /// A snapshot of a peer was, or was being, stored: it may stand beside a log of which nothing was acknowledged.
    pub installs: bool,
}

impl Mark {
    /// Whether it names a cluster of its own that never began: the start that founded it ended before raft's first entry, and
    /// nothing was voted, acknowledged or stored in it.
    #[must_use]
    pub const fn is_unfounded(&self) -> bool {
        let begun = self.vote.is_some() || self.durable.is_some() || self.installs;
        self.cluster != 0 && self.cluster == self.incarnation && !begun
    }
}

/// The mark file of one node.
pub trait Marks: Send + Sync + 'static {
    /// The mark last written.
    fn current(&self) -> Mark;

    /// Replaces the mark; durable when the future is done. With `both`, whichever slot is lost later, this mark survives.
    fn write(&self, mark: Mark, both: bool) -> SyncFuture<'_>;
}

/// Encodes one slot.
#[must_use]
pub fn encode(mark: &Mark, sequence: u64) -> Vec<u8> {
    let vote = mark.vote.unwrap_or(Vote { term: 0, node: 0, committed: false });
    let durable = mark.durable.unwrap_or_default();
    let mut flags = 0;
    if mark.vote.is_some() {
        flags |= HAS_VOTE;
    }
    if vote.committed {
        flags |= VOTE_COMMITTED;
    }
    if mark.durable.is_some() {
        flags |= HAS_MARK;
    }
    if mark.installs {
        flags |= INSTALLS;
    }
    let words = [
        MAGIC,
        sequence,
        mark.node,
        mark.incarnation,
        flags,
        vote.term,
        vote.node,
        durable.term,
        durable.index,
        mark.cluster,
    ];
    let mut slot: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    slot.resize(SLOT_BYTES.saturating_sub(4), 0);
    let checksum = crc32fast::hash(&slot);
    slot.extend_from_slice(&checksum.to_be_bytes());
    slot
}

/// Decodes one slot; `None` when it is damaged.
#[must_use]
pub fn decode(slot: &[u8]) -> Option<(u64, Mark)> {
    if slot.len() != SLOT_BYTES {
        return None;
    }
    let (body, checksum) = slot.split_at_checked(SLOT_BYTES.checked_sub(4)?)?;
    if crc32fast::hash(body).to_be_bytes() != checksum {
        return None;
    }
    let mut words =
        body.chunks_exact(8).filter_map(|chunk| <[u8; 8]>::try_from(chunk).ok().map(u64::from_be_bytes));
    let mut word = || words.next();
    let (magic, sequence, node, incarnation, flags) = (word()?, word()?, word()?, word()?, word()?);
    let vote = Vote { term: word()?, node: word()?, committed: flags & VOTE_COMMITTED != 0 };
    let durable = LogPosition::new(word()?, word()?);
    // 0 in a file of before there were peers.
    let cluster = word()?;
    if magic != MAGIC || flags & !(HAS_VOTE | VOTE_COMMITTED | HAS_MARK | INSTALLS) != 0 {
        return None;
    }
    let mark = Mark {
        node,
        incarnation,
        cluster,
        vote: (flags & HAS_VOTE != 0).then_some(vote),
        durable: (flags & HAS_MARK != 0).then_some(durable),
        installs: flags & INSTALLS != 0,
    };
    Some((sequence, mark))
}

/// What a mark file says when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The newest valid mark.
    pub mark: Mark,
    /// Its sequence.
    pub sequence: u64,
    /// Whether the other slot is damaged: then the log must be whole.
    pub damaged_slot: bool,
}

/// Reads both slots out of a file's bytes.
///
/// # Errors
/// Why no mark can be trusted, in words.
pub fn read(bytes: &[u8]) -> Result<Reading, String> {
    let first = bytes.get(..SLOT_BYTES).and_then(decode);
    let second = bytes.get(SLOT_STRIDE_BYTES..FILE_BYTES).and_then(decode);
    let in_place =
        |slot: Option<(u64, Mark)>, parity: u64| slot.filter(|(sequence, _)| sequence % 2 == parity);
    match (in_place(first, 0), in_place(second, 1)) {
        (Some((even, first)), Some((odd, second))) => {
            if even.abs_diff(odd) != 1 {
                return Err(format!(
                    "slots hold sequences {even} and {odd}, which are not neighbours: a write was lost"
                ));
            }
            if (first.node, first.incarnation) != (second.node, second.incarnation) {
                return Err("the two slots belong to different nodes".to_owned());
            }
            let (sequence, mark) = if even > odd { (even, first) } else { (odd, second) };
            Ok(Reading { mark, sequence, damaged_slot: false })
        }
        (Some((sequence, mark)), None) | (None, Some((sequence, mark))) => {
            Ok(Reading { mark, sequence, damaged_slot: true })
        }
        (None, None) => Err("both slots are damaged".to_owned()),
    }
}

/// The mark file on disk, mode 0600.
pub struct MarkFile {
    file: File,
    state: Mutex<(u64, Mark)>,
}

impl MarkFile {
    /// Makes the file, complete or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(path: &Path, mark: Mark) -> io::Result<Self> {
        let draft = draft_path(path);
        let mut bytes = vec![0; FILE_BYTES];
        if let Some(slot) = bytes.get_mut(..SLOT_BYTES) {
            slot.copy_from_slice(&encode(&mark, 0));
        }
        if let Some(slot) = bytes.get_mut(SLOT_STRIDE_BYTES..) {
            slot.copy_from_slice(&encode(&mark, 1));
        }
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { file, state: Mutex::new((1, mark)) })
    }

    /// Opens the file to write on where a [`Reading`] ended.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path, reading: Reading) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, state: Mutex::new((reading.sequence, reading.mark)) })
    }

    /// Writes the current mark to both slots.
    ///
    /// # Errors
    /// The file system's.
    pub fn rewrite(&self) -> io::Result<()> {
        let mark = self.current();
        self.write_now(mark, true)
    }

    fn write_now(&self, mark: Mark, both: bool) -> io::Result<()> {
        let mut state = self.state.lock();
        for _ in 0..if both { 2 } else { 1 } {
            let sequence = state.0.wrapping_add(1);
            let offset = if sequence.is_multiple_of(2) { 0 } else { SLOT_STRIDE_BYTES as u64 };
            self.file.write_all_at(&encode(&mark, sequence), offset)?;
            self.file.sync_data()?;
            *state = (sequence, mark.clone());
        }
        Ok(())
    }
}

fn draft_path(path: &Path) -> PathBuf {
    path.with_extension("draft")
}

impl Marks for MarkFile {
    fn current(&self) -> Mark {
        self.state.lock().1.clone()
    }

    fn write(&self, mark: Mark, both: bool) -> SyncFuture<'_> {
        Box::pin(async move { self.write_now(mark, both) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(step: u64) -> Mark {
        Mark {
            node: 1,
            incarnation: 77,
            vote: Some(Vote { term: 1 + step / 3, node: 1, committed: step.is_multiple_of(2) }),
            durable: Some(LogPosition::new(1, step)),
            ..Mark::default()
        }
    }

    fn file_after(steps: u64, both: bool) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marks");
        let file = MarkFile::create(&path, mark(0)).unwrap();
        for step in 1..=steps {
            file.write_now(mark(step), both).unwrap();
        }
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn the_newest_mark_is_read_back() {
        for steps in 0..5 {
            let reading = read(&file_after(steps, false)).unwrap();
            assert_eq!(reading, Reading { mark: mark(steps), sequence: 1 + steps, damaged_slot: false });
        }
    }

    #[test]
    fn every_flipped_bit_is_seen_and_never_yields_a_mark_that_was_not_written() {
        let whole = file_after(6, false);
        for position in (0..SLOT_BYTES).chain(SLOT_STRIDE_BYTES..FILE_BYTES) {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[position] ^= 1 << bit;
                let reading = read(&bytes).unwrap();
                assert!(reading.damaged_slot, "flip at {position}.{bit} went unseen");
                assert!(reading.mark == mark(6) || reading.mark == mark(5));
            }
        }
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_mark_before_it() {
        let before = file_after(6, false);
        let after = file_after(7, false);
        let offset = if read(&after).unwrap().sequence.is_multiple_of(2) { 0 } else { SLOT_STRIDE_BYTES };
        for length in 0..=SLOT_BYTES {
            let mut bytes = before.clone();
            bytes[offset..offset + length].copy_from_slice(&after[offset..offset + length]);
            let reading = read(&bytes).unwrap();
            assert!(reading.mark == mark(6) || reading.mark == mark(7), "torn after {length} bytes");
        }
    }

    #[test]
    fn a_mark_written_to_both_slots_survives_the_loss_of_either() {
        let whole = file_after(6, true);
        for start in [0, SLOT_STRIDE_BYTES] {
            let mut bytes = whole.clone();
            bytes[start..start + SLOT_BYTES].fill(0);
            assert_eq!(read(&bytes).unwrap().mark, mark(6));
        }
    }

    #[test]
    fn two_damaged_slots_a_dropped_write_and_swapped_slots_are_refused() {
        let whole = file_after(6, false);
        let mut both = whole.clone();
        both[3] ^= 1;
        both[SLOT_STRIDE_BYTES + 3] ^= 1;
        assert!(read(&both).unwrap_err().contains("both slots"));

        let mut stale = file_after(8, false);
        let offset = if read(&stale).unwrap().sequence.is_multiple_of(2) { SLOT_STRIDE_BYTES } else { 0 };
        stale[offset..offset + SLOT_BYTES]
            .copy_from_slice(&file_after(4, false)[offset..offset + SLOT_BYTES]);
        assert!(read(&stale).unwrap_err().contains("not neighbours"));

        let mut swapped = whole.clone();
        swapped[..SLOT_BYTES].copy_from_slice(&whole[SLOT_STRIDE_BYTES..]);
        swapped[SLOT_STRIDE_BYTES..].copy_from_slice(&whole[..SLOT_BYTES]);
        assert!(read(&swapped).is_err());
        assert!(read(&whole[..SLOT_BYTES - 1]).is_err());
    }

    proptest! {
        #[test]
        fn a_slot_round_trips(sequence: u64, node: u64, incarnation: u64, vote: Option<(u64, u64, bool)>,
                              durable: Option<(u64, u64)>, cluster: u64, installs: bool) {
            let mark = Mark {
                node, incarnation, cluster, installs,
                vote: vote.map(|(term, node, committed)| Vote { term, node, committed }),
                durable: durable.map(|(term, index)| LogPosition::new(term, index)),
            };
            prop_assert_eq!(decode(&encode(&mark, sequence)), Some((sequence, mark)));
        }
    }
}
