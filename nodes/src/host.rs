//! The host: what every service of one node shares, and the one way in which they write.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use featureops_cluster::environment::{BoxFuture, Clock, Compute, Entropy};
use featureops_evaluation::UnitKey;
use featureops_proto::ErrorCode;
use featureops_proto::log::{self, BatchReply, CompiledAgainst, Done, Entry, Reply, entry, reply};
use featureops_proto::v1::Principal;
use featureops_state::State;
use prost::Message as _;
use tokio::sync::{Semaphore, oneshot, watch};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::access::Access;
use crate::access::grant::Grant;
use crate::budget::Budget;
use crate::caller;
use crate::config::Limits;
use crate::exposures::{Exposures, FactLog};
use crate::fronts::Fronts;
use crate::observation::{Observation, Proposed};
use crate::owners::Owners;
use crate::parting::Parting;
use crate::publisher::Publisher;
use crate::refusal::{self, Failure};
use crate::replica::Replica;
use crate::sent::Sent;
use crate::services;
use crate::tls::Tls;
use crate::tls::peers::PeerTls;
use crate::unit_key::{Standing, UnitKeyStore};
use crate::vital::Vital;

/// How long a write waits until evaluations see it. It is applied by then in any case; after that the answer says so.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(5);

/// What one node's services share.
pub struct Host {
    /// The replicated state and the way into its log.
    pub replica: Replica,
    /// What evaluations read.
    pub publisher: Arc<Publisher>,
    /// Implied exposures.
    pub exposures: Arc<Exposures>,
    /// By which units are hashed; facts are refused without it. A node that joins gets it later.
    pub unit_key: OnceLock<UnitKey>,
    /// Where the key is kept.
    pub keys: Arc<dyn UnitKeyStore>,
    /// Why the key could not be read, if that is why there is none.
    pub unit_key_fault: Option<String>,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for seeds that the log then carries.
    pub entropy: Arc<dyn Entropy>,
    /// What the node counts of its work.
    pub observation: Arc<Observation>,
    /// The owners that run here.
    pub owners: Owners,
    /// The bounds.
    pub limits: Limits,
    /// Whether the operating system is asked about the process; a simulated one has none of its own.
    pub observe_process: bool,
    /// Traces are exported: a request's spans go into the trace that it names.
    pub exports_traces: bool,
    /// What flagd's and OFREP's fronts share.
    pub fronts: Fronts,
    /// Who may do what.
    pub access: Arc<Access>,
    /// Certificates of the listeners; absent: plain text.
    pub tls: Option<Arc<Tls>>,
    /// Certificates between nodes; absent: plain text, on loopback.
    pub peer_tls: Option<Arc<PeerTls>>,
    /// Whether it listens for other nodes.
    pub has_peers: bool,
    /// Only loopback names reach this node.
    pub loopback_only: bool,
    /// True once a drain has begun: nothing new is taken, and streams end.
    pub drain: watch::Receiver<bool>,
    /// Asks those who are connected to go elsewhere, once a person drains this node.
    pub parting: Arc<Parting>,
    /// Where heavy work runs.
    pub compute: Arc<dyn Compute>,
    /// One piece of heavy work at a time: each may hold a copy of State.
    pub heavy: Semaphore,
    /// Log entries between two snapshots.
    pub snapshot_every_entries: u64,
    /// One backup at a time: each holds a frozen State for as long as it is taken.
    pub backups: Arc<Semaphore>,
    /// Bytes of requests in flight.
    pub budget: Arc<Budget>,
    /// Tasks the node cannot do without.
    pub vital: Arc<Vital>,
}

/// A command and how it is to be proposed.
pub struct Write<'a> {
    /// Whence it comes, and what was asked for.
    pub from: &'a Sent,
    /// The caller's request id.
    pub request_id: &'a str,
    /// Only say what would happen.
    pub validate_only: bool,
    /// What to do.
    pub command: entry::Command,
}

impl Host {
    /// Proposes a command, waits until it is applied and published here, and reads the answer from State.
    ///
    /// # Errors
    /// The caller's name or request id is malformed, the fold refused, or there was no answer.
    pub async fn write<T>(
        &self,
        write: Write<'_>,
        read: impl FnOnce(&State, &Done) -> Option<T>,
    ) -> Result<T, Status> {
        self.write_compiled(write, None, read).await
    }

