//! A data folder that begins with a state: the first snapshot of a cluster that another one's backup founds.
//!
//! ```text
//!   folder empty? ── marker `restoring` ── marks (new cluster, alone, a vote) ── snapshot ── synced ── marker gone
//!                        └─ found at a start: refused; found by a restore: what lies there is removed, and it begins again
//! ```
//!
//! The node finds what it would find after it had installed a peer's snapshot: an empty log behind it, itself as the one
//! voter. The new cluster is named by the folder's incarnation, so nodes of the old one refuse it, and it them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::environment::Environment;
use crate::raft::snapshots::Snapshots;
use crate::raft::types::{Membership, Peer, SnapshotMeta, StoredMembership, log_id};
use crate::storage::folder::{Folder, Restoring};
use crate::storage::{Disk, LaneFuture, LogLane, LogPosition, OpenError, Storage, ValueLane, Vote};

/// How often, and how long between two times, it is tried to open what was closed just now: four flushes.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The term of the one entry that the snapshot stands for; whoever stands for election goes beyond it.
const TERM: u64 = 1;

/// What a data folder begins with.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The node's number.
    pub node: u64,
    /// Of the folder, and the new cluster's name; not 0.
    pub incarnation: u64,
    /// Where its peers will reach it; the node corrects it when it starts at another address.
    pub address: String,
    /// Of the state.
    pub position: u64,
    /// As the fold encodes it.
    pub state: Bytes,
}

/// Refuses a folder that holds anything but what a restore that was cut off left.
///
/// # Errors
/// What lies there, or the operating system's.
pub fn check_empty(folder: &Path) -> Result<(), OpenError> {
    Restoring::check(folder)
}

/// Makes a data folder that begins with a state. `beside` is done before the folder counts as whole: for what lies beside the
/// log and the snapshot.
///
/// # Errors
/// The folder is not empty, or cannot be written. What was made so far is marked as unfinished.
pub async fn found(
    environment: &Environment,
    folder: &Path,
    beginning: Beginning,
    beside: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), OpenError> {
    let restoring = Restoring::begin(folder)?;
    let Beginning { node, incarnation, address, position, state } = beginning;
    let storage = Folder::restoring(folder);
    let Disk { log, values, marks, hold } = storage.open(node, incarnation)?;
    let (log_lane, log_future) = LogLane::open(log, marks);
    let (value_lane, value_future) = ValueLane::open(Arc::clone(&values));
    let mut ends = Vec::new();
    for (name, lane) in [("log-commit", log_future), ("value-commit", value_future)] {
        let (ended, end) = tokio::sync::oneshot::channel();
        let lane: LaneFuture = Box::pin(async move {
            lane.await;
            let _ = ended.send(());
        });
        storage.spawn(name, lane).map_err(|error| OpenError::io(name, error))?;
        ends.push(end);
    }
    let snapshots = Snapshots::new(values, value_lane.clone());
    let written = async {
        // As for a peer's snapshot: it stands beside an empty log.
        log_lane.installs().await?;
        log_lane.enter(incarnation).await?;
        log_lane.vote(Vote { term: TERM, node, committed: false }).await?;
        let last = log_id(LogPosition::new(TERM, position));
        let members = BTreeMap::from([(node, Peer { address, incarnation })]);
        let membership = Membership::new(vec![[node].into()], members).map_err(std::io::Error::other)?;
        let last_membership = StoredMembership::new(Some(last), membership);
        snapshots.save(&SnapshotMeta { last_log_id: Some(last), last_membership }, state).await?;
        log_lane.settle().await
    };
    let written = written.await;
    drop((snapshots, value_lane, log_lane));
    for end in ends {
        let _ = end.await;
    }
    drop(hold);
    written.map_err(|error| OpenError::io(folder.display(), error))?;
    opens(environment, folder, node, incarnation).await?;
    beside().map_err(|error| OpenError::io(folder.display(), error))?;
    restoring.finish()
}

/// Opens the folder as a start will. It is this process that may hold the lock of its values still: what was closed is let go of
/// with the next flush, and is told from another process's only in words. The folder's own lock keeps others out.
async fn opens(
    environment: &Environment,
    folder: &Path,
    node: u64,
    incarnation: u64,
) -> Result<(), OpenError> {
    let mut tries = 0;
    loop {
        let path = folder.to_owned();
        let opened =
            environment.run(move || Folder::restoring(&path).open(node, incarnation).map(drop)).await;
        let panicked = || OpenError::io(folder.display(), std::io::Error::other("opening it panicked"));
        match opened.unwrap_or_else(|| Err(panicked())) {
            Err(error) if tries < LOCK_TRIES && error.to_string().contains("could not acquire lock") => {
                tries += 1;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}
