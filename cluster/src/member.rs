//! A member: a node's part in the cluster that outlives its disk's failures.
//!
//! ```text
//!   start ──> opened ──────────────────────────> writes and reads
//!     │          ^                                    │ the disk fails
//!     │ no room  │ probe, open, lead, catch up        v
//!     └──> glimpse ──> reads what is held <── reads what was held; every write is refused, with the reason
//! ```
//!
//! A failed write or sync is final for what was opened ([`crate::storage::lane`]): nothing is acknowledged on it again. So
//! the whole of it is ended and opened anew, as a restart of the process would, with every check of a start. What was
//! acknowledged is on the disk and comes back; what was in flight was answered `Unknown`, and is there or not.
//!
//! Readers see no step back: the state before stays in place until the new one leads and holds all of its log. The sink
//! hears nothing of the new one's replay; at the moment of the change it is told that the whole state was replaced.
//!
//! What cannot pass by itself is not tried again: lost or damaged data, another process in the folder, a fold that
//! stopped at a violation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::{Batch, BatchReply, ClusterMember, Reply};
use openraft::EntryPayload;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, Health, StartError, Waits};
use crate::environment::Environment;
use crate::fold::{EffectSink, Fold, Halted};
use crate::members::{Change, ChangeError};
use crate::options::Options;
use crate::proposer::ProposeError;
use crate::raft::types::Proposal;
use crate::raft::{record, snapshots};
use crate::storage::OpenError;
use crate::survey::Surveyed;

/// How often the disk's errors are looked at, in milliseconds.
const LOOK_MS: u64 = 250;
/// Time between two attempts to open again, in milliseconds.
const RETRY_MS: u64 = 3_000;
/// How long an attempt waits for a leader, in milliseconds.
const LEADER_MS_MAX: u64 = 10_000;

/// What a member reads and writes at present.
#[allow(clippy::large_enum_variant, reason = "there is one of a node, and it is never moved about")]
enum Standing<F: Fold> {
    /// Opened.
    Open(Cluster<F>),
    /// Not opened: the last state, and how the node was.
    Waiting { state: Arc<F>, health: Box<Health> },
}

struct Inner<F: Fold> {
    standing: RwLock<Standing<F>>,
    environment: Environment,
    options: Options,
    genesis: F,
    sink: Arc<dyn EffectSink<F>>,
    closing: watch::Sender<bool>,
    /// Whom it was told to ask since its start.
    seeds: Mutex<Option<Vec<String>>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// A handle to a member; clones are the same member.
pub struct Member<F: Fold>(Arc<Inner<F>>);

impl<F: Fold> Clone for Member<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Passes on what is told from the moment at which readers see this state.
struct Gate<F: Fold> {
    open: AtomicBool,
    sink: Arc<dyn EffectSink<F>>,
}

impl<F: Fold> EffectSink<F> for Gate<F> {
    fn applied(&self, state: &F, position: u64, effects: &[F::Effect]) {
        if self.open.load(Ordering::Acquire) {
            self.sink.applied(state, position, effects);
        }
    }

    fn installed(&self, state: &F, position: u64) {
        if self.open.load(Ordering::Acquire) {
            self.sink.installed(state, position);
        }
    }
}

fn passes(error: &StartError) -> bool {
    matches!(error, StartError::Open(open) if open.passes())
}

impl<F: Fold> Member<F> {
    /// Starts, and waits for a leader, a bounded time. On a disk that cannot be written it reads what the disk holds, and
    /// takes writes as soon as there is room.
    ///
    /// # Errors
    /// As [`Cluster::start`]; that of a disk without room only when it holds no state to read either.
    pub async fn start(
        environment: Environment,
        options: Options,
        genesis: F,
        sink: Arc<dyn EffectSink<F>>,
    ) -> Result<Self, StartError> {
        let inner = |standing, environment, options, genesis, sink| {
            Self(Arc::new(Inner {
                standing: RwLock::new(standing),
                environment,
                options,
                genesis,
                sink,
                closing: watch::Sender::new(false),
                seeds: Mutex::new(None),
                keeper: Mutex::new(None),
            }))
        };
        let opened = open(&environment, &options, &genesis, Arc::clone(&sink), 0).await;
        let member = match opened {
            Ok(cluster) => inner(Standing::Open(cluster), environment, options, genesis, sink),
            Err(error) if !passes(&error) => return Err(error),
            Err(error) => {
                let (node, first) = (options.node, genesis.clone());
                let read = environment.clone();
                let glimpsed = environment.run(move || glimpse(&read, node, first)).await;
                let (state, position, halted) = match glimpsed {
                    Some(Ok(held)) if held.1 > 0 => held,
                    Some(Err(fault @ OpenError::Io { .. })) => {
                        return Err(StartError::NoRoom {
                            why: error.to_string(),
                            glimpse: fault.to_string(),
                        });
                    }
                    Some(Err(fault)) => return Err(fault.into()),
                    _ => return Err(error),
                };
                tracing::error!(error = %error, position, "the disk takes no writes; serving what it holds");
                let health = Health {
                    node,
                    applied: position,
                    halted,
                    disk_error: Some(error.to_string()),
                    waits: Some(Waits::Tries { attempts: 1 }),
                    ..Health::default()
                };
                let state = Arc::new(state);
                sink.installed(&state, position);
                let health = Box::new(health);
                inner(Standing::Waiting { state, health }, environment, options, genesis, sink)
            }
        };
        let keeper = tokio::spawn(keep(member.clone()));
        *member.0.keeper.lock() = Some(keeper);
        Ok(member)
    }

