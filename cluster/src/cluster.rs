//! One node's part in the cluster: started from an environment, asked through a handle, ended in order.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::{Batch, BatchReply, ClusterMember, Reply};
use featureops_proto::peer::SecretRequest;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::entrust::settle;
use crate::environment::Environment;
use crate::facts::{Facts, coalesce};
use crate::fold::{EffectSink, Fold, Halted};
use crate::join::join;
use crate::members::{self, Change, ChangeError, MemberHealth};
use crate::options::Options;
use crate::peer::network::Network;
use crate::peer::serve::serve;
use crate::peer::service::Service;
use crate::peer::{Keyring, Peers, Receiver, Use};
use crate::proposer::{ProposeError, Proposer, Raft};
use crate::raft::types::{Peer, Runtime};
use crate::raft::{Stores, open_stores};
use crate::storage::{OpenError, SyncTimes, way_out};
use crate::survey::{Surveyed, survey};
use crate::ticker::{ClockWatch, LogTime, tick};
use crate::trim::trim;

/// Longest wait for the lanes' end at shutdown, in milliseconds.
const LANE_END_MS_MAX: u64 = 5_000;

/// Longest wait until this node holds a change that it asked for, in milliseconds.
const SEEN_MS_MAX: u64 = 1_000;
/// Longest wait for what the members share, in milliseconds.
const SECRET_MS_MAX: u64 = 2_000;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data folder was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An option is out of its range.
    #[error("options of the node: {why}")]
    Options {
        /// Which, and why.
        why: String,
    },
    /// The disk takes no writes, and what it holds cannot be served meanwhile.
    #[error(
        "{why}; nor can what it holds be read without a write ({glimpse}): {} and start again",
        way_out(why)
    )]
    NoRoom {
        /// The disk's error.
        why: String,
        /// Why nothing is served.
        glimpse: String,
    },
    /// Raft did not start.
    #[error("raft did not start: {why}; run `featureops doctor`")]
    Raft {
        /// What it said.
        why: String,
    },
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// This node.
    pub node: u64,
    /// Its cluster; 0: it is in none yet.
    pub cluster: u64,
    /// That of its data folder.
    pub incarnation: u64,
    /// Drawn when the folder was opened last: another one is another life of the node. 0: it is not open.
    pub boot: u64,
    /// Whether it has the key by which members prove who they are.
    pub peer_key: bool,
    /// Somebody calls, as a member of another cluster, for the node that was here before, in words. It is unproven.
    pub estranged: Option<String>,
    /// The members it knows, learners among them.
    pub members: Vec<MemberHealth>,
    /// What a node that is to join waits for.
    pub joins: Option<String>,
    /// Bytes of snapshots that came from peers since the start.
    pub received_bytes: u64,
    /// The leader it knows.
    pub leader: Option<u64>,
    /// Whether it leads.
    pub leads: bool,
    /// Its term.
    pub term: u64,
    /// Position of the last entry its state holds.
    pub applied: u64,
    /// Index of the last entry of its log.
    pub last_log: Option<u64>,
    /// Index up to which a snapshot is stored.
    pub snapshot: Option<u64>,
    /// Index up to which the log was purged.
    pub purged: Option<u64>,
    /// Where the fold stopped.
    pub halted: Option<Halted>,
    /// How far the wall clock is ahead of the time since start (behind it, when negative), in milliseconds, when the leader
    /// therefore ticks by the latter.
    pub clock_off_ms: Option<i64>,
    /// Median and longest time of the last syncs of the log, in milliseconds.
    pub sync_ms: Option<(u64, u64)>,
    /// The first error of the disk: nothing is acknowledged since.
    pub disk_error: Option<String>,
    /// Raft has ended, and why.
    pub stopped: Option<String>,
    /// What a node that cannot write waits for.
    pub waits: Option<Waits>,
}

/// What a node waits for whose disk failed ([`crate::member`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It opens the disk again every few seconds.
    Tries {
        /// How often it did.
        attempts: u64,
    },
    /// What it found when it did does not pass by itself.
    Person,
}