    /// As [`Host::write`], of a command that was compiled against what the fold then checks.
    ///
    /// # Errors
    /// As there; [`refusal::is_moved`] when that has changed since: compile it again.
    pub async fn write_compiled<T>(
        &self,
        write: Write<'_>,
        compiled_against: Option<CompiledAgainst>,
        read: impl FnOnce(&State, &Done) -> Option<T>,
    ) -> Result<T, Status> {
        let entry = Entry {
            principal: Some(self.principal(write.from)?),
            request_id: services::request_id(write.request_id)?,
            owner: None,
            compiled_against,
            sent_hash: write.from.hash,
            command: Some(write.command),
        };
        self.accepts_writes()?;
        if write.validate_only {
            // What would happen now, where nothing can be written, is that.
            self.replica.accepts_writes()?;
            return self.rehearse(entry, read).await;
        }
        let (position, done) = self.propose(&entry).await?;
        if !self.publisher.reach(position, PUBLISH_PATIENCE).await {
            return Err(Failure::Unseen(services::position(position)).into());
        }
        self.replica.read(|state| read(state, &done)).ok_or_else(|| vanished(&done))
    }

    /// In whose name a command comes: the token's, verified; or, while there is no token, as the caller names itself.
    ///
    /// # Errors
    /// The caller's name is malformed, or it shows no token where there are some.
    pub fn principal(&self, from: &Sent) -> Result<Principal, Status> {
        self.principal_of(from.grant.as_ref(), &from.metadata)
    }

    /// As [`Host::principal`], of what a request was let in as and its metadata.
    ///
    /// # Errors
    /// As there.
    pub fn principal_of(
        &self,
        grant: Option<&Arc<Grant>>,
        metadata: &MetadataMap,
    ) -> Result<Principal, Status> {
        match grant.map(|grant| grant.principal()) {
            Some(Some(principal)) => Ok(principal.clone()),
            None if self.access.is_open() => caller::principal(metadata),
            _ => Err(crate::access::no_token()),
        }
    }

    /// Log time as this node's evaluations see it.
    #[must_use]
    pub fn log_time_ms(&self) -> i64 {
        self.publisher.load().snapshot.log_time_ms()
    }

    /// Proposes an entry and waits for the fold's answer.
    ///
    /// # Errors
    /// The fold refused, or there was no answer.
    pub async fn propose(&self, entry: &Entry) -> Result<(u64, Done), Status> {
        let span = tracing::debug_span!("propose");
        let proposed = self.replica.propose(entry.encode_to_vec());
        let (position, reply) = match tracing::Instrument::instrument(proposed, span).await {
            Ok(answered) => answered,
            Err(failure) => {
                self.observation.proposed(match failure {
                    Failure::Unknown(_) => Proposed::Unknown,
                    _ => Proposed::Failed,
                });
                return Err(failure.into());
            }
        };
        let outcome = outcome(reply);
        self.observation.proposed(if outcome.is_ok() { Proposed::Done } else { Proposed::Refused });
        Ok((position, outcome?))
    }

    /// Applies an entry to a copy of State: exactly what the fold would say, and nothing stays.
    async fn rehearse<T>(
        &self,
        entry: Entry,
        read: impl FnOnce(&State, &Done) -> Option<T>,
    ) -> Result<T, Status> {
        if !entry.request_id.is_empty() {
            let bytes = entry.encode_to_vec();
            let used = self.replica.read(|state| state.used_for_other(&bytes));
            if let Ok(Some(refusal)) = used {
                return outcome(Reply { result: Some(reply::Result::Refusal(refusal)) })
                    .and_then(|done| Err(vanished(&done)));
            }
        }
        // A repeated id would answer the first reply, not say what would happen now.
        let entry = Entry { request_id: String::new(), ..entry }.encode_to_vec();
        let replica = self.replica.clone();
        let rehearsed = self.beside(move || {
            let mut state = replica.copy();
            let position = state.position().saturating_add(1);
            let applied = state.apply(position, &entry, &mut Vec::new());
            (state, applied)
        });
        let (state, applied) = rehearsed.await?;
        let reply = applied.map_err(|violation| {
            Status::internal(format!("the command would stop the fold: {}", violation.detail))
        })?;
        let answer = outcome(reply).and_then(|done| read(&state, &done).ok_or_else(|| vanished(&done)));
        // Letting go of a copy takes as long as making it.
        self.beside(move || drop(state)).await?;
        answer
    }