    /// The opened cluster, or why there is none now.
    fn opened(&self) -> Result<Cluster<F>, ProposeError> {
        if *self.0.closing.borrow() {
            return Err(ProposeError::ShuttingDown);
        }
        match &*self.0.standing.read() {
            Standing::Open(cluster) => Ok(cluster.clone()),
            Standing::Waiting { health, .. } => Err(match &health.halted {
                Some(halted) => ProposeError::Halted(halted.clone()),
                None => ProposeError::Waiting { why: health.disk_error.clone().unwrap_or_default() },
            }),
        }
    }

    /// A cluster that ends for its disk's sake is not a node that ends.
    fn ended(&self, error: ProposeError) -> ProposeError {
        match error {
            ProposeError::ShuttingDown if !*self.0.closing.borrow() => {
                ProposeError::Waiting { why: "the disk failed".to_owned() }
            }
            ProposeError::Stopped { why } => ProposeError::Waiting { why },
            error => error,
        }
    }

    /// As [`Cluster::propose`].
    ///
    /// # Errors
    /// As there; `Waiting` while the disk takes no writes.
    pub async fn propose(&self, entry: Bytes) -> Result<(u64, Reply), ProposeError> {
        self.opened()?.propose(entry).await.map_err(|error| self.ended(error))
    }

    /// As [`Cluster::propose_here`].
    ///
    /// # Errors
    /// As there; `Waiting` while the disk takes no writes.
    pub async fn propose_here(&self, entry: Bytes) -> Result<(u64, Reply), ProposeError> {
        self.opened()?.propose_here(entry).await.map_err(|error| self.ended(error))
    }

    /// As [`Cluster::check`].
    ///
    /// # Errors
    /// As there; `Waiting` while the disk takes no writes.
    pub fn check(&self) -> Result<(), ProposeError> {
        self.opened()?.check().map_err(|error| self.ended(error))
    }

    /// As [`Cluster::ingest`].
    ///
    /// # Errors
    /// As there; `Waiting` while the disk takes no writes.
    pub async fn ingest(&self, batch: Batch) -> Result<BatchReply, ProposeError> {
        self.opened()?.ingest(batch).await.map_err(|error| self.ended(error))
    }

    /// As [`Cluster::read`]: also while nothing can be written.
    pub fn read<T>(&self, look: impl FnOnce(&F) -> T) -> T {
        // The look is made beside the lock: it may be long, and a change of what is opened must not wait for it.
        let opened = match &*self.0.standing.read() {
            Standing::Open(cluster) => Ok(cluster.clone()),
            Standing::Waiting { state, .. } => Err(Arc::clone(state)),
        };
        match opened {
            Ok(cluster) => cluster.read(look),
            Err(state) => look(&state),
        }
    }

    /// As [`Cluster::frozen`].
    #[must_use]
    pub fn frozen(&self) -> Arc<F> {
        match &*self.0.standing.read() {
            Standing::Open(cluster) => cluster.frozen(),
            Standing::Waiting { state, .. } => Arc::clone(state),
        }
    }

    /// As [`Cluster::ready`].
    ///
    /// # Errors
    /// As there; `Waiting` while the disk takes no writes.
    pub async fn ready(&self, timeout_ms: u64) -> Result<u64, ProposeError> {
        self.opened()?.ready(timeout_ms).await
    }

    /// As [`Cluster::linearizable`].
    ///
    /// # Errors
    /// As there; `Waiting` while the disk takes no writes.
    pub async fn linearizable(&self) -> Result<u64, ProposeError> {
        self.opened()?.linearizable().await.map_err(|error| self.ended(error))
    }

