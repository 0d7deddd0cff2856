//! openraft's state machine over the pure fold.
//!
//! A violation stops the fold, never the process: the state stays at the entry before, later entries are answered with
//! [`Answer::Halted`], reads go on, and no snapshot is taken beyond the stop, so that a restart meets the same entry again.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::growth::Growth;
use super::snapshots::Snapshots;
use super::types::{Answer, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::environment::Environment;
use crate::fold::{EffectSink, Fold, Halted, Violation};
use crate::storage::{LogLane, Marks};

/// The state and what is known of it, shared between the path that applies and everyone who reads.
pub struct Shared<F> {
    state: RwLock<Arc<F>>,
    applied: watch::Sender<u64>,
    halted: Mutex<Option<Halted>>,
    growth: Growth,
}

impl<F: Fold> Shared<F> {
    /// The state before the first entry.
    #[must_use]
    pub fn new(genesis: F) -> Self {
        Self {
            state: RwLock::new(Arc::new(genesis)),
            applied: watch::Sender::new(0),
            halted: Mutex::new(None),
            growth: Growth::default(),
        }
    }

    /// Looks at the state; applying waits meanwhile, so be short.
    pub fn read<T>(&self, look: impl FnOnce(&F) -> T) -> T {
        look(&self.state.read())
    }

    /// Does `act` with the state and its position between two entries.
    pub(crate) fn announce(&self, act: impl FnOnce(&F, u64)) {
        let state = self.state.write();
        let position = *self.applied.borrow();
        act(&state, position);
    }

    /// The state as it is now; later entries do not change it.
    pub fn frozen(&self) -> Arc<F> {
        Arc::clone(&self.state.read())
    }

    /// Position of the last entry applied.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(crate) fn growth(&self) -> &Growth {
        &self.growth
    }

    /// Where the fold stopped, if it did.
    pub fn halted(&self) -> Option<Halted> {
        self.halted.lock().clone()
    }
}

/// The state machine of one node.
pub struct Machine<F: Fold> {
    shared: Arc<Shared<F>>,
    sink: Arc<dyn EffectSink<F>>,
    snapshots: Snapshots,
    marks: Arc<dyn Marks>,
    lane: LogLane,
    environment: Environment,
    /// What openraft has handed over, folded or not.
    seen: Option<LogId>,
    /// What the state holds.
    folded: Option<LogId>,
    membership: StoredMembership,
    /// The membership as of `folded`.
    folded_membership: StoredMembership,
}

impl<F: Fold> Machine<F> {
    /// A machine that applies into `shared`. Through `lane` the marks learn of snapshots that come from peers.
    #[must_use]
    pub fn new(
        shared: Arc<Shared<F>>,
        sink: Arc<dyn EffectSink<F>>,
        snapshots: Snapshots,
        (marks, lane): (Arc<dyn Marks>, LogLane),
        environment: Environment,
    ) -> Self {
        Self {
            shared,
            sink,
            snapshots,
            marks,
            lane,
            environment,
            seen: None,
            folded: None,
            membership: StoredMembership::default(),
            folded_membership: StoredMembership::default(),
        }
    }

    fn fold(&self, position: u64, entry: &[u8]) -> Answer {
        let mut effects = Vec::new();
        let mut state = self.shared.state.write();
        // A snapshot being written holds the old state; then, and only then, the state is cloned here.
        let next = Arc::make_mut(&mut state);
        let applied =
            std::panic::catch_unwind(AssertUnwindSafe(|| next.apply(position, entry, &mut effects)));
        let violation = match applied {
            Ok(Ok(reply)) => {
                // Still under the state's lock: whoever reads this state finds the sink told of it.
                self.sink.applied(next, position, &effects);
                return Answer::Reply(reply);
            }
            Ok(Err(violation)) => violation,
            Err(_) => Violation {
                invariant: "fold".to_owned(),
                detail: "applying the entry panicked; the state may hold a part of it".to_owned(),
            },
        };
        let halted = Halted { position, violation };
        tracing::error!(position, violation = %halted.violation, "the fold stopped");
        *self.shared.halted.lock() = Some(halted.clone());
        Answer::Halted(halted)
    }

