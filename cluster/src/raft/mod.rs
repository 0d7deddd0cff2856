//! openraft's ports over this room's: types, log store, state machine, snapshots. Its network is [`crate::peer`].
//!
//! No type of openraft's leaves this crate, so that one of its alphas is this crate's work and nobody else's.

pub(crate) mod growth;
pub mod log_store;
pub mod machine;
pub mod record;
pub mod snapshots;
pub mod types;

use std::any::Any;
use std::sync::Arc;

use crate::environment::Environment;
use crate::fold::{EffectSink, Fold};
use crate::storage::{Disk, Fault, LaneFuture, LogLane, OpenError, SyncTimes, ValueLane};
use log_store::LogStore;
use machine::{Machine, Shared};
use snapshots::Snapshots;
use tokio::sync::watch;

/// Who a node is, as its folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster; 0: in none yet.
    pub cluster: u64,
    /// Its number.
    pub node: u64,
    /// Drawn when the folder was made.
    pub incarnation: u64,
}

/// What openraft runs on, over one opened disk.
pub struct Stores<F: Fold> {
    /// Log and votes.
    pub log: LogStore,
    /// The fold.
    pub machine: Machine<F>,
    /// The fold's state, for readers.
    pub shared: Arc<Shared<F>>,
    /// First error of the log's and of the values' lane.
    pub faults: [Fault; 2],
    /// True once a lane has ended and let go of the disk.
    pub lanes: [watch::Receiver<bool>; 2],
    /// How long the log takes to be durable.
    pub syncs: SyncTimes,
    /// Who this node is.
    pub identity: Identity,
    /// Keeps the data folder locked.
    pub hold: Box<dyn Any + Send + Sync>,
}

/// Opens the disk of `node` and puts openraft's ports over it.
///
/// # Errors
/// See [`OpenError`]; also when the log was purged further than the stored snapshot reaches, or a snapshot is stored and
/// nothing was ever marked as acknowledged.
pub fn open_stores<F: Fold>(
    environment: &Environment,
    node: u64,
    genesis: F,
    sink: Arc<dyn EffectSink<F>>,
) -> Result<Stores<F>, OpenError> {
    let Disk { log, values, marks, hold } =
        environment.storage.open(node, environment.entropy.next_u64().max(1))?;
    let (log_lane, log_future, syncs) =
        LogLane::open_timed(Arc::clone(&log), Arc::clone(&marks), Arc::clone(&environment.clock));
    let (value_lane, value_future) = ValueLane::open(Arc::clone(&values));
    let snapshots = Snapshots::new(values, value_lane.clone());
    let snapshot = snapshots.load().map_err(|error| OpenError::loss("values", "snapshot", error))?;
    let reached = snapshot.and_then(|snapshot| snapshot.meta.last_log_id).map(|id| types::position(&id));
    let purged = log.extent().purged;
    if purged > reached {
        let text = |position: Option<crate::storage::LogPosition>| {
            position.map_or_else(|| "nothing".to_owned(), |position| position.to_string())
        };
        let why = format!(
            "the log was purged up to {}, the stored snapshot reaches {}",
            text(purged),
            text(reached)
        );
        return Err(OpenError::loss("values", "snapshot", why));
    }
    // A snapshot is of acknowledged entries, and whatever was acknowledged is marked; that of a peer is announced first.
    let mark = marks.current();
    if let Some(reached) = reached
        && mark.durable.is_none()
        && !mark.installs
    {
        let why = format!(
            "the stored snapshot reaches {reached}, and no position was ever marked as acknowledged: log and marks are \
             not the ones it was taken beside"
        );
        return Err(OpenError::loss("log", "start", why));
    }
    let spawn = |name, lane: LaneFuture| {
        let (ended, end) = watch::channel(false);
        let lane = async move {
            lane.await;
            ended.send_replace(true);
        };
        environment.storage.spawn(name, Box::pin(lane)).map_err(|error| OpenError::io(name, error))?;
        Ok::<_, OpenError>(end)
    };
    let lanes = [spawn("log-commit", log_future)?, spawn("value-commit", value_future)?];
    let shared = Arc::new(Shared::new(genesis));
    let faults = [log_lane.fault(), value_lane.fault()];
    let identity = Identity { cluster: mark.cluster, node, incarnation: mark.incarnation };
    let told = (Arc::clone(&marks), log_lane.clone());
    let machine = Machine::new(Arc::clone(&shared), sink, snapshots, told, environment.clone());
    let log = LogStore::new(log, marks, log_lane);
    Ok(Stores { log, machine, shared, faults, lanes, syncs, identity, hold })
}
