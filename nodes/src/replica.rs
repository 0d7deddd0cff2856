//! The replica: this node's copy of the state and its way into the log. Alone proposes and reads.

use featureops_cluster::{Health, Member, ProposeError};
use featureops_proto::log::{Batch, BatchReply, Reply};
use featureops_state::State;
use tracing::Instrument as _;

use crate::publisher::Source;
use crate::refusal::Failure;

/// A handle to the replica; clones are the same replica.
#[derive(Clone)]
pub struct Replica(Member<State>);

impl Replica {
    /// The replica of a started member of the cluster.
    #[must_use]
    pub fn new(member: Member<State>) -> Self {
        Self(member)
    }

    /// Proposes an encoded entry; answers once it is durable and applied here.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn propose(&self, entry: Vec<u8>) -> Result<(u64, Reply), Failure> {
        self.0.propose(entry.into()).await.map_err(failure)
    }

    /// The same as the leader, for what only a leader may say: never handed to another.
    ///
    /// # Errors
    /// There was no answer, or this node does not lead.
    pub async fn propose_here(&self, entry: Vec<u8>) -> Result<(u64, Reply), Failure> {
        self.0.propose_here(entry.into()).await.map_err(failure)
    }

    /// Refuses as a write would be refused now.
    ///
    /// # Errors
    /// That of the write.
    pub fn accepts_writes(&self) -> Result<(), Failure> {
        self.0.check().map_err(failure)
    }

    /// Records one producer's batch, together with those of others.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn record(&self, batch: Batch) -> Result<BatchReply, Failure> {
        let span = tracing::debug_span!("record", events = batch.exposures.len() + batch.outcomes.len());
        self.0.ingest(batch).instrument(span).await.map_err(failure)
    }

    /// Looks at the state. Applying waits meanwhile, so be short.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.0.read(look)
    }

    /// A copy of the state as it is now, for a look that takes its time.
    #[must_use]
    pub fn copy(&self) -> State {
        State::clone(&self.0.frozen())
    }

    /// Waits until the state here holds everything acknowledged anywhere before the call.
    ///
    /// # Errors
    /// Nobody can say what that is: there is no leader with a majority.
    pub async fn current(&self) -> Result<(), Failure> {
        self.0.linearizable().await.map(drop).map_err(failure)
    }

    /// The member of the cluster behind it.
    #[must_use]
    pub fn member(&self) -> &Member<State> {
        &self.0
    }

    /// How the log and the fold are.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.health()
    }

    /// Ends the replica in order: disk settled, folder unlocked.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl Source for Replica {
    fn with(&self, read: &mut dyn FnMut(&State)) {
        self.0.read(read);
    }
}

pub(crate) fn failure(error: ProposeError) -> Failure {
    match error {
        ProposeError::NotLeader { leader: Some(leader) } => {
            Failure::NotLeader(format!("node {leader} leads"))
        }
        ProposeError::NotLeader { leader: None } => Failure::NotLeader("no leader is known".to_owned()),
        ProposeError::NotReady { why } => Failure::NotReady(why),
        ProposeError::Unknown { why } => Failure::Unknown(why),
        // The entry is in the log: never "nothing was written".
        ProposeError::Violated(_) => Failure::Unknown(error.to_string()),
        ProposeError::Overloaded { what, bound } => {
            Failure::Overloaded(format!("{what} in flight are at their bound of {bound}"))
        }
        ProposeError::TooLarge { bytes, bytes_max } => {
            Failure::TooLarge(format!("the command has {bytes} bytes, over the bound of {bytes_max}"))
        }
        ProposeError::Halted(halted) => Failure::Halted(halted.to_string()),
        ProposeError::Waiting { why } => Failure::Halted(format!(
            "this node takes no writes until its disk does ({why}); it opens the disk again by itself every few seconds: make \
             room, then repeat this"
        )),
        ProposeError::ShuttingDown => Failure::Halted("this node is shutting down".to_owned()),
        ProposeError::Stopped { why } => Failure::Halted(format!("this node stopped writing: {why}")),
    }
}