    /// As [`Cluster::initialize`].
    ///
    /// # Errors
    /// As there.
    pub async fn initialize(&self) -> Result<(), ChangeError> {
        self.opened()?.initialize().await
    }

    /// As [`Cluster::join`]; also for every later opening of the disk.
    ///
    /// # Errors
    /// As there.
    pub fn join(&self, seeds: Vec<String>) -> Result<(), ChangeError> {
        self.opened()?.join(seeds.clone())?;
        *self.0.seeds.lock() = Some(seeds);
        Ok(())
    }

    /// As [`Cluster::survey`]; nobody while nothing is opened.
    pub async fn survey(&self) -> Vec<Surveyed> {
        match self.opened() {
            Ok(opened) => opened.survey().await,
            Err(_) => Vec::new(),
        }
    }

    /// As [`Cluster::change`].
    ///
    /// # Errors
    /// As there.
    pub async fn change(&self, change: &Change) -> Result<u64, ChangeError> {
        self.opened()?.change(change).await
    }

    /// As [`Cluster::secret`].
    ///
    /// # Errors
    /// As there.
    pub async fn secret(&self) -> Result<Option<Vec<u8>>, String> {
        let opened = self.opened().map_err(|error| error.to_string())?;
        opened.secret().await
    }

    /// As [`Cluster::snapshot`].
    ///
    /// # Errors
    /// As there; `Waiting` while the disk takes no writes.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        self.opened()?.snapshot().await.map_err(|error| self.ended(error))
    }

    /// As [`Cluster::committed_members`].
    #[must_use]
    pub fn committed_members(&self) -> Option<(u64, Vec<ClusterMember>)> {
        self.opened().ok()?.committed_members()
    }

    /// As [`Cluster::is_alone`]; while nothing is opened, by what was known last.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        match self.opened() {
            Ok(cluster) => cluster.is_alone(),
            Err(_) => {
                let health = self.health();
                !health.members.iter().any(|member| member.voter && member.node != health.node)
            }
        }
    }

    /// How this node is, now.
    #[must_use]
    pub fn health(&self) -> Health {
        match &*self.0.standing.read() {
            Standing::Open(cluster) => cluster.health(),
            Standing::Waiting { health, .. } => Health::clone(health),
        }
    }

    /// Ends the member in order, as [`Cluster::shutdown`].
    pub async fn shutdown(&self) {
        self.0.closing.send_replace(true);
        let keeper = self.0.keeper.lock().take();
        if let Some(keeper) = keeper
            && let Err(error) = keeper.await
        {
            tracing::error!(error = %error, "the disk's keeper did not end by itself");
        }
        let opened = match &*self.0.standing.read() {
            Standing::Open(cluster) => Some(cluster.clone()),
            Standing::Waiting { .. } => None,
        };
        if let Some(cluster) = opened {
            cluster.shutdown().await;
        }
    }
}

/// Opens, and waits until the node leads or follows. An error of the disk on the way counts as one of opening.
async fn open<F: Fold>(
    environment: &Environment,
    options: &Options,
    genesis: &F,
    sink: Arc<dyn EffectSink<F>>,
    room: u64,
) -> Result<Cluster<F>, StartError> {
    let probed = environment.clone();
    let probe = environment.run(move || probed.storage.probe(room)).await;
    if let Some(Err(error)) = probe {
        return Err(OpenError::io("the data folder for writing", error).into());
    }
    // Boxed: whoever starts a node in a task of theirs holds all of this in one future.
    let starting = Cluster::start(environment.clone(), options.clone(), genesis.clone(), sink);
    let cluster = Box::pin(starting).await?;
    let failed = async {
        loop {
            if let Some(why) = cluster.disk_failure() {
                return why;
            }
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        }
    };
    let ready = async {
        if cluster.health().cluster == 0 {
            // In no cluster yet: whoever starts it hears what it waits for.
            return;
        }
        match cluster.ready(LEADER_MS_MAX).await {
            Ok(_) => drop(cluster.linearizable().await),
            Err(error) => tracing::warn!(error = %error, "no leader yet; serving the last good state"),
        }
    };
    let mut why = tokio::select! {
        biased;
        why = failed => Some(why),
        () = ready => None,
    };
    // The barrier ends early on a disk that fails under it.
    why = why.or_else(|| cluster.disk_failure());
    let Some(why) = why else { return Ok(cluster) };
    cluster.shutdown().await;
    Err(why.into())
}