    fn apply_one(&mut self, entry: super::types::Entry) -> Answer {
        let index = entry.log_id.index();
        self.seen = Some(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = StoredMembership::new(self.seen, membership.clone());
        }
        let bytes = match &entry.payload {
            EntryPayload::Normal(proposal) => proposal.0.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        let answer = match (self.shared.halted(), entry.payload) {
            (Some(halted), _) => Answer::Halted(halted),
            (None, EntryPayload::Normal(proposal)) => self.fold(index, &proposal.0),
            (None, EntryPayload::Blank | EntryPayload::Membership(_)) => Answer::Nothing,
        };
        if !matches!(answer, Answer::Halted(_)) {
            self.folded = self.seen;
            self.folded_membership = self.membership.clone();
            self.shared.applied.send_replace(index);
            self.shared.growth.applied(index, bytes);
        }
        answer
    }
}

/// Takes one snapshot of a state that no longer changes.
pub struct Builder<F> {
    state: Arc<F>,
    shared: Arc<Shared<F>>,
    /// Bytes of the entries that the state holds.
    bytes: u64,
    meta: SnapshotMeta,
    snapshots: Snapshots,
    environment: Environment,
}

impl<F: Fold> RaftSnapshotBuilder<Types> for Builder<F> {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let state = Arc::clone(&self.state);
        let encoded = self.environment.run(move || Bytes::from(state.encode())).await;
        let encoded = encoded.ok_or_else(|| io::Error::other("encoding the state panicked"))?;
        if let Err(error) = self.snapshots.save(&self.meta, encoded.clone()).await {
            self.shared.growth.not_stored(encoded.len() as u64);
            return Err(error);
        }
        let index = self.meta.last_log_id.map_or(0, |id| id.index());
        self.shared.growth.stored(index, self.bytes, encoded.len() as u64);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: encoded })
    }
}

impl<F: Fold> RaftStateMachine<Types> for Machine<F> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder<F>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.seen, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let answer = self.apply_one(entry);
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<F>> {
        // A stopped fold has nothing new to say, and its log must stay to be looked at.
        if self.shared.halted().is_some() && !force {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<F> {
        Builder {
            state: self.shared.frozen(),
            shared: Arc::clone(&self.shared),
            bytes: self.shared.growth.bytes(),
            meta: SnapshotMeta { last_log_id: self.folded, last_membership: self.folded_membership.clone() },
            snapshots: self.snapshots.clone(),
            environment: self.environment.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let bytes = snapshot.clone();
        let snapshot_bytes = snapshot.len() as u64;
        let decoded = self.environment.run(move || F::decode(&bytes)).await;
        let invalid =
            |why| io::Error::new(io::ErrorKind::InvalidData, format!("snapshot of the state: {why}"));
        let mut state = decoded.unwrap_or_else(|| Err("decoding it panicked".to_owned())).map_err(invalid)?;
        self.shared.read(|before| state.adopt(before)).map_err(invalid)?;
        // Before it is stored: one that stands beside an empty log is else taken for what is left of a lost one.
        if self.snapshots.is_new(meta)? && !self.marks.current().installs {
            self.lane.installs().await?;
        }
        self.snapshots.save(meta, snapshot).await?;
        self.seen = meta.last_log_id;
        self.folded = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.folded_membership = meta.last_membership.clone();
        *self.shared.halted.lock() = None;
        let position = meta.last_log_id.map_or(0, |id| id.index());
        {
            let mut current = self.shared.state.write();
            *current = Arc::new(state);
            self.sink.installed(&current, position);
        }
        self.shared.applied.send_replace(position);
        self.shared.growth.installed(snapshot_bytes);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.snapshots.current(&self.environment).await
    }
}