struct Running {
    tasks: Vec<JoinHandle<()>>,
    lanes: [watch::Receiver<bool>; 2],
    hold: Box<dyn Any + Send + Sync>,
}

/// A running node; clones are handles to it.
pub struct Cluster<F: Fold> {
    proposer: Proposer<F>,
    facts: Facts,
    clock: ClockWatch,
    seeds: Arc<watch::Sender<Vec<String>>>,
    joins: watch::Receiver<Option<String>>,
    receiver: Receiver,
    syncs: SyncTimes,
    running: Arc<Mutex<Option<Running>>>,
}

impl<F: Fold> Clone for Cluster<F> {
    fn clone(&self) -> Self {
        Self {
            proposer: self.proposer.clone(),
            facts: self.facts.clone(),
            clock: self.clock.clone(),
            seeds: Arc::clone(&self.seeds),
            joins: self.joins.clone(),
            receiver: self.receiver.clone(),
            syncs: self.syncs.clone(),
            running: Arc::clone(&self.running),
        }
    }
}

impl<F: Fold> Cluster<F> {
    /// Opens the disk, restores the last snapshot, replays what is known as committed, and starts raft.
    ///
    /// `genesis` is the state before the first entry; `sink` hears of every applied entry from then on, replayed ones
    /// included.
    ///
    /// # Errors
    /// See [`StartError`]; above all disk loss, which is never repaired here.
    pub async fn start(
        environment: Environment,
        options: Options,
        genesis: F,
        sink: Arc<dyn EffectSink<F>>,
    ) -> Result<Self, StartError> {
        let keyring = Keyring::open(options.peer_keys.clone());
        let keyring = keyring.map_err(|error| StartError::Options { why: format!("peer key: {error}") })?;
        let config = options.raft().map_err(|error| StartError::Options { why: error.to_string() })?;
        let Stores { log, machine, shared, faults, lanes, syncs, identity, hold } =
            open_stores(&environment, options.node, genesis, sink)?;
        shared.growth().bound(options.snapshot_after_bytes);
        let seed = environment.entropy.next_u64();
        let peers = Peers::new(environment.clone(), identity, boot_of(seed), log.lane(), keyring);
        let network = Network(peers.clone());
        let started = Runtime::scope(seed, Raft::new(options.node, Arc::new(config), network, log, machine));
        let raft = started.await.map_err(|error| {
            // Raft only repeats what the disk said.
            let failed = OpenError::of_faults(&faults);
            failed.map_or_else(|| StartError::Raft { why: error.to_string() }, StartError::from)
        })?;

        let proposer = Proposer::new(raft, peers, shared, options, faults, environment.entropy.next_u64());
        let begun = async {
            initialize(&proposer).await?;
            stand_alone(&proposer).await
        };
        if let Err(error) = begun.await {
            let running = Running { tasks: Vec::new(), lanes, hold };
            running.end(&proposer).await;
            return Err(OpenError::of_faults(proposer.faults()).map_or(error, StartError::from));
        }
        let clock = ClockWatch::start(Arc::clone(&environment.clock), proposer.options().clock_off_ms_max);
        let (facts, queue) = Facts::new(proposer.options().fact_batches_max.max(1));
        let (ticked, time) = watch::channel(LogTime::Behind);
        let mut tasks = vec![
            tokio::spawn(coalesce(proposer.clone(), queue, time)),
            tokio::spawn(tick(proposer.clone(), clock.clone(), ticked)),
            tokio::spawn(trim(proposer.clone())),
            tokio::spawn(settle(proposer.clone())),
        ];
        let seeds = watch::Sender::new(proposer.options().join.clone());
        let (awaited, joins) = watch::channel(None);
        let receiver = Receiver::default();
        if let Some(listener) = proposer.options().listener.clone() {
            let service = Service::new(proposer.clone(), facts.clone(), receiver.clone());
            tasks.push(tokio::spawn(serve(listener, service, proposer.closing())));
            tasks.push(tokio::spawn(join(proposer.clone(), seeds.subscribe(), awaited)));
        }
        let running = Arc::new(Mutex::new(Some(Running { tasks, lanes, hold })));
        Ok(Self { proposer, facts, clock, seeds: Arc::new(seeds), joins, receiver, syncs, running })
    }