/// The state that a disk holds, read without writing: its snapshot, and every acknowledged entry behind it.
fn glimpse<F: Fold>(
    environment: &Environment,
    node: u64,
    genesis: F,
) -> Result<(F, u64, Option<Halted>), OpenError> {
    let held = environment.storage.glimpse(node)?;
    let lost = |error: std::io::Error| OpenError::loss("values", "snapshot", error);
    let snapshot = snapshots::load(held.values.as_ref()).map_err(lost)?;
    let (mut state, mut position) = (genesis, 0);
    if let Some(snapshot) = snapshot {
        let mut held = F::decode(&snapshot.snapshot).map_err(|why| lost(std::io::Error::other(why)))?;
        held.adopt(&state).map_err(|why| lost(std::io::Error::other(why)))?;
        state = held;
        position = snapshot.meta.last_log_id.map_or(0, |id| id.index());
    }
    let mut halted = None;
    (held.replay)(position, &mut |entry| {
        if halted.is_some() {
            return Ok(());
        }
        let entry = record::decode(entry)?;
        let index = entry.log_id.index();
        if let EntryPayload::Normal(Proposal(bytes)) = &entry.payload
            && let Err(violation) = state.apply(index, bytes, &mut Vec::new())
        {
            halted = Some(Halted { position: index, violation });
            return Ok(());
        }
        position = index;
        Ok(())
    })
    .map_err(|error| OpenError::loss("log", "entries", error))?;
    Ok((state, position, halted))
}

/// Watches the disk of what is opened, and opens anew what failed, until the member ends.
async fn keep<F: Fold>(member: Member<F>) {
    let inner = &member.0;
    let mut closing = inner.closing.subscribe();
    // What a snapshot needed that failed last, beside what is always asked for.
    let mut room = 0;
    loop {
        let failed = match &*inner.standing.read() {
            Standing::Open(cluster) => {
                cluster.fails_passingly().then(|| (Some(cluster.clone()), cluster.health()))
            }
            Standing::Waiting { health, .. } => Some((None, Health::clone(health))),
        };
        if let Some((failed, mut health)) = failed {
            if let Some(cluster) = failed {
                room = cluster.room_wanted();
                (health.leader, health.leads, health.stopped) = (None, false, None);
                health.waits = Some(Waits::Tries { attempts: 0 });
                let state = cluster.frozen();
                *inner.standing.write() = Standing::Waiting { state, health: Box::new(health.clone()) };
                // Only now: a write that is refused from here on is told that the node waits, not that it ends.
                cluster.shutdown().await;
            }
            if let Some(Waits::Person) = health.waits {
                let _ = closing.wait_for(|closing| *closing).await;
                return;
            }
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return,
                () = tokio::time::sleep(Duration::from_millis(RETRY_MS)) => {}
            }
            again(&member, health, room).await;
            continue;
        }
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
        }
    }
}

/// One attempt to open anew.
async fn again<F: Fold>(member: &Member<F>, mut health: Health, room: u64) {
    let inner = &member.0;
    let gate = Arc::new(Gate { open: AtomicBool::new(false), sink: Arc::clone(&inner.sink) });
    let heard: Arc<dyn EffectSink<F>> = Arc::<Gate<F>>::clone(&gate);
    let attempts = match health.waits {
        Some(Waits::Tries { attempts }) => attempts.saturating_add(1),
        _ => 1,
    };
    let mut options = inner.options.clone();
    if let Some(seeds) = inner.seeds.lock().clone() {
        options.join = seeds;
    }
    let opened = open(&inner.environment, &options, &inner.genesis, heard, room).await;
    let (waits, why) = match opened {
        Ok(cluster) => {
            let now = cluster.health();
            if now.applied >= health.applied || now.halted.is_some() {
                tracing::info!(attempts, "the disk takes writes again");
                cluster.announce(|state, position| {
                    gate.open.store(true, Ordering::Release);
                    *inner.standing.write() = Standing::Open(cluster.clone());
                    inner.sink.installed(state, position);
                });
                return;
            }
            // What is read must not step back to what was replayed so far.
            cluster.shutdown().await;
            (Waits::Tries { attempts }, "it opened, and no leader was known in time".to_owned())
        }
        Err(error) if passes(&error) => (Waits::Tries { attempts }, error.to_string()),
        Err(error) => {
            tracing::error!(error = %error, "the disk is not opened again");
            (Waits::Person, error.to_string())
        }
    };
    health.waits = Some(waits);
    health.disk_error = Some(why);
    if let Standing::Waiting { health: held, .. } = &mut *inner.standing.write() {
        **held = health;
    }
}
