//! The hard moments of a world: what a disk noticed of them, what the log says of them, and how often each came.
//!
//! A world in which no ledger folds proves nothing about the fold. The marks are the counts of what is rare and matters
//! ("sometimes" events): `featureops-sim` prints them, and a test fails when a few seeds reach one of them never.

use std::fmt;

use featureops_cluster::storage::{Change, LogPosition};
use prost::Message;

use crate::history::Seen;

/// Entries between a fold and a loss of power within which the one is aimed at the other.
pub const NEAR: u64 = 20;

/// Where a snapshot's manifest stands among the values, and how all its parts' names begin.
const MANIFEST: &[u8] = b"snapshot/manifest";
const SNAPSHOT: &[u8] = b"snapshot/";

/// As much of a snapshot's manifest as is needed: its place in the log.
#[derive(Clone, PartialEq, Message)]
struct Manifest {
    #[prost(message, optional, tag = "2")]
    position: Option<Place>,
}

#[derive(Clone, PartialEq, Message)]
struct Place {
    #[prost(uint64, tag = "2")]
    index: u64,
}

/// The place in the log of a snapshot, by its manifest.
#[must_use]
pub fn place_of(manifest: &[u8]) -> Option<u64> {
    Manifest::decode(manifest).ok()?.position.map(|place| place.index)
}

/// The name under which values keep the manifest.
#[must_use]
pub fn manifest_name() -> &'static [u8] {
    MANIFEST
}

/// Whether a write is part of a snapshot's.
#[must_use]
pub fn is_of_snapshot(changes: &[Change]) -> bool {
    changes.iter().any(|change| match change {
        Change::Put(name, _) | Change::Delete(name) => name.starts_with(SNAPSHOT),
        Change::DeleteRange(names) => names.start.starts_with(SNAPSHOT),
    })
}

/// How far the writing of a snapshot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writing {
    /// None is being written.
    #[default]
    No,
    /// Its first chunks are.
    Begun,
    /// Its manifest stands in this write, which no sync has covered yet.
    Sealed(u64),
}

impl Writing {
    /// After the write of this number.
    #[must_use]
    pub fn after(self, changes: &[Change], number: u64) -> Self {
        let seals = |change: &Change| matches!(change, Change::Put(name, _) if name == MANIFEST);
        if changes.iter().any(seals) {
            Self::Sealed(number)
        } else if is_of_snapshot(changes) {
            Self::Begun
        } else {
            self
        }
    }

    /// After a sync of all writes up to this number.
    #[must_use]
    pub fn synced(self, upto: u64) -> Self {
        match self {
            Self::Sealed(number) if number <= upto => Self::No,
            other => other,
        }
    }
}

/// A loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The log's last entry before it, synced or not.
    pub last: u64,
    /// A snapshot was being written.
    pub in_snapshot: bool,
}

/// A disk that a node opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Place of its snapshot, if it had one.
    pub snapshot: Option<u64>,
    /// The log's last entry.
    pub last: u64,
}

/// What one disk noticed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noticed {
    /// Losses of power under a node.
    pub losses: Vec<Lost>,
    /// Nodes that opened it.
    pub opened: Vec<Opened>,
    /// Times that a snapshot under way found no room.
    pub snapshots_without_room: u64,
    /// Snapshots of another node that were stored.
    pub installs: u64,
    /// Terms of a vote that was durable, and of the one that was found when the disk was opened, where that is older.
    pub votes_back: Vec<(u64, u64)>,
}

impl Noticed {
    /// A node opens the disk.
    pub fn open(&mut self, snapshot: Option<u64>, last: Option<LogPosition>) {
        self.opened.push(Opened { snapshot, last: last.map_or(0, |last| last.index) });
    }
}

/// How often the rare things came in one world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(Vec<(&'static str, u64)>);

impl Marks {
    /// Of all that was seen.
    #[must_use]
    pub fn of(seen: &Seen) -> Self {
        let mut marks: Vec<(&'static str, u64)> = NAMES.iter().map(|name| (*name, 0)).collect();
        let mut add = |name: &'static str, times: usize| {
            if let Some((_, all)) = marks.iter_mut().find(|(known, _)| *known == name) {
                *all = all.saturating_add(u64::try_from(times).unwrap_or(u64::MAX));
            }
        };
        for (number, noticed) in &seen.noticed {
            let Some((_, refolded)) = seen.refolded.iter().find(|(machine, _)| machine == number) else {
                continue;
            };
            let folds: Vec<u64> = refolded.folds.iter().map(|fold| fold.position).collect();
            add(FOLDED, folds.len());
            add(THINNED, refolded.thinnings.len());
            let near = |places: &[u64]| {
                let is = |lost: &&Lost| places.iter().any(|place| place.abs_diff(lost.last) <= NEAR);
                noticed.losses.iter().filter(is).count()
            };
            add(LOST_NEAR_FOLD, near(&folds));
            add(LOST_NEAR_THINNING, near(&refolded.thinnings));
            add(LOST_IN_SNAPSHOT, noticed.losses.iter().filter(|lost| lost.in_snapshot).count());
            add(NO_ROOM, usize::try_from(noticed.snapshots_without_room).unwrap_or(usize::MAX));
            let from = |held: &dyn Fn(&Opened, u64) -> bool| {
                let is = |opened: &&Opened| folds.iter().any(|fold| held(opened, *fold));
                noticed.opened.iter().filter(is).count()
            };
            add(
                FROM_BEFORE,
                from(&|opened, fold| opened.snapshot.is_some_and(|at| at < fold) && fold <= opened.last),
            );
            add(FROM_AFTER, from(&|opened, fold| opened.snapshot.is_some_and(|at| fold <= at)));
        }
        of_cluster(seen, &mut add);
        Self(marks)
    }
}