    /// Makes a cluster of its own of a node that is in none: with itself as the one voter.
    ///
    /// # Errors
    /// It is in one, or raft has ended.
    pub async fn initialize(&self) -> Result<(), ChangeError> {
        self.proposer.check()?;
        let own = self.proposer.peers().identity();
        if own.cluster != 0 {
            let why = format!("node {} is in cluster {:016x} already", own.node, own.cluster);
            return Err(ChangeError::Refused { why });
        }
        let failed = |error: StartError| ChangeError::Refused { why: error.to_string() };
        found(&self.proposer).await.map_err(failed)?;
        stand_alone(&self.proposer).await.map_err(failed)
    }

    /// Tells a node that is in no cluster whom to ask, instead of whom it asked so far.
    ///
    /// # Errors
    /// It is in one.
    pub fn join(&self, seeds: Vec<String>) -> Result<(), ChangeError> {
        let own = self.proposer.peers().identity();
        if own.cluster != 0 {
            let why = format!("node {} is in cluster {:016x} already", own.node, own.cluster);
            return Err(ChangeError::Refused { why });
        }
        self.seeds.send_replace(seeds);
        Ok(())
    }

    /// What the members share and the log does not hold, as the leader holds it: handed over over loopback or TLS only.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn secret(&self) -> Result<Option<Vec<u8>>, String> {
        let leader = self.proposer.leader().filter(|leader| leader.node != self.proposer.options().node);
        let Some(leader) = leader else { return Err("no other node leads".to_owned()) };
        let peers = self.proposer.peers();
        let mut client = peers.client(&leader.address, Use::Prompt);
        let request = peers.request(&leader, SecretRequest {});
        let within = Duration::from_millis(SECRET_MS_MAX);
        let answered = peers.call(&leader, within, client.secret(request)).await;
        let response = answered.map_err(|status| status.message().to_owned())?;
        Ok(Some(response.secret).filter(|secret| !secret.is_empty()))
    }

    /// Asks every member now: whether it is reached, its release and feature level, its clock.
    pub async fn survey(&self) -> Vec<Surveyed> {
        survey(&self.proposer).await
    }

    /// Changes the membership, wherever the leader is; answers with the position from which on it is in force.
    ///
    /// # Errors
    /// It is refused, with the way out, or has no answer.
    pub async fn change(&self, change: &Change) -> Result<u64, ChangeError> {
        self.proposer.check()?;
        let position = members::change(&self.proposer, change).await?;
        // Whoever changed it here sees it here.
        let seen = self.proposer.reached(position);
        drop(tokio::time::timeout(Duration::from_millis(SEEN_MS_MAX), seen).await);
        Ok(position)
    }

    /// Waits until a leader is known, which for one voter is this node.
    ///
    /// # Errors
    /// `NotLeader` after `timeout_ms` milliseconds without one.
    pub async fn ready(&self, timeout_ms: u64) -> Result<u64, ProposeError> {
        let wait = self.proposer.raft().wait(Some(Duration::from_millis(timeout_ms)));
        let known = wait.metrics(|metrics| metrics.current_leader.is_some(), "a leader");
        let metrics = self.proposer.scoped(known).await;
        metrics
            .ok()
            .and_then(|metrics| metrics.current_leader)
            .ok_or(ProposeError::NotLeader { leader: None })
    }

    /// Proposes an encoded entry; answers with its position and the fold's reply once it is durable and applied.
    ///
    /// # Errors
    /// See [`ProposeError`]; with all but `Unknown` and `Violated` nothing was written.
    pub async fn propose(&self, entry: Bytes) -> Result<(u64, Reply), ProposeError> {
        self.proposer.propose(entry).await
    }

    /// The same as the leader, for what only a leader may say: never handed to another.
    ///
    /// # Errors
    /// As [`Cluster::propose`]; `NotLeader` when another node leads.
    pub async fn propose_here(&self, entry: Bytes) -> Result<(u64, Reply), ProposeError> {
        self.proposer.take(entry).await
    }

    /// Writes one producer's batch of facts, together with those of others.
    ///
    /// # Errors
    /// As [`Cluster::propose`]; also when the batch is over [`crate::facts::BATCH_BYTES_MAX`], and `NotReady` while the log's
    /// time has not caught up since the start.
    pub async fn ingest(&self, batch: Batch) -> Result<BatchReply, ProposeError> {
        self.facts.ingest(batch).await
    }

    /// Whether a proposal would be refused now, whatever it says.
    ///
    /// # Errors
    /// That of the proposal.
    pub fn check(&self) -> Result<(), ProposeError> {
        self.proposer.check()
    }

    /// Looks at the state of this node, as it is. Applying waits meanwhile, so be short.
    pub fn read<T>(&self, look: impl FnOnce(&F) -> T) -> T {
        self.proposer.shared().read(look)
    }

    /// The state of this node, as it is; later entries do not change it. While it is held the next entry clones the
    /// state once, so take it for long work, and [`Cluster::read`] for a look.
    #[must_use]
    pub fn frozen(&self) -> Arc<F> {
        self.proposer.shared().frozen()
    }

    /// Position of the last entry that the state holds, to be watched.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.proposer.shared().applied()
    }

    /// Waits until this node's state holds everything acknowledged anywhere before the call; answers with its position.
    ///
    /// # Errors
    /// `NotLeader`, `Halted`, `ShuttingDown` or `Stopped`.
    pub async fn linearizable(&self) -> Result<u64, ProposeError> {
        self.proposer.linearizable().await
    }

    /// Whether this node is the only one that votes: what it holds is what there is.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.proposer.raft().voter_ids().eq([self.proposer.options().node])
    }

    /// The members that are committed, and the index of the entry by which they came into force; `None` while they change.
    #[must_use]
    pub fn committed_members(&self) -> Option<(u64, Vec<ClusterMember>)> {
        members::committed(&self.proposer)
    }

    /// Asks for a snapshot now; it is taken beside everything else.
    ///
    /// # Errors
    /// `Stopped`: raft has ended.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        let trigger = self.proposer.raft().trigger();
        let asked = self.proposer.scoped(trigger.snapshot()).await;
        asked.map_err(|error| ProposeError::Stopped { why: error.to_string() })
    }

    /// How this node is, now.
    #[must_use]
    pub fn health(&self) -> Health {
        let shared = self.proposer.shared();
        // Before the metrics are held below: held twice, they wait for whoever waits to write them.
        let members = members::members(&self.proposer);
        let receiver = self.proposer.raft().metrics();
        let metrics = receiver.borrow_watched();
        let index = |id: &Option<crate::raft::types::LogId>| id.as_ref().map(openraft::LogId::index);
        let identity = self.proposer.peers().identity();
        Health {
            node: metrics.id,
            cluster: identity.cluster,
            incarnation: identity.incarnation,
            boot: self.proposer.peers().boot(),
            peer_key: self.proposer.peers().keyring().key().is_some(),
            estranged: self.proposer.peers().estranged(),
            members,
            joins: self.joins.borrow().clone(),
            received_bytes: self.receiver.bytes(),
            leader: metrics.current_leader,
            leads: metrics.state == ServerState::Leader,
            term: metrics.current_term,
            applied: *shared.applied().borrow(),
            last_log: metrics.last_log_index,
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            halted: shared.halted(),
            clock_off_ms: self.clock.off_ms(),
            sync_ms: self.syncs.median_and_longest(),
            disk_error: self.proposer.disk_error(),
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
            waits: None,
        }
    }

    /// Ends the node in order: no new proposals, facts in flight answered, raft ended, disk settled, folder unlocked.
    /// A second call finds nothing left to do.
    pub async fn shutdown(&self) {
        if self.running.lock().is_some() {
            // Before the others have to notice that this node is gone.
            members::leave(&self.proposer).await;
        }
        self.proposer.close();
        let Some(running) = self.running.lock().take() else { return };
        running.end(&self.proposer).await;
    }

    /// The error of the disk, as one of opening.
    pub(crate) fn disk_failure(&self) -> Option<OpenError> {
        OpenError::of_faults(self.proposer.faults())
    }

    /// Whether the disk failed in a way that may pass, under a fold that goes on.
    pub(crate) fn fails_passingly(&self) -> bool {
        self.disk_failure().is_some_and(|error| error.passes()) && self.proposer.shared().halted().is_none()
    }

    /// Bytes of a snapshot that could not be stored: opened with less room, it would be taken at once and fail again.
    pub(crate) fn room_wanted(&self) -> u64 {
        self.proposer.shared().growth().wanted()
    }

    /// Does `act` with the state and its position between two entries: none is applied meanwhile.
    pub(crate) fn announce(&self, act: impl FnOnce(&F, u64)) {
        self.proposer.shared().announce(act);
    }
}