    /// Runs heavy work off the event loop, one piece at a time.
    ///
    /// # Errors
    /// It panicked.
    pub async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let _one = self.heavy.acquire().await;
        let (sender, receiver) = oneshot::channel();
        self.compute.run(Box::new(move || drop(sender.send(work())))).await;
        receiver.await.map_err(|_| Status::internal("the work behind this request did not finish"))
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Waits for a drain to begin, of the process or by a person's word.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        drained(self.drain.clone(), &self.parting)
    }

    /// Waits for the drain of the process to begin; a person's is nothing to it.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        ended(self.drain.clone())
    }

    /// Whether a person drains this member of the cluster. It answers, and wants no new clients.
    #[must_use]
    pub fn is_drained_by_person(&self) -> bool {
        let node = self.replica.health().node;
        self.replica.read(|state| state.liveness_of(node).is_some_and(|record| record.draining))
    }

    /// Refuses while a drain is under way.
    ///
    /// # Errors
    /// It is.
    pub fn accepts_writes(&self) -> Result<(), Status> {
        if self.is_draining() {
            return Err(Failure::Halted("this node is draining".to_owned()).into());
        }
        Ok(())
    }

    /// How this node's unit key stands to the cluster's.
    pub fn unit_key_standing(&self) -> Standing {
        match self.publisher.load().unit_key_id {
            Some(wanted) => Standing::of(self.unit_key.get(), wanted),
            None => Standing::Unasked,
        }
    }

    /// The unit key, if it is the cluster's. Reads what is published: no lock stands in a fact's way.
    ///
    /// # Errors
    /// It is missing or another's; facts are refused then.
    pub fn unit_key(&self) -> Result<&UnitKey, Status> {
        match (self.unit_key.get(), self.unit_key_standing()) {
            (Some(key), Standing::Good) => Ok(key),
            (_, Standing::Unasked) => Err(refusal::coded(
                ErrorCode::NotInitialized,
                "the cluster has no identity yet; facts are taken once this node has joined or started it",
            )),
            (_, standing) => Err(refusal::coded(
                ErrorCode::WrongUnitKey,
                format!("{}; {}", standing.fault(), Standing::REMEDY),
            )),
        }
    }
}

/// Waits for either drain to begin.
pub(crate) fn drained(
    drain: watch::Receiver<bool>,
    parting: &Parting,
) -> impl Future<Output = ()> + Send + use<> {
    let (ended, parting) = (ended(drain), parting.asked());
    async move {
        tokio::select! {
            biased;
            () = ended => {}
            () = parting => {}
        }
    }
}

/// Waits for the drain of the process to begin.
pub(crate) async fn ended(mut drain: watch::Receiver<bool>) {
    // Nobody left to begin it is as good as begun.
    let _ = drain.wait_for(|drains| *drains).await;
}

/// The fact log of a host: the replica's coalescer.
pub struct ReplicaFacts(pub Replica);

impl FactLog for ReplicaFacts {
    fn record(&self, batch: log::Batch) -> BoxFuture<'static, Result<BatchReply, Failure>> {
        let replica = self.0.clone();
        Box::pin(async move { replica.record(batch).await })
    }
}

fn outcome(reply: log::Reply) -> Result<Done, Status> {
    match reply.result {
        Some(reply::Result::Done(done)) => Ok(done),
        Some(reply::Result::Refusal(refusal)) => Err(refusal::refused(&refusal)),
        Some(reply::Result::Ingested(_)) | None => {
            Err(Status::internal("apply answered with no outcome of a command"))
        }
    }
}

/// A command took effect on something that was gone before it could be read.
fn vanished(done: &Done) -> Status {
    refusal::not_found("name", &done.name)
}