/// What only several nodes can meet.
fn of_cluster(seen: &Seen, add: &mut impl FnMut(&'static str, usize)) {
    let mut leaders: Vec<(u64, u64)> = seen
        .standings
        .iter()
        .filter(|standing| standing.leader != 0)
        .map(|standing| (standing.term, standing.leader))
        .collect();
    leaders.sort_unstable();
    leaders.dedup();
    add(LEADER_CHANGED, leaders.len().saturating_sub(1));
    let Some((_, log)) = seen.refolded.first() else { return };
    let late = || log.stamped.iter().filter(|stamped| stamped.late);
    add(STALE_OWNER, late().count());
    // It was decided before the owner moved, and came to the log after.
    let moved = |stamped: &&crate::refold::Stamped| {
        log.stamped.iter().any(|other| other.experiment == stamped.experiment && other.accepted)
    };
    add(MOVED_IN_FLIGHT, late().filter(moved).count());
    let installs = seen.noticed.iter().map(|(_, noticed)| noticed.installs).sum::<u64>();
    add(INSTALLED, usize::try_from(installs).unwrap_or(usize::MAX));
    let elsewhere = seen.reports.iter().filter(|report| {
        let again = report.answers.iter().any(|answer| answer.duplicate);
        again && report.machines.windows(2).any(|pair| matches!(pair, [one, other] if one != other))
    });
    add(DUPLICATE_ELSEWHERE, elsewhere.count());
    let brought = |what: &str| seen.stewarded.iter().filter(|done| **done == what).count();
    add(READMITTED, brought("readmitted"));
    add(REPLACED, brought("replaced"));
    let minor = seen.probes.iter().filter(|probe| probe.minor && probe.version.is_some());
    add(MINORITY, minor.count());
    add(SAID_STALE, seen.reads.iter().filter(|read| read.stale).count());
}

const LEADER_CHANGED: &str = "leader changed under load";
const STALE_OWNER: &str = "stale owner rejected";
const MOVED_IN_FLIGHT: &str = "owner moved with a decision in flight";
const INSTALLED: &str = "snapshot installed under writes";
const DUPLICATE_ELSEWHERE: &str = "duplicate refused on another node";
const READMITTED: &str = "disk loss re-admitted";
const REPLACED: &str = "node replaced by another under load";
const MINORITY: &str = "minority evaluated";
const SAID_STALE: &str = "read that said it may be stale";
const FOLDED: &str = "a ledger folded";
const THINNED: &str = "a ledger thinned";
const LOST_NEAR_FOLD: &str = "power lost near a fold";
const LOST_NEAR_THINNING: &str = "power lost near a thinning";
const LOST_IN_SNAPSHOT: &str = "power lost in a snapshot";
const NO_ROOM: &str = "no room in a snapshot";
const FROM_BEFORE: &str = "restored before a fold, folded again";
const FROM_AFTER: &str = "restored after a fold";

/// Those of ledgers, which worlds of one node meet.
pub const OF_LEDGERS: &[&str] = &[
    FOLDED,
    THINNED,
    LOST_NEAR_FOLD,
    LOST_NEAR_THINNING,
    LOST_IN_SNAPSHOT,
    NO_ROOM,
    FROM_BEFORE,
    FROM_AFTER,
];

/// Every mark.
pub const NAMES: &[&str] = &[
    FOLDED,
    THINNED,
    LOST_NEAR_FOLD,
    LOST_NEAR_THINNING,
    LOST_IN_SNAPSHOT,
    NO_ROOM,
    FROM_BEFORE,
    FROM_AFTER,
    LEADER_CHANGED,
    STALE_OWNER,
    MOVED_IN_FLIGHT,
    INSTALLED,
    DUPLICATE_ELSEWHERE,
    READMITTED,
    REPLACED,
    MINORITY,
    SAID_STALE,
];

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, times) in &self.0 {
            writeln!(f, "  mark {name}: {times} times")?;
        }
        Ok(())
    }
}