impl Running {
    async fn end<F: Fold>(self, proposer: &Proposer<F>) {
        let Self { tasks, lanes, hold } = self;
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "a task of the node did not end by itself");
            }
        }
        if let Err(error) = proposer.scoped(proposer.raft().shutdown()).await {
            tracing::error!(error = %error, "raft did not end by itself");
        }
        proposer.peers().close();
        for mut lane in lanes {
            let end = lane.wait_for(|ended| *ended);
            if tokio::time::timeout(Duration::from_millis(LANE_END_MS_MAX), end).await.is_err() {
                tracing::warn!("the disk did not settle in time");
            }
        }
        drop(hold);
    }
}

/// The number of a life: from the chance that raft draws its seed from, and as good as apart from that. Never 0.
fn boot_of(seed: u64) -> u64 {
    seed.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

async fn initialize<F: Fold>(proposer: &Proposer<F>) -> Result<(), StartError> {
    let begun = proposer.scoped(proposer.raft().is_initialized()).await;
    let begun = begun.map_err(|error| StartError::Raft { why: error.to_string() })?;
    if begun {
        // A folder of before there were peers names no cluster: it is the one that it founded.
        return enter(proposer).await;
    }
    let own = proposer.peers().identity();
    if own.cluster != 0 && own.cluster == own.incarnation {
        // The start that founded it ended before the first entry: there is no such cluster, and nobody else is in it.
        tracing::warn!(
            "an earlier start began a cluster of its own and did not finish: it is begun anew, or another is joined"
        );
        proposer.peers().leave();
    }
    if proposer.options().initialize { found(proposer).await } else { Ok(()) }
}

async fn enter<F: Fold>(proposer: &Proposer<F>) -> Result<(), StartError> {
    let own = proposer.peers().identity();
    if own.cluster != 0 {
        return Ok(());
    }
    let entered = proposer.peers().enter(own.incarnation).await;
    entered.map_err(|error| StartError::Raft { why: error.to_string() })
}

/// Makes a cluster of one voter, named by its founder's incarnation.
async fn found<F: Fold>(proposer: &Proposer<F>) -> Result<(), StartError> {
    // Before the cluster: the other way round a crash would leave one of before there were keys.
    let made = proposer.peers().keyring().make(proposer.peers().environment()).await;
    made.map_err(|error| StartError::Options { why: format!("peer key: {error}") })?;
    enter(proposer).await?;
    let options = proposer.options();
    let incarnation = proposer.peers().identity().incarnation;
    let members = BTreeMap::from([(options.node, Peer { address: options.address.clone(), incarnation })]);
    let made = proposer.scoped(proposer.raft().initialize(members)).await;
    made.map_err(|error| StartError::Raft { why: error.to_string() })
}

/// The only voter need not wait for a leader it would have heard of: it stands for election at once.
async fn stand_alone<F: Fold>(proposer: &Proposer<F>) -> Result<(), StartError> {
    let raft = proposer.raft();
    if !raft.voter_ids().eq([proposer.options().node]) || raft.is_leader() {
        return Ok(());
    }
    let stood = proposer.scoped(raft.trigger().elect(false)).await;
    stood.map_err(|error| StartError::Raft { why: error.to_string() })
}
